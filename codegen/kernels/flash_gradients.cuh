// What the two warpgroups of `flash_backward.cuh` compute that add. Logits and their gradients have 64 keys for rows and queries for columns, so that
// probabilities are left operands of products with no way through shared memory.

#include "flash_backward_tiles.cuh"
#include "wgmma.cuh"

// Which of the two warpgroups this is.
__device__ inline u32 own_side() { return thread_number() / WARPGROUP - 1; }

// The first of a block's keys that are this warpgroup's.
template <class Cfg>
__device__ inline u32 own_keys() {
  return Place<Cfg>::KEYS == 128 ? own_side() * 64 : 0;
}

// A barrier of this warpgroup's; before it are those of turns.
__device__ inline u32 own_name() { return 3 + own_side(); }

// Bytes from the first column of tiles to the `k`th piece of 16.
template <int OF_TILE>
__device__ constexpr u32 piece_at(int k, u32 tile_bytes) {
  return k * 16 / OF_TILE * tile_bytes + k * 16 % OF_TILE * 2;
}

// Operands in tiles of `OF_TILE` columns, whose rows are an operand's, or its terms: what the tensor cores are told of the piece that begins some bytes further.
template <int OF_TILE>
struct Along {
  u32 low;
  __device__ explicit Along(u32 address) : low(u32(rows_at<OF_TILE>(place_of(address)))) {}
  __device__ u64 at(u32 bytes) const { return kind_of_tile<OF_TILE>() | u32(low + bytes / 16); }
};
template <int OF_TILE>
struct Down {
  u32 low;
  __device__ Down(u32 address, u32 tile_bytes) : low(u32(columns_at<OF_TILE>(place_of(address), tile_bytes))) {}
  __device__ u64 at(u32 bytes) const { return kind_of_tile<OF_TILE>() | u32(low + bytes / 16); }
};

// ---- What comes ----

// How many tiles and tasks a thread block has met, which says where what belongs to the next stands. In one register: of a tile's number the lowest bits
// matter, and two of a task's.
struct Met {
  u32 tile = 0;
  __device__ u32 task() const { return tile >> 30; }
  __device__ void next_tile() { tile++; }
  __device__ void next_task() { tile += 1u << 30; }
};

// Makes zeros of rows from `first` on of tiles that lie one behind the other: they may be anything, and products with 0 would not undo a NaN.
template <int ROWS, int OF_TILE>
__device__ inline void clear_from(u32 tiles, u32 bytes, i32 first) {
#pragma unroll 1
  for (u32 at = own_number() * 16; at < bytes; at += WARPGROUP * 16)
    if (i32(at / (OF_TILE * 2) % ROWS) >= first) share(tiles + at, Four{});
}

// Where what is said of a task stands, and of a tile.
template <class Cfg>
__device__ inline u32 slot_of(u32 base, const Met& met) {
  return base + Place<Cfg>::TASKS + met.task() % 2 * 32;
}
template <class Cfg>
__device__ inline u32 mark_of(u32 base, u32 tile) {
  return base + Place<Cfg>::MARKS + tile % (2 * STAGES) * 16;
}

// Waits for a task; whether there is one.
template <class Cfg>
__device__ inline bool find_task(u32 base, const Met& met) {
  barrier_wait(base + Place<Cfg>::TASK_FULL + met.task() % 2 * 8, met.task() / 2);
  return shared_four(slot_of<Cfg>(base, met)).y > 0;
}

// Waits for its keys and values. What is not there of them becomes zeros.
template <class Cfg>
__device__ inline void take_keys(u32 base, const Met& met) {
  using P = Place<Cfg>;
  barrier_wait(base + P::K_FULL, met.task() % 2);
  const i32 keys = shared_four(slot_of<Cfg>(base, met)).y;
  if (keys == P::KEYS) return;
  clear_from<P::KEYS, P::K_COLUMNS>(base + P::K, P::K_TILES * P::K_TILE_BYTES, keys);
  clear_from<P::KEYS, TILE>(base + P::V, P::V_TILES * P::V_TILE_BYTES, keys);
  fence_proxy_async();
  named_wait(own_name(), WARPGROUP);
}

// Waits for a tile. What is not there of it becomes zeros.
template <class Cfg>
__device__ inline void take_tile(u32 base, u32 tile) {
  using P = Place<Cfg>;
  const u32 stage = tile % STAGES;
  barrier_wait(base + P::FULL + stage * 8, tile / STAGES % 2);
  const i32 there = shared_four(mark_of<Cfg>(base, tile)).y;
  if (there == P::QUERIES) return;
  const u32 queries = base + P::STAGE + stage * P::STAGE_BYTES;
  clear_from<P::QUERIES, P::Q_COLUMNS>(queries, P::Q_BYTES, there);
  clear_from<P::QUERIES, TILE>(queries + P::Q_BYTES, P::O_BYTES, there);
  fence_proxy_async();
  named_wait(own_name(), WARPGROUP);
}

// ---- Products ----

// Begins logits: keys times queries.
template <class Cfg>
__device__ inline void multiply_keys(u32 keys, u32 queries, f32 (&s)[Cfg::QUERIES / 2]) {
  using P = Place<Cfg>;
  const Along<P::K_COLUMNS> left(keys + own_keys<Cfg>() * (P::K_COLUMNS * 2));
  const Along<P::Q_COLUMNS> right(queries);
  settle(s);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::D / 16; k++)
    wgmma_bf16<0, 0>(s, left.at(piece_at<P::K_COLUMNS>(k, P::K_TILE_BYTES)), right.at(piece_at<P::Q_COLUMNS>(k, P::Q_TILE_BYTES)), k > 0);
  wgmma_commit();
}

// Begins the gradients of probabilities: values times gradients of outputs, on top of what is there. Behind a fence.
template <class Cfg>
__device__ inline void multiply_values(u32 values, u32 d_out, f32 (&d_p)[Cfg::QUERIES / 2]) {
  using P = Place<Cfg>;
  const Along<TILE> left(values + own_keys<Cfg>() * (TILE * 2));
  const Along<TILE> right(d_out);
#pragma unroll
  for (int k = 0; k < Cfg::V / 16; k++)
    wgmma_bf16<0, 0>(d_p, left.at(piece_at<TILE>(k, P::V_TILE_BYTES)), right.at(piece_at<TILE>(k, P::O_TILE_BYTES)), true);
  wgmma_commit();
}

// Begins what a tile adds to a gradient of keys or values: `weights`, which are probabilities or gradients of logits, times rows of queries or gradients
// of outputs, that lie in tiles of `OF_TILE` columns. Behind a fence.
template <int OF_TILE, int STEPS, int N>
__device__ inline void multiply_rows(const u32 (&weights)[STEPS][4], u32 rows, u32 tile_bytes, f32 (&d)[N]) {
  const Down<OF_TILE> right(rows, tile_bytes);
#pragma unroll
  for (int k = 0; k < STEPS; k++) wgmma_bf16<1>(d, weights[k], right.at(k * 16 * OF_TILE * 2), true);
  wgmma_commit();
}

// Begins this warpgroup's half of a tile's gradient of queries: gradients of logits, of all keys, times keys.
template <class Cfg>
__device__ inline void multiply_gradients(u32 d_s, u32 keys, f32 (&d_q)[Place<Cfg>::N / 2]) {
  using P = Place<Cfg>;
  const Down<TILE> left(d_s + (P::QUERIES == 128 ? own_side() * P::D_S_TILE_BYTES : 0), P::D_S_TILE_BYTES);
  const Down<P::K_COLUMNS> right(keys + (P::QUERIES == 64 ? own_side() * (P::HALF / P::K_COLUMNS * P::K_TILE_BYTES) : 0), P::K_TILE_BYTES);
  settle(d_q);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::KEYS / 16; k++) wgmma_bf16<1, 1>(d_q, left.at(k * 16 * TILE * 2), right.at(k * 16 * P::K_COLUMNS * 2), k > 0);
  wgmma_commit();
}

// ---- Between products. A thread has two keys, eight apart, and of each 16 or 32 queries ----

// Gradients of probabilities count from what a row's add up to, weighted: it stands there, negative.
template <class Cfg>
__device__ inline void count_from_delta(u32 sums, f32 (&d_p)[Cfg::QUERIES / 2]) {
  const u32 at = sums + Cfg::QUERIES * 4 + own_number() % 4 * 8;
#pragma unroll
  for (int block = 0; block < Cfg::QUERIES / 8; block++) {
    const Two two = shared_two(at + block * 32);
    d_p[block * 4] = d_p[block * 4 + 2] = two.x;
    d_p[block * 4 + 1] = d_p[block * 4 + 3] = two.y;
  }
}

// Bends logits by the cap: their hyperbolic tangents, 1 − 2 / (e^2x + 1).
template <int N>
__device__ inline void bend(f32 by, f32 (&s)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) s[i] = 1 - 2 * reciprocal_fast(exp2_fast(s[i] * by) + 1);
}

// What a hidden logit is where the cap has a slope: its exponential is 0, and its square a number.
constexpr f32 HIDDEN = -1e15f;

// Hides keys from rows that don't see them. `first_key`: the block's, counted from its segment's.
template <class Cfg, int N>
__device__ inline void hide_unseen(u32 limits, i32 first_key, f32 (&s)[N]) {
  const f32 hidden = Cfg::CAP ? HIDDEN : minus_infinity();
  const u32 self = own_number();
  const i32 key = first_key + i32(own_keys<Cfg>()) + accumulator_row(self, 0);
#pragma unroll
  for (int block = 0; block < N / 4; block++) {
    const Four two = shared_four(limits + (block * 8 + self % 4 * 2) * 8);  // of two rows: the first key that each sees, and how many
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const i32 own = key + half * 8;
      if (u32(own - two.x) >= u32(two.y)) s[block * 4 + half * 2] = hidden;
      if (u32(own - two.z) >= u32(two.w)) s[block * 4 + half * 2 + 1] = hidden;
    }
  }
}

// Logits become probabilities: left operands in `p`. Where they are capped, `slopes` has them times the slope of the cap.
template <class Cfg>
__device__ inline void soften(const FlashBackward& args, u32 sums, f32 (&s)[Cfg::QUERIES / 2], u32 (&p)[Cfg::QUERIES / 16][4],
                              u32 (&slopes)[Cfg::QUERIES / 16][4]) {
  const u32 at = sums + own_number() % 4 * 16;
#pragma unroll
  for (int k = 0; k < Cfg::QUERIES / 16; k++) {
    const Four four = shared_four(at + k * 64);
    const f32 lse[4] = {f32_of(four.x), f32_of(four.y), f32_of(four.z), f32_of(four.w)};
#pragma unroll
    for (int part = 0; part < 4; part++) {
      f32 weights[2], bent[2];
#pragma unroll
      for (int odd = 0; odd < 2; odd++) {
        f32& x = s[(4 * k + part) * 2 + odd];
        weights[odd] = exp2_fast(x * args.scale_log2 - lse[part / 2 * 2 + odd]);
        bent[odd] = weights[odd] * (1 - x * x);
        x = Cfg::CAP ? bent[odd] : weights[odd];
      }
      p[k][part] = pack_bf16(weights[0], weights[1]);
      if constexpr (Cfg::CAP) slopes[k][part] = pack_bf16(bent[0], bent[1]);
    }
  }
}

// What lies between the products of keys and queries of a tile and its probabilities.
template <class Cfg>
__device__ inline void weigh(const FlashBackward& args, u32 base, const Met& met, f32 (&s)[Cfg::QUERIES / 2], u32 (&p)[Cfg::QUERIES / 16][4],
                             u32 (&slopes)[Cfg::QUERIES / 16][4]) {
  using P = Place<Cfg>;
  const u32 stage = met.tile % STAGES;
  if constexpr (Cfg::CAP) bend(args.bend, s);
  if (shared_four(mark_of<Cfg>(base, met.tile)).z & EDGE)
    hide_unseen<Cfg>(base + P::LIMITS + stage * P::LIMITS_BYTES, shared_four(slot_of<Cfg>(base, met)).z, s);
  soften<Cfg>(args, base + P::SUMS + stage * P::SUMS_BYTES, s, p, slopes);
}

// Gradients of logits as left operands: those of probabilities times `s`, or what is left of it in `p`.
template <class Cfg>
__device__ inline void weigh_gradients(const f32 (&s)[Cfg::QUERIES / 2], const u32 (&p)[Cfg::QUERIES / 16][4], const f32 (&d_p)[Cfg::QUERIES / 2],
                                       u32 (&d_s)[Cfg::QUERIES / 16][4]) {
#pragma unroll
  for (int k = 0; k < Cfg::QUERIES / 16; k++) {
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const int i = (4 * k + part) * 2;
      const f32 low = Place<Cfg>::EXACT ? s[i] : f32_of(p[k][part] << 16), high = Place<Cfg>::EXACT ? s[i + 1] : f32_of(p[k][part] & 0xffff0000u);
      d_s[k][part] = pack_bf16(low * d_p[i], high * d_p[i + 1]);
    }
  }
}

// Leaves gradients of logits where both warpgroups multiply them with keys.
template <class Cfg>
__device__ inline void leave_gradients(u32 to, const u32 (&d_s)[Cfg::QUERIES / 16][4]) {
  const u32 self = own_number();
  const u32 key = own_keys<Cfg>() + self / 32 * 16 + self % 16;
#pragma unroll
  for (int k = 0; k < Cfg::QUERIES / 16; k++)
    store_blocks(to + k / 4 * Place<Cfg>::D_S_TILE_BYTES + swizzled_128(key * 128 + k % 4 * 32 + self % 32 / 16 * 16), d_s[k]);
  fence_proxy_async();
}
