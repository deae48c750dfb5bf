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
  u32* taken;        // 2, of zeros: units of work that blocks have taken, and blocks that found none. The last one leaves zeros
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
  i32 unused[17];
};

constexpr int ROWS = 128;

// Where things lie in shared memory.
template <class Cfg>
struct Place {
  __device__ static constexpr int tiles(int columns) { return (columns + TILE - 1) / TILE; }
  static constexpr int A_TILES = tiles(Cfg::A), R_TILES = tiles(Cfg::R), V_TILES = tiles(Cfg::V);
  static constexpr int QK_TILES = A_TILES + R_TILES;
  // Keys that are attended to at a time. Registers of a thread hold half as many logits, a quarter as many pairs of probabilities, and the output
  static constexpr int KEYS = V_TILES <= 2 && 3 * QK_TILES + 2 * V_TILES <= 14 ? 128 : 64;
  // Whether a part's tiles are copied one by one, for which a thread needs more registers
  static constexpr bool PIECEMEAL = Cfg::PAGED || Cfg::A % TILE != 0 || Cfg::R % TILE != 0 || Cfg::V % TILE != 0;
  // Registers of a thread: of who attends, of who brings tiles
  static constexpr int ATTENDS = PIECEMEAL ? 232 : 240, BRINGS = PIECEMEAL ? 40 : 24;
  static constexpr u32 Q_TILE_BYTES = ROWS * TILE * 2;
  static constexpr u32 SLOT_BYTES = KEYS * TILE * 2;  // a tile of keys or values
  static constexpr u32 K_BYTES = QK_TILES * SLOT_BYTES;
  static constexpr u32 V_BYTES = V_TILES * SLOT_BYTES;
  // Pieces of 16 columns, and those of the queries that registers hold: the first
  static constexpr int A_STEPS = (Cfg::A + 15) / 16, R_STEPS = (Cfg::R + 15) / 16, STEPS = A_STEPS + R_STEPS;
  static constexpr int SPARE = (ATTENDS - (Cfg::CAP ? 48 : 32) - V_TILES * TILE / 2 - KEYS * 3 / 4) / 4;
  static constexpr int HELD = SPARE < 0 ? 0 : SPARE < STEPS ? SPARE : STEPS;
  static constexpr int K_STAGES = 2, V_STAGES = 2;
  static constexpr u32 Q = 0;
  static constexpr u32 K = QK_TILES * Q_TILE_BYTES;
  static constexpr u32 V = K + K_STAGES * K_BYTES;
  static constexpr u32 TOPS = V + V_STAGES * V_BYTES;             // [2, WARPGROUP]: the largest logits of a thread's rows and keys
  static constexpr u32 TASK = TOPS + (Cfg::MOST ? 2 * WARPGROUP * 8 : 0);  // {work, head}; no work: there is no more
  static constexpr u32 Q_FULL = TASK + 16;                        // barriers: queries are there, and what they are for
  static constexpr u32 Q_FREE = Q_FULL + 8;                       // they may be overwritten
  static constexpr u32 K_FULL = Q_FREE + 8;                       // [K_STAGES]
  static constexpr u32 K_FREE = K_FULL + K_STAGES * 8;
  static constexpr u32 V_FULL = K_FREE + K_STAGES * 8;            // [V_STAGES]
  static constexpr u32 V_FREE = V_FULL + V_STAGES * 8;
  static constexpr u32 END = V_FREE + V_STAGES * 8;
  static_assert(END <= 232448, "shared memory");
  // Where a step's columns begin, in tiles of so many bytes.
  __device__ static constexpr u32 step_at(int k, u32 tile_bytes) {
    return k < A_STEPS ? k / 4 * tile_bytes + k % 4 * 32 : (A_TILES + (k - A_STEPS) / 4) * tile_bytes + (k - A_STEPS) % 4 * 32;
  }
};

constexpr i32 NO_WORK = -1;

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

// Copies what the others read. One thread.
template <class Cfg>
__device__ inline void bring_tiles(const FlashForward& args, u32 base) {
  using P = Place<Cfg>;
  Ring<P::K_STAGES> k;
  Ring<P::V_STAGES> v;
  u32 q_parity = 1;  // the first queries find their place free
#pragma unroll 1
  for (;;) {
    const Pair task = task_of(args, atomicAdd(args.taken, 1u));
    barrier_wait(base + P::Q_FREE, q_parity);
    q_parity ^= 1;
    share(base + P::TASK, task);
    if (task.x == NO_WORK) {
      barrier_arrive(base + P::Q_FULL);
      break;
    }
    const Work work = args.works[task.x];
    const u32 q_full = base + P::Q_FULL;
    barrier_expect(q_full, P::QK_TILES * P::Q_TILE_BYTES);
    copy_columns<Cfg::A>(base + P::Q, P::Q_TILE_BYTES, args.q, q_full, work.row, task.y, true);
    copy_columns<Cfg::R>(base + P::Q + P::A_TILES * P::Q_TILE_BYTES, P::Q_TILE_BYTES, args.q_rope, q_full, work.row, task.y, true);
    const i32 k_head = task.y / args.per_key, v_head = task.y / args.per_value, rope_head = Cfg::R > 0 ? task.y / args.per_rope : 0;
    // From the last tile on: the one that not all rows see all of is the first
#pragma unroll 1
    for (i32 key = last_tile<Cfg>(work); key >= first_tile<Cfg>(work); key -= P::KEYS) {
      const u32 rows = keys_that_come<Cfg>(args, key, work.end);
      const u32 k_at = base + P::K + k.stage * P::K_BYTES, k_full = base + P::K_FULL + k.stage * 8;
      barrier_wait(base + P::K_FREE + k.stage * 8, k.parity ^ 1);
      barrier_expect(k_full, rows * (P::QK_TILES * 128));
      copy_keys<Cfg, Cfg::A>(args, k_at, args.k, k_full, work.place, key, work.end, k_head);
      copy_keys<Cfg, Cfg::R>(args, k_at + P::A_TILES * P::SLOT_BYTES, args.k_rope, k_full, work.place, key, work.end, rope_head);
      k.next();
      const u32 v_full = base + P::V_FULL + v.stage * 8;
      barrier_wait(base + P::V_FREE + v.stage * 8, v.parity ^ 1);
      barrier_expect(v_full, rows * (P::V_TILES * 128));
      copy_keys<Cfg, Cfg::V>(args, base + P::V + v.stage * P::V_BYTES, args.v, v_full, work.place, key, work.end, v_head);
      v.next();
    }
  }
  // The last block to find nothing leaves the counters as it found them
  if (atomicAdd(args.taken + 1, 1u) == gridDim.x - 1) {
    args.taken[0] = 0;
    args.taken[1] = 0;
  }
}

// Makes the barriers. One thread.
template <class Cfg>
__device__ inline void init_barriers(u32 base) {
  using P = Place<Cfg>;
  barrier_init(base + P::Q_FULL, 1);
  barrier_init(base + P::Q_FREE, 8);
  for (int stage = 0; stage < P::K_STAGES; stage++) {
    barrier_init(base + P::K_FULL + stage * 8, 1);
    barrier_init(base + P::K_FREE + stage * 8, 8);
  }
  for (int stage = 0; stage < P::V_STAGES; stage++) {
    barrier_init(base + P::V_FULL + stage * 8, 1);
    barrier_init(base + P::V_FREE + stage * 8, 8);
  }
  fence_barrier_init();
}
