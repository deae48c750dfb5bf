// Products of few rows with a weight that lies in blocks of codes (`fp8_blocks.cuh`): `out[row, n] = Σ_k x[row, k] · code[n, k] · scale[n / 64, k / 128]`.
//
// As in `skinny.cuh` the weight's rows are a product's rows, here 128 to a tile, 64 to a warpgroup, and rows of x its columns; blocks share tiles as
// `line.cuh` says, and ask for weights before the kernel before has ended. Codes become numbers of bf16 in registers, exactly; what a block of the weight
// gives is multiplied by its scale when it is added to the sums.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "shared.cuh"
#include "tile.cuh"
#include "wgmma.cuh"
#include "convert.cuh"
#include "steps.cuh"
#include "line.cuh"
#include "fp8_blocks.cuh"

struct SkinnyFp8 {
  TensorMap x;        // [k / 64, rows, 64]
  const u8* w;        // [tiles, pieces] blocks
  const f32* scales;  // [tiles, pieces, 4]
  bf16* out;          // [rows, n]
  Line line;          // a piece is a block
  i32 rows, n;
};

constexpr int BLOCK_SCALES = 16;  // bytes
constexpr int MULTIPLIERS = 2 * WARPGROUP;
constexpr int CHUNKS = BLOCK_COLUMNS / 64;  // of a block's columns: a row of x is swizzled in so many parts

template <class Cfg>
struct Place {
  static constexpr int AT_ONCE = Cfg::COLUMNS < 64 ? Cfg::COLUMNS : 64;  // columns of x: registers hold no more of what is fresh
  static constexpr int CHUNK = Cfg::COLUMNS * 128;
  static constexpr int X_BYTES = CHUNK * CHUNKS;
  static constexpr int STAGE = X_BYTES + BLOCK_CODES;
  static constexpr int STAGES = (200 << 10) / STAGE;
  static constexpr int SCALES = STAGES * STAGE;
  static constexpr int TOLD = SCALES + STAGES * BLOCK_SCALES;
  static constexpr int FULL = TOLD + 16;
  static constexpr int EMPTY = FULL + STAGES * 8;
};

// Asks for all of a block's stages. A thread comes here.
template <class Cfg>
__device__ inline void bring(const SkinnyFp8& args, u32 base, i32 begin, i32 end) {
  using P = Place<Cfg>;
  const auto ask_for_weight = [&](u32 stage, i32 unit) {
    const u32 barrier = base + P::FULL + stage * 8;
    barrier_expect(barrier, P::STAGE + BLOCK_SCALES);
    copy_bulk(base + stage * P::STAGE + P::X_BYTES, args.w + i64(unit) * BLOCK_CODES, BLOCK_CODES, barrier);
    copy_bulk(base + P::SCALES + stage * BLOCK_SCALES, args.scales + i64(unit) * 4, BLOCK_SCALES, barrier);
  };
  const auto ask_for_rows = [&](u32 stage, i32 piece) {
    copy_tile_3d(base + stage * P::STAGE, args.x, base + P::FULL + stage * 8, 0, 0, piece * CHUNKS);
  };
  const i32 first = min(begin + P::STAGES, end);
  for (i32 unit = begin; unit < first; unit++) ask_for_weight(unit - begin, unit);
  wait_for_kernel_before();
  Spot spot(begin, args.line.pieces);
  for (i32 unit = begin; unit < first; unit++, spot.next(args.line.pieces)) ask_for_rows(unit - begin, spot.piece);
  Ring<P::STAGES> ring;
  for (i32 unit = first; unit < end; unit++, spot.next(args.line.pieces)) {
    barrier_wait(base + P::EMPTY + ring.stage * 8, ring.parity);
    ask_for_weight(ring.stage, unit);
    ask_for_rows(ring.stage, spot.piece);
    ring.next();
  }
}

template <class Cfg>
using Sums = f32[Cfg::COLUMNS / 2];

// A thread's codes of 64 columns as left operands of four products.
__device__ inline void widen_chunk(u32 at, u32 (&a)[4][4]) {
  const Four upper = shared_four(at), lower = shared_four(at + 512);
  const i32 of_upper[4] = {upper.x, upper.y, upper.z, upper.w}, of_lower[4] = {lower.x, lower.y, lower.z, lower.w};
#pragma unroll
  for (int k = 0; k < 4; k++) {
    widen_codes(of_upper[k], a[k][0], a[k][2]);
    widen_codes(of_lower[k], a[k][1], a[k][3]);
  }
}

// Multiplies so many blocks of the weight.
template <class Cfg>
__device__ inline void multiply(u32 base, i32 count, Ring<Place<Cfg>::STAGES>& ring, Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  const u32 half = threadIdx.x / WARPGROUP, own = (threadIdx.x / WARP) * 2048 + lane() * 16;
#pragma unroll
  for (int i = 0; i < Cfg::COLUMNS / 2; i++) sums[i] = 0;
  for (i32 unit = 0; unit < count; unit++) {
    barrier_wait(base + P::FULL + ring.stage * 8, ring.parity);
    const u32 stage = base + ring.stage * P::STAGE, w = stage + P::X_BYTES, x = place_of(stage);
    const f32 scale = shared_f32(base + P::SCALES + ring.stage * BLOCK_SCALES + half * 4);
    u32 a[CHUNKS][4][4];
#pragma unroll
    for (int part = 0; part < Cfg::COLUMNS / P::AT_ONCE; part++) {
      f32 fresh[P::AT_ONCE / 2];
#pragma unroll
      for (int chunk = 0; chunk < CHUNKS; chunk++) {
        if (part == 0) widen_chunk(w + own + chunk * 1024, a[chunk]);
        const u32 rows = x + (chunk * P::CHUNK + part * P::AT_ONCE * 128) / 16;
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) wgmma_bf16<0>(fresh, a[chunk][k], rows_at(rows + k * 2), chunk + k > 0);
        wgmma_commit();
      }
      wgmma_wait<0>();
      settle(fresh);
      if ((part + 1) * P::AT_ONCE == Cfg::COLUMNS) arrive_once_a_warp(base + P::EMPTY + ring.stage * 8);
#pragma unroll
      for (int i = 0; i < P::AT_ONCE / 2; i++) sums[part * P::AT_ONCE / 2 + i] += scale * fresh[i];
    }
    ring.next();
  }
}

template <class Cfg>
__device__ void skinny_fp8(const SkinnyFp8& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  const i32 begin = beginning(args.line, blockIdx.x), end = beginning(args.line, blockIdx.x + 1);
  if (threadIdx.x == 0) {
    for (int i = 0; i < P::STAGES; i++) {
      barrier_init(base + P::FULL + i * 8, 1);
      barrier_init(base + P::EMPTY + i * 8, MULTIPLIERS / WARP);
    }
    fence_barrier_init();
  }
  __syncthreads();
  start_kernel_after();
  if (threadIdx.x >= MULTIPLIERS) {
    if (threadIdx.x == MULTIPLIERS) bring<Cfg>(args, base, begin, end);
    return;
  }
  const auto write = [&](i32 tile, const Sums<Cfg>& sums) {
    const i32 first = tile * BLOCK_ROWS + i32(threadIdx.x / WARPGROUP) * HALF_ROWS, own = threadIdx.x % WARPGROUP;
#pragma unroll
    for (int i = 0; i < Cfg::COLUMNS / 2; i++) {
      const i32 n = first + accumulator_row(own, i / 2), row = accumulator_column(own, i / 2) + i % 2;
      if (row < args.rows && n < args.n) store_rounded(args.out + i64(row) * args.n + n, sums[i]);
    }
  };
  Ring<P::STAGES> ring;
  const auto take = [&](i32 count, Sums<Cfg>& sums) { multiply<Cfg>(base, count, ring, sums); };
  work_along<MULTIPLIERS, Cfg::COLUMNS / 2>(args.line, base + P::TOLD, begin, end, take, write);
}
