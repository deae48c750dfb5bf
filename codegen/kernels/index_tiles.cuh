// What `index_logits.cuh` is told, what it has in shared memory, and how that comes there.
//
// A work is some keys of a run of neighbouring queries, `QUERIES` at most. The host deals works out to blocks, so that each has as many tiles of keys
// as the others; where they stand is said in tables, and a launch says neither how many queries nor how many keys there are.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "tile.cuh"
#include "steps.cuh"

// What is multiplied: codes of e4m3, each key with a scale; numbers of bf16; keys in codes by queries in bf16.
constexpr int CODES = 1, NUMBERS = 2, MIXED = 3;

// Keys of a query that are wanted, counted from its sight's first.
struct Limit {
  i32 from, to;
};

struct Work {
  i32 row;                // the first query
  i32 out_row;            // and its row of the output
  i32 count;              // queries
  i32 place;              // row of the sight's first key, or where its blocks begin in the table
  i32 first, end;         // keys
  i32 all_from, all_to;   // those that all `QUERIES` queries want; none, where there are fewer
  i32 column;             // the key that column 0 of the output is
  i32 unused[3];
};

struct Logits {
  TensorMap q;           // by columns of a line, heads, rows, lines
  TensorMap k;           // by columns of a line, keys of a page, pages, lines; keys that are rows are a page
  TensorMap k_scales;    // by keys of a page, pages; without numbers of its own for `NUMBERS`
  const i32* begins;     // [blocks + 1]: where a block's works begin
  const Work* works;
  const Limit* limits;   // of each query
  const u32* table;      // ids of pages
  const f32* weights;    // [rows, HI]
  f32* out;              // [rows, width]
  i64 width;
  f32 scale;
  i32 page;              // keys of a page; 0: keys are rows
  i32 box_log2;          // of keys that are copied at once, a power of two up to `KEYS` that divides a page
  i32 unused[15];
};

constexpr int KEYS_LOG2 = 6, KEYS = 1 << KEYS_LOG2;  // of a tile: those of a warpgroup's product
constexpr int CONSUMERS = 3;  // warpgroups that multiply, each its own tiles: while one weighs what it has, the others' products are under way
constexpr u32 ROOM = 232448 - 1024;  // bytes of shared memory for queries, keys and scales
constexpr u32 SCALE_BYTES = 1024;    // of a tile: those of each copy begin at a multiple of 128 bytes

// Where things lie in shared memory.
template <class Cfg>
struct Place {
  static constexpr int QUERIES = Cfg::UNITS * Cfg::COLUMNS / Cfg::HI;
  static constexpr int OF_UNIT = Cfg::COLUMNS / Cfg::HI;  // queries of a product
  static_assert(Cfg::COLUMNS % Cfg::HI == 0, "a product has whole queries");
  static constexpr bool SCALED = Cfg::OPERANDS != NUMBERS;
  static constexpr int Q_BYTES = Cfg::OPERANDS == CODES ? 1 : 2;  // of a number
  static constexpr int K_BYTES = Cfg::OPERANDS == NUMBERS ? 2 : 1;
  // Queries and keys lie in lines of up to 128 bytes, all first ones before all second ones
  __device__ static constexpr int line(int bytes) { return bytes < 128 ? bytes : 128; }
  static constexpr int Q_LINE = line(Cfg::D * Q_BYTES), Q_LINES = Cfg::D * Q_BYTES / Q_LINE;
  static constexpr int K_LINE = line(Cfg::D * K_BYTES), K_LINES = Cfg::D * K_BYTES / K_LINE;
  static constexpr u32 Q_LINE_BYTES = Cfg::UNITS * Cfg::COLUMNS * Q_LINE, Q_STAGE = Q_LINES * Q_LINE_BYTES;
  static constexpr u32 K_LINE_BYTES = KEYS * K_LINE, K_STAGE = K_LINES * K_LINE_BYTES;
  // Registers of a thread: of who brings tiles, of who multiplies
  static constexpr int BRINGS = 56, SCORES = 152;
  static constexpr int STEPS = Cfg::D * Q_BYTES / 32;  // products of 32 bytes of a query
  // Each consumer has its own stages
  static constexpr u32 STAGE = K_STAGE + (SCALED ? SCALE_BYTES : 0);
  static constexpr int Q_STAGES = 2;
  static constexpr int FITTING = (ROOM - Q_STAGES * Q_STAGE) / STAGE / CONSUMERS * CONSUMERS;
  static constexpr int STAGES = FITTING < 24 ? FITTING : 24;
  static_assert(STAGES >= 2 * CONSUMERS, "shared memory");
  static constexpr u32 Q = 0;
  static constexpr u32 K = Q + Q_STAGES * Q_STAGE;
  static constexpr u32 SCALES = K + STAGES * K_STAGE;
  static constexpr u32 Q_FULL = SCALES + (SCALED ? STAGES * SCALE_BYTES : 0);  // barriers: queries are there
  static constexpr u32 Q_FREE = Q_FULL + Q_STAGES * 8;                         // they may be overwritten
  static constexpr u32 K_FULL = Q_FREE + Q_STAGES * 8;
  static constexpr u32 K_FREE = K_FULL + STAGES * 8;
  static constexpr u32 END = K_FREE + STAGES * 8;
  static_assert(END <= 232448, "shared memory");
};

// Makes the barriers. One thread.
template <class Cfg>
__device__ inline void init_barriers(u32 base) {
  using P = Place<Cfg>;
  for (int stage = 0; stage < P::Q_STAGES; stage++) {
    barrier_init(base + P::Q_FULL + stage * 8, 1);
    barrier_init(base + P::Q_FREE + stage * 8, CONSUMERS * 4);
  }
  for (int stage = 0; stage < P::STAGES; stage++) {
    barrier_init(base + P::K_FULL + stage * 8, 1);
    barrier_init(base + P::K_FREE + stage * 8, 4);
  }
  fence_barrier_init();
}

// Brings a work's queries. One thread.
template <class Cfg>
__device__ inline void bring_queries(const Logits& args, u32 base, i32 row, const Ring<Place<Cfg>::Q_STAGES>& turn) {
  using P = Place<Cfg>;
  const u32 full = base + P::Q_FULL + turn.stage * 8;
  barrier_wait(base + P::Q_FREE + turn.stage * 8, turn.parity ^ 1);
  barrier_expect(full, P::Q_STAGE);
  copy_tile_4d(base + P::Q + turn.stage * P::Q_STAGE, args.q, full, 0, 0, row, 0);
}

// Bytes from the scales of a copy to those of the next one.
__device__ inline u32 scales_apart(i32 box_log2) { return max(4 << box_log2, 128); }

// The tiles of a consumer, and of the warp that brings them: every `CONSUMERS`th one of a block. A copy takes its thread longer than memory takes to fill
// it, so several bring. A stage is always the same consumer's: were it filled by several warps, one could be two rounds ahead of another, and take
// the end of an earlier phase for that which it waits for.
template <class Cfg>
struct Tiles {
  using P = Place<Cfg>;
  static_assert(P::STAGES % CONSUMERS == 0, "a stage is one consumer's");
  Ring<P::STAGES> turn;
  u32 ahead;  // tiles of the block until the next one of its own
  __device__ explicit Tiles(u32 number) : ahead(number) {
    for (u32 i = 0; i < number; i++) turn.next();
  }
  __device__ i32 first_key(const Work& work) const { return work.first + i32(ahead) * KEYS; }
  __device__ u32 full(u32 base) const { return base + P::K_FULL + turn.stage * 8; }
  __device__ u32 free(u32 base) const { return base + P::K_FREE + turn.stage * 8; }
  __device__ void next() {
    for (int i = 0; i < CONSUMERS; i++) turn.next();
  }
  __device__ void end(const Work& work) {
    ahead = (ahead + CONSUMERS - u32(work.end - work.first + KEYS - 1) / KEYS % CONSUMERS) % CONSUMERS;
  }
};

// The page of a copy of one of the warp's next tiles, those of 32 copies from the tile at `key` on: each lane reads another one's.
__device__ inline u32 own_page(const Logits& args, const Work& work, i32 key) {
  const i32 copies_log2 = KEYS_LOG2 - args.box_log2;
  const i32 copy = lane() & ((1 << copies_log2) - 1);
  const i32 own = key + (lane() >> copies_log2) * (CONSUMERS * KEYS) + (copy << args.box_log2);
  return args.page && own < work.end ? args.table[work.place + u32(own) / u32(args.page)] : 0;
}

// Brings a warp's tiles of a work, all of the warp: pages' ids are read long before they are needed.
template <class Cfg>
__device__ inline void bring_keys(const Logits& args, u32 base, const Work& work, Tiles<Cfg>& own) {
  using P = Place<Cfg>;
  const i32 box = 1 << args.box_log2, of_tile = KEYS >> args.box_log2;
  const u32 apart = scales_apart(args.box_log2);
  i32 key = own.first_key(work);
  u32 pages = 0, next_pages = own_page(args, work, key);
#pragma unroll 1
  for (i32 copy = 0; key < work.end; key += CONSUMERS * KEYS, copy += of_tile) {
    if (copy % WARP == 0) {
      pages = next_pages;
      next_pages = own_page(args, work, key + (WARP >> (KEYS_LOG2 - args.box_log2)) * (CONSUMERS * KEYS));
    }
    const u32 to = base + P::K + own.turn.stage * P::K_STAGE, scales = base + P::SCALES + own.turn.stage * SCALE_BYTES;
    const u32 full = own.full(base);
    // Of pages, those behind the end are left out
    const i32 copies = args.page ? (min(KEYS, work.end - key) + box - 1) >> args.box_log2 : 1;
    if (lane() == 0) {
      barrier_wait(own.free(base), own.turn.parity ^ 1);
      barrier_expect(full, copies * box * (P::K_LINE * P::K_LINES + (P::SCALED ? 4 : 0)));
    }
#pragma unroll 1
    for (i32 i = 0; i < copies; i++) {
      const i32 page = __shfl_sync(ALL_LANES, pages, copy % WARP + i);
      const i32 first = key + i * box;
      const i32 row = args.page ? u32(first) % u32(args.page) : work.place + first;
      if (lane() != 0) continue;
#pragma unroll
      for (int line = 0; line < P::K_LINES; line++)
        copy_tile_4d(to + line * P::K_LINE_BYTES + i * box * P::K_LINE, args.k, full, 0, row, page, line);
      if (P::SCALED) copy_tile(scales + i * apart, args.k_scales, full, row, page);
    }
    own.next();
  }
  own.end(work);
}

// What a block's works need, by one of the first warps: a consumer's keys, or queries.
template <class Cfg>
__device__ inline void bring_works(const Logits& args, u32 base) {
  const i32 end = args.begins[blockIdx.x + 1];
  if (warp() < CONSUMERS) {
    Tiles<Cfg> own(warp());
#pragma unroll 1
    for (i32 i = args.begins[blockIdx.x]; i < end; i++) bring_keys<Cfg>(args, base, args.works[i], own);
  } else if (lane() == 0) {
    Ring<Place<Cfg>::Q_STAGES> turn;
#pragma unroll 1
    for (i32 i = args.begins[blockIdx.x]; i < end; i++, turn.next()) bring_queries<Cfg>(args, base, args.works[i].row, turn);
  }
}
