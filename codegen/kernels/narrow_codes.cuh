// Tiles of codes for `decode_narrow.cuh`. They stay codes in shared memory.
//
// As keys they are multiplied as they are: queries become two terms of e4m3, which have all bits of bf16 together, in 32 columns of a product. Tensor cores
// add up products of codes with 14 bits; so each 128 columns, which may have a scale in common, are a sum of their own, and those are added up in f32. As
// latents warps widen them in registers, turned, where left operands of products may come from: they become f16, for which there is an instruction, and
// probabilities do. Where entries have scales, probabilities are left once for each, in units of a power of two that is large enough for all scales so far.

#include "narrow_sums.cuh"
#include "wgmma.cuh"

// ---- Queries ----

// A row of queries is multiplied by this over the power of two that makes its largest number at least 1 and below 2. What the first term leaves of a number
// is 16 times smaller at least; the second term has that times 32.
[[maybe_unused]] constexpr f32 WHOLE_TERM = 128;
[[maybe_unused]] constexpr f32 SECOND_TERM = 1.0f / 32;

// Leaves two numbers that lie side by side as terms: `to` is where the first terms go, and the second ones go `APART` bytes further.
template <int APART>
__device__ inline void leave_terms(u32 to, f32 x, f32 y) {
  const u16 first = pack_e4m3(x, y);
  const float2 of_first = unpack_f16(widen_e4m3(first));
  share_halves<APART>(to, first | u32(pack_e4m3((x - of_first.x) / SECOND_TERM, (y - of_first.y) / SECOND_TERM)) << 16);
}

// Makes rows of queries codes where they lie: 128 columns of both terms where two tiles of bf16 were, one behind the other. A warp has every `BY`th row from
// its `first` on.
template <class Cfg, int BY>
__device__ inline void split_queries(u32 base, u32 stage, u32 first) {
  using P = Place<Cfg>;
  const u32 self = own_lane();
#pragma unroll 1
  for (u32 row = first; row < Cfg::ROWS; row += BY) {
    const u32 line = base + P::Q + stage * P::Q_BYTES + row * 128;
    const auto two_of = [&](int t) {
      const u32 both = shared_i32(line + t * P::Q_TILE_BYTES + self * 4);
      return float2{f32_of(both << 16), f32_of(both & 0xffff0000u)};
    };
    f32 most = 0;
#pragma unroll
    for (int t = 0; t < P::SLOTS; t++) {
      const float2 two = two_of(t);
      most = fmaxf(most, fmaxf(fabsf(two.x), fabsf(two.y)));
    }
    const RowUnit row_unit(warp_max(most));
    const f32 by = row_unit.inverse * WHOLE_TERM;
    const u32 column = (self / 4 ^ row % 8) * 8 + self % 4 * 2;  // of a tile
#pragma unroll
    for (int t = 0; t < P::SLOTS; t += 2) {
      const u32 to = line + t * P::Q_TILE_BYTES;
      const float2 two[2] = {two_of(t), t + 1 < P::SLOTS ? two_of(t + 1) : float2{0, 0}};
      if (P::SCALED && t == P::VALUE_TILES) {
        share(to + self * 4, i32(pack_bf16(two[0].x * by, two[0].y * by)));  // the rotated part is not in codes there
        continue;
      }
      __syncwarp();  // all have read what terms are written over
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const u32 at = i * TILE + column;
        leave_terms<P::Q_TILE_BYTES>(to + (at / 16 ^ row % 8) * 16 + at % 16, two[i].x * by, two[i].y * by);
      }
    }
    if (self == 0) share(base + P::Q_SCALES + (stage * Cfg::ROWS + row) * 4, row_unit.unit / WHOLE_TERM);
  }
  fence_proxy_async();
}

// The same of all items of a team. Three warps come here.
template <class Cfg>
__device__ inline void split_all_queries(const Decoding& args, u32 base, int team) {
  using P = Place<Cfg>;
  QueriesTurn<Cfg> turn;
  for (int i = args.starts[team]; i < args.starts[team + 1]; i++, turn.next()) {
    barrier_wait(base + P::Q_FULL + turn.stage * 8, turn.parity);
    split_queries<Cfg, 3>(base, turn.stage, own_number() / WARP - 1);
    arrive_once_a_warp(base + P::Q_READY + turn.stage * 8);
  }
}

// What logits of a thread's rows count in.
template <class Cfg>
struct RowUnits {
  f32 of[Held<Cfg::ROWS>::R];
  __device__ void take(u32 units) {
#pragma unroll
    for (int r = 0; r < Held<Cfg::ROWS>::R; r++) of[r] = shared_f32(units + Held<Cfg::ROWS>::row(r) * 4);
  }
};

// ---- Scales ----

// Those of a thread's two keys of a tile, eight apart, where they have any.
template <class Cfg>
struct OwnScales {
  f32 of[2][4];
  __device__ explicit OwnScales(u32 keys) {
    using C = CodesPlace<Cfg>;
    if constexpr (!C::SCALED) return;
    const Lanes lanes;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const Four x = shared_four(keys + C::SCALES + (lanes.own * 16 + lanes.line + i * 8) * C::SCALES_APART);
      of[i][0] = f32_of(x.x), of[i][1] = f32_of(x.y), of[i][2] = f32_of(x.z), of[i][3] = f32_of(x.w);
    }
  }
};

// Leaves probabilities once for each scale that a key has, times that over the unit of the output.
template <class Cfg>
__device__ inline void leave_scaled_weights(u32 to, u32 keys, f32 unit, const f32 (&s)[Cfg::ROWS / 2]) {
  using P = Place<Cfg>;
  const OwnScales<Cfg> own(keys);
  const f32 inverse = UNIT / unit;
#pragma unroll
  for (int set = 0; set < P::SETS; set++) {
    const f32 by[2] = {own.of[0][set] * inverse, own.of[1][set] * inverse};
    f32 its[Cfg::ROWS / 2];
#pragma unroll
    for (int k = 0; k < Cfg::ROWS / 2; k++) its[k] = s[k] * by[k / 2 % 2];
    leave_weights<Cfg>(to + set * P::Q_TILE_BYTES, its);
  }
}

// ---- Products ----

// D += A B, of codes of the cache's kind and of the terms of queries.
template <class Cfg>
__device__ inline void multiply_codes(f32 (&d)[32 / 2], const u32 (&a)[4], u64 b, bool add) {
  if (Entry<Cfg>::STORE == E5M2) wgmma_e5m2(d, a, b, add);
  else wgmma_e4m3(d, a, b, add);
}

// What the rotated part of keys in bf16 adds to their logits.
template <class Cfg>
__device__ inline void multiply_rotated(u32 keys, u32 key, u32 queries, f32 (&s)[Cfg::ROWS / 2]) {
  using P = Place<Cfg>;
  const Lanes lanes;
  u32 a[P::ROPE_STEPS][4];
#pragma unroll
  for (int k = 0; k < P::ROPE_STEPS; k++) load_blocks(a[k], P::Codes::rope(keys, key, k * 2 + lanes.block / 2));
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::ROPE_STEPS; k++) wgmma_bf16<0>(s, a[k], rows_at(queries + (P::VALUE_TILES * P::Q_TILE_BYTES + k * 32) / 16), k > 0);
  wgmma_commit();
}

// Logits of a tile of codes; a warp has 16 keys. `full`: barriers of the stage's pieces.
template <class Cfg>
__device__ inline void multiply_coded_keys(u32 keys, u32 queries, u32 full, u32 parity, const RowUnits<Cfg>& rows, f32 (&s)[Cfg::ROWS / 2]) {
  using P = Place<Cfg>;
  using C = typename P::Codes;
  static_assert(Cfg::ROWS == 16, "of both terms of rows, 32 columns");
  static_assert(C::SCALED || !C::WHOLE || Cfg::ROPE % 32 == 0, "behind an entry stands what is no part of it");
  constexpr int LATENT_LINES = Cfg::LATENT / 128;
  constexpr int LINES = LATENT_LINES + (!C::SCALED && Cfg::ROPE > 0 ? 1 : 0);  // the last may be the rotated part's
  constexpr auto pieces = [](int line) { return line < LATENT_LINES ? 4 : (Cfg::ROPE + 31) / 32; };
  const Lanes lanes;
  const u32 key = lanes.own * 16 + lanes.block % 2 * 8 + lanes.row;
  const u32 right = place_of(queries);
  constexpr int HELD = C::WHOLE ? 3 : 2;  // lines whose codes are in registers or on their way there; of boxes there are registers for two
  u32 a[HELD][4][4];     // pieces of 32 codes
  f32 parts[2][32 / 2];  // of this line and the one before
  const auto load = [&](int line) {
    if (P::PIECES > 1 && line > 0 && line < LATENT_LINES) barrier_wait(full + line * 8, parity);
#pragma unroll
    for (int k = 0; k < pieces(line); k++) {
      const u32 chunk = k * 2 + lanes.block / 2;
      load_blocks(a[line % HELD][k], line < LATENT_LINES ? C::latents(keys, key, line * 8 + chunk) : C::rope(keys, key, chunk));
    }
  };
  settle(parts[0]);
  settle(parts[1]);
  settle(s);
  barrier_wait(full, parity);
  load(0);
  if (HELD > 2 && LINES > 1) load(1);
  if constexpr (C::SCALED && Cfg::ROPE > 0) multiply_rotated<Cfg>(keys, key, right, s);
  const OwnScales<Cfg> own(keys);
  const auto add_part = [&](int line) {
    settle(parts[line % 2]);
    if (line == 0) settle(s);
#pragma unroll
    for (int k = 0; k < Cfg::ROWS / 2; k++) {
      const f32 part = parts[line % 2][k] + parts[line % 2][k + Cfg::ROWS / 2] * SECOND_TERM;
      const bool begins = line == 0 && !(C::SCALED && Cfg::ROPE > 0);
      if constexpr (C::SCALED) s[k] = part * own.of[k / 2 % 2][line] + (begins ? 0 : s[k]);
      else s[k] = begins ? part : s[k] + part;
    }
  };
#pragma unroll
  for (int line = 0; line < LINES; line++) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < pieces(line); k++) multiply_codes<Cfg>(parts[line % 2], a[line % HELD][k], rows_at(right + (line * 2 * P::Q_TILE_BYTES + k * 32) / 16), k > 0);
    wgmma_commit();
    if (line > 0) wgmma_wait<1>();
    if (line > 0) add_part(line - 1);
    if (line + HELD - 1 < LINES) load(line + HELD - 1);
  }
  wgmma_wait<0>();
  add_part(LINES - 1);
#pragma unroll
  for (int k = 0; k < Cfg::ROWS / 2; k++) s[k] *= rows.of[Held<Cfg::ROWS>::of(k)];
}

// Adds a tile's products to the output, and frees its pieces one by one, as soon as their codes are in registers, unless it `keeps` them. A warp has 16
// columns of each 64: results of even ones where a product's first eight rows are, of odd ones where the others are.
template <class Cfg>
__device__ inline void multiply_coded_latents(u32 keys, u32 weights, u32 empty, bool keeps, Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  using C = CodesPlace<Cfg>;
  constexpr int AHEAD = 2;                   // pieces of 32 keys that are under way
  constexpr int STEPS = P::VALUE_TILES * 2;  // of all columns
  const Lanes lanes;
  const u32 right = place_of(weights);
  u32 a[AHEAD][2][4];
  u32 codes[2][4];  // of this piece and the next
  const auto load = [&](int step) {
    load_blocks_turned(codes[step % 2], C::latents(keys, step % 2 * 32 + lanes.block * 8 + lanes.row, step / 2 * 4 + lanes.own));
  };
  load(0);
  load(1);
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) settle(sums.o[t]);
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    u32(&own)[2][4] = a[step % AHEAD];
    if (step >= AHEAD) wgmma_wait<AHEAD - 1>();
#pragma unroll
    for (int i = 0; i < 4; i++) widen_latents<Entry<Cfg>::STORE>(codes[step % 2][i], own[i / 2][i % 2 * 2], own[i / 2][i % 2 * 2 + 1]);
    if (step + 2 < STEPS) load(step + 2);
    wgmma_fence();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u64 b = rows_at(right + (P::SETS > 1 ? step / 4 * (P::Q_TILE_BYTES / 16) : 0) + (step % 2 * 2 + half) * 2);
      wgmma_f16<0>(sums.o[step / 2], own[half], b, true);
    }
    wgmma_commit();
    constexpr int OF_PIECE = STEPS / P::PIECES;
    if (step % OF_PIECE == OF_PIECE - 1 && !keeps) arrive_once_a_warp(empty + step / OF_PIECE * 8);
  }
  wgmma_wait<0>();
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) settle(sums.o[t]);
}
