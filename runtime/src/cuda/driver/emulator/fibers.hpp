// Threads of a kernel's blocks as fibers: who runs, who waits for whom, and what is wrong where nobody can run. The threads of a block are fibers of one
// thread of the host. Blocks run one after the other or, where they wait for each other, in turn. The same in every run.

#include <link.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <initializer_list>

namespace simt {

constexpr int WARP = 32;
constexpr int WARPGROUP = 128;
constexpr int MOST_THREADS = 1024;
constexpr int NAMES = 16;  // of barriers that threads of a block meet at; 0 is that of `__syncthreads`
constexpr size_t STACK = 256 << 10;

struct Index {
  unsigned x, y, z;
};

// A barrier in shared memory, 8 bytes as the hardware's: a phase ends when enough threads have arrived and all expected bytes have come.
struct Phases {
  uint64_t odd : 1;        // whether the phase that is under way is an odd one
  uint64_t arrivals : 20;  // that end a phase
  uint64_t missing : 20;   // of this phase
  int64_t bytes : 23;      // that this phase waits for

  // Whether the last phase of a parity has ended. Before the first, that of parity 1 has.
  bool passed(unsigned parity) const { return odd != parity; }
};
static_assert(sizeof(Phases) == 8);

// Where threads wait for each other: those of a warp, of a warpgroup, of a block, or whoever names the same barrier.
struct Meeting {
  int here;        // how many have come, those included that went on
  int needed;      // how many have to
  const char* to;  // what they have come for
  bool any;        // whether any of them has said yes
};

enum class State { Ready, Meets, Polls, AwaitsPhase, Done };

struct Fiber {
  State state;
  jmp_buf here;
  const Meeting* meeting;
  const Phases* phases;
  unsigned parity;
  const void* polled;  // what it has read last while it waited, and what stood there
  unsigned seen;
  bool polls_again;    // it has read the same as before
  bool answer;         // of the last meeting: whether any has said yes
  void* own;           // what it brought to the meeting
  unsigned exchanges;  // how often its warp has exchanged values
};

struct Crowd;

struct Block {
  Fiber fibers[MOST_THREADS];
  // Two of each: a lane may be one exchange ahead of another, never two
  alignas(16) unsigned char slots[2][MOST_THREADS][16];
  Meeting warps[MOST_THREADS / WARP];
  Meeting warpgroups[MOST_THREADS / WARPGROUP];
  Meeting named[NAMES];
  int threads, alive;
  int alive_of_warp[MOST_THREADS / WARP];
  int running;
  jmp_buf scheduler;
  void (*body)(const void*);
  const void* args;
  Index index;
  Crowd* crowd;  // of blocks that run in turn
  const unsigned char* shared;
  char* stacks;
};

// What a thread of the host is at. It is a thread's only memory besides what kernels share.
struct Self {
  Block* block;
  Index thread, block_index, block_size, grid_size;
  unsigned char* shared;  // where the memory that a block shares begins, and how much it is
  size_t shared_bytes;
};
inline thread_local Self self;

// ---- What is wrong ----

// Says what a fiber waits for.
inline void describe(const Block& block, const Fiber& fiber, char* to, size_t room) {
  switch (fiber.state) {
    case State::Meets: {
      const Meeting& at = *fiber.meeting;
      const long name = fiber.meeting - block.named;
      char which[32] = "";
      if (name > 0 && name < NAMES) snprintf(which, sizeof which, " of barrier %ld", name);
      snprintf(to, room, "wait for others to come to %s%s: %d of %d have", at.to, which, at.here, at.needed);
      break;
    }
    case State::AwaitsPhase:
      snprintf(to, room, "wait for the end of a phase of parity %u of the barrier at %#zx: %u arrivals and %d bytes are missing", fiber.parity,
               size_t(reinterpret_cast<const unsigned char*>(fiber.phases) - block.shared), unsigned(fiber.phases->missing), int(fiber.phases->bytes));
      break;
    case State::Polls: snprintf(to, room, "read %p again and again, where %u stands", fiber.polled, fiber.seen); break;
    case State::Ready: snprintf(to, room, "could go on"); break;
    case State::Done: snprintf(to, room, "are done"); break;
  }
}

// Says who waits for what.
inline void describe(const Block& block) {
  char of_run[256] = "", own[256];
  int first = 0;
  for (int t = 0; t <= block.threads; t++) {
    if (t < block.threads) describe(block, block.fibers[t], own, sizeof own);
    if (t > 0 && (t == block.threads || strcmp(own, of_run) != 0)) {
      fprintf(stderr, "  block %u, threads %d to %d %s\n", block.index.x, first, t - 1, of_run);
      first = t;
    }
    strcpy(of_run, own);
  }
}

// Ends the process: what a kernel does has no meaning.
[[noreturn]] inline void mistaken(const char* what, ...) {
  va_list args;
  va_start(args, what);
  fprintf(stderr, "emulation: block %u, thread %d: ", self.block_index.x, self.block->running);
  vfprintf(stderr, what, args);
  fprintf(stderr, "\n");
  va_end(args);
  abort();
}

// ---- Threads ----

inline Fiber& running() { return self.block->fibers[self.block->running]; }

// Lets others run.
inline void leave(State state) {
  Fiber& fiber = running();
  fiber.state = state;
  if (_setjmp(fiber.here) == 0) _longjmp(self.block->scheduler, 1);
}

// Lets all go on that have come to a meeting.
inline void release(Meeting& meeting) {
  Block& block = *self.block;
  int first = 0, end = block.threads;
  if (&meeting < block.warpgroups) {  // it is a warp's
    first = int(&meeting - block.warps) * WARP;
    end = first + WARP < end ? first + WARP : end;
  }
  for (int t = first; t < end; t++) {
    Fiber& fiber = block.fibers[t];
    if (fiber.state != State::Meets || fiber.meeting != &meeting) continue;
    fiber.state = State::Ready;
    fiber.answer = meeting.any;
  }
  running().answer = meeting.any;
  meeting = {};
}

// Comes to a meeting; whether all have come now.
inline bool come(Meeting& meeting, const char* to, int needed) {
  if (meeting.here > 0 && (meeting.needed != needed || (meeting.to != to && strcmp(meeting.to, to) != 0)))
    mistaken("comes to %s with %d threads, where others have come to %s with %d", to, needed, meeting.to, meeting.needed);
  meeting.to = to;
  meeting.needed = needed;
  if (++meeting.here > needed) mistaken("is one too many of the %d that come to %s", needed, to);
  return meeting.here == needed;
}

// Waits until all have come.
inline void meet(Meeting& meeting, const char* to, int needed) {
  if (come(meeting, to, needed)) return release(meeting);
  running().meeting = &meeting;
  leave(State::Meets);
}

// The same of this warp's lanes, of which those that are done are not needed.
inline void meet_lanes(const char* to) {
  const int warp = self.block->running / WARP;
  meet(self.block->warps[warp], to, self.block->alive_of_warp[warp]);
}

// Meets others; the last to come does for all of them what they have asked for. `own`: what this thread asks for, which `asked` gives.
template <class Act>
void meet_to(Meeting& meeting, const char* to, int needed, void* own, Act act) {
  running().own = own;
  if (!come(meeting, to, needed)) {
    running().meeting = &meeting;
    return leave(State::Meets);
  }
  act();
  release(meeting);
}
template <class T>
T& asked(int thread) {
  return *static_cast<T*>(self.block->fibers[thread].own);
}

// Hands a value to the other lanes of the warp; returns what `lane` handed.
template <class T>
T exchange(T value, int lane) {
  static_assert(sizeof(T) <= 16);
  Block& block = *self.block;
  const int thread = block.running;
  const unsigned parity = block.fibers[thread].exchanges++ % 2;
  memcpy(block.slots[parity][thread], &value, sizeof(T));
  meet_lanes("exchange values");
  T other;
  memcpy(&other, block.slots[parity][thread / WARP * WARP + lane], sizeof(T));
  return other;
}

// Others run before memory is read, where what this thread waits for may come to stand.
inline void poll(const unsigned* at) {
  Fiber& fiber = running();
  fiber.polls_again = fiber.polled == at && fiber.seen == *at;
  fiber.polled = at;
  fiber.seen = *at;
  leave(State::Polls);
}

// A fiber's life.
inline void start() {
  Block& block = *self.block;
  if (_setjmp(block.fibers[block.running].here) == 0) _longjmp(block.scheduler, 1);
  block.body(block.args);
  // Those who wait for all that are left may have waited for this one
  const int warp = block.running / WARP;
  running().state = State::Done;
  for (Meeting* meeting : {&block.warps[warp], &block.named[0]}) {
    const int left = meeting == block.named ? --block.alive : --block.alive_of_warp[warp];
    if (meeting->here == 0) continue;
    meeting->needed = left;
    if (meeting->here == left) release(*meeting);
  }
  _longjmp(block.scheduler, 1);
}

inline void resume(int thread) {
  self.block->running = thread;
  self.thread = {unsigned(thread), 0, 0};
  if (_setjmp(self.block->scheduler) == 0) _longjmp(self.block->fibers[thread].here, 1);
}

// Makes the fiber's stack, and stops at the start of the body.
inline void prepare(int thread) {
  Block& block = *self.block;
  block.running = thread;
  block.fibers[thread] = {};
  ucontext_t fresh;
  getcontext(&fresh);
  fresh.uc_stack.ss_sp = block.stacks + thread * STACK;
  fresh.uc_stack.ss_size = STACK;
  fresh.uc_link = nullptr;
  makecontext(&fresh, start, 0);
  if (_setjmp(block.scheduler) == 0) setcontext(&fresh);
}

// Runs a warp's lanes until all of them wait. Whether any has come further.
inline bool run_warp(Block& block, int first) {
  const int end = first + WARP < block.threads ? first + WARP : block.threads;
  bool moved = false;
  for (bool again = true, polls = true; again; polls = false) {
    again = false;
    for (int t = first; t < end; t++) {
      Fiber& fiber = block.fibers[t];
      const bool goes_on = fiber.state == State::Ready || (polls && fiber.state == State::Polls) ||
                           (fiber.state == State::AwaitsPhase && fiber.phases->passed(fiber.parity));
      if (!goes_on) continue;
      resume(t);
      again |= fiber.state != State::Polls || !fiber.polls_again;
    }
    moved |= again;
  }
  return moved;
}

// ---- Blocks ----

// Blocks that wait for each other. Each has a thread of the host, whose memory is what its own threads share; one of them runs at a time, in order.
struct Crowd {
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
  Block** blocks;
  int count;
  int turn = 0;
  int stuck = 0;  // how many have had their turn since one has come further

  int number(const Block& block) const {
    for (int i = 0; i < count; i++) {
      if (blocks[i] == &block) return i;
    }
    return -1;
  }
  void await(int number) {
    pthread_mutex_lock(&lock);
    while (turn != number) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
  }
  // The next that is not done.
  void pass(int number) {
    pthread_mutex_lock(&lock);
    for (int i = 1; i <= count; i++) {
      turn = (number + i) % count;
      if (blocks[turn]->alive > 0) break;
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
  }
};

// Nobody of this block can come further. Lets the others run; where they can't either, says who waits for what.
inline void stuck(Block& block, int rounds) {
  constexpr int ENOUGH = 3;  // rounds in which all are as they were
  Crowd* crowd = block.crowd;
  if (crowd ? ++crowd->stuck > ENOUGH * crowd->count : rounds > ENOUGH) {
    fprintf(stderr, "emulation: all wait for each other%s\n", crowd ? "" : ", or for blocks that don't run at the same time");
    for (int i = 0; i < (crowd ? crowd->count : 1); i++) describe(crowd ? *crowd->blocks[i] : block);
    abort();
  }
  if (!crowd) return;
  const int number = crowd->number(block);
  crowd->pass(number);
  crowd->await(number);
}

// Finds the memory that threads of a block share: what is this thread's own of the library.
inline void find_shared() {
  const auto is_ours = [](dl_phdr_info* info, size_t, void*) {
    const ElfW(Phdr)* of_threads = nullptr;
    bool ours = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
      const ElfW(Phdr)& part = info->dlpi_phdr[i];
      const uintptr_t own = reinterpret_cast<uintptr_t>(&find_shared) - info->dlpi_addr;
      if (part.p_type == PT_TLS) of_threads = &part;
      ours |= part.p_type == PT_LOAD && own >= part.p_vaddr && own < part.p_vaddr + part.p_memsz;
    }
    if (!ours || !of_threads) return 0;
    self.shared = static_cast<unsigned char*>(info->dlpi_tls_data);
    self.shared_bytes = of_threads->p_memsz;
    return 1;
  };
  self.block = nullptr;  // there is such memory once it has been written to
  dl_iterate_phdr(is_ours, nullptr);
}

// What was never written is no number.
inline void forget_shared() {
  const Self kept = self;
  memset(kept.shared, 0xff, kept.shared_bytes);
  self = kept;
}

inline void run_block(Block& block) {
  self.block = &block;
  self.block_index = block.index;
  block.shared = self.shared;
  forget_shared();
  block.alive = block.threads;
  for (int& alive : block.alive_of_warp) alive = 0;
  for (int t = 0; t < block.threads; t++) block.alive_of_warp[t / WARP]++;
  for (int t = 0; t < block.threads; t++) prepare(t);
  for (int rounds = 0; block.alive > 0;) {
    bool moved = false;
    for (int first = 0; first < block.threads; first += WARP) moved |= run_warp(block, first);
    if (moved) {
      rounds = 0;
      if (block.crowd) block.crowd->stuck = 0;
    } else {
      stuck(block, ++rounds);
    }
  }
}

// A kernel, and how it is spread.
struct Launch {
  void (*body)(const void*);
  const void* args;
  int threads;
  Index grid;
};

inline Block* make_block(const Launch& launch) {
  Block* block = static_cast<Block*>(calloc(1, sizeof(Block)));
  void* stacks = mmap(nullptr, launch.threads * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!block || stacks == MAP_FAILED || launch.threads > MOST_THREADS) {
    fprintf(stderr, "emulation: no room for blocks of %d threads\n", launch.threads);
    abort();
  }
  block->stacks = static_cast<char*>(stacks);
  block->threads = launch.threads;
  block->body = launch.body;
  block->args = launch.args;
  return block;
}

inline void drop_block(Block* block) {
  munmap(block->stacks, block->threads * STACK);
  free(block);
}

inline void enter(const Launch& launch) {
  if (!self.shared) find_shared();
  self.block_size = {unsigned(launch.threads), 1, 1};
  self.grid_size = launch.grid;
}

// One block after the other.
inline void launch_each(const Launch& launch) {
  enter(launch);
  Block* block = make_block(launch);
  for (unsigned k = 0; k < launch.grid.z; k++) {
    for (unsigned j = 0; j < launch.grid.y; j++) {
      for (unsigned i = 0; i < launch.grid.x; i++) {
        block->index = {i, j, k};
        run_block(*block);
      }
    }
  }
  drop_block(block);
}

// All blocks of a grid of one axis in turn.
inline void launch_together(const Launch& launch) {
  struct Member {
    const Launch* launch;
    Crowd* crowd;
    int number;
    pthread_t thread;
  };
  const auto live = [](void* given) -> void* {
    const Member& own = *static_cast<Member*>(given);
    own.crowd->await(own.number);
    enter(*own.launch);
    run_block(*own.crowd->blocks[own.number]);
    own.crowd->pass(own.number);
    return nullptr;
  };
  Crowd crowd;
  crowd.count = int(launch.grid.x);
  crowd.blocks = static_cast<Block**>(calloc(crowd.count, sizeof(Block*)));
  Member* members = static_cast<Member*>(calloc(crowd.count, sizeof(Member)));
  for (int i = 0; i < crowd.count; i++) {
    crowd.blocks[i] = make_block(launch);
    crowd.blocks[i]->index = {unsigned(i), 0, 0};
    crowd.blocks[i]->crowd = &crowd;
    crowd.blocks[i]->alive = launch.threads;
    members[i] = {&launch, &crowd, i, {}};
  }
  for (int i = 0; i < crowd.count; i++) {
    if (pthread_create(&members[i].thread, nullptr, live, &members[i]) != 0) {
      fprintf(stderr, "emulation: no room for %d blocks at the same time\n", crowd.count);
      abort();
    }
  }
  for (int i = 0; i < crowd.count; i++) pthread_join(members[i].thread, nullptr);
  for (int i = 0; i < crowd.count; i++) drop_block(crowd.blocks[i]);
  free(members);
  free(crowd.blocks);
}

inline void launch(const Launch& launch, bool together) { together ? launch_together(launch) : launch_each(launch); }

}  // namespace simt
