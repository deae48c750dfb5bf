// Absorbed attention over a cache of latents for 16 or 32 rows of queries, with operands exchanged: what docs/kernels/decode.md draws.
//
// Keys and latents are the left operands of all products, and rows of queries their columns, so that few rows don't fill up to 64. Three
// warpgroups. A warp of the first copies tiles of 64 keys to a ring of stages, some columns at a time; the second and third take tiles in turn, each
// with all columns, and become one at an item's end.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "tile.cuh"
#include "wgmma.cuh"
#include "decode_steps.cuh"

// Where things lie in shared memory.
template <class Cfg>
struct Place {
  static constexpr int ROWS = Cfg::ROWS;
  static constexpr int VALUE_TILES = Cfg::LATENT / TILE;
  static constexpr int ROPE_TILES = Cfg::ROPE > 0 ? 1 : 0;
  static constexpr int ROPE_STEPS = (Cfg::ROPE + 15) / 16;
  static constexpr int SLOTS = VALUE_TILES + ROPE_TILES;  // of a stage; the last has the rotated part
  static constexpr int PAIRS = VALUE_TILES / 2;           // slots are filled and freed by two, the rotated part with the first
  static constexpr u32 STAGE_BYTES = SLOTS * TILE_BYTES;
  static constexpr u32 Q_TILE_BYTES = ROWS * TILE * 2;
  static constexpr u32 Q_BYTES = SLOTS * Q_TILE_BYTES;
  static constexpr u32 AUX = 2 * ROWS * TILE * 2 + 3072;  // probabilities of both warpgroups, and what is small
  // Each of the two has a ring of its own: parities of barriers would not tell one lap from the next for who only sees every other
  static constexpr int FIT = (232448 - 2 * Q_BYTES - AUX) / STAGE_BYTES / 2;
  static constexpr int RING = FIT < 3 ? FIT : 3;
  static_assert(RING >= 1, "a stage for each warpgroup");
  static constexpr int STAGES = 2 * RING;
  static constexpr u32 Q = STAGES * STAGE_BYTES;           // [2]: of this item and the next
  static constexpr u32 WEIGHTS = Q + 2 * Q_BYTES;          // [2, ROWS, KEYS]: probabilities
  static constexpr u32 PEAKS = WEIGHTS + 2 * Q_TILE_BYTES;  // [2, 4, ROWS]: largest logits of a warp
  static constexpr u32 LIMITS = PEAKS + 2 * 4 * ROWS * 4;   // [2, ROWS]: keys that a row sees
  static constexpr u32 SUMS = LIMITS + 2 * ROWS * 8;        // [ROWS, 4]: what the third warpgroup's sums count from, largest logits, totals
  static constexpr u32 FULL = SUMS + ROWS * 16;             // barriers [STAGES, PAIRS]: keys are there
  static constexpr u32 EMPTY = FULL + STAGES * PAIRS * 8;   // [STAGES, PAIRS]: they may be overwritten
  static constexpr u32 Q_FULL = EMPTY + STAGES * PAIRS * 8;  // [2]
  static constexpr u32 Q_EMPTY = Q_FULL + 16;                // [2]
  static constexpr u32 HANDED = Q_EMPTY + 16;                // the third warpgroup's sums are there
  static constexpr u32 TAKEN = HANDED + 8;                   // and have been added
  static constexpr u32 END = TAKEN + 8;
  static_assert(END <= 232448, "shared memory");
};

// Tiles of a warpgroup as they come round: which stage of its ring, and the parity of its barriers.
template <class Cfg, int MINE>
struct Turn {
  using P = Place<Cfg>;
  u32 at = 0;
  u32 parity = 0;
  __device__ void next() {
    if (++at < P::RING) return;
    at = 0;
    parity ^= 1;
  }
  __device__ u32 stage() const { return MINE * P::RING + at; }
};

// Copies what the others read. One warp: its lanes know where the next 32 boxes of keys lie.
template <class Cfg>
__device__ inline void bring_tiles(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  Turn<Cfg, 0> one;
  Turn<Cfg, 1> other;
  u32 queries = 0, queries_parity = 1;
  const int boxes = KEYS / args.box;
  const u32 box_bytes = args.box * TILE * 2;
  const int end_item = args.starts[team + 1];
  for (int i = args.starts[team]; i < end_item; i++) {
    const Item item = args.items[i];
    const Group group = args.groups[item.group];
    const Row first = row_of<Cfg>(args, group, member, 0);
    barrier_wait(base + P::Q_EMPTY + queries * 8, queries_parity);
    if (lane() == 0) {
      const u32 barrier = base + P::Q_FULL + queries * 8;
      const u32 to = base + P::Q + queries * P::Q_BYTES;
      barrier_expect(barrier, (Cfg::H < P::ROWS ? Cfg::H * args.at_once : P::ROWS) * TILE * 2 * P::SLOTS);
      if (Cfg::ROPE > 0) copy_tile_3d(to + P::VALUE_TILES * P::Q_TILE_BYTES, args.q_rope, barrier, 0, first.head, first.query);
      for (int t = 0; t < P::VALUE_TILES; t++) copy_tile_3d(to + t * P::Q_TILE_BYTES, args.q, barrier, t * TILE, first.head, first.query);
    }
    __syncwarp();
    queries ^= 1;
    if (queries == 0) queries_parity ^= 1;
    const int all = (group.end + args.box - 1) / args.box;
    int row = 0;
    for (int tile = item.first; tile < item.end; tile++) {
      const bool is_one = (tile - item.first) % 2 == 0;
      const u32 stage = is_one ? one.stage() : other.stage();
      const u32 parity = (is_one ? one.parity : other.parity) ^ 1;
      const u32 to = base + stage * P::STAGE_BYTES;
      const int there = max(0, min(boxes, all - tile * boxes));
      for (int b = 0; b < boxes; b++) {
        const int ahead = ((tile - item.first) * boxes + b) % WARP;
        if (ahead == 0) {
          const int key = (tile * boxes + b + lane()) * args.box;
          row = key < group.end ? row_of_key(args, group.table, key) : 0;
        }
        const int from = __shfl_sync(ALL_LANES, row, ahead);
        for (int pair = 0; pair < P::PAIRS; pair++) {
          const u32 barrier = base + P::FULL + (stage * P::PAIRS + pair) * 8;
          const int slots = 2 + (pair == 0 ? P::ROPE_TILES : 0);
          if (b == 0) {
            barrier_wait(base + P::EMPTY + (stage * P::PAIRS + pair) * 8, parity);
            if (lane() == 0) barrier_expect(barrier, there * box_bytes * slots);
          }
          if (b < there && lane() == 0) {
            if (Cfg::ROPE > 0 && pair == 0) copy_tile(to + P::VALUE_TILES * TILE_BYTES + b * box_bytes, args.k_rope, barrier, 0, from);
            copy_tile(to + 2 * pair * TILE_BYTES + b * box_bytes, args.k, barrier, 2 * pair * TILE, from);
            copy_tile(to + (2 * pair + 1) * TILE_BYTES + b * box_bytes, args.k, barrier, (2 * pair + 1) * TILE, from);
          }
          __syncwarp();
        }
      }
      if (is_one) one.next();
      else other.next();
    }
  }
}

// Whether `x` holds for any thread of a warpgroup. `name` is a barrier of its own.
__device__ inline bool any_of_group(bool x, u32 name) {
  u32 any;
  asm volatile("{\n.reg .pred p, q;\nsetp.ne.u32 p, %1, 0;\nbarrier.cta.red.or.aligned.pred q, %2, 128, p;\nselp.u32 %0, 1, 0, q;\n}"
               : "=r"(any)
               : "r"(u32(x)), "r"(name)
               : "memory");
  return any != 0;
}

// What a thread knows of its rows, two of each block of eight, and their output: of each tile of columns, as products leave them. `R`: its rows.
template <class Cfg>
struct Sums {
  static constexpr int R = Cfg::ROWS / 4;
  static constexpr int HELD = Cfg::ROWS / 2;  // results of a thread of 64 by ROWS
  f32 shift[R];                               // what exponents count from
  f32 top[R];                                 // largest logits
  f32 total[R];                               // of exponentials
  f32 o[Cfg::LATENT / TILE][HELD];

  // The `r`th row of a thread, and the row that the `k`th of a tile's results is of.
  __device__ static int row(int r) { return r / 2 * 8 + threadIdx.x % 4 * 2 + r % 2; }
  __device__ static constexpr int of(int k) { return k / 4 * 2 + k % 2; }
  // Where a row's two results are.
  __device__ static constexpr int result(int r, int i) { return r / 2 * 4 + r % 2 + i * 2; }

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < R; r++) {
      shift[r] = top[r] = LOW;
      total[r] = 0;
    }
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / TILE * HELD; k++) o[k / HELD][k % HELD] = 0;
  }

  // What was summed up for a row is worth less now.
  __device__ void shrink(int r, f32 less) {
    total[r] *= less;
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / TILE * 2; k++) o[k / 2][result(r, k % 2)] *= less;
  }
};

// What all threads of a warpgroup have of a row becomes one: by lanes, then by warps through shared memory. Of `largest` it is the largest, else the sum.
template <class Cfg>
__device__ inline void over_group(f32 (&x)[Cfg::ROWS / 4], bool largest, u32 room, u32 name) {
  constexpr int R = Cfg::ROWS / 4;
  const int thread = threadIdx.x % WARPGROUP;
  const auto both = [&](f32 a, f32 b) { return largest ? peak(a, b) : a + b; };
#pragma unroll
  for (int r = 0; r < R; r++) {
#pragma unroll
    for (int lanes = 4; lanes < WARP; lanes *= 2) x[r] = both(x[r], __shfl_xor_sync(ALL_LANES, x[r], lanes));
  }
  named_wait(name, WARPGROUP);
#pragma unroll
  for (int r = 0; r < R; r++) {
    if (thread % 32 < 4) share(room + (thread / 32 * Cfg::ROWS + Sums<Cfg>::row(r)) * 4, x[r]);
  }
  named_wait(name, WARPGROUP);
#pragma unroll
  for (int r = 0; r < R; r++) {
    x[r] = shared_f32(room + Sums<Cfg>::row(r) * 4);
#pragma unroll
    for (int w = 1; w < 4; w++) x[r] = both(x[r], shared_f32(room + (w * Cfg::ROWS + Sums<Cfg>::row(r)) * 4));
  }
}

// Logits of a tile as its columns come: `full` are their barriers.
template <class Cfg>
__device__ inline void multiply_keys(u32 keys, u32 queries, u32 full, u32 parity, f32 (&s)[Cfg::ROWS / 2]) {
  using P = Place<Cfg>;
  const u32 left = place_of(keys);
  const u32 right = place_of(queries);
  settle(s);
#pragma unroll
  for (int pair = 0; pair < P::PAIRS; pair++) {
    barrier_wait(full + pair * 8, parity);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < (pair == 0 ? P::ROPE_STEPS : 0); k++)
      wgmma_bf16<0, 0>(s, rows_at(left + (P::VALUE_TILES * TILE_BYTES + k * 32) / 16), rows_at(right + (P::VALUE_TILES * P::Q_TILE_BYTES + k * 32) / 16),
                       k > 0);
#pragma unroll
    for (int k = pair * 8; k < pair * 8 + 8; k++)
      wgmma_bf16<0, 0>(s, rows_at(left + (k / 4 * TILE_BYTES + k % 4 * 32) / 16), rows_at(right + (k / 4 * P::Q_TILE_BYTES + k % 4 * 32) / 16),
                       P::ROPE_STEPS + k > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  settle(s);
}

// Hides keys of a tile from rows that don't see them.
template <class Cfg>
__device__ inline void hide_unseen(u32 limits, i32 tile, f32 (&s)[Cfg::ROWS / 2]) {
  const int thread = threadIdx.x % WARPGROUP;
  const int key = tile * KEYS + thread / 32 * 16 + thread % 32 / 4;  // and the eighth after it
#pragma unroll
  for (int k = 0; k < Cfg::ROWS / 2; k++) {
    const Pair limit = shared_pair(limits + Sums<Cfg>::row(Sums<Cfg>::of(k)) * 8);
    const int own = key + k / 2 % 2 * 8;
    if (own < limit.x || own >= limit.y) s[k] = HIDDEN;
  }
}

// Logits become exponentials. Only where one is much larger than what exponents count from do warps ask each other for the largest.
template <class Cfg>
__device__ inline void soften(const Decoding& args, u32 room, u32 name, f32 (&s)[Cfg::ROWS / 2], Sums<Cfg>& sums) {
  using S = Sums<Cfg>;
  constexpr f32 SLACK = 8;  // in powers of two
  bool above = false;
#pragma unroll
  for (int r = 0; r < S::R; r++) {
    const f32 m = peak(s[S::result(r, 0)], s[S::result(r, 1)]);
    sums.top[r] = peak(sums.top[r], m);
    above |= !(m * args.scale_log2 - sums.shift[r] <= SLACK);
  }
  if (any_of_group(above, name)) {
    f32 m[S::R];
#pragma unroll
    for (int r = 0; r < S::R; r++) m[r] = peak(s[S::result(r, 0)], s[S::result(r, 1)]);
    over_group<Cfg>(m, true, room, name);
#pragma unroll
    for (int r = 0; r < S::R; r++) {
      const f32 now = larger(sums.shift[r], m[r] * args.scale_log2);
      sums.shrink(r, exp2_fast(sums.shift[r] - now));
      sums.shift[r] = is_nan(m[r]) ? m[r] : now;
    }
  }
#pragma unroll
  for (int k = 0; k < S::HELD; k++) {
    s[k] = exp2_fast(s[k] * args.scale_log2 - sums.shift[S::of(k)]);
    sums.total[S::of(k)] += s[k];
  }
}

// Leaves probabilities as the right operand of products, turned on the way: a row's lie side by side.
template <class Cfg>
__device__ inline void leave_weights(u32 to, const f32 (&s)[Cfg::ROWS / 2]) {
  const int thread = threadIdx.x % WARPGROUP;
#pragma unroll
  for (int block = 0; block < Cfg::ROWS / 8; block += 2) {
    u32 p[4];
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const int k = (block + part / 2) * 4 + part % 2 * 2;
      p[part] = pack_bf16(s[k], s[k + 1]);
    }
    const u32 lane_block = thread % 32 / 8;
    const u32 row = (block + lane_block / 2) * 8 + thread % 8;
    store_blocks_turned(to + swizzled_128(row * 128 + (thread / 32 * 16 + lane_block % 2 * 8) * 2), p);
  }
  fence_proxy_async();
}

// Adds a tile's products to the output, and frees its columns one by one, unless it `keeps` them.
template <class Cfg>
__device__ inline void multiply_latents(u32 keys, u32 weights, u32 empty, bool keeps, Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  const u32 left = place_of(keys);
  const u32 right = place_of(weights);
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) settle(sums.o[t]);
  wgmma_fence();
#pragma unroll
  for (int pair = 0; pair < P::PAIRS; pair++) {
#pragma unroll
    for (int t = 2 * pair; t < 2 * pair + 2; t++) {
#pragma unroll
      for (int k = 0; k < 4; k++) wgmma_bf16<1, 0>(sums.o[t], columns_at(left + (t * TILE_BYTES + k * 2048) / 16), rows_at(right + k * 2), true);
    }
    wgmma_commit();
  }
  const auto freed = [&](int pair) {
    if (!keeps) arrive_once_a_warp(empty + pair * 8);
  };
  if constexpr (P::PAIRS == 4) {
    wgmma_wait<3>();
    freed(0);
    wgmma_wait<2>();
    freed(1);
    wgmma_wait<1>();
    freed(2);
  }
  wgmma_wait<0>();
#pragma unroll
  for (int pair = P::PAIRS == 4 ? 3 : 0; pair < P::PAIRS; pair++) freed(pair);
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) settle(sums.o[t]);
}

// The third warpgroup's sums, in the stage of its last tile, are added to the second's. `at`: what they count from, largest logits, totals.
template <class Cfg>
__device__ inline void add_others(u32 stage, u32 at, Sums<Cfg>& sums) {
  using S = Sums<Cfg>;
  const u32 from = stage + threadIdx.x % WARPGROUP * 4;
#pragma unroll
  for (int r = 0; r < S::R; r++) {
    const Four its = shared_four(at + S::row(r) * 16);
    const f32 its_shift = f32_of(its.x);
    const f32 now = larger(sums.shift[r], its_shift);
    const f32 its_part = exp2_fast(its_shift - now);
    sums.shrink(r, exp2_fast(sums.shift[r] - now));
    sums.shift[r] = is_nan(its_shift) ? its_shift : now;
    sums.top[r] = peak(sums.top[r], f32_of(its.y));
    sums.total[r] += f32_of(its.z) * its_part;
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / TILE * 2; k++) {
      const int held = S::result(r, k % 2);
      sums.o[k / 2][held] += shared_f32(from + (k / 2 * S::HELD + held) * 512) * its_part;
    }
  }
}

// Writes an item's output, or that of a part of it.
template <class Cfg>
__device__ inline void write_rows(const Decoding& args, const Item& item, const Group& group, int member, u32 name, const Sums<Cfg>& sums) {
  using S = Sums<Cfg>;
  const int thread = threadIdx.x % WARPGROUP;
#pragma unroll
  for (int r = 0; r < S::R; r++) {
    const Row row = row_of<Cfg>(args, group, member, S::row(r));
    if (!row.there) continue;
    const bool saw = sums.total[r] != 0;
    const f32 inverse = saw ? 1.0f / sums.total[r] : 0.0f;
    if (thread < 4) write_row_sums<Cfg>(args, item, member, S::row(r), row, saw ? sums.shift[r] + log2_fast(sums.total[r]) : LOW, sums.top[r]);
    const i64 line = line_of<Cfg>(args, item, member, S::row(r), row);
    const i64 to = line * Cfg::LATENT + thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / TILE * 2; k++) {
      const i64 at = to + k / 2 * TILE + k % 2 * 8;
      const f32 x = sums.o[k / 2][S::result(r, k % 2)] * inverse;
      if (item.parts > 1) args.part_out[at] = x;
      else if (args.narrow) store(args.narrow + at, x);
      else args.out[at] = x;
    }
  }
  if (item.parts > 1) part_written(args, item, member, name);
}

// All items of a team, every other tile. `MINE`: which of the two warpgroups.
template <class Cfg, int MINE>
__device__ inline void attend_tiles(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  using S = Sums<Cfg>;
  constexpr u32 NAME = 1 + MINE;
  const int thread = threadIdx.x % WARPGROUP;
  const int end_item = args.starts[team + 1];
  const u32 weights = base + P::WEIGHTS + MINE * P::Q_TILE_BYTES;
  const u32 limits = base + P::LIMITS + MINE * P::ROWS * 8;
  const u32 peaks = base + P::PEAKS + MINE * 4 * P::ROWS * 4;
  Turn<Cfg, MINE> turn;
  Turn<Cfg, 1 - MINE> its;  // the other's
  u32 queries = 0, queries_parity = 0, handed = 0;
  S sums;
  for (int i = args.starts[team]; i < end_item; i++) {
    const Item item = args.items[i];
    const Group group = args.groups[item.group];
    named_wait(NAME, WARPGROUP);  // nobody reads the last item's limits any more
    if (thread < P::ROWS) {
      const Row row = row_of<Cfg>(args, group, member, thread);
      Limit seen = {0, 0x7fffffff};
      if (row.there) seen = args.limits[row.query];
      share(limits + thread * 8, Pair{seen.from, seen.to});
    }
    named_wait(NAME, WARPGROUP);
    sums.clear();
    const u32 q = base + P::Q + queries * P::Q_BYTES;
    barrier_wait(base + P::Q_FULL + queries * 8, queries_parity);
    u32 its_last = 0;  // the stage of its last tile
    for (int tile = item.first; tile < item.end; tile++) {
      if ((tile - item.first) % 2 != MINE) {
        its_last = its.stage();
        its.next();
        continue;
      }
      const u32 stage = turn.stage();
      const u32 keys = base + stage * P::STAGE_BYTES;
      f32 s[S::HELD];
      multiply_keys<Cfg>(keys, q, base + P::FULL + stage * P::PAIRS * 8, turn.parity, s);
      turn.next();
      if (tile * KEYS < group.all_first || tile * KEYS + KEYS > group.all_end) hide_unseen<Cfg>(limits, tile, s);
      soften<Cfg>(args, peaks, NAME, s, sums);
      leave_weights<Cfg>(weights, s);
      if (tile * KEYS < group.first || tile * KEYS + KEYS > group.end)
        clear_unseen<P::VALUE_TILES>(keys, group.first - tile * KEYS, group.end - tile * KEYS, NAME);
      named_wait(NAME, WARPGROUP);  // all of this group have left theirs
      // The third warpgroup leaves its sums where its last tile was
      const bool keeps = MINE == 1 && tile + 2 >= item.end;
      multiply_latents<Cfg>(keys, weights, base + P::EMPTY + stage * P::PAIRS * 8, keeps, sums);
      if (!keeps) continue;
      barrier_wait(base + P::TAKEN, handed ^ 1);
#pragma unroll
      for (int k = 0; k < P::VALUE_TILES * S::HELD; k++) share(keys + thread * 4 + k * 512, sums.o[k / S::HELD][k % S::HELD]);
      fence_proxy_async();
    }
    arrive_once_a_warp(base + P::Q_EMPTY + queries * 8);
    queries ^= 1;
    if (queries == 0) queries_parity ^= 1;
    over_group<Cfg>(sums.total, false, peaks, NAME);
    over_group<Cfg>(sums.top, true, peaks, NAME);
    const bool two = item.end - item.first > 1;
    if (two && MINE == 1) {
#pragma unroll
      for (int r = 0; r < S::R; r++) {
        if (thread < 4) share(base + P::SUMS + S::row(r) * 16, Four{i32(bits_of(sums.shift[r])), i32(bits_of(sums.top[r])), i32(bits_of(sums.total[r])), 0});
      }
      arrive_once_a_warp(base + P::HANDED);
    }
    if (two && MINE == 0) {
      barrier_wait(base + P::HANDED, handed);
      add_others<Cfg>(base + its_last * P::STAGE_BYTES, base + P::SUMS, sums);
      fence_proxy_async();
      named_wait(NAME, WARPGROUP);
#pragma unroll
      for (int pair = 0; pair < P::PAIRS; pair++) arrive_once_a_warp(base + P::EMPTY + (its_last * P::PAIRS + pair) * 8);
      arrive_once_a_warp(base + P::TAKEN);
    }
    if (two) handed ^= 1;
    if (MINE == 0) write_rows<Cfg>(args, item, group, member, NAME, sums);
  }
}

template <class Cfg>
__device__ void decode_narrow(const Decoding& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    if (base % 1024 != 0) __trap();
    for (int i = 0; i < P::STAGES * P::PAIRS; i++) {
      barrier_init(base + P::FULL + i * 8, 1);
      barrier_init(base + P::EMPTY + i * 8, 4);
    }
    for (int i = 0; i < 2; i++) {
      barrier_init(base + P::Q_FULL + i * 8, 1);
      barrier_init(base + P::Q_EMPTY + i * 8, 8);
    }
    barrier_init(base + P::HANDED, 4);
    barrier_init(base + P::TAKEN, 4);
    fence_barrier_init();
  }
  // Rows that no copy fills are 0
  for (u32 at = threadIdx.x * 16; at < 2 * P::Q_BYTES; at += 3 * WARPGROUP * 16) share(base + P::Q + at, Four{});
  fence_proxy_async();
  __syncthreads();
  const int team = blockIdx.x / args.team;
  const int member = blockIdx.x % args.team;
  const int group = threadIdx.x / WARPGROUP;
  if (group == 0) {
    registers_down<88>();
    if (threadIdx.x < WARP) bring_tiles<Cfg>(args, base, team, member);
    registers_up<168>();
  } else if (group == 1) {
    registers_up<208>();
    attend_tiles<Cfg, 0>(args, base, team, member);
    registers_down<168>();  // as all had them: what follows is for all
  } else {
    registers_up<208>();
    attend_tiles<Cfg, 1>(args, base, team, member);
    registers_down<168>();  // as all had them: what follows is for all
  }
  join_items<Cfg, 1>(args, team, member, reinterpret_cast<f32*>(shared));
}
