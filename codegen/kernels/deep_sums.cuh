// What a side of `decode_deep.cuh` sums up: softmax of its half of the rows, and its half of the output's columns, of all rows.

#include "deep_tiles.cuh"
#include "exchanged_rows.cuh"

constexpr u32 BOTH = 1 + SIDES;  // a barrier of both sides; each has one of its own before it

// A side's rows.
template <class Cfg>
struct Half : Cfg {
  static constexpr int ROWS = Cfg::ROWS / SIDES;
};

template <class Cfg>
struct Sums {
  using Own = Held<Cfg::ROWS / SIDES>;
  using All = Held<Cfg::ROWS>;
  static constexpr int VALUE_TILES = Cfg::LATENT / TILE / SIDES;
  // Of own rows:
  f32 shift[Own::R];  // what exponents count from
  f32 top[Own::R];    // largest logits
  f32 total[Own::R];  // of exponentials
  f32 o[VALUE_TILES][All::HELD];

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < Own::R; r++) {
      shift[r] = top[r] = LOW;
      total[r] = 0;
    }
#pragma unroll
    for (int k = 0; k < VALUE_TILES * All::HELD; k++) o[k / All::HELD][k % All::HELD] = 0;
  }
};

// Both sides have logits of all rows, summed over their own columns. Each sends the other those of its rows, and gets the rest of its own.
template <class Cfg, int SIDE>
__device__ inline void exchange_logits(u32 base, const f32 (&s)[Cfg::ROWS / 2], f32 (&own)[Cfg::ROWS / 2 / SIDES]) {
  using P = Place<Cfg>;
  constexpr int HALF = Cfg::ROWS / 2 / SIDES;
  const u32 line = base + P::SENT + threadIdx.x % WARPGROUP * 16;
#pragma unroll
  for (int k = 0; k < HALF; k += 4) {
    const f32* x = s + (1 - SIDE) * HALF + k;
    share(line + SIDE * P::SENT_BYTES + k / 4 * WARPGROUP * 16, Four{i32(bits_of(x[0])), i32(bits_of(x[1])), i32(bits_of(x[2])), i32(bits_of(x[3]))});
  }
  named_wait(BOTH, PAIR);
#pragma unroll
  for (int k = 0; k < HALF; k += 4) {
    const Four x = shared_four(line + (1 - SIDE) * P::SENT_BYTES + k / 4 * WARPGROUP * 16);
    own[k] = s[SIDE * HALF + k] + f32_of(x.x);
    own[k + 1] = s[SIDE * HALF + k + 1] + f32_of(x.y);
    own[k + 2] = s[SIDE * HALF + k + 2] + f32_of(x.z);
    own[k + 3] = s[SIDE * HALF + k + 3] + f32_of(x.w);
  }
}

// Logits of own rows become probabilities for both sides. They count from what exponents counted from before; only where a logit of either side is
// much larger, which the barrier tells that all come to, are they left a second time.
template <class Cfg, int SIDE>
__device__ inline void soften(const Decoding& args, u32 base, const f32 (&s)[Cfg::ROWS / 2 / SIDES], Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  using S = Sums<Cfg>;
  using Own = typename S::Own;
  using All = typename S::All;
  const u32 weights = base + P::WEIGHTS + SIDE * P::OWN_ROWS * KEYS * 2;
  const u32 less = base + P::LESS;
  f32 p[Own::HELD];
  const auto leave = [&] {
#pragma unroll
    for (int k = 0; k < Own::HELD; k++) p[k] = exp2_fast(s[k] * args.scale_log2 - sums.shift[Own::of(k)]);
    leave_weights<Half<Cfg>>(weights, p);
    fence_proxy_async();
  };
  bool above = false;
#pragma unroll
  for (int r = 0; r < Own::R; r++) {
    const f32 m = peak(s[Own::result(r, 0)], s[Own::result(r, 1)]);
    sums.top[r] = peak(sums.top[r], m);
    above |= !(m * args.scale_log2 - sums.shift[r] <= SLACK);
  }
  leave();
  if (any_of<PAIR>(above, BOTH)) {
    f32 m[Own::R];
#pragma unroll
    for (int r = 0; r < Own::R; r++) m[r] = peak(s[Own::result(r, 0)], s[Own::result(r, 1)]);
    over_group<Half<Cfg>>(m, true, base + P::PEAKS + SIDE * 4 * P::OWN_ROWS * 4, 1 + SIDE);
#pragma unroll
    for (int r = 0; r < Own::R; r++) {
      const f32 now = larger(sums.shift[r], m[r] * args.scale_log2);
      const f32 worth = exp2_fast(sums.shift[r] - now);
      if (threadIdx.x % WARPGROUP < 4) share(less + (SIDE * P::OWN_ROWS + Own::row(r)) * 4, worth);
      sums.total[r] *= worth;
      sums.shift[r] = is_nan(m[r]) ? m[r] : now;
    }
    leave();
    named_wait(BOTH, PAIR);
#pragma unroll
    for (int r = 0; r < All::R; r++) {
      const f32 worth = shared_f32(less + All::row(r) * 4);
#pragma unroll
      for (int k = 0; k < S::VALUE_TILES * 2; k++) sums.o[k / 2][All::result(r, k % 2)] *= worth;
    }
  }
#pragma unroll
  for (int k = 0; k < Own::HELD; k++) sums.total[Own::of(k)] += p[k];
}

// Writes an item's output, or sends that of a part of it by way of a slot: a side's columns of all rows, and the sums of its own rows.
template <class Cfg, int SIDE>
__device__ inline void write_half(const Decoding& args, u32 base, u32 slot, const Item& item, const Group& group, int member, Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  using S = Sums<Cfg>;
  using Own = typename S::Own;
  using All = typename S::All;
  const u32 peaks = base + P::PEAKS + SIDE * 4 * P::OWN_ROWS * 4;
  over_group<Half<Cfg>>(sums.total, false, peaks, 1 + SIDE);
  over_group<Half<Cfg>>(sums.top, true, peaks, 1 + SIDE);
  if (threadIdx.x % WARPGROUP < 4) {
#pragma unroll
    for (int r = 0; r < Own::R; r++) {
      const int at = SIDE * P::OWN_ROWS + Own::row(r);
      const Row row = row_of<Cfg>(args, group, member, at);
      const bool saw = sums.total[r] != 0;
      share(base + P::FINAL + at * 4, saw ? 1.0f / sums.total[r] : 0.0f);
      if (row.there) write_row_sums<Cfg>(args, item, member, at, row, saw ? sums.shift[r] + log2_fast(sums.total[r]) : LOW, sums.top[r]);
    }
  }
  named_wait(BOTH, PAIR);
  const auto by = [&](int r) { return shared_f32(base + P::FINAL + All::row(r) * 4); };
  const u32 units = base + P::SENT + SIDE * P::SENT_BYTES;  // no logits are sent any more
  static_assert(2 * Cfg::ROWS * UNITS * 4 <= P::SENT_BYTES);
  if (item.parts > 1) return send_columns<Cfg, SIDE * S::VALUE_TILES, TILE_BYTES>(args, item, member, slot, units, 1 + SIDE, by, sums.o);
#pragma unroll
  for (int r = 0; r < All::R; r++) {
    const Row row = row_of<Cfg>(args, group, member, All::row(r));
    if (row.there) write_columns<Cfg>(args, row, SIDE * (Cfg::LATENT / SIDES), r, by(r), sums.o);
  }
}
