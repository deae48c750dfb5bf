// CUDA's own names on the host: what kernels use, no more.

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
// A block at a time runs in a thread of the host, and begins with memory in which nothing stands
#define __shared__ static thread_local
// CUDA has it between other words of a declaration
#define alignas(bytes) __attribute__((aligned(bytes)))
// The instructions that C++ has no word for are the host's
#define MLA_EMULATED

#define threadIdx simt::self.thread
#define blockIdx simt::self.block_index
#define blockDim simt::self.block_size
#define gridDim simt::self.grid_size

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// ---- Threads ----

inline void __syncthreads() { simt::meet(simt::self.block->named[0], "__syncthreads", simt::self.block->alive); }
inline void __syncwarp(unsigned = 0xffffffffu) { simt::meet_lanes("__syncwarp"); }
inline void __threadfence() {}
inline int __syncthreads_or(int yes) {
  simt::Meeting& meeting = simt::self.block->named[0];
  meeting.any |= yes != 0;
  simt::meet(meeting, "__syncthreads_or", simt::self.block->alive);
  return simt::running().answer;
}

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
  const simt::Block& block = *simt::self.block;
  const int thread = block.running;
  const unsigned parity = block.fibers[thread].exchanges % 2;
  simt::exchange(yes, 0);
  unsigned votes = 0;
  for (int lane = 0; lane < simt::WARP; lane++) {
    const int other = thread / simt::WARP * simt::WARP + lane;
    int vote = 0;
    memcpy(&vote, block.slots[parity][other], sizeof(int));
    votes |= unsigned(vote != 0) << lane;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int yes) { return __ballot_sync(mask, yes) != 0; }
inline int __all_sync(unsigned mask, int yes) { return __ballot_sync(mask, !yes) == 0; }

[[noreturn]] inline void __trap() { simt::mistaken("has met a trap"); }

// ---- Memory ----

template <class T>
T __ldcg(const T* at) {
  return *at;
}

template <class T>
T atomicAdd(T* at, T by) {
  T old = *at;
  *at += by;
  simt::pause();
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

// ---- Numbers ----

// ISO C++ lets no compiler fuse it with an addition
inline double __dmul_rn(double x, double y) { return x * y; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }

// Four of the eight bytes of `y` and `x`, `x` being the lower; each digit of `which` names one.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned which) {
  const unsigned long long both = (unsigned long long)(y) << 32 | x;
  unsigned bytes = 0;
  for (int i = 0; i < 4; i++) bytes |= unsigned(both >> (which >> i * 4 & 7) * 8 & 0xff) << i * 8;
  return bytes;
}

template <class T>
T min(T x, T y) {
  return y < x ? y : x;
}
template <class T>
T max(T x, T y) {
  return x < y ? y : x;
}
