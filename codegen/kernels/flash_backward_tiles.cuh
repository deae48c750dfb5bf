// What `flash_backward.cuh` is told, what it has in shared memory, and how that comes there.
//
// A block of keys is up to 128 or 64 keys of a segment; each head of keys has all of them. Queries of a segment are cut into tiles of rows, and tiles of
// all segments are numbered through. A task is a block of keys of one head, and all tiles of queries, of all heads that read it, of which some row sees
// some of its keys. Thread blocks take tasks in turn.

#include "flash_cut.cuh"

constexpr int STAGES = 2;  // tiles of queries that are there at a time; as many tiles of what they give

struct KeyBlock {
  i32 key_row;             // row of its first key
  i32 keys;                // how many there are
  i32 first_key;           // the first, counted from its segment's first
  i32 row;                 // the segment's first query's
  i32 rows;                // queries of the segment
  i32 place;               // number of the segment's first tile
  i32 first, end;          // tiles that have a row which sees one of the keys, counted from the segment's first
  i32 all_first, all_end;  // those of which every row sees every key; none of a block that is not whole
  i32 number;              // of the segment's blocks, this one's
  i32 unused;
};

struct Task {
  i32 block;      // of keys
  i32 head;       // of keys
  i32 down;       // whether tiles are met from the last to the first
  i32 rope_turn;  // tasks that add to the same keys' rotated part before it
};

struct FlashBackward {
  TensorMap q, q_rope, k, k_rope, v, d_out;
  const KeyBlock* blocks;
  const Task* tasks;
  const f32* sums;      // [heads of queries, tiles, 2, QUERIES]: what `flash_delta.cuh` says of rows
  const Pair* limits;   // [tiles, QUERIES]: the first key that a row sees, counted from its segment's first, and how many it sees from there on
  f32* d_queries;       // [heads of queries, tiles, 2, N / 8, 128, 4]: sums of the queries' gradients, as accumulators lie
  Gradient d_k, d_v;
  f32* d_k_rope;        // [keys, heads of rotated parts, R], which is added to
  u32* taken;           // 2, of zeros: tasks that thread blocks have taken, and thread blocks that found none. The last one leaves zeros
  const Pair* seen_by;  // [tiles]: the first and the last block of its segment's keys that meets a tile
  u32* turns;           // [heads of queries, tiles, 2], of zeros: blocks of keys that have added to a half of a tile
  u32* rope_turns;      // [heads of rotated parts, blocks of keys, 2], of zeros: tasks that have added to a half of a block's rotated part
  i64 rope_stride;      // of `d_k_rope`, from one key to the next
  i32 count;            // tasks
  i32 tiles;
  i32 key_blocks;
  i32 per_key;          // heads of queries that share a head of keys
  i32 per_rope;         // heads of keys that share a rotated part
  f32 scale;            // of logits
  f32 scale_log2;       // of products, for powers of two; with `CAP`, of what is bent
  f32 bend;             // with `CAP` alone: of products, twice for powers of two, over the cap
  i32 unused[2];
};
static_assert(sizeof(KeyBlock) == 48 && sizeof(Task) == 16 && sizeof(FlashBackward) == 960, "as the runtime lays them out");

// Where things lie in shared memory.
template <class Cfg>
struct Place : Cut<Cfg> {
  using C = Cut<Cfg>;
  static constexpr int QUERIES = C::QUERIES, HALF = C::HALF, KEYS = C::KEYS;
  // Keys and queries lie in tiles of so many columns that both parts begin with one, and of keys also what each warpgroup has of the queries' gradient
  __device__ static constexpr int columns_of_tile(int edge) { return edge % 64 == 0 ? 64 : edge % 32 == 0 ? 32 : 16; }
  static constexpr int Q_COLUMNS = columns_of_tile(Cfg::R > 0 ? Cfg::A : 0);
  static constexpr int K_COLUMNS = columns_of_tile((Cfg::R > 0 ? Cfg::A : 0) | (QUERIES == 64 ? HALF : 0));
  __device__ static constexpr int tiles(int columns, int of_tile) { return (columns + of_tile - 1) / of_tile; }
  static constexpr int Q_TILES = tiles(Cfg::A, Q_COLUMNS) + tiles(Cfg::R, Q_COLUMNS);
  static constexpr int K_TILES = tiles(2 * HALF, K_COLUMNS);
  static constexpr int V_TILES = tiles(Cfg::V, TILE);
  static constexpr u32 Q_TILE_BYTES = QUERIES * Q_COLUMNS * 2, K_TILE_BYTES = KEYS * K_COLUMNS * 2;
  static constexpr u32 V_TILE_BYTES = KEYS * TILE * 2, O_TILE_BYTES = QUERIES * TILE * 2;
  static constexpr u32 Q_BYTES = Q_TILES * Q_TILE_BYTES, O_BYTES = V_TILES * O_TILE_BYTES;
  static constexpr u32 STAGE_BYTES = Q_BYTES + O_BYTES;  // queries, then the gradients of their outputs
  static constexpr u32 D_S_TILE_BYTES = KEYS * TILE * 2;  // gradients of logits of 64 queries: [KEYS, 64]
  static constexpr u32 D_S_BYTES = QUERIES / TILE * D_S_TILE_BYTES;
  static constexpr u32 WEIGHTS_BYTES = (Cfg::CAP ? 2 : 1) * QUERIES * 64 * 2;
  static constexpr u32 SUMS_BYTES = 2 * QUERIES * 4, LIMITS_BYTES = QUERIES * 8;
  static constexpr u32 K = 0;
  static constexpr u32 V = (K_TILES * K_TILE_BYTES + 1023) / 1024 * 1024;
  static constexpr u32 STAGE = V + V_TILES * V_TILE_BYTES;                 // [STAGES]
  static constexpr u32 D_S = STAGE + STAGES * STAGE_BYTES;                 // [STAGES]
  static constexpr u32 WEIGHTS = D_S + STAGES * D_S_BYTES;                 // probabilities on their way from one warpgroup to the other: of blocks of 64 keys
  static constexpr u32 SUMS = WEIGHTS + (KEYS == 64 ? WEIGHTS_BYTES : 0);  // [STAGES, 2, QUERIES]
  static constexpr u32 LIMITS = SUMS + STAGES * SUMS_BYTES;                // [STAGES, QUERIES], where `MARKS` says that not all see all
  static constexpr u32 MARKS = LIMITS + STAGES * LIMITS_BYTES;             // [2 * STAGES]: {number of head and tile, rows that are there, `EDGE` and so on, turn}
  static constexpr u32 TASKS = MARKS + 2 * STAGES * 16;                    // [2]: {row of the first key, keys, the first key, head}, {tiles, block, rope_turn, down}
  static constexpr u32 ALONE = TASKS + 2 * 32;                             // [2]: whether nobody has added to a warpgroup's half of a tile
  static constexpr u32 TASK_FULL = ALONE + 16;                             // barriers [2]: a task is known
  static constexpr u32 TASK_FREE = TASK_FULL + 2 * 8;                      // nobody needs to know it any more
  static constexpr u32 K_FULL = TASK_FREE + 2 * 8;                         // keys and values of a task are there
  static constexpr u32 K_FREE = K_FULL + 8;                                // they may be overwritten
  static constexpr u32 FULL = K_FREE + 8;                                  // [STAGES]: the same of a tile of queries
  static constexpr u32 FREE = FULL + STAGES * 8;
  static constexpr u32 D_S_FULL = FREE + STAGES * 8;                       // [STAGES]: the same of gradients of logits
  static constexpr u32 D_S_FREE = D_S_FULL + STAGES * 8;
  static constexpr u32 WEIGHTS_FULL = D_S_FREE + STAGES * 8;               // the same of probabilities
  static constexpr u32 MAY_ADD = WEIGHTS_FULL + 8;                         // [2]: it is a warpgroup's turn to add to its half of a tile
  static constexpr u32 ADDED = MAY_ADD + 2 * 8;                            // [2]: it has
  static constexpr u32 END = ADDED + 2 * 8;
  static_assert(END <= 232448, "shared memory");
  static_assert(KEYS == 128 || QUERIES == 64, "registers");
  static constexpr int ADDS = 240, BRINGS = 24;  // registers of a thread
  // Whether there are registers enough that gradients of logits come from probabilities in f32, not from those that have been rounded
  static constexpr bool EXACT = KEYS == 128 && !Cfg::CAP && (C::D + Cfg::V) / 2 + QUERIES * 5 / 4 <= 208;
};

// Makes the barriers. One thread.
template <class Cfg>
__device__ inline void init_barriers(u32 base) {
  using P = Place<Cfg>;
  constexpr int WARPS_THAT_ADD = 8;
  barrier_init(base + P::K_FULL, 1);
  barrier_init(base + P::K_FREE, WARPS_THAT_ADD);
  for (int i = 0; i < 2; i++) {
    barrier_init(base + P::TASK_FULL + i * 8, 1);
    barrier_init(base + P::TASK_FREE + i * 8, WARPS_THAT_ADD + 1);
    barrier_init(base + P::MAY_ADD + i * 8, 1);
    barrier_init(base + P::ADDED + i * 8, WARPS_THAT_ADD / 2);
  }
  for (int stage = 0; stage < STAGES; stage++) {
    barrier_init(base + P::FULL + stage * 8, 1);
    barrier_init(base + P::FREE + stage * 8, WARPS_THAT_ADD + (Cfg::DETERMINISTIC ? 2 : 0));
    barrier_init(base + P::D_S_FULL + stage * 8, P::KEYS / 16);
    barrier_init(base + P::D_S_FREE + stage * 8, WARPS_THAT_ADD);
  }
  barrier_init(base + P::WEIGHTS_FULL, WARPS_THAT_ADD / 2);
  fence_barrier_init();
}

// ---- Copies ----

// Has `COLUMNS` columns of some rows of a head brought, in tiles of `OF_TILE`: at once where they are whole tiles, which a map of such has as its last axis.
// What is not there of the last tile is zeros.
template <int COLUMNS, int OF_TILE>
__device__ inline void copy_columns(u32 to, u32 tile_bytes, const TensorMap& map, u32 barrier, i32 row, i32 head) {
  if constexpr (COLUMNS % OF_TILE == 0) {
    if (COLUMNS > 0) copy_tile_4d(to, map, barrier, 0, row, head, 0);
  } else {
#pragma unroll
    for (int column = 0; column < COLUMNS; column += OF_TILE) copy_tile_4d(to + column / OF_TILE * tile_bytes, map, barrier, column, row, head, 0);
  }
}

// What is said of a tile beside its number. What is said of the tile before is still there.
constexpr i32 EDGE = 1;   // not every row sees every key
constexpr i32 FIRST = 2;  // of its task
constexpr i32 LAST = 4;
constexpr i32 NOTHING = 8;  // there are no more

// Has a tile of a head of queries brought, and what is to know of its rows.
template <class Cfg>
__device__ inline void bring_tile(const FlashBackward& args, u32 base, u32 stage, i32 head, i32 row, i32 place, bool edge) {
  using P = Place<Cfg>;
  const u32 to = base + P::STAGE + stage * P::STAGE_BYTES, barrier = base + P::FULL + stage * 8;
  barrier_expect(barrier, P::STAGE_BYTES + P::SUMS_BYTES + (edge ? P::LIMITS_BYTES : 0));
  copy_columns<Cfg::A, P::Q_COLUMNS>(to, P::Q_TILE_BYTES, args.q, barrier, row, head);
  copy_columns<Cfg::R, P::Q_COLUMNS>(to + P::tiles(Cfg::A, P::Q_COLUMNS) * P::Q_TILE_BYTES, P::Q_TILE_BYTES, args.q_rope, barrier, row, head);
  copy_bulk(base + P::SUMS + stage * P::SUMS_BYTES, args.sums + i64(head * args.tiles + place) * (2 * P::QUERIES), P::SUMS_BYTES, barrier);
  if (edge) copy_bulk(base + P::LIMITS + stage * P::LIMITS_BYTES, args.limits + i64(place) * P::QUERIES, P::LIMITS_BYTES, barrier);
  copy_columns<Cfg::V, TILE>(to + P::Q_BYTES, P::O_TILE_BYTES, args.d_out, barrier, row, head);
}

// Has the `n`th tile of a head of queries that a task meets brought, the `met`th of all, when there is room, and says what it is.
template <class Cfg>
__device__ inline void bring_next(const FlashBackward& args, u32 base, u32 met, const KeyBlock& block, i32 down, i32 head, i32 n, i32 marks) {
  using P = Place<Cfg>;
  const i32 tile = down ? block.end - 1 - n : block.first + n;
  const i32 place = block.place + tile;
  const bool edge = tile < block.all_first || tile >= block.all_end;
  i32 turn = 0;
  if constexpr (Cfg::DETERMINISTIC) turn = down ? block.number - args.seen_by[place].x : args.seen_by[place].y - block.number;
  barrier_wait(base + P::FREE + met % STAGES * 8, met / STAGES % 2 ^ 1);
  share(base + P::MARKS + met % (2 * STAGES) * 16,
        Four{head * args.tiles + place, min(P::QUERIES, block.rows - tile * P::QUERIES), marks | (edge ? EDGE : 0), turn});
  bring_tile<Cfg>(args, base, met % STAGES, head, block.row + tile * P::QUERIES, place, edge);
}

// Takes tasks, says what they are, and has their tiles brought. One thread.
template <class Cfg>
__device__ inline void bring_tiles(const FlashBackward& args, u32 base) {
  using P = Place<Cfg>;
  u32 met = 0;
#pragma unroll 1
  for (u32 tasks = 0;; tasks++) {
    const u32 number = atomicAdd(args.taken, 1u);
    barrier_wait(base + P::TASK_FREE + tasks % 2 * 8, tasks / 2 % 2 ^ 1);
    const u32 slot = base + P::TASKS + tasks % 2 * 32, barrier = base + P::TASK_FULL + tasks % 2 * 8;
    if (number >= u32(args.count)) {
      share(slot, Four{});
      barrier_arrive(barrier);
      break;
    }
    const Task& task = args.tasks[number];
    const KeyBlock& block = args.blocks[task.block];
    share(slot, Four{block.key_row, block.keys, block.first_key, task.head});
    share(slot + 16, Four{(block.end - block.first) * args.per_key, task.block, task.rope_turn, 0});
    barrier_arrive(barrier);
    i32 marks = FIRST, n = 0, head = task.head * args.per_key;
#pragma unroll 1
    for (i32 left = (block.end - block.first) * args.per_key; left > 0; left--, met++) {
      if (left == 1) marks |= LAST;
      bring_next<Cfg>(args, base, met, block, task.down, head, n, marks);
      marks = 0;
      if (++n < block.end - block.first) continue;
      n = 0;
      head++;
    }
  }
  if (Cfg::DETERMINISTIC) {
    barrier_wait(base + P::FREE + met % STAGES * 8, met / STAGES % 2 ^ 1);
    share(base + P::MARKS + met % (2 * STAGES) * 16, Four{0, 0, NOTHING, 0});
    barrier_arrive(base + P::FULL + met % STAGES * 8);
  }
  // The last block to find nothing leaves the counters as it found them
  if (atomicAdd(args.taken + 1, 1u) == gridDim.x - 1) {
    args.taken[0] = 0;
    args.taken[1] = 0;
  }
}

// Tasks as others than who takes them meet them: calls `work(slot)` for each, which says where it stands, until there are none.
template <class Cfg, class Work>
__device__ inline void over_slots(u32 base, Work work) {
  using P = Place<Cfg>;
  Ring<2> turn;
#pragma unroll 1
  for (;; turn.next()) {
    const u32 slot = base + P::TASKS + turn.stage * 32;
    barrier_wait(base + P::TASK_FULL + turn.stage * 8, turn.parity);
    if (shared_four(slot).y == 0) break;
    work(slot);
    barrier_arrive(base + P::TASK_FREE + turn.stage * 8);
  }
}

// Has the keys and values of tasks brought. One thread.
template <class Cfg>
__device__ inline void bring_keys(const FlashBackward& args, u32 base) {
  using P = Place<Cfg>;
  u32 parity = 1;  // the first find their place free
  const u32 barrier = base + P::K_FULL;
  over_slots<Cfg>(base, [&](u32 slot) {
    const Four task = shared_four(slot);
    barrier_wait(base + P::K_FREE, parity);
    parity ^= 1;
    barrier_expect(barrier, (P::tiles(Cfg::A, P::K_COLUMNS) + P::tiles(Cfg::R, P::K_COLUMNS)) * P::K_TILE_BYTES + P::V_TILES * P::V_TILE_BYTES);
    copy_columns<Cfg::A, P::K_COLUMNS>(base + P::K, P::K_TILE_BYTES, args.k, barrier, task.x, task.w);
    copy_columns<Cfg::R, P::K_COLUMNS>(base + P::K + P::tiles(Cfg::A, P::K_COLUMNS) * P::K_TILE_BYTES, P::K_TILE_BYTES, args.k_rope, barrier, task.x,
                                       Cfg::R > 0 ? task.w / args.per_rope : 0);
    copy_columns<Cfg::V, TILE>(base + P::V, P::V_TILE_BYTES, args.v, barrier, task.x, task.w);
  });
}

// ---- Turns: with `DETERMINISTIC`, blocks of keys add to a tile one after the other ----

// Waits for the turns of one of the warpgroups that add, and ends them. One thread, so that nobody else waits for what lies between thread blocks.
template <class Cfg>
__device__ inline void take_turns(const FlashBackward& args, u32 base, u32 of) {
  using P = Place<Cfg>;
#pragma unroll 1
  for (u32 tile = 0;; tile++) {
    barrier_wait(base + P::FULL + tile % STAGES * 8, tile / STAGES % 2);
    const Four mark = shared_four(base + P::MARKS + tile % (2 * STAGES) * 16);
    barrier_arrive(base + P::FREE + tile % STAGES * 8);
    if (mark.z & NOTHING) break;
    u32* turn = args.turns + i64(mark.x) * 2 + of;
    while (load_acquire(turn) != u32(mark.w)) {
    }
    share(base + P::ALONE + of * 4, i32(mark.w == 0));
    barrier_arrive(base + P::MAY_ADD + of * 8);
    barrier_wait(base + P::ADDED + of * 8, tile % 2);
    count_release(turn);
  }
}
