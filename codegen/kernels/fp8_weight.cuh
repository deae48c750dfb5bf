// A weight in blocks of codes (`fp8_blocks.cuh`) as numbers, row by row: `code · scale` in f32, rounded once. A block of threads takes a block of the weight.

#include "prelude.cuh"
#include "convert.cuh"
#include "copies.cuh"
#include "runs.cuh"
#include "fp8_blocks.cuh"

struct WidenWeight {
  const u8* codes;    // [ceil(rows / 128), ceil(columns / 128)] blocks
  const f32* scales;  // [blocks, 4]
  Elem* out;          // [rows, columns]
  i64 rows, columns;
};

// Writes eight neighbours of a row, by as few instructions as there are: a struct's store the compiler may cut into its members'.
template <class T>
__device__ inline void store_eight(T* row, int first, const Accum (&x)[8]) {
  store_run<BLOCK_COLUMNS>(row, first, x);
}
__device__ inline void store_eight(bf16* row, int first, const Accum (&x)[8]) {
  if (!lies_as_run<8>(row + first)) return store_run<BLOCK_COLUMNS>(row, first, x);
  u32 pairs[4];
#pragma unroll
  for (int i = 0; i < 4; i++) pairs[i] = pack_bf16(f32(x[2 * i]), f32(x[2 * i + 1]));
  store_quad(reinterpret_cast<Quad*>(row + first), pairs);
}

template <class Cfg>
__device__ void widen_fp8_weight(const WidenWeight& args) {
  // Lanes' words are gathered by way of shared memory: memory is read and written in long runs
  __shared__ Quad codes[BLOCK_CODES / 16];
  const Quad* from = reinterpret_cast<const Quad*>(args.codes + i64(blockIdx.x) * BLOCK_CODES);
  for (int i = threadIdx.x; i < BLOCK_CODES / 16; i += THREADS) codes[i] = from[i];
  __syncthreads();
  constexpr int RUN = 16, HALF = RUN / 2, RUNS = BLOCK_COLUMNS / RUN;  // columns of a product: they are one word of each of four lanes
  const i64 across = (args.columns + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
  const i64 first_row = i64(blockIdx.x) / across * BLOCK_ROWS, first_column = i64(blockIdx.x) % across * BLOCK_COLUMNS;
  for (int i = threadIdx.x; i < BLOCK_ROWS * RUNS; i += THREADS) {
    const int row = i / RUNS, column = i % RUNS * RUN, at = code_at(row, column);
    if (first_row + row >= args.rows) return;
    const f32 scale = args.scales[i64(blockIdx.x) * 4 + row / HALF_ROWS];
    Accum low[HALF], high[HALF];
#pragma unroll
    for (int lane = 0; lane < 4; lane++) {
      const u32 word = codes[at / 16 + lane].words[at / 4 % 4];
      low[2 * lane] = widen_code(word & 255) * scale;
      high[2 * lane] = widen_code(word >> 8 & 255) * scale;
      low[2 * lane + 1] = widen_code(word >> 16 & 255) * scale;
      high[2 * lane + 1] = widen_code(word >> 24) * scale;
    }
    Elem* out = args.out + (first_row + row) * args.columns + first_column;
    if (first_column + column + RUN <= args.columns) {
      store_eight(out, column, low);
      store_eight(out, column + HALF, high);
    } else {
#pragma unroll
      for (int k = 0; k < HALF; k++) {
        if (first_column + column + k < args.columns) store(out + column + k, low[k]);
        if (first_column + column + HALF + k < args.columns) store(out + column + HALF + k, high[k]);
      }
    }
  }
}
