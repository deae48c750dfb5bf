// Tiles of codes for `decode_wide_fp8.cuh`. They stay codes in shared memory: warps widen them in registers, once as keys and once, turned, as
// latents, where the left operands of products may come from. So operands are exchanged: keys and columns of latents are rows of products, and rows
// of queries their columns.
//
// Codes become f16, for which there is an instruction. Queries do too, their rows scaled by powers of two so that they fit. Where entries have scales,
// logits are multiplied by them, and latents on their way to products, in units of a power of two that is large enough for all scales so far.

#include "wide_chosen.cuh"
#include "exchanged_rows.cuh"
#include "wgmma.cuh"

using Rows = Held<ROWS>;  // of a thread

constexpr u32 BOTH = 4;  // a barrier of both halves; 1 is the first warpgroup's, 2 and 3 are their own

// ---- Queries ----

// Makes queries f16 where they lie, each row times the power of two by which its largest is at least 1 and below 2. A row has two threads, and each
// every other piece of 16 columns. What is not `there` becomes 0. A lane's four codes of a block of keys are columns that lie side by side, not those
// that a product has there: so the pairs of a piece are left in the order in which products meet them.
template <class Cfg>
__device__ inline void scale_queries(u32 base, bool there) {
  using P = Place<Cfg>;
  constexpr int PIECES = P::STEPS + P::ROPE_STEPS;
  const u32 self = own_number();
  const u32 row = self / 2;
  const auto at = [&](int piece, int half) { return base + P::Q + piece / 4 * TILE_BYTES + row * 128 + ((piece % 4 * 2 + half) ^ row % 8) * 16; };
  const auto low = [](i32 pair) { return f32_of(u32(pair) << 16); };
  const auto high = [](i32 pair) { return f32_of(u32(pair) & 0xffff0000u); };
  f32 most = 0;
#pragma unroll 4
  for (int piece = self % 2; piece < PIECES; piece += 2) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Four x = shared_four(at(piece, half));
      for (const i32 pair : {x.x, x.y, x.z, x.w}) most = fmaxf(most, fmaxf(fabsf(low(pair)), fabsf(high(pair))));
    }
  }
  if (!there) most = 0;
  const RowUnit row_unit(fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1)));
  if (self % 2 == 0) share(base + P::Q_UNITS + row * 4, row_unit.unit);
#pragma unroll 4
  for (int piece = self % 2; piece < PIECES; piece += 2) {
    const bool stays = P::SCALED && piece >= P::STEPS;  // the rotated part is not in codes there
    const auto scaled = [&](i32 pair) {
      const f32 x = there ? low(pair) * row_unit.inverse : 0, y = there ? high(pair) * row_unit.inverse : 0;
      return i32(stays ? pack_bf16(x, y) : pack_f16(x, y));
    };
    const Four x = shared_four(at(piece, 0)), y = shared_four(at(piece, 1));
    const Four first = {scaled(x.x), scaled(x.y), scaled(x.z), scaled(x.w)}, second = {scaled(y.x), scaled(y.y), scaled(y.z), scaled(y.w)};
    share(at(piece, 0), stays ? first : Four{first.x, first.z, second.x, second.z});
    share(at(piece, 1), stays ? second : Four{first.y, first.w, second.y, second.w});
  }
  fence_proxy_async();
}

// What a thread of the first warpgroup knows of its rows.
struct RowSums {
  f32 shift[Rows::R];  // what exponents count from
  f32 total[Rows::R];  // of exponentials, of this thread's keys
  f32 top[Rows::R];    // largest logits, of this thread's keys
  f32 unit;             // of latents with scales: a power of two that was larger than all scales; the output counts in it
};

// Takes an item's queries, which have come, and what their rows see.
template <class Cfg>
__device__ inline void take_queries(const Decoding& args, u32 base, i32 item, RowSums& sums) {
  using P = Place<Cfg>;
  const Lanes lanes;
  const Group group = args.groups[args.items[item].group];
  const int member = blockIdx.x % args.team;
  if (!CHOOSES<Cfg> && lanes.self < ROWS) {
    const Row row = row_of<Cfg>(args, group, member, lanes.self);
    Limit seen = {0, 0x7fffffff};
    if (row.there) seen = args.limits[row.query];
    share(base + P::LIMITS + lanes.self * 8, Pair{seen.from, seen.to});
  }
  scale_queries<Cfg>(base, row_of<Cfg>(args, group, member, lanes.self / 2).there);
#pragma unroll
  for (int r = 0; r < Rows::R; r++) {
    // A row that is not there gets probabilities of 0: it costs no time, and little power
    sums.shift[r] = row_of<Cfg>(args, group, member, Rows::row(r)).there ? LOW : -LOW;
    sums.top[r] = LOW;
    sums.total[r] = 0;
  }
  sums.unit = f32_of(0x0d800000u);  // 2^-100: its inverse is a number, even where all scales are 0
  named_wait(1, WARPGROUP);
}

// ---- Logits and probabilities ----

// What a thread's two keys, eight apart, count in where they have scales: powers of two that are larger than all scales of the key.
struct KeyUnits {
  f32 unit[2] = {1, 1};
  f32 inverse[2] = {1, 1};
  __device__ KeyUnits() {}
  __device__ explicit KeyUnits(u32 scales, u32 apart) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const Four x = shared_four(scales + i * 8 * apart);
      const f32 most = peak(peak(f32_of(x.x), f32_of(x.y)), peak(f32_of(x.z), f32_of(x.w)));
      const u32 exponent = min(max((bits_of(most) >> 23 & 0xff) + 1, 64u), 253u);
      unit[i] = f32_of(exponent << 23);
      inverse[i] = f32_of((254 - exponent) << 23);
    }
  }
};

// Logits of a tile, in the units of their rows: a warp has 16 keys. `pass_on` is called when most products have been asked for.
template <class Cfg, class PassOn>
__device__ inline void multiply_coded_keys(u32 base, u32 keys, f32 (&s)[32], PassOn pass_on) {
  using P = Place<Cfg>;
  constexpr int STORE = Entry<Cfg>::STORE;
  constexpr int AHEAD = 3;  // pieces of 32 columns that are under way
  constexpr int STEPS = Cfg::LATENT / 32;
  constexpr int ROPE_PIECES = (P::ROPE_STEPS + 1) / 2;
  const Lanes lanes;
  const u32 right = place_of(base + P::Q);
  const u32 right_rope = right + P::VALUE_TILES * (TILE_BYTES / 16);
  const u32 key = lanes.own * 16 + lanes.block % 2 * 8 + lanes.row;
  using C = typename P::Codes;
  const u32 scales = keys + C::SCALES + (lanes.own * 16 + lanes.line) * C::SCALES_APART;
  const KeyUnits units = P::SCALED ? KeyUnits(scales, C::SCALES_APART) : KeyUnits();
  u32 a[AHEAD][2][4];
  settle(s);
#pragma unroll
  for (int k = 0; k < P::ROPE_STEPS; k++) {
    u32(&own)[4] = a[k / 2][k % 2];
    if constexpr (P::SCALED) {
      load_blocks(own, C::rope(keys, key, k * 2 + lanes.block / 2));
#pragma unroll
      for (int i = 0; i < 4; i++) own[i] = times_bf16(own[i], pack_bf16(units.inverse[i % 2], units.inverse[i % 2]));
    } else {
      u32 codes[2];
      load_two_blocks(codes, C::rope(keys, key, k));
      const u32 both[4] = {codes[0], codes[1], 0, 0};
      widen_keys<STORE>(both, 0, own);
    }
  }
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::ROPE_STEPS; k++) {
    if constexpr (P::SCALED) wgmma_bf16<0>(s, a[k / 2][k % 2], rows_at(right_rope + k * 2), k > 0);
    else wgmma_f16<0>(s, a[k / 2][k % 2], rows_at(right_rope + k * 2), k > 0);
    if (k % 2 == 1 || k + 1 == P::ROPE_STEPS) wgmma_commit();
  }
  u32 codes[4];
  u32 by[2];  // a group's scales
  const auto load = [&](int step) { load_blocks(codes, C::latents(keys, key, step * 2 + lanes.block / 2)); };
  load(0);
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    u32(&own)[2][4] = a[(ROPE_PIECES + step) % AHEAD];
    if (step == STEPS * 3 / 4) pass_on();
    if (P::SCALED && step % 4 == 0) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const f32 scale = shared_f32(scales + i * 8 * C::SCALES_APART + step / 4 * 4) * units.inverse[i];
        by[i] = pack_f16(scale, scale);
      }
    }
    wgmma_wait<AHEAD - 1>();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      widen_keys<STORE>(codes, half, own[half]);
#pragma unroll
      for (int i = 0; P::SCALED && i < 4; i++) own[half][i] = times_f16(own[half][i], by[i % 2]);
    }
    if (step + 1 < STEPS) load(step + 1);
    wgmma_fence();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int k = step * 2 + half;
      wgmma_f16<0>(s, own[half], rows_at(right + k / 4 * (TILE_BYTES / 16) + k % 4 * 2), P::ROPE_STEPS + k > 0);
    }
    wgmma_commit();
  }
  wgmma_wait<0>();
  settle(s);
  if (P::SCALED) {
#pragma unroll
    for (int k = 0; k < 32; k++) s[k] *= units.unit[k / 2 % 2];
  }
}

// Two of a key's scales, two threads have all four. Those of a key that nobody sees may be anything.
template <class Cfg>
__device__ inline void own_scales(u32 keys, const Four& load, f32 (&x)[2]) {
  using C = CodesPlace<Cfg>;
  const u32 self = own_number();
  const i32 key = self / 2;
  const Pair two = shared_pair(keys + C::SCALES + key * C::SCALES_APART + self % 2 * 8);
  const bool seen = key >= load.z && key < load.w;
  x[0] = seen ? f32_of(two.x) : 0;
  x[1] = seen ? f32_of(two.y) : 0;
}

// Logits become exponentials. Only where one is much larger than what exponents count from do warps ask each other for the largest. `stage`: its number.
template <class Cfg>
__device__ inline void soften(const Decoding& args, u32 base, u32 stage, const f32 (&scales)[2], f32 (&s)[32], RowSums& sums) {
  using P = Place<Cfg>;
  const Lanes lanes;
  f32 by[Rows::R];
#pragma unroll
  for (int r = 0; r < Rows::R; r += 2) {
    const Pair units = shared_pair(base + P::Q_UNITS + Rows::row(r) * 4);
    by[r] = f32_of(units.x) * args.scale_log2;
    by[r + 1] = f32_of(units.y) * args.scale_log2;
  }
  bool above = P::SCALED && !(peak(scales[0], scales[1]) <= sums.unit);
#pragma unroll
  for (int r = 0; r < Rows::R; r++) {
    const f32 m = peak(s[Rows::result(r, 0)], s[Rows::result(r, 1)]);
    sums.top[r] = peak(sums.top[r], m);
    above |= !(m * by[r] - sums.shift[r] <= SLACK);
  }
  const bool changes = any_of<WARPGROUP>(above, 1);
  if (changes) {
    f32 m[Rows::R];
#pragma unroll
    for (int r = 0; r < Rows::R; r++) m[r] = peak(s[Rows::result(r, 0)], s[Rows::result(r, 1)]);
    over_group<Cfg>(m, true, base + P::PEAKS, 1);
    f32 less_unit = 1;
    if (P::SCALED) {
      f32 most = peak(scales[0], scales[1]);
#pragma unroll
      for (int apart = 1; apart < WARP; apart *= 2) most = peak(most, __shfl_xor_sync(ALL_LANES, most, apart));
      named_wait(1, WARPGROUP);
      if (lane() == 0) share(base + P::PEAKS + lanes.own * 4, most);
      named_wait(1, WARPGROUP);
      const Four all = shared_four(base + P::PEAKS);
      most = peak(peak(f32_of(all.x), f32_of(all.y)), peak(f32_of(all.z), f32_of(all.w)));
      if (!(most <= sums.unit)) {
        const f32 now = is_nan(most) ? most : f32_of((bits_of(most) & 0x7f800000u) + 0x00800000u);
        less_unit = sums.unit / now;
        sums.unit = now;
      }
    }
#pragma unroll
    for (int r = 0; r < Rows::R; r++) {
      const f32 now = larger(sums.shift[r], m[r] * by[r]);
      const f32 less = exp2_fast(sums.shift[r] - now);
      sums.shift[r] = is_nan(m[r]) ? m[r] : now;
      sums.total[r] *= less;
      if (lanes.self < 4) share(base + P::SHRINK + (stage * ROWS + Rows::row(r)) * 4, less * less_unit);
    }
  }
  if (lanes.self == 0) share(base + P::CHANGED + stage * 4, i32(changes));
#pragma unroll
  for (int k = 0; k < 32; k++) {
    const int r = Rows::of(k);
    s[k] = exp2_fast(s[k] * by[r] - sums.shift[r]);
    sums.total[r] += s[k];
  }
}

// Leaves what an item's output is multiplied by at last.
template <class Cfg>
__device__ inline void leave_final(const Decoding& args, u32 base, i32 marks, RowSums& sums) {
  using P = Place<Cfg>;
  over_group<Cfg>(sums.total, false, base + P::PEAKS, 1);
  const f32 unit = P::SCALED ? sums.unit / UNIT : args.k_scale;
#pragma unroll
  for (int r = 0; r < Rows::R; r++) {
    if (own_number() < 4) share(base + P::FINAL + ((marks & 1) * ROWS + Rows::row_anew(r)) * 4, sums.total[r] == 0 ? 0.0f : unit / sums.total[r]);
  }
}

// Writes what is known of an item's rows beside their output.
template <class Cfg>
__device__ inline void write_sums(const Decoding& args, u32 base, i32 number, RowSums& sums) {
  using P = Place<Cfg>;
  const int member = blockIdx.x % args.team;
  const Item item = args.items[number];
  const Group group = args.groups[item.group];
  // Units are read before all have met: who is ahead may take the next item's queries
#pragma unroll
  for (int r = 0; r < Rows::R; r++) sums.top[r] *= shared_f32(base + P::Q_UNITS + Rows::row_anew(r) * 4);
  over_group<Cfg>(sums.top, true, base + P::PEAKS, 1);
#pragma unroll
  for (int r = 0; r < Rows::R; r++) {
    const Row row = row_of<Cfg>(args, group, member, Rows::row_anew(r));
    if (own_number() >= 4 || !row.there) continue;
    const f32 weight = sums.total[r] != 0 ? sums.shift[r] + log2_fast(sums.total[r]) : LOW;
    write_row_sums<Cfg>(args, item, member, Rows::row_anew(r), row, weight, sums.top[r]);
  }
  if (item.parts > 1) part_written(args, item, member, 1);
}

// ---- Values ----

// Makes codes of a half of the columns 0 where no query of the group sees the key: they may be anything, and probabilities of 0 would not undo a NaN.
template <class Cfg, int SIDE>
__device__ inline void clear_unseen_codes(u32 stage, i32 first, i32 end) {
  constexpr int CHUNKS = Cfg::LATENT / 32;  // of 16 codes, of a key's half
  for (int at = own_number(); at < KEYS * CHUNKS; at += WARPGROUP) {
    const int key = at / CHUNKS, chunk = SIDE * CHUNKS + at % CHUNKS;
    if (key < first || key >= end) share(stage + chunk / 8 * TILE_BYTES + swizzled_128(key * 128 + chunk % 8 * 16), Four{});
  }
  fence_proxy_async();
  named_wait(2 + SIDE, WARPGROUP);
}

// Adds a tile's products to a half of the output: of each 64 columns a warp has 16, even ones where a product's first eight rows are, odd ones where the
// others are. `at`: where its stage is.
template <class Cfg, int SIDE>
__device__ inline void multiply_coded_latents(u32 at, f32 (&o)[Cfg::LATENT / 128][32]) {
  using P = Place<Cfg>;
  constexpr int STORE = Entry<Cfg>::STORE;
  // Pieces of 32 keys that are under way. Over whole entries with scales and no rotated part the compiler has no registers for a second one
  constexpr int AHEAD = P::SCALED && P::ROPE_STEPS == 0 && !CHOOSES<Cfg> ? 1 : 2;
  constexpr int TILES = Cfg::LATENT / 128;
  const Lanes lanes;
  const u32 right = place_of(at + P::WEIGHTS);
  u32 a[AHEAD][2][4];
  u32 codes[4];
  const auto load = [&](int step) {
    const int column = SIDE * (Cfg::LATENT / 2) + step / 2 * TILE;
    load_blocks_turned(codes, P::Codes::latents(at, step % 2 * 32 + lanes.block * 8 + lanes.row, column / 16 + lanes.own));
  };
  load(0);
#pragma unroll
  for (int t = 0; t < TILES; t++) settle(o[t]);
#pragma unroll
  for (int step = 0; step < TILES * 2; step++) {
    u32(&own)[2][4] = a[step % AHEAD];
    const u32 scales = at + P::HALF_SCALES + ((SIDE * (Cfg::LATENT / 2) + step / 2 * TILE) / 128 * 4 + lanes.quad) * 32 + step % 2 * 16;
    if (step >= AHEAD) wgmma_wait<AHEAD - 1>();
#pragma unroll
    for (int i = 0; i < 4; i++) {
      u32(&x)[4] = own[i / 2];
      widen_latents<STORE>(codes[i], x[i % 2 * 2], x[i % 2 * 2 + 1]);
      if (P::SCALED) {
        const u32 two = shared_i32(scales + i * 4);  // of a pair of this thread's keys
        x[i % 2 * 2] = times_f16(x[i % 2 * 2], two);
        x[i % 2 * 2 + 1] = times_f16(x[i % 2 * 2 + 1], two);
      }
    }
    if (step + 1 < TILES * 2) load(step + 1);
    wgmma_fence();
#pragma unroll
    for (int half = 0; half < 2; half++) wgmma_f16<0>(o[step / 2], own[half], rows_at(right + (step % 2 * 2 + half) * 2), true);
    wgmma_commit();
  }
  wgmma_wait<0>();
#pragma unroll
  for (int t = 0; t < TILES; t++) settle(o[t]);
}

// The output is multiplied by what stands for each row.
template <class Cfg>
__device__ inline void multiply_rows(u32 by, f32 (&o)[Cfg::LATENT / 128][32]) {
  const Lanes lanes;
#pragma unroll
  for (int r = 0; r < Rows::R; r += 2) {
    const Pair two = shared_pair(by + Rows::row(r) * 4);
#pragma unroll
    for (int t = 0; t < Cfg::LATENT / 128; t++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        o[t][Rows::result(r, i)] *= f32_of(two.x);
        o[t][Rows::result(r + 1, i)] *= f32_of(two.y);
      }
    }
  }
}

// Writes a half of an item's output, or sends that of a part of it by way of the stage that its last tile was in. `by`: where it stands what rows are to be
// multiplied by.
template <class Cfg, int SIDE>
__device__ inline void write_half(const Decoding& args, u32 stage, u32 by, const Item& item, int member, f32 (&o)[Cfg::LATENT / 128][32]) {
  constexpr int TILES = Cfg::LATENT / 128;
  constexpr u32 ROOM = (Place<Cfg>::STAGE_BYTES / 2 - 2 * ROWS * UNITS * 4) / TILE_BYTES * TILE_BYTES;
  const Group group = args.groups[item.group];
  const auto factor = [&](int r) { return shared_f32(by + Rows::row_anew(r) * 4); };
  if (item.parts > 1) {
    named_wait(BOTH, 2 * WARPGROUP);  // neither half reads codes or probabilities of the tile any more
    return send_columns<Cfg, SIDE * TILES, ROOM>(args, item, member, stage + SIDE * ROOM, stage + 2 * ROOM + SIDE * (2 * ROWS * UNITS * 4), 2 + SIDE, factor, o);
  }
#pragma unroll
  for (int r = 0; r < Rows::R; r++) {
    const Row row = row_of<Cfg>(args, group, member, Rows::row_anew(r));
    if (row.there) write_columns<Cfg>(args, row, SIDE * (Cfg::LATENT / 2), r, factor(r), o);
  }
}
