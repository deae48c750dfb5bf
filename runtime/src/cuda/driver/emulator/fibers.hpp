// Threads of a kernel's block as fibers of one thread of the host: who runs, and who waits for whom.

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
  unsigned groups[4];  // that it has ended, of what it asks for
};

struct Crowd;
struct Late;

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
  Crowd* crowd;   // of blocks that run in turn
  unsigned dice;  // of what chance decides; 0: nothing
  Late* late;     // what has been asked for and is to be done, the oldest first
  bool asleep[MOST_THREADS / WARP];  // warps that do nothing until nobody else can come further
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

// A number below `end`.
inline unsigned roll(Block& block, unsigned end) {
  block.dice = block.dice * 1664525u + 1013904223u;
  block.dice += block.dice == 0;
  return unsigned(uint64_t(block.dice) * end >> 32);
}

// Where others may have waited for what this thread has just done, its warp may fall asleep.
inline void pause() {
  Block& block = *self.block;
  if (!block.dice || roll(block, 16) > 0) return;
  block.asleep[block.running / WARP] = true;
  leave(State::Ready);
}

// Runs a warp's lanes until all of them wait, or it falls asleep. Whether any has come further.
inline bool run_warp(Block& block, int first) {
  const int end = first + WARP < block.threads ? first + WARP : block.threads;
  bool moved = false;
  for (bool again = true, polls = true; again && !block.asleep[first / WARP]; polls = false) {
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

}  // namespace simt
