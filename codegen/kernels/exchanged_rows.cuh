// Rows of queries as columns of products, where keys or latents are the left operand: what a thread has of them, and what warpgroups do with them.

#include "decode_parts.cuh"

// What a thread has of 64 results for each of `ROWS` rows: two rows of each block of eight, and two results of each.
template <int ROWS>
struct Held {
  static constexpr int R = ROWS / 4;     // rows of a thread
  static constexpr int HELD = ROWS / 2;  // results of a thread

  // The `r`th row of a thread, and the row that the `k`th of its results is of.
  __device__ static int row(int r) { return r / 2 * 8 + threadIdx.x % 4 * 2 + r % 2; }
  // The same row, computed anew: for where there are few registers.
  __device__ static int row_anew(int r) { return r / 2 * 8 + own_number() % 4 * 2 + r % 2; }
  __device__ static constexpr int of(int k) { return k / 4 * 2 + k % 2; }
  // Where a row's two results are.
  __device__ static constexpr int result(int r, int i) { return r / 2 * 4 + r % 2 + i * 2; }
};

// What all threads of a warpgroup have of a row becomes one: by lanes, then by warps through shared memory. Of `largest` it is the largest, else the sum.
template <class Cfg>
__device__ inline void over_group(f32 (&x)[Cfg::ROWS / 4], bool largest, u32 room, u32 name) {
  using H = Held<Cfg::ROWS>;
  const int thread = threadIdx.x % WARPGROUP;
  const auto both = [&](f32 a, f32 b) { return largest ? peak(a, b) : a + b; };
#pragma unroll
  for (int r = 0; r < H::R; r++) {
#pragma unroll
    for (int lanes = 4; lanes < WARP; lanes *= 2) x[r] = both(x[r], __shfl_xor_sync(ALL_LANES, x[r], lanes));
  }
  named_wait(name, WARPGROUP);
#pragma unroll
  for (int r = 0; r < H::R; r++) {
    if (thread % 32 < 4) share(room + (thread / 32 * Cfg::ROWS + H::row(r)) * 4, x[r]);
  }
  named_wait(name, WARPGROUP);
#pragma unroll
  for (int r = 0; r < H::R; r++) {
    x[r] = shared_f32(room + H::row(r) * 4);
#pragma unroll
    for (int w = 1; w < 4; w++) x[r] = both(x[r], shared_f32(room + (w * Cfg::ROWS + H::row(r)) * 4));
  }
}

// Hides keys of a tile from rows that don't see them.
template <class Cfg>
__device__ inline void hide_unseen(u32 limits, i32 tile, f32 (&s)[Cfg::ROWS / 2]) {
  using H = Held<Cfg::ROWS>;
  const int thread = threadIdx.x % WARPGROUP;
  const int key = tile * KEYS + thread / 32 * 16 + thread % 32 / 4;  // and the eighth after it
#pragma unroll
  for (int k = 0; k < H::HELD; k++) {
    const Pair limit = shared_pair(limits + H::row(H::of(k)) * 8);
    const int own = key + k / 2 % 2 * 8;
    if (own < limit.x || own >= limit.y) s[k] = minus_infinity();
  }
}

// Hides keys of a tile that are not there from all rows. `seen`: where it stands which are.
template <class Cfg>
__device__ inline void hide_missing(u32 seen, f32 (&s)[Cfg::ROWS / 2]) {
  const i32 there = shared_i32(seen + threadIdx.x % WARPGROUP / WARP * 4);
  if (there == 0xffff) return;
#pragma unroll
  for (int k = 0; k < Cfg::ROWS / 2; k++) {
    if (!(there >> (lane() / 4 + k / 2 % 2 * 8) & 1)) s[k] = minus_infinity();
  }
}

// Leaves probabilities as the right operand of products, turned on the way: a row's lie side by side.
template <class Cfg>
__device__ inline void leave_weights(u32 to, const f32 (&s)[Cfg::ROWS / 2]) {
  const int thread = threadIdx.x % WARPGROUP;
  const auto pair = [&](int k) { return Entry<Cfg>::CODED ? pack_f16(s[k], s[k + 1]) : pack_bf16(s[k], s[k + 1]); };
  if constexpr (Cfg::ROWS == 8) {
    const u32 p[2] = {pair(0), pair(2)};
    store_two_blocks_turned(to + swizzled_128(thread % 8 * 128 + (thread / 32 * 16 + thread % 16 / 8 * 8) * 2), p);
  } else {
#pragma unroll
    for (int block = 0; block < Cfg::ROWS / 8; block += 2) {
      u32 p[4];
#pragma unroll
      for (int part = 0; part < 4; part++) p[part] = pair((block + part / 2) * 4 + part % 2 * 2);
      const u32 lane_block = thread % 32 / 8;
      const u32 row = (block + lane_block / 2) * 8 + thread % 8;
      store_blocks_turned(to + swizzled_128(row * 128 + (thread / 32 * 16 + lane_block % 2 * 8) * 2), p);
    }
  }
}

// Writes what a thread has of its `r`th row's output, times `by`. `to`: where the row's first column of these is.
template <class Cfg, class Out, int TILES>
__device__ inline void write_columns(Out* to, int r, f32 by, const f32 (&o)[TILES][Cfg::ROWS / 2]) {
  constexpr bool CODED = Entry<Cfg>::CODED;  // then even and odd columns, not the first and the last eight of 16, are apart
  const int thread = threadIdx.x % WARPGROUP;
  to += thread / 32 * 16 + thread % 32 / 4 * (CODED ? 2 : 1);
  asm volatile("" : "+l"(to));  // one address for all: the rest is part of instructions
#pragma unroll
  for (int t = 0; t < TILES; t++) {
    const f32 x = o[t][Held<Cfg::ROWS>::result(r, 0)] * by, y = o[t][Held<Cfg::ROWS>::result(r, 1)] * by;
    if constexpr (CODED) {
      store_two(to + t * TILE, x, y);
    } else {
      store_rounded(to + t * TILE, x);
      store_rounded(to + t * TILE + 8, y);
    }
  }
}

// The same, from the `first` column of a row's output on.
template <class Cfg, int TILES>
__device__ inline void write_columns(const Decoding& args, const Row& row, int first, int r, f32 by, const f32 (&o)[TILES][Cfg::ROWS / 2]) {
  const i64 at = (i64(row.query) * Cfg::H + row.head) * Cfg::LATENT + first;
  if (args.narrow) write_columns<Cfg>(args.narrow + at, r, by, o);
  else write_columns<Cfg>(args.out + at, r, by, o);
}

// Sends a part's output, a warpgroup's columns of all rows from `FIRST` tile on, by way of `ROOM` bytes of shared memory at `room`, and what it counts in
// by way of `units`, of one half more than those that have columns here. `by`: what a thread's `r`th row is to be multiplied by.
template <class Cfg, int FIRST, u32 ROOM, int TILES, class By>
__device__ inline void send_columns(const Decoding& args, const Item& item, int member, u32 room, u32 units, u32 name, By by, const f32 (&o)[TILES][Cfg::ROWS / 2]) {
  using H = Held<Cfg::ROWS>;
  constexpr u32 BYTES = Cfg::ROWS * TILE * 2;  // of a tile
  constexpr int AT_ONCE = int(ROOM / BYTES) < TILES ? int(ROOM / BYTES) : TILES;
  constexpr int HALVES = TILES == Cfg::LATENT / TILE ? 2 : 1;
  constexpr u32 UNIT_BYTES = Cfg::ROWS * UNITS * 4;  // of a half
  static_assert(AT_ONCE > 0, "room for a tile");
  const u32 self = own_number();
#pragma unroll
  for (int r = 0; r < H::R; r++) {
    f32 most = 0;
#pragma unroll
    for (int k = 0; k < TILES * 2; k++) most = peak(most, fabsf(o[k / 2][H::result(r, k % 2)]));
#pragma unroll
    for (int lanes = 4; lanes < WARP; lanes *= 2) most = peak(most, __shfl_xor_sync(ALL_LANES, most, lanes));
    const RowUnit row_unit(most);
    if (self % WARP >= 4) continue;
    const u32 at = units + (H::row_anew(r) * UNITS + self / WARP) * 4;
    const f32 unit = row_unit.unit * by(r);
#pragma unroll
    for (int half = 0; half < HALVES; half++) share(at + half * UNIT_BYTES, unit);
    share(at + HALVES * UNIT_BYTES, row_unit.inverse);
  }
  __syncwarp();
  const auto inverse = [&](int r) { return shared_f32(units + HALVES * UNIT_BYTES + (H::row_anew(r) * UNITS + self / WARP) * 4); };
#pragma unroll
  for (int first = 0; first < TILES; first += AT_ONCE) {
    if (first > 0) named_wait(name, WARPGROUP);  // what was there has been sent
#pragma unroll
    for (int t = first; t < first + AT_ONCE && t < TILES; t++) leave_columns(room + (t - first) * BYTES, self, o[t], inverse);
    fence_proxy_async();
    named_wait(name, WARPGROUP);
    if (own_number() != 0) continue;
    if (first == 0) send_units<Cfg>(args, item, member, {0, Cfg::ROWS}, units, FIRST / TILES, HALVES);
    send_tiles<Cfg>(args, item, member, {0, Cfg::ROWS}, room, FIRST + first, first + AT_ONCE < TILES ? AT_ONCE : TILES - first);
    copies_out_wait();
  }
  part_written(args, item, member, name);
}
