// What a warpgroup of `decode_narrow.cuh` sums up for its rows: softmax and output.

#include "narrow_tiles.cuh"
#include "exchanged_rows.cuh"

// What a thread knows of its rows, and their output: of each tile of columns, as products leave them.
template <class Cfg>
struct Sums : Held<Cfg::ROWS> {
  using H = Held<Cfg::ROWS>;
  using H::R, H::HELD, H::result;
  f32 shift[R];  // what exponents count from
  f32 top[R];    // largest logits
  f32 total[R];  // of exponentials
  f32 unit;      // of latents with scales: a power of two that was larger than all scales; the output counts in it
  f32 o[Cfg::LATENT / TILE][HELD];

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < R; r++) {
      shift[r] = top[r] = LOW;
      total[r] = 0;
    }
    unit = f32_of(0x0d800000u);  // 2^-100: its inverse is a number, even where all scales are 0
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / TILE * HELD; k++) o[k / HELD][k % HELD] = 0;
  }

  // From now on the output counts in units for a scale that is as large as this.
  __device__ void count_in(f32 scale) {
    const f32 now = is_nan(scale) ? scale : larger(unit, f32_of((bits_of(scale) & 0x7f800000u) + 0x00800000u));
    const f32 less = unit / now;
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / TILE * HELD; k++) o[k / HELD][k % HELD] *= less;
    unit = now;
  }

  // What was summed up for a row is worth less now.
  __device__ void shrink(int r, f32 less) {
    total[r] *= less;
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / TILE * 2; k++) o[k / 2][result(r, k % 2)] *= less;
  }
};

// The largest scale of this thread's two keys. `keys`: where a tile is.
template <class Cfg>
__device__ inline f32 largest_scale(u32 keys) {
  using C = CodesPlace<Cfg>;
  const u32 scales = keys + C::SCALES + (threadIdx.x % WARPGROUP / WARP * 16 + lane() / 4) * C::SCALES_APART;
  const Four one = shared_four(scales), other = shared_four(scales + 8 * C::SCALES_APART);
  const f32 first = peak(peak(f32_of(one.x), f32_of(one.y)), peak(f32_of(one.z), f32_of(one.w)));
  return peak(first, peak(peak(f32_of(other.x), f32_of(other.y)), peak(f32_of(other.z), f32_of(other.w))));
}

// Logits become exponentials. Only where one is much larger than what exponents count from do warps ask each other for the largest.
template <class Cfg>
__device__ inline void soften(const Decoding& args, u32 room, u32 name, u32 keys, f32 (&s)[Cfg::ROWS / 2], Sums<Cfg>& sums) {
  using S = Sums<Cfg>;
  bool above = false;
  if (Entry<Cfg>::SCALED) above = !(largest_scale<Cfg>(keys) <= sums.unit);
#pragma unroll
  for (int r = 0; r < S::R; r++) {
    const f32 m = peak(s[S::result(r, 0)], s[S::result(r, 1)]);
    sums.top[r] = peak(sums.top[r], m);
    above |= !(m * args.scale_log2 - sums.shift[r] <= SLACK);
  }
  if (any_of<WARPGROUP>(above, name)) {
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
    if (Entry<Cfg>::SCALED) {
      m[0] = largest_scale<Cfg>(keys);
      over_group<Cfg>(m, true, room, name);
      sums.count_in(m[0]);
    }
  }
#pragma unroll
  for (int k = 0; k < S::HELD; k++) {
    s[k] = exp2_fast(s[k] * args.scale_log2 - sums.shift[S::of(k)]);
    sums.total[S::of(k)] += s[k];
  }
}

// A warpgroup hands its sums over to the second through the stage of its last tile, some tiles of columns at a time. `other`: which, after the second.
// `turn`: the parity of the barriers.
template <class Cfg>
__device__ inline void hand_over(u32 base, int other, u32 last, u32& turn, const Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  using S = Sums<Cfg>;
  const int thread = threadIdx.x % WARPGROUP;
  const u32 stage = base + last * P::STAGE_BYTES;
  const u32 rows = base + P::SUMS + other * P::ROWS * 16;
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t += P::HAND_TILES) {
    barrier_wait(base + P::TAKEN + other * 8, turn ^ 1);
#pragma unroll
    for (int k = 0; k < P::HAND_TILES * S::HELD; k++) share(stage + thread * 4 + k * 512, sums.o[t + k / S::HELD][k % S::HELD]);
#pragma unroll
    for (int r = 0; r < S::R; r++) {
      if (thread < 4 && t == 0)
        share(rows + S::row(r) * 16, Four{i32(bits_of(sums.shift[r])), i32(bits_of(sums.top[r])), i32(bits_of(sums.total[r])), i32(bits_of(sums.unit))});
    }
    if (thread == 0) share(base + P::LAST_AT + other * 4, i32(last));
    fence_proxy_async();
    arrive_once_a_warp(base + P::HANDED + other * 8);
    turn ^= 1;
  }
}

// And the second adds them to its own, and frees the stage.
template <class Cfg>
__device__ inline void add_others(u32 base, int other, u32 name, u32& turn, Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  using S = Sums<Cfg>;
  const u32 rows = base + P::SUMS + other * P::ROWS * 16;
  u32 last = 0;
  f32 its_part[S::R];
  f32 its_unit = 1;
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t += P::HAND_TILES) {
    barrier_wait(base + P::HANDED + other * 8, turn);
    last = shared_i32(base + P::LAST_AT + other * 4);
    const u32 from = base + last * P::STAGE_BYTES + own_number() * 4;
#pragma unroll
    for (int r = 0; r < S::R; r++) {
      if (P::SCALED && t == 0 && r == 0) {
        its_unit = shared_f32(rows + S::row(0) * 16 + 12);
        if (!(its_unit <= sums.unit)) sums.count_in(its_unit * 0.5f);
        its_unit /= sums.unit;
      }
      if (t == 0) {
        const Four its = shared_four(rows + S::row(r) * 16);
        const f32 its_shift = f32_of(its.x);
        const f32 now = larger(sums.shift[r], its_shift);
        its_part[r] = exp2_fast(its_shift - now);
        sums.shrink(r, exp2_fast(sums.shift[r] - now));
        sums.shift[r] = is_nan(its_shift) ? its_shift : now;
        sums.top[r] = peak(sums.top[r], f32_of(its.y));
        sums.total[r] += f32_of(its.z) * its_part[r];
        if (P::SCALED) its_part[r] *= its_unit;
      }
#pragma unroll
      for (int k = 0; k < P::HAND_TILES * 2; k++) {
        const int held = S::result(r, k % 2);
        sums.o[t + k / 2][held] += shared_f32(from + (k / 2 * S::HELD + held) * 512) * its_part[r];
      }
    }
    fence_proxy_async();
    named_wait(name, WARPGROUP);
    arrive_once_a_warp(base + P::TAKEN + other * 8);
    turn ^= 1;
  }
#pragma unroll
  for (int piece = 0; piece < P::PIECES; piece++) arrive_once_a_warp(base + P::EMPTY + (last * P::PIECES + piece) * 8);
}

// Writes an item's output, or sends that of a part of it by way of the stage that its last tile was in.
template <class Cfg>
__device__ inline void write_rows(const Decoding& args, const Item& item, const Group& group, int member, u32 stage, u32 name, Sums<Cfg>& sums) {
  using S = Sums<Cfg>;
  const f32 unit = Entry<Cfg>::SCALED ? sums.unit / UNIT : Entry<Cfg>::CODED ? args.k_scale : 1.0f;
  const auto by = [&](int r) { return sums.total[r] != 0 ? unit / sums.total[r] : 0.0f; };
#pragma unroll
  for (int r = 0; r < S::R; r++) {
    const Row row = row_of<Cfg>(args, group, member, S::row_anew(r));
    if (!row.there) continue;
    const f32 weight = sums.total[r] != 0 ? sums.shift[r] + log2_fast(sums.total[r]) : LOW;
    if (threadIdx.x % WARPGROUP < 4) write_row_sums<Cfg>(args, item, member, S::row_anew(r), row, weight, sums.top[r]);
    if (item.parts == 1) write_columns<Cfg>(args, row, 0, r, by(r), sums.o);
  }
  constexpr u32 ROOM = Cfg::ROWS * Cfg::LATENT * 2;
  static_assert(ROOM + 3 * Cfg::ROWS * UNITS * 4 <= Place<Cfg>::STAGE_BYTES, "room for a part");
  if (item.parts > 1) send_columns<Cfg, 0, ROOM>(args, item, member, stage, stage + ROOM, name, by, sums.o);
}
