// Products of few rows of heads with a matrix of each head's own: `out[row, head, n] = Σ_k x[row, head, k] · M_head[k, n]`. What absorbed attention makes its
// queries and values by: the matrices are parts of one weight.
//
// A block has a head, or a part of its n: all of that fits in shared memory. As in `skinny.cuh` n are a product's rows, 64 to a tile, and rows of x its columns,
// and the weight is asked for before the kernel before has ended.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "shared.cuh"
#include "tile.cuh"
#include "wgmma.cuh"
#include "convert.cuh"
#include "steps.cuh"

struct SkinnyHeads {
  TensorMap w;  // where a matrix's k lie side by side: [k / 64, rows, 64], 64 rows at a time; where its n do: [rows, n], 64 of n at a time
  TensorMap x;  // [columns / 64, rows, 64]
  bf16* out;    // [rows, heads, n]
  i32 rows, heads, n;
  i32 head_rows;  // of the weight from head to head
  i32 x_step;     // columns of x from head to head, in 64s
  i32 parts;      // of a head, each a block's
  i32 unused[8];
};

template <class Cfg>
struct Place {
  static constexpr int CHUNKS = Cfg::K / 64;
  static constexpr int X_BYTES = Cfg::COLUMNS * 128 * CHUNKS;
  static constexpr int W_BYTES = TILE_BYTES * CHUNKS;  // of a tile
  static constexpr int MOST = ((208 << 10) - X_BYTES) / W_BYTES;
  static constexpr int FULL = X_BYTES + MOST * W_BYTES;
  static constexpr int ROWS = FULL + MOST * 8;  // a barrier: rows of x have come
};

template <class Cfg>
__device__ void skinny_heads(const SkinnyHeads& args) {
  using P = Place<Cfg>;
  start_kernel_after();
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  const i32 head = i32(blockIdx.x) / args.parts, tiles = args.n / 64 / args.parts;
  const i32 first = i32(blockIdx.x) % args.parts * tiles;
  if (threadIdx.x == 0) {
    for (int i = 0; i < tiles; i++) barrier_init(base + P::FULL + i * 8, 1);
    barrier_init(base + P::ROWS, 1);
    fence_barrier_init();
    const i32 row = head * args.head_rows;
    for (int i = 0; i < tiles; i++) {
      const u32 barrier = base + P::FULL + i * 8, to = base + P::X_BYTES + i * P::W_BYTES;
      barrier_expect(barrier, P::W_BYTES);
      if constexpr (Cfg::TURNED) copy_tile(to, args.w, barrier, (first + i) * 64, row);
      else copy_tile_3d(to, args.w, barrier, 0, row + (first + i) * 64, 0);
    }
    wait_for_kernel_before();
    barrier_expect(base + P::ROWS, P::X_BYTES);
    copy_tile_3d(base, args.x, base + P::ROWS, 0, 0, head * args.x_step);
  }
  __syncthreads();
  barrier_wait(base + P::ROWS, 0);
  const u32 x = place_of(base);
  for (i32 i = threadIdx.x / WARPGROUP; i < tiles; i += 2) {
    f32 sums[Cfg::COLUMNS / 2];
    barrier_wait(base + P::FULL + i * 8, 0);
    const u32 w = place_of(base + P::X_BYTES + i * P::W_BYTES);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < Cfg::K / 16; k++) {
      const u64 right = rows_at(x + k / 4 * (Cfg::COLUMNS * 8) + k % 4 * 2);
      if constexpr (Cfg::TURNED) wgmma_bf16<1, 0>(sums, columns_at(w + k * 128), right, k > 0);
      else wgmma_bf16<0, 0>(sums, rows_at(w + k / 4 * (TILE_BYTES / 16) + k % 4 * 2), right, k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    settle(sums);
    const u32 own = own_number();
#pragma unroll
    for (int j = 0; j < Cfg::COLUMNS / 2; j++) {
      const i32 n = (first + i) * 64 + accumulator_row(own, j / 2), row = accumulator_column(own, j / 2) + j % 2;
      if (row < args.rows) store_rounded(args.out + (i64(row) * args.heads + head) * args.n + n, sums[j]);
    }
  }
}
