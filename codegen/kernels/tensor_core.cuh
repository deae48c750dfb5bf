// C[128, 256] = A[128, 64] B[64, 256] on Hopper's tensor cores, once for each way in which they take their operands and for each number of
// columns that one product has. A test of `wgmma.cuh`, `tile.cuh` and the copy engine: small integers come out exactly.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "wgmma.cuh"
#include "tile.cuh"

constexpr int M = 64;   // rows of a block: it is one warpgroup
constexpr int N = 256;  // columns
constexpr int K = 64;   // terms
constexpr int CHUNK = 64;  // columns of a tile that lies turned

struct TensorCore {
  const u8* a;  // [128, 64], row by row, of bf16 or e4m3
  const u8* b;  // [256, 64]: column by column
  f32* c;       // [128, 256]
};

// What a block multiplies, in tiles.
struct Tiles {
  u8 left[M * K * 2];
  u8 right[N * K * 2];
};
__device__ inline Tiles& shared_tiles() {
  __shared__ alignas(1024) Tiles tiles;
  return tiles;
}

// The same with operands that the copy engine fetches, of bf16: 64 rows of A, and B whole.
struct Fetched {
  TensorMap a;
  TensorMap b;
  f32* c;
  u64 unused[7];
};

template <int PART>
__device__ inline void write_results(f32* c, const f32 (&d)[N / PART][PART / 2]) {
#pragma unroll
  for (int part = 0; part < N / PART; part++) {
#pragma unroll
    for (int pair = 0; pair < PART / 4; pair++) {
      const int row = blockIdx.x * M + accumulator_row(threadIdx.x, pair);
      const int column = part * PART + accumulator_column(threadIdx.x, pair);
      c[row * N + column] = d[part][2 * pair];
      c[row * N + column + 1] = d[part][2 * pair + 1];
    }
  }
}

// Multiplies tiles of bf16 that stand in shared memory, `PART` columns at a time. `A_TURNED`: A stands there column by column. `B_TURNED`: B
// row by row. `A_HELD`: A stands in the registers `held`.
template <int PART, int A_TURNED, int B_TURNED, int A_HELD>
__device__ inline void multiply_tiles(f32* c, u32 left, u32 right, const u32 (&held)[K / 16][4]) {
  f32 d[N / PART][PART / 2] = {};
#pragma unroll
  for (int part = 0; part < N / PART; part++) settle(d[part]);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < K / 16; step++) {
    // Sixteen terms lie 32 bytes further along a row, or 16 rows further down
    const u32 along = step * 32;
    const u32 down = step * 16 * 128;
    const u64 of_a = descriptor(left + (A_TURNED ? down : along), CHUNK * K * 2, 1024, LAYOUT_128);
#pragma unroll
    for (int part = 0; part < N / PART; part++) {
      const u32 tile = right + part * PART * K * 2;
      const u64 of_b = descriptor(tile + (B_TURNED ? down : along), CHUNK * K * 2, 1024, LAYOUT_128);
      if constexpr (A_HELD) {
        wgmma_bf16<B_TURNED>(d[part], held[step], of_b, step > 0);
      } else {
        wgmma_bf16<A_TURNED, B_TURNED>(d[part], of_a, of_b, step > 0);
      }
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int part = 0; part < N / PART; part++) settle(d[part]);
  write_results<PART>(c, d);
}

template <int PART, int A_TURNED, int B_TURNED, int A_HELD>
__device__ inline void multiply_bf16(const TensorCore& args) {
  auto& [left, right] = shared_tiles();
  const u16* a = reinterpret_cast<const u16*>(args.a) + i64(blockIdx.x) * M * K;
  const u16* b = reinterpret_cast<const u16*>(args.b);
  for (int i = threadIdx.x; i < M * K; i += THREADS) {
    const int row = i / K;
    const int term = i % K;
    const u32 byte = (A_TURNED ? term * M + row : row * K + term) * 2;
    *reinterpret_cast<u16*>(left + swizzled_128(byte)) = a[i];
  }
  for (int i = threadIdx.x; i < N * K; i += THREADS) {
    const int column = i / K;
    const int term = i % K;
    // A turned tile is 64 columns wide, one behind the other
    const u32 tile = column / CHUNK * CHUNK * K * 2;
    const u32 inside = (B_TURNED ? term * CHUNK + column % CHUNK : column % CHUNK * K + term) * 2;
    *reinterpret_cast<u16*>(right + tile + swizzled_128(inside)) = b[i];
  }
  u32 held[K / 16][4] = {};
  if (A_HELD) {
#pragma unroll
    for (int i = 0; i < K / 16 * 4; i++) {
      const u16* at = a + left_row(threadIdx.x, i % 4) * K + i / 4 * 16 + left_column(threadIdx.x, i % 4);
      held[i / 4][i % 4] = at[0] | u32(at[1]) << 16;
    }
  }
  fence_proxy_async();
  __syncthreads();
  multiply_tiles<PART, A_TURNED, B_TURNED, A_HELD>(args.c, shared_address(left), shared_address(right), held);
}

template <class Cfg>
__device__ void tensor_core_rows(const TensorCore& args) {
  multiply_bf16<64, 0, 0, 0>(args);
}
template <class Cfg>
__device__ void tensor_core_rows_128(const TensorCore& args) {
  multiply_bf16<128, 0, 0, 0>(args);
}
template <class Cfg>
__device__ void tensor_core_rows_256(const TensorCore& args) {
  multiply_bf16<256, 0, 0, 0>(args);
}
template <class Cfg>
__device__ void tensor_core_b_turned(const TensorCore& args) {
  multiply_bf16<64, 0, 1, 0>(args);
}
template <class Cfg>
__device__ void tensor_core_b_turned_128(const TensorCore& args) {
  multiply_bf16<128, 0, 1, 0>(args);
}
template <class Cfg>
__device__ void tensor_core_b_turned_256(const TensorCore& args) {
  multiply_bf16<256, 0, 1, 0>(args);
}
template <class Cfg>
__device__ void tensor_core_a_turned(const TensorCore& args) {
  multiply_bf16<64, 1, 0, 0>(args);
}
template <class Cfg>
__device__ void tensor_core_a_held(const TensorCore& args) {
  multiply_bf16<64, 0, 1, 1>(args);
}
template <class Cfg>
__device__ void tensor_core_a_held_128(const TensorCore& args) {
  multiply_bf16<128, 0, 0, 1>(args);
}
template <class Cfg>
__device__ void tensor_core_a_held_256(const TensorCore& args) {
  multiply_bf16<256, 0, 1, 1>(args);
}

// With A row by row and B turned in tiles of `OF` columns, whose rows are 2 · `OF` bytes.
template <int OF>
__device__ inline void multiply_narrow(const TensorCore& args) {
  constexpr int PART = 128;
  constexpr u64 LAYOUT = OF == 32 ? LAYOUT_64 : LAYOUT_32;
  auto& [left, right] = shared_tiles();
  const u16* a = reinterpret_cast<const u16*>(args.a) + i64(blockIdx.x) * M * K;
  const u16* b = reinterpret_cast<const u16*>(args.b);
  const auto place = [](int row, int column, int rows) {
    const u32 inside = (row * OF + column % OF) * 2;
    return column / OF * (rows * OF * 2) + (OF == 32 ? swizzled_64(inside) : swizzled_32(inside));
  };
  for (int i = threadIdx.x; i < M * K; i += THREADS) *reinterpret_cast<u16*>(left + place(i / K, i % K, M)) = a[i];
  for (int i = threadIdx.x; i < N * K; i += THREADS) *reinterpret_cast<u16*>(right + place(i % K, i / K, K)) = b[i];
  fence_proxy_async();
  __syncthreads();
  f32 d[N / PART][PART / 2] = {};
#pragma unroll
  for (int part = 0; part < N / PART; part++) settle(d[part]);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < K / 16; step++) {
    const u32 along = step * 16 / OF * (M * OF * 2) + step * 16 % OF * 2;
    const u64 of_a = descriptor(shared_address(left) + along, 1, OF * 16, LAYOUT);
#pragma unroll
    for (int part = 0; part < N / PART; part++) {
      const u32 tiles = shared_address(right) + part * PART * K * 2;
      wgmma_bf16<0, 1>(d[part], of_a, descriptor(tiles + step * 16 * OF * 2, K * OF * 2, OF * 16, LAYOUT), step > 0);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int part = 0; part < N / PART; part++) settle(d[part]);
  write_results<PART>(args.c, d);
}

template <class Cfg>
__device__ void tensor_core_tiles_of_32(const TensorCore& args) {
  multiply_narrow<32>(args);
}
template <class Cfg>
__device__ void tensor_core_tiles_of_16(const TensorCore& args) {
  multiply_narrow<16>(args);
}

// With operands from the copy engine, which swizzles them on the way.
template <class Cfg>
__device__ void tensor_core_fetched(const Fetched& args) {
  auto& [left, right] = shared_tiles();
  __shared__ alignas(8) u64 arrived;
  const u32 barrier = shared_address(&arrived);
  if (threadIdx.x == 0) {
    prefetch_map(args.a);
    prefetch_map(args.b);
    barrier_init(barrier, 1);
    fence_barrier_init();
    barrier_expect(barrier, M * K * 2 + N * K * 2);
    copy_tile(shared_address(left), args.a, barrier, 0, blockIdx.x * M, evict_first());
    copy_tile(shared_address(right), args.b, barrier, 0, 0, evict_last());
  }
  __syncthreads();
  barrier_wait(barrier, 0);
  const u32 held[K / 16][4] = {};
  multiply_tiles<256, 0, 0, 0>(args.c, shared_address(left), shared_address(right), held);
}

// Of e4m3, whose rows are 64 bytes.
template <int PART>
__device__ inline void multiply_e4m3(const TensorCore& args) {
  auto& [left, right] = shared_tiles();
  const u8* a = args.a + i64(blockIdx.x) * M * K;
  for (int i = threadIdx.x; i < M * K; i += THREADS) left[swizzled_64(i)] = a[i];
  for (int i = threadIdx.x; i < N * K; i += THREADS) right[swizzled_64(i)] = args.b[i];
  fence_proxy_async();
  __syncthreads();
  f32 d[N / PART][PART / 2] = {};
#pragma unroll
  for (int part = 0; part < N / PART; part++) settle(d[part]);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < K / 32; step++) {
    const u64 of_a = descriptor(shared_address(left) + step * 32, 1, 512, LAYOUT_64);
#pragma unroll
    for (int part = 0; part < N / PART; part++) {
      const u32 tile = shared_address(right) + part * PART * K;
      wgmma_e4m3(d[part], of_a, descriptor(tile + step * 32, 1, 512, LAYOUT_64), step > 0);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int part = 0; part < N / PART; part++) settle(d[part]);
  write_results<PART>(args.c, d);
}

template <class Cfg>
__device__ void tensor_core_e4m3(const TensorCore& args) {
  multiply_e4m3<64>(args);
}
template <class Cfg>
__device__ void tensor_core_e4m3_128(const TensorCore& args) {
  multiply_e4m3<128>(args);
}
template <class Cfg>
__device__ void tensor_core_e4m3_256(const TensorCore& args) {
  multiply_e4m3<256>(args);
}
