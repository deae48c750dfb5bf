// Products of few rows with a weight: `out[row, n] = Σ_k x[row, k] · w[n, k]`. What they take is reading the weight.
//
// The weight's rows are a product's rows, 64 to a tile, and rows of x its columns. Tiles lie on a line, each as long as its pieces of k, and blocks have
// equal lengths of it: where a tile is shared, the last of its blocks to come adds what the others have left, in order. Where k is short, blocks have
// whole tiles, and nothing is exchanged.
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

struct Skinny {
  TensorMap w, x;  // [k / 64, n, 64] and [k / 64, rows, 64]
  bf16* out;       // [rows, n]
  f32* parts;      // [2 * blocks, COLUMNS * 64]
  u32* arrived;    // [tiles]: blocks of a tile that have come; the last one leaves 0 behind
  i32 rows, n;
  i32 pieces;      // of a tile
  i32 tiles;
  i32 whole;       // whether blocks have whole tiles; then there are neither parts nor counters
  i32 unused[5];
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

// A place on the line.
struct Spot {
  i32 tile, piece;
  __device__ Spot(i32 unit, i32 pieces) : tile(unit / pieces), piece(unit % pieces) {}
  __device__ void next(i32 pieces) {
    if (++piece < pieces) return;
    piece = 0;
    tile++;
  }
};

// Where on the line a block begins.
__device__ inline i32 beginning(const Skinny& args, i32 block) {
  const i32 blocks = i32(gridDim.x);
  if (args.whole) return i32(i64(args.tiles) * block / blocks) * args.pieces;
  return i32(i64(args.tiles) * args.pieces * block / blocks);
}

// The block that has a place. No more blocks share tiles than there are pieces: each of them has some.
__device__ inline i32 block_of(const Skinny& args, i32 unit) {
  i32 block = i32(i64(unit) * i32(gridDim.x) / (i64(args.tiles) * args.pieces));
  while (beginning(args, block + 1) <= unit) block++;
  while (beginning(args, block) > unit) block--;
  return block;
}

// Asks for all of a block's stages. A thread comes here.
template <class Cfg>
__device__ inline void bring(const Skinny& args, u32 base, i32 begin, i32 end) {
  using P = Place<Cfg>;
  const i32 first = min(begin + P::STAGES, end);
  Spot spot(begin, args.pieces);
  for (i32 unit = begin; unit < first; unit++, spot.next(args.pieces)) {
    const u32 stage = unit - begin, barrier = base + P::FULL + stage * 8;
    barrier_expect(barrier, P::STAGE);
    copy_tile_3d(base + stage * P::STAGE, args.w, barrier, 0, spot.tile * 64, spot.piece * P::STEPS);
  }
  wait_for_kernel_before();
  spot = Spot(begin, args.pieces);
  for (i32 unit = begin; unit < first; unit++, spot.next(args.pieces)) {
    const u32 stage = unit - begin;
    copy_tile_3d(base + stage * P::STAGE + P::W_BYTES, args.x, base + P::FULL + stage * 8, 0, 0, spot.piece * P::STEPS);
  }
  Ring<P::STAGES> ring;
  for (i32 unit = first; unit < end; unit++, spot.next(args.pieces)) {
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

// Leaves what a block has of a tile. Whether it was the last of the tile's blocks: then it has the sums of all.
template <class Cfg>
__device__ inline bool join(const Skinny& args, u32 base, i32 tile, bool goes_on, Sums<Cfg>& sums) {
  constexpr int SIZE = 64 * Cfg::COLUMNS;
  using P = Place<Cfg>;
  f32* to = args.parts + i64(2 * i32(blockIdx.x) + goes_on) * SIZE + threadIdx.x;
#pragma unroll
  for (int i = 0; i < Cfg::COLUMNS / 2; i++) to[i * WARPGROUP] = sums[i];
  __threadfence();
  named_wait(1, WARPGROUP);
  if (threadIdx.x == 0) {
    const i32 first = block_of(args, tile * args.pieces), last = block_of(args, (tile + 1) * args.pieces - 1);
    const bool is_last = atomicAdd(args.arrived + tile, 1u) == u32(last - first);
    if (is_last) args.arrived[tile] = 0;
    __threadfence();
    share(base + P::TOLD, Four{is_last, first, last, 0});
  }
  named_wait(1, WARPGROUP);
  const Four told = shared_four(base + P::TOLD);
  named_wait(1, WARPGROUP);
  if (!told.x) return false;
  for (i32 block = told.y; block <= told.z; block++) {
    // A tile is the first of those of all its blocks but one, whose last it is
    const f32* from = args.parts + i64(2 * block + (block != told.y)) * SIZE + threadIdx.x;
#pragma unroll
    for (int i = 0; i < Cfg::COLUMNS / 2; i++) sums[i] = (block == told.y ? 0.0f : sums[i]) + __ldcg(from + i * WARPGROUP);
  }
  return true;
}

template <class Cfg>
__device__ void skinny(const Skinny& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  const i32 begin = beginning(args, blockIdx.x), end = beginning(args, blockIdx.x + 1);
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
  Ring<P::STAGES> ring;
  Spot spot(begin, args.pieces);
  for (i32 unit = begin; unit < end;) {
    const i32 tile = spot.tile, count = min(end - unit, args.pieces - spot.piece);
    const bool goes_on = spot.piece != 0;
    Sums<Cfg> sums;
    multiply<Cfg>(base, count, ring, sums);
    unit += count;
    spot.piece += count - 1;
    spot.next(args.pieces);
    if (count < args.pieces && !join<Cfg>(args, base, tile, goes_on, sums)) continue;
#pragma unroll
    for (int i = 0; i < Cfg::COLUMNS / 2; i++) {
      const i32 n = tile * 64 + accumulator_row(threadIdx.x, i / 2), row = accumulator_column(threadIdx.x, i / 2) + i % 2;
      if (row < args.rows && n < args.n) store_rounded(args.out + i64(row) * args.n + n, sums[i]);
    }
  }
}
