// What `flash_forward.cuh` is told, what it has in shared memory, and how that comes there.
//
// A work is up to 128 rows of queries of a segment; each head has all of them. Blocks take works in turn, longest first, a few heads at a time, so that
// the keys and values that run together fit into the L2.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "convert.cuh"
#include "tile.cuh"
#include "steps.cuh"

// Keys that a row of queries sees, counted from its segment's first.
struct Limit {
  i32 from, to;
};

struct Work {
  i32 row;                 // the first
  i32 rows;                // how many there are
  i32 place;               // row of the segment's first key, or where its pages begin in the table
  i32 first, end;          // keys that any of its rows sees
  i32 all_first, all_end;  // keys that all of them see
  i32 unused;
};

struct FlashForward {
  TensorMap q, q_rope, k, k_rope, v;
  const Limit* limits;  // of each row
  const Work* works;
  const u32* table;  // with `PAGED`: ids of pages
  bf16* narrow;  // the output, where it is wanted in bf16
  f32* wide;     // where it is not
  f32* lse;        // [rows, heads], natural
  f32* max_logit;  // [rows, heads]; with `MOST` alone
  u32* taken;        // 3, of zeros: tasks that blocks have taken, blocks that found none, whether tasks have to be done again. The last block leaves zeros
  u32* again;        // [works, heads], of zeros: which ones; without `MOST` alone. Likewise
  i64 row_stride, head_stride;  // of the output, in elements
  i32 count;       // works
  i32 heads;
  i32 at_once;     // heads whose works are taken side by side
  i32 per_key, per_rope, per_value;  // heads that share a head of keys, of their rotated part, of values
  i32 page;        // with `PAGED`: keys of a page
  i32 box;         // of those that are copied at once, a power of two that divides it
  f32 scale_log2;  // of products, for powers of two; with `CAP`, of what is bent
  f32 scale;       // of the same, for logits
  f32 bend;        // with `CAP` alone: of products, twice for powers of two, over the cap
  i32 unused[15];
};

constexpr int ROWS = 128;
constexpr u32 ROOM = 232448 - 3072;  // bytes of shared memory for queries, keys and values

// Where things lie in shared memory.
template <class Cfg>
struct Place {
  __device__ static constexpr int tiles(int columns) { return (columns + TILE - 1) / TILE; }
  static constexpr int A_TILES = tiles(Cfg::A), R_TILES = tiles(Cfg::R), V_TILES = tiles(Cfg::V);
  static constexpr int QK_TILES = A_TILES + R_TILES;
  // Whether a part's tiles are copied one by one, for which a thread needs more registers
  static constexpr bool PIECEMEAL = Cfg::PAGED || Cfg::A % TILE != 0 || Cfg::R % TILE != 0 || Cfg::V % TILE != 0;
  // Registers of a thread: of who attends, of who brings tiles
  static constexpr int ATTENDS = PIECEMEAL ? 232 : 240, BRINGS = PIECEMEAL ? 40 : 24;
  static constexpr int STAGES = 2;  // of keys, and of values
  static constexpr u32 Q_TILE_BYTES = ROWS * TILE * 2;
  // Pieces of 16 columns
  static constexpr int A_STEPS = (Cfg::A + 15) / 16, R_STEPS = (Cfg::R + 15) / 16, STEPS = A_STEPS + R_STEPS;
  // Registers of a thread: half as many logits as there are keys, a quarter as many pairs of probabilities, the output, what else there is; and pieces of queries
  static constexpr int ELSE = Cfg::CAP ? 48 : V_TILES > 2 ? 40 : 32;
  __device__ static constexpr int spare(int keys) { return ATTENDS - ELSE - Cfg::V / 2 - keys * 3 / 4; }
  // Keys that are attended to at a time: up to 128, as many as there is room for. Pages are powers of two, or made of such
  __device__ static constexpr bool fits(int keys) {
    return spare(keys) >= 0 && QK_TILES * Q_TILE_BYTES + STAGES * keys * TILE * 2 * (QK_TILES + V_TILES) <= ROOM;
  }
  __device__ static constexpr int most_keys(int keys) { return fits(keys) ? keys : most_keys(Cfg::PAGED ? keys / 2 : keys - 16); }
  static constexpr int KEYS = most_keys(128);
  // Those of the queries that registers hold: the first
  static constexpr int HELD = spare(KEYS) / 4 < STEPS ? spare(KEYS) / 4 : STEPS;
  static constexpr u32 SLOT_BYTES = KEYS * TILE * 2;  // a tile of keys or values
  static constexpr u32 K_BYTES = QK_TILES * SLOT_BYTES;
  static constexpr u32 V_BYTES = V_TILES * SLOT_BYTES;
  // Whether warpgroups take turns at the tensor cores: where products take longer than exponentials, by a half at least. A cap takes two more functions
  static constexpr bool TURNS = 2 * (Cfg::A + Cfg::R + Cfg::V) / 2048.0f >= 3 * (Cfg::CAP ? 3 : 1) / 16.0f;
  static constexpr u32 Q = 0;
  static constexpr u32 K = QK_TILES * Q_TILE_BYTES;
  static constexpr u32 V = K + STAGES * K_BYTES;
  static constexpr u32 TOPS = V + STAGES * V_BYTES;               // [2, WARPGROUP]: the largest logits of a thread's rows and keys
  static constexpr u32 TASK = TOPS + (Cfg::MOST ? 2 * WARPGROUP * 8 : 0);  // {work, head}; no work: there is no more
  static constexpr u32 Q_FULL = TASK + 16;                        // barriers: queries are there, and what they are for
  static constexpr u32 Q_FREE = Q_FULL + 8;                       // they may be overwritten
  static constexpr u32 K_FULL = Q_FREE + 8;                       // [STAGES]
  static constexpr u32 K_FREE = K_FULL + STAGES * 8;
  static constexpr u32 V_FULL = K_FREE + STAGES * 8;              // [STAGES]
  static constexpr u32 V_FREE = V_FULL + STAGES * 8;
  static constexpr u32 DONE = V_FREE + STAGES * 8;                // all tasks have been written
  static constexpr u32 KNOWN = DONE + 8;                          // and it is known whether there are some to be done again: `MORE`
  static constexpr u32 MORE = KNOWN + 8;
  static constexpr u32 END = MORE + 8;
  static_assert(END <= 232448, "shared memory");
  // Where a step's columns begin, in tiles of so many bytes.
  __device__ static constexpr u32 step_at(int k, u32 tile_bytes) {
    return k < A_STEPS ? k / 4 * tile_bytes + k % 4 * 32 : (A_TILES + (k - A_STEPS) / 4) * tile_bytes + (k - A_STEPS) % 4 * 32;
  }
};

constexpr i32 NO_WORK = -1;
// Sums of exponentials that are no smaller have had logits far beyond those that exponents count from: some may be infinite, or products with values.
constexpr f32 TOO_LARGE = 0x1p80f;

// Has `COLUMNS` columns of some rows of a head brought, in tiles: together, or each by itself. What is not there of the last tile is zeros.
template <int COLUMNS>
__device__ inline void copy_columns(u32 to, u32 tile_bytes, const TensorMap& map, u32 barrier, i32 row, i32 head, bool together) {
  if constexpr (COLUMNS > 0) {
    if (COLUMNS % TILE == 0 && together) return copy_tile_4d(to, map, barrier, 0, row, head, 0);
#pragma unroll 1
    for (int column = 0; column < COLUMNS; column += TILE, to += tile_bytes) copy_tile_4d(to, map, barrier, column, row, head, 0);
  }
}

// The same of a tile's keys, from `key` on, or of their values. Of pages, those behind `end` are left out.
template <class Cfg, int COLUMNS>
__device__ inline void copy_keys(const FlashForward& args, u32 to, const TensorMap& map, u32 barrier, i32 place, i32 key, i32 end, i32 head) {
  using P = Place<Cfg>;
  if constexpr (Cfg::PAGED) {
#pragma unroll 1
    for (i32 last = min(key + P::KEYS, end); key < last; key += args.box, to += args.box * 128) {
      const i32 row = i32(args.table[place + u32(key) / u32(args.page)]) * args.page + u32(key) % u32(args.page);
      copy_columns<COLUMNS>(to, P::SLOT_BYTES, map, barrier, row, head, false);
    }
  } else {
    copy_columns<COLUMNS>(to, P::SLOT_BYTES, map, barrier, place + key, head, true);
  }
}

// Keys that come for a tile.
template <class Cfg>
__device__ inline u32 keys_that_come(const FlashForward& args, i32 key, i32 end) {
  if (!Cfg::PAGED) return Place<Cfg>::KEYS;
  return u32(min(Place<Cfg>::KEYS, end - key) + args.box - 1) / u32(args.box) * u32(args.box);
}

// The first keys of the last and the first tile that a work's rows see. Rows that see nothing have a tile all the same.
template <class Cfg>
__device__ inline i32 last_tile(const Work& work) {
  return max(work.end - 1, 0) / Place<Cfg>::KEYS * Place<Cfg>::KEYS;
}
template <class Cfg>
__device__ inline i32 first_tile(const Work& work) {
  return work.first / Place<Cfg>::KEYS * Place<Cfg>::KEYS;
}

// What a block is to do: of the `index`th of all, a work and a head.
__device__ inline Pair task_of(const FlashForward& args, u32 index) {
  if (index >= u32(args.count) * u32(args.heads)) return {NO_WORK, 0};
  const u32 group = index / u32(args.count * args.at_once);
  const u32 inside = index - group * u32(args.count * args.at_once);
  const u32 first = group * u32(args.at_once);
  const u32 heads = min(u32(args.at_once), u32(args.heads) - first);
  return {i32(inside / heads), i32(first + inside % heads)};
}

// A thread brings queries and keys, and another values: neither waits for what the other one needs.

// Brings a task to those who do it, with its queries, or word that there is none.
template <class Cfg>
__device__ inline void bring_queries(const FlashForward& args, u32 base, const Pair& task, u32& parity) {
  using P = Place<Cfg>;
  barrier_wait(base + P::Q_FREE, parity);
  parity ^= 1;
  share(base + P::TASK, task);
  const u32 q_full = base + P::Q_FULL;
  if (task.x == NO_WORK) {
    barrier_arrive(q_full);
    return;
  }
  const i32 row = args.works[task.x].row;
  barrier_expect(q_full, P::QK_TILES * P::Q_TILE_BYTES);
  copy_columns<Cfg::A>(base + P::Q, P::Q_TILE_BYTES, args.q, q_full, row, task.y, true);
  copy_columns<Cfg::R>(base + P::Q + P::A_TILES * P::Q_TILE_BYTES, P::Q_TILE_BYTES, args.q_rope, q_full, row, task.y, true);
}

// Brings a task's keys, from the last tile on: the one that not all rows see all of is the first.
template <class Cfg>
__device__ inline void bring_keys(const FlashForward& args, u32 base, const Pair& task, Ring<Place<Cfg>::STAGES>& turn) {
  using P = Place<Cfg>;
  const Work work = args.works[task.x];
  const i32 head = task.y / args.per_key, rope_head = Cfg::R > 0 ? task.y / args.per_rope : 0;
#pragma unroll 1
  for (i32 key = last_tile<Cfg>(work); key >= first_tile<Cfg>(work); key -= P::KEYS) {
    const u32 to = base + P::K + turn.stage * P::K_BYTES, full = base + P::K_FULL + turn.stage * 8;
    barrier_wait(base + P::K_FREE + turn.stage * 8, turn.parity ^ 1);
    barrier_expect(full, keys_that_come<Cfg>(args, key, work.end) * (P::QK_TILES * 128));
    copy_keys<Cfg, Cfg::A>(args, to, args.k, full, work.place, key, work.end, head);
    copy_keys<Cfg, Cfg::R>(args, to + P::A_TILES * P::SLOT_BYTES, args.k_rope, full, work.place, key, work.end, rope_head);
    turn.next();
  }
}

// This block has found no more tasks. Whether it is the last, and tasks have to be done again; the last one leaves counters as it found them.
__device__ inline bool ends_last(const FlashForward& args) {
  __threadfence();
  if (atomicAdd(args.taken + 1, 1u) != gridDim.x - 1) return false;
  __threadfence();
  const bool more = load_acquire(args.taken + 2) != 0;
  args.taken[0] = 0;
  args.taken[1] = 0;
  args.taken[2] = 0;
  return more;
}

// A task has to be done again.
__device__ inline void note_down(const FlashForward& args, const Pair& task) {
  args.again[i64(task.x) * args.heads + task.y] = 1;
  args.taken[2] = 1;
}

// Whether this block has tasks to be done again, once all have been written.
template <class Cfg>
__device__ inline bool goes_on(u32 base) {
  barrier_wait(base + Place<Cfg>::KNOWN, 0);
  return shared_i32(base + Place<Cfg>::MORE) != 0;
}

// The first task from `at` on that is to be done again.
__device__ inline Pair noted_task(const FlashForward& args, u32& at) {
  for (; at < u32(args.count) * u32(args.heads); at++) {
    if (load_acquire(args.again + at) == 0) continue;
    args.again[at] = 0;
    return {i32(at / args.heads), i32(at % args.heads)};
  }
  return {NO_WORK, 0};
}

// All tasks of a block, with their queries and keys. One thread.
template <class Cfg>
__device__ inline void bring_tasks(const FlashForward& args, u32 base) {
  using P = Place<Cfg>;
  Ring<P::STAGES> turn;
  u32 parity = 1;  // the first queries find their place free
  u32 at = 0;
#pragma unroll 1
  for (bool again = false;;) {
    // Few are done again, and seldom: one block does them all
    const Pair task = again ? noted_task(args, at) : task_of(args, atomicAdd(args.taken, 1u));
    bring_queries<Cfg>(args, base, task, parity);
    if (task.x != NO_WORK) {
      bring_keys<Cfg>(args, base, task, turn);
      continue;
    }
    if (again) return;
    if (!Cfg::MOST) barrier_wait(base + P::DONE, 0);
    again = ends_last(args);
    if (Cfg::MOST) return;
    share(base + P::MORE, i32(again));
    barrier_arrive(base + P::KNOWN);
    if (!again) return;
  }
}

// The values of all tasks that are brought. One thread.
template <class Cfg>
__device__ inline void bring_values(const FlashForward& args, u32 base) {
  using P = Place<Cfg>;
  Ring<P::STAGES> turn;
  u32 parity = 0;
#pragma unroll 1
  for (bool again = false;;) {
    barrier_wait(base + P::Q_FULL, parity);
    parity ^= 1;
    const Pair task = shared_pair(base + P::TASK);
    barrier_arrive(base + P::Q_FREE);
    if (task.x == NO_WORK) {
      if (Cfg::MOST || again || !goes_on<Cfg>(base)) return;
      again = true;
      continue;
    }
    const Work work = args.works[task.x];
    const i32 head = task.y / args.per_value;
#pragma unroll 1
    for (i32 key = last_tile<Cfg>(work); key >= first_tile<Cfg>(work); key -= P::KEYS) {
      const u32 full = base + P::V_FULL + turn.stage * 8;
      barrier_wait(base + P::V_FREE + turn.stage * 8, turn.parity ^ 1);
      barrier_expect(full, keys_that_come<Cfg>(args, key, work.end) * (P::V_TILES * 128));
      copy_keys<Cfg, Cfg::V>(args, base + P::V + turn.stage * P::V_BYTES, args.v, full, work.place, key, work.end, head);
      turn.next();
    }
  }
}

// Makes the barriers. One thread.
template <class Cfg>
__device__ inline void init_barriers(u32 base) {
  using P = Place<Cfg>;
  barrier_init(base + P::Q_FULL, 1);
  barrier_init(base + P::Q_FREE, 9);
  for (int stage = 0; stage < P::STAGES; stage++) {
    barrier_init(base + P::K_FULL + stage * 8, 1);
    barrier_init(base + P::K_FREE + stage * 8, 8);
  }
  for (int stage = 0; stage < P::STAGES; stage++) {
    barrier_init(base + P::V_FULL + stage * 8, 1);
    barrier_init(base + P::V_FREE + stage * 8, 8);
  }
  barrier_init(base + P::DONE, 8);
  barrier_init(base + P::KNOWN, 1);
  fence_barrier_init();
}
