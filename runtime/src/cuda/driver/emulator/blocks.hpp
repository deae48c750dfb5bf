// How blocks run: one after the other or, where they wait for each other, in turn, and what is said where nobody can come further. The same in every run.

namespace simt {

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

// Whether a warp does nothing this time.
inline bool sleeps(Block& block, int warp) {
  if (block.dice && roll(block, 64) == 0) block.asleep[warp] = true;
  return block.asleep[warp];
}

// Wakes one of those that sleep; whether there was one.
inline bool wake_one(Block& block) {
  unsigned count = 0;
  for (bool asleep : block.asleep) count += asleep;
  if (count == 0) return false;
  unsigned which = roll(block, count);
  for (bool& asleep : block.asleep) {
    if (!asleep || which-- > 0) continue;
    asleep = false;
    return true;
  }
  return false;
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
    for (int first = 0; first < block.threads; first += WARP) moved |= !sleeps(block, first / WARP) && run_warp(block, first);
    if (moved || bring_one(block) || wake_one(block)) {
      rounds = 0;
      if (block.crowd) block.crowd->stuck = 0;
    } else {
      stuck(block, ++rounds);
    }
  }
  if (block.late) mistaken("is done, and what it has asked for is not");
}

// A kernel, and how it is spread.
struct Launch {
  void (*body)(const void*);
  const void* args;
  int threads;
  Index grid;
  unsigned seed;  // of dice; 0: all is done at once and in order
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
  block->dice = launch.seed;
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
    crowd.blocks[i]->dice *= 2 * i + 1;
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
