// Tiles of codes for `decode_narrow.cuh`. They stay codes in shared memory: a warp widens what it needs of them in registers, once as keys and once,
// turned, as latents, and multiplies by `mma`, whose left operands are 16 rows in registers and whose results lie as those of larger products do.
//
// Codes become f16, for which there is an instruction. Queries do too, their rows scaled by powers of two so that they fit, and probabilities. Where
// entries have scales, logits are multiplied by them, and latents as they are widened, in units of a power of two that is large enough for all scales so
// far.
//
// A stage has 128 codes of each key in a slot of 8 KB, then the rotated part, then scales.

#include "narrow_sums.cuh"
#include "wgmma.cuh"

// Makes queries f16 where they lie, each row times the power of two by which its largest is at least 1 and below 2. Three warps, for all items of
// a team.
template <class Cfg>
__device__ inline void scale_queries(const Decoding& args, u32 base, int team) {
  using P = Place<Cfg>;
  QueriesTurn<Cfg> turn;
  for (int i = args.starts[team]; i < args.starts[team + 1]; i++, turn.next()) {
    barrier_wait(base + P::Q_FULL + turn.stage * 8, turn.parity);
    for (int row = warp() - 1; row < Cfg::ROWS; row += WARPGROUP / WARP - 1) {
      const u32 at = base + P::Q + turn.stage * P::Q_BYTES + row * 128 + lane() * 4;
      f32 low[P::SLOTS], high[P::SLOTS];
      f32 most = 0;
#pragma unroll
      for (int t = 0; t < P::SLOTS; t++) {
        const u32 both = shared_i32(at + t * P::Q_TILE_BYTES);
        low[t] = f32_of(both << 16);
        high[t] = f32_of(both & 0xffff0000u);
        most = fmaxf(most, fmaxf(fabsf(low[t]), fabsf(high[t])));
      }
      const RowUnit row_unit(warp_max(most));
      const f32 by = row_unit.inverse;
#pragma unroll
      for (int t = 0; t < P::SLOTS; t++) {
        const bool stays = P::SCALED && t == P::VALUE_TILES;  // the rotated part is not in codes there
        share(at + t * P::Q_TILE_BYTES, i32(stays ? pack_bf16(low[t] * by, high[t] * by) : pack_f16(low[t] * by, high[t] * by)));
      }
      if (lane() == 0) share(base + P::Q_SCALES + (turn.stage * Cfg::ROWS + row) * 4, row_unit.unit);
    }
    fence_proxy_async();  // the copy engine writes there next
    arrive_once_a_warp(base + P::Q_READY + turn.stage * 8);
  }
}

// What a warp has of an item's queries for logits: of all rows, a quarter of the latents' columns and of those of the rotated part.
template <class Cfg>
struct OwnQueries {
  static constexpr int STEPS = Cfg::LATENT / 4 / 32;  // pieces of 32 columns
  static constexpr int BLOCKS = Cfg::ROWS / 8;
  Pair latents[STEPS * 2][BLOCKS];  // of 16 columns
  Pair rope[BLOCKS];
  f32 unit[Cfg::ROWS / 4];  // what logits of this thread's rows count in

  // A lane's four codes of a block are columns that lie side by side, not those that a product has there: queries are taken in the same order.
  __device__ void take(u32 queries, u32 units) {
    using P = Place<Cfg>;
    const Lanes lanes;
    const auto piece = [&](int column, int block) {
      const u32 chunk = column % TILE / 8 + lanes.quad / 2;
      return shared_pair(queries + column / TILE * P::Q_TILE_BYTES + (block * 8 + lanes.line) * 128 + (chunk ^ lanes.line) * 16 + lanes.quad % 2 * 8);
    };
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
      for (int k = 0; k < STEPS * 2; k++) latents[k][block] = piece(lanes.own * (Cfg::LATENT / 4) + k * 16, block);
      if (P::SCALED && Cfg::ROPE > 0) {
        const u32 at = queries + P::VALUE_TILES * P::Q_TILE_BYTES + (block * 8 + lanes.line) * 128 + lanes.quad * 4;
        rope[block].x = shared_i32(at + ((lanes.own * 2) ^ lanes.line) * 16);
        rope[block].y = shared_i32(at + ((lanes.own * 2 + 1) ^ lanes.line) * 16);
      } else if (Cfg::ROPE > 0) {
        rope[block] = piece(Cfg::LATENT + lanes.own * 16, block);
      }
      const Pair of = shared_pair(units + (block * 8 + lanes.quad * 2) * 4);
      unit[block * 2] = f32_of(of.x);
      unit[block * 2 + 1] = f32_of(of.y);
    }
  }
};

// Logits of a tile of codes. Each warp multiplies all keys by its quarter of the columns, and then gets what the others have of its 16 keys. `room`: 1 KB
// times rows / 16 for each of 16 pairs of warps.
template <class Cfg>
__device__ inline void multiply_coded_keys(u32 keys, const OwnQueries<Cfg>& q, u32 room, u32 name, u32 full, u32 parity, f32 (&s)[Cfg::ROWS / 2]) {
  using P = Place<Cfg>;
  using Q = OwnQueries<Cfg>;
  constexpr int BLOCKS = Q::BLOCKS;
  const Lanes lanes;
  const u32 column = lanes.own * (Cfg::LATENT / 4);
  f32 part[4][Cfg::ROWS / 2];  // of 16 keys each
#pragma unroll
  for (int k = 0; k < 4 * Cfg::ROWS / 2; k++) part[k / (Cfg::ROWS / 2)][k % (Cfg::ROWS / 2)] = 0;
  barrier_wait(full + column / 128 * 8, parity);
  const u32 line = keys + column / 128 * TILE_BYTES + (lanes.block % 2 * 8 + lanes.row) * 128;
#pragma unroll
  for (int step = 0; step < Q::STEPS; step++) {
    u32 codes[4][4];
#pragma unroll
    for (int of = 0; of < 4; of++) load_blocks(codes[of], line + of * 2048 + ((column % 128 / 16 + step * 2 + lanes.block / 2) ^ lanes.row) * 16);
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int of = 0; of < 4; of++) {
        u32 a[4];
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = widen_pair<Entry<Cfg>::STORE>(u16(codes[of][2 * half + i % 2] >> i / 2 * 16));
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
          const Pair b = q.latents[step * 2 + half][block];
          mma_f16(part[of] + block * 4, a, b.x, b.y);
        }
      }
    }
  }
  if (P::PAIRS > 1) barrier_wait(full, parity);  // scales and the rotated part come with the first columns
  if (P::SCALED) {
#pragma unroll
    for (int of = 0; of < 4; of++) {
      const u32 scale = keys + P::SCALES + (of * 16 + lanes.line) * 16 + column / 128 * 4;
      const f32 by[2] = {shared_f32(scale), shared_f32(scale + 128)};
#pragma unroll
      for (int k = 0; k < Cfg::ROWS / 2; k++) part[of][k] *= by[k / 2 % 2];
    }
  }
#pragma unroll
  for (int of = 0; of < 4 && Cfg::ROPE > 0; of++) {
    const u32 rope = keys + P::ROPE;
    u32 a[4];
    if constexpr (P::SCALED) {
      load_blocks(a, rope + (of * 16 + lanes.block % 2 * 8 + lanes.row) * 128 + ((lanes.own * 2 + lanes.block / 2) ^ lanes.row) * 16);
#pragma unroll
      for (int block = 0; block < BLOCKS; block++) mma_bf16(part[of] + block * 4, a, q.rope[block].x, q.rope[block].y);
    } else {
      u32 codes[2];
      load_two_blocks(codes, rope + swizzled_64((of * 16 + lanes.block % 2 * 8 + lanes.row) * 64 + lanes.own * 16));
#pragma unroll
      for (int i = 0; i < 4; i++) a[i] = widen_pair<Entry<Cfg>::STORE>(u16(codes[i % 2] >> i / 2 * 16));
#pragma unroll
      for (int block = 0; block < BLOCKS; block++) mma_f16(part[of] + block * 4, a, q.rope[block].x, q.rope[block].y);
    }
  }
  const u32 lane_at = room + lane() * 16;
#pragma unroll
  for (int of = 0; of < 4; of++) {
    if (of == lanes.own) continue;
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
      const f32* x = part[of] + block * 4;
      const Four bits = {i32(bits_of(x[0])), i32(bits_of(x[1])), i32(bits_of(x[2])), i32(bits_of(x[3]))};
      share(lane_at + ((lanes.own * 4 + of) * BLOCKS + block) * 512, bits);
    }
  }
#pragma unroll
  for (int of = 0; of < 4; of++) {
#pragma unroll
    for (int k = 0; k < Cfg::ROWS / 2; k++) s[k] = of == lanes.own ? part[of][k] : of == 0 ? 0 : s[k];
  }
  named_wait(name, WARPGROUP);
#pragma unroll
  for (u32 from = 0; from < 4; from++) {
    if (from == lanes.own) continue;
#pragma unroll
    for (int block = 0; block < BLOCKS; block++) {
      const Four x = shared_four(lane_at + ((from * 4 + lanes.own) * BLOCKS + block) * 512);
      s[block * 4] += f32_of(x.x);
      s[block * 4 + 1] += f32_of(x.y);
      s[block * 4 + 2] += f32_of(x.z);
      s[block * 4 + 3] += f32_of(x.w);
    }
  }
#pragma unroll
  for (int k = 0; k < Cfg::ROWS / 2; k++) s[k] *= q.unit[Sums<Cfg>::of(k)];
}

// Adds a tile's products to the output, and frees its columns one by one, unless it `keeps` them. A warp has 16 columns of each 64: results of even
// ones where a product's first eight rows are, of odd ones where the others are.
template <class Cfg>
__device__ inline void multiply_coded_latents(u32 keys, u32 weights, u32 scales, u32 empty, bool keeps, Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  static_assert(Cfg::ROWS == 16, "two blocks of rows");
  const Lanes lanes;
  u32 codes[2][2][2][4];  // of this pair of tiles and the next: of both halves of the keys, of both tiles
  const auto load = [&](int pair) {
    const u32 line = keys + pair * TILE_BYTES + (lanes.block * 8 + lanes.row) * 128;
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int t = 0; t < 2; t++) load_blocks_turned(codes[pair % 2][half][t], line + half * 4096 + ((t * 4 + lanes.own) ^ lanes.row) * 16);
    }
  };
  u32 p[4][4];  // probabilities of 16 keys each, of both blocks of rows
  load(0);
#pragma unroll
  for (int k = 0; k < 4; k++) load_blocks(p[k], weights + (lanes.block / 2 * 8 + lanes.row) * 128 + ((k * 2 + lanes.block % 2) ^ lanes.row) * 16);
#pragma unroll
  for (int pair = 0; pair < P::PAIRS; pair++) {
    if (pair + 1 < P::PAIRS) load(pair + 1);
    u32 by[8] = {};  // scales of pairs of this thread's keys
#pragma unroll
    for (int i = 0; P::SCALED && i < 8; i += 4) {
      const Four four = shared_four(scales + (pair * 4 + lanes.quad) * 32 + i * 4);
      by[i] = four.x, by[i + 1] = four.y, by[i + 2] = four.z, by[i + 3] = four.w;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
#pragma unroll
      for (int t = 0; t < 2; t++) {
        u32 a[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const u32 four = __byte_perm(codes[pair % 2][k / 2][t][k % 2 * 2 + i], 0, 0x3120);  // two of a column, two of the next
          a[2 * i] = widen_pair<Entry<Cfg>::STORE>(u16(four));
          a[2 * i + 1] = widen_pair<Entry<Cfg>::STORE>(u16(four >> 16));
          if (P::SCALED) {
            a[2 * i] = times_f16(a[2 * i], by[2 * k + i]);
            a[2 * i + 1] = times_f16(a[2 * i + 1], by[2 * k + i]);
          }
        }
        mma_f16(sums.o[2 * pair + t], a, p[k][0], p[k][1]);
        mma_f16(sums.o[2 * pair + t] + 4, a, p[k][2], p[k][3]);
      }
    }
    if (!keeps) arrive_once_a_warp(empty + pair * 8);
  }
}
