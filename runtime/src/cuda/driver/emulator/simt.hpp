// Runs a CUDA kernel's text on the host: the threads of a block are fibers of one thread of the host, blocks run one after the
// other. Slow, and the same in every run. What it stands in for is what the kernels use, no more.

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
// One block runs at a time in a thread of the host
#define __shared__ static thread_local

namespace simt {

constexpr int THREADS = 128;
constexpr int WARP = 32;
constexpr size_t STACK = 256 << 10;

struct Index {
  unsigned x, y, z;
};

enum class State { Ready, AtWarp, AtBlock, Done };

struct Fiber {
  State state;
  jmp_buf here;
  unsigned exchanges;  // how often its warp has exchanged values
};

struct Block {
  Fiber fibers[THREADS];
  jmp_buf scheduler;
  int running;
  // Two of each: a lane may be one exchange ahead of another, never two
  alignas(16) unsigned char slots[2][THREADS][16];
  void (*body)(const void*);
  const void* args;
  char* stacks;
};

inline thread_local Block* block = nullptr;
inline thread_local Index thread_index, block_index, block_size, grid_size;

inline void wait(State state) {
  Fiber& fiber = block->fibers[block->running];
  fiber.state = state;
  if (_setjmp(fiber.here) == 0) _longjmp(block->scheduler, 1);
}

inline void start() {
  Block* mine = block;
  if (_setjmp(mine->fibers[mine->running].here) == 0) _longjmp(mine->scheduler, 1);
  block->body(block->args);
  block->fibers[block->running].state = State::Done;
  _longjmp(block->scheduler, 1);
}

inline void resume(int thread) {
  block->running = thread;
  thread_index = {unsigned(thread), 0, 0};
  if (_setjmp(block->scheduler) == 0) _longjmp(block->fibers[thread].here, 1);
}

// Makes the fiber's stack, and stops at the start of the body.
inline void prepare(int thread) {
  block->running = thread;
  block->fibers[thread].state = State::Ready;
  block->fibers[thread].exchanges = 0;
  ucontext_t fresh;
  getcontext(&fresh);
  fresh.uc_stack.ss_sp = block->stacks + thread * STACK;
  fresh.uc_stack.ss_size = STACK;
  fresh.uc_link = nullptr;
  makecontext(&fresh, start, 0);
  if (_setjmp(block->scheduler) == 0) setcontext(&fresh);
}

// How many threads of a range are in a state.
inline int count(int from, int to, State state) {
  int n = 0;
  for (int t = from; t < to; t++) n += block->fibers[t].state == state;
  return n;
}

inline void release(int from, int to, State state) {
  for (int t = from; t < to; t++) {
    if (block->fibers[t].state == state) block->fibers[t].state = State::Ready;
  }
}

inline void run_warp(int first) {
  const int last = first + WARP;
  while (true) {
    for (int t = first; t < last; t++) {
      if (block->fibers[t].state == State::Ready) resume(t);
    }
    const int waiting = count(first, last, State::AtWarp);
    if (waiting == 0) return;
    if (waiting + count(first, last, State::Done) < WARP) {
      fprintf(stderr, "emulation: some lanes of a warp wait for others that wait for the block\n");
      abort();
    }
    release(first, last, State::AtWarp);
  }
}

inline void run_block() {
  for (int t = 0; t < THREADS; t++) prepare(t);
  while (count(0, THREADS, State::Done) < THREADS) {
    for (int first = 0; first < THREADS; first += WARP) run_warp(first);
    release(0, THREADS, State::AtBlock);
  }
}

inline void launch(void (*body)(const void*), const void* args, unsigned x, unsigned y, unsigned z) {
  static thread_local Block storage;
  static thread_local char* stacks = static_cast<char*>(malloc(THREADS * STACK));
  block = &storage;
  block->stacks = stacks;
  block->body = body;
  block->args = args;
  block_size = {THREADS, 1, 1};
  grid_size = {x, y, z};
  for (unsigned k = 0; k < z; k++) {
    for (unsigned j = 0; j < y; j++) {
      for (unsigned i = 0; i < x; i++) {
        block_index = {i, j, k};
        run_block();
      }
    }
  }
}

// Hands a value to the other lanes of the warp; returns what `lane` handed.
template <class T>
T exchange(T value, int lane) {
  static_assert(sizeof(T) <= 16);
  const int thread = block->running;
  const unsigned parity = block->fibers[thread].exchanges++ % 2;
  memcpy(block->slots[parity][thread], &value, sizeof(T));
  wait(State::AtWarp);
  T other;
  memcpy(&other, block->slots[parity][thread / WARP * WARP + lane], sizeof(T));
  return other;
}

}  // namespace simt

#define threadIdx simt::thread_index
#define blockIdx simt::block_index
#define blockDim simt::block_size
#define gridDim simt::grid_size

inline void __syncthreads() { simt::wait(simt::State::AtBlock); }
inline void __syncwarp(unsigned = 0xffffffffu) { simt::wait(simt::State::AtWarp); }
inline void __threadfence() {}

inline int lane_of_thread() { return int(threadIdx.x) % simt::WARP; }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return simt::exchange(value, lane % simt::WARP);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  return simt::exchange(value, lane_of_thread() ^ offset);
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned offset) {
  const int lane = lane_of_thread() + int(offset);
  return simt::exchange(value, lane < simt::WARP ? lane : lane_of_thread());
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned offset) {
  const int lane = lane_of_thread() - int(offset);
  return simt::exchange(value, lane >= 0 ? lane : lane_of_thread());
}
inline unsigned __ballot_sync(unsigned, int yes) {
  const int thread = simt::block->running;
  const unsigned parity = simt::block->fibers[thread].exchanges % 2;
  simt::exchange(yes, 0);
  unsigned votes = 0;
  for (int lane = 0; lane < simt::WARP; lane++) {
    const int other = thread / simt::WARP * simt::WARP + lane;
    int vote = 0;
    memcpy(&vote, simt::block->slots[parity][other], sizeof(int));
    votes |= unsigned(vote != 0) << lane;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int yes) { return __ballot_sync(mask, yes) != 0; }
inline int __all_sync(unsigned mask, int yes) { return __ballot_sync(mask, !yes) == 0; }
inline int __syncthreads_or(int yes) {
  static thread_local int any;
  __syncthreads();
  any = 0;
  __syncthreads();
  any |= yes != 0;
  __syncthreads();
  return any;
}

// Headers name it beside what the host can run
inline size_t __cvta_generic_to_shared(const void* at) { return size_t(at); }

// ISO C++ lets no compiler fuse it with an addition
inline double __dmul_rn(double x, double y) { return x * y; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }

template <class T>
T atomicAdd(T* at, T by) {
  T old = *at;
  *at += by;
  return old;
}
template <class T>
T atomicMax(T* at, T other) {
  T old = *at;
  if (other > old) *at = other;
  return old;
}
template <class T>
T atomicMin(T* at, T other) {
  T old = *at;
  if (other < old) *at = other;
  return old;
}
template <class T>
T atomicOr(T* at, T bits) {
  T old = *at;
  *at |= bits;
  return old;
}
template <class T>
T atomicCAS(T* at, T expected, T wanted) {
  T old = *at;
  if (old == expected) *at = wanted;
  return old;
}

template <class T>
T min(T x, T y) {
  return y < x ? y : x;
}
template <class T>
T max(T x, T y) {
  return x < y ? y : x;
}
