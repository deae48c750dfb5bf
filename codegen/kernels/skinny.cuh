// Products of few rows with a weight: `out[row, n] = Σ_k x[row, k] · w[n, k]`. What they take is reading the weight.
//
// The weight's rows are a product's rows, 64 to a tile, and rows of x its columns. Blocks share tiles, or have whole ones, as `line.cuh` says.
//
// A kernel that is queued early begins while the one before ends: then it asks for weights, which no kernel before it writes, and waits before it asks for
// rows. Nothing is written before rows have come.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "shared.cuh"
#include "tile.cuh"
#include "wgmma.cuh"
#include "convert.cuh"
#include "steps.cuh"
#include "line.cuh"

struct Skinny {
  TensorMap w, x;  // [k / 64, n, 64] and [k / 64, rows, 64]
  bf16* out;       // [rows, n]
  Line line;
  i32 rows, n;
  i32 unused[4];
};

template <class Cfg>
struct Place {
  static constexpr int STEPS = Cfg::STEPS;  // of 64 of k, in a piece
  static constexpr int W_BYTES = TILE_BYTES * STEPS;
  static constexpr int X_BYTES = Cfg::COLUMNS * 128 * STEPS;
  static constexpr int STAGE = W_BYTES + X_BYTES;
  static constexpr int STAGES = (200 << 10) / STAGE;
  static constexpr int FULL = STAGES * STAGE;
  static constexpr int EMPTY = FULL + STAGES * 8;
  static constexpr int TOLD = EMPTY + STAGES * 8;
};

// Asks for all of a block's stages. A thread comes here.
template <class Cfg>
__device__ inline void bring(const Skinny& args, u32 base, i32 begin, i32 end) {
  using P = Place<Cfg>;
  const i32 first = min(begin + P::STAGES, end);
  Spot spot(begin, args.line.pieces);
  for (i32 unit = begin; unit < first; unit++, spot.next(args.line.pieces)) {
    const u32 stage = unit - begin, barrier = base + P::FULL + stage * 8;
    barrier_expect(barrier, P::STAGE);
    copy_tile_3d(base + stage * P::STAGE, args.w, barrier, 0, spot.tile * 64, spot.piece * P::STEPS);
  }
  wait_for_kernel_before();
  spot = Spot(begin, args.line.pieces);
  for (i32 unit = begin; unit < first; unit++, spot.next(args.line.pieces)) {
    const u32 stage = unit - begin;
    copy_tile_3d(base + stage * P::STAGE + P::W_BYTES, args.x, base + P::FULL + stage * 8, 0, 0, spot.piece * P::STEPS);
  }
  Ring<P::STAGES> ring;
  for (i32 unit = first; unit < end; unit++, spot.next(args.line.pieces)) {
    const u32 barrier = base + P::FULL + ring.stage * 8, to = base + ring.stage * P::STAGE;
    barrier_wait(base + P::EMPTY + ring.stage * 8, ring.parity);
    barrier_expect(barrier, P::STAGE);
    copy_tile_3d(to, args.w, barrier, 0, spot.tile * 64, spot.piece * P::STEPS);
    copy_tile_3d(to + P::W_BYTES, args.x, barrier, 0, 0, spot.piece * P::STEPS);
    ring.next();
  }
}

template <class Cfg>
using Sums = f32[Cfg::COLUMNS / 2];

// Multiplies so many pieces.
template <class Cfg>
__device__ inline void multiply(u32 base, i32 count, Ring<Place<Cfg>::STAGES>& ring, Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  for (i32 i = 0; i < count; i++) {
    barrier_wait(base + P::FULL + ring.stage * 8, ring.parity);
    const u32 w = place_of(base + ring.stage * P::STAGE), x = place_of(base + ring.stage * P::STAGE + P::W_BYTES);
    settle(sums);
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < P::STEPS; s++) {
#pragma unroll
      for (int k = 0; k < 4; k++) {
        wgmma_bf16<0, 0>(sums, rows_at(w + s * (TILE_BYTES / 16) + k * 2), rows_at(x + s * (Cfg::COLUMNS * 8) + k * 2), i > 0 || s + k > 0);
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
    settle(sums);
    arrive_once_a_warp(base + P::EMPTY + ring.stage * 8);
    ring.next();
  }
}

template <class Cfg>
__device__ void skinny(const Skinny& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  const i32 begin = beginning(args.line, blockIdx.x), end = beginning(args.line, blockIdx.x + 1);
  if (threadIdx.x == 0) {
    for (int i = 0; i < P::STAGES; i++) {
      barrier_init(base + P::FULL + i * 8, 1);
      barrier_init(base + P::EMPTY + i * 8, WARPGROUP / WARP);
    }
    fence_barrier_init();
  }
  __syncthreads();
  start_kernel_after();
  if (threadIdx.x >= WARPGROUP) {
    if (threadIdx.x == WARPGROUP) bring<Cfg>(args, base, begin, end);
    return;
  }
  const auto write = [&](i32 tile, const Sums<Cfg>& sums) {
#pragma unroll
    for (int i = 0; i < Cfg::COLUMNS / 2; i++) {
      const i32 n = tile * 64 + accumulator_row(threadIdx.x, i / 2), row = accumulator_column(threadIdx.x, i / 2) + i % 2;
      if (row < args.rows && n < args.n) store_rounded(args.out + i64(row) * args.n + n, sums[i]);
    }
  };
  Ring<P::STAGES> ring;
  const auto take = [&](i32 count, Sums<Cfg>& sums) { multiply<Cfg>(base, count, ring, sums); };
  work_along<WARPGROUP, Cfg::COLUMNS / 2>(args.line, base + P::TOLD, begin, end, take, write);
}
