// How fast a multiprocessor's tensor cores multiply 64 rows by `COLUMNS` columns, by where A stands and by what the numbers are: two
// warpgroups, each with rows of its own, and nothing to do but to multiply the same random tiles.

#include "prelude.cuh"
#include "ptx.cuh"
#include "wgmma.cuh"
#include "tile.cuh"

constexpr int GROUPS = 2;
constexpr int GROUP = 128;       // threads of a warpgroup
constexpr u32 ROW_BYTES = 128;   // of a tile, four products' terms
constexpr int STEPS = 4;
constexpr u32 LEFT_BYTES = 64 * ROW_BYTES;

struct Multiplying {
  i64* cycles;  // one of each block
  f32* sums;    // one of each thread
  u32 rounds;   // each of `STEPS` products of each warpgroup
  u32 unused;
};

enum class Factors { Shared, Held, E4m3 };

__device__ inline u32 random_word(u32 i) {
  u32 x = (i ^ i >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// Random numbers whose sums stay small: two of bf16 between 2^-7 and 2^-3, or four of e4m3 between 2^-3 and 2.
template <Factors FACTORS>
__device__ inline u32 random_numbers(u32 i) {
  return FACTORS == Factors::E4m3 ? (random_word(i) & 0x9f9f9f9fu) | 0x20202020u : (random_word(i) & 0x81ff81ffu) | 0x3c003c00u;
}

template <int COLUMNS, Factors FACTORS>
__device__ inline void multiply_again(const Multiplying& args) {
  __shared__ alignas(1024) u8 tiles[GROUPS * LEFT_BYTES + COLUMNS * ROW_BYTES];
  for (u32 i = threadIdx.x; i < sizeof(tiles) / 4; i += GROUPS * GROUP) {
    reinterpret_cast<u32*>(tiles)[i] = random_numbers<FACTORS>(i);
  }
  u32 held[STEPS][4];
#pragma unroll
  for (int i = 0; i < STEPS * 4; i++) held[i / 4][i % 4] = random_numbers<FACTORS>(i * GROUPS * GROUP + threadIdx.x);
  fence_proxy_async();
  __syncthreads();
  const u32 left = shared_address(tiles) + threadIdx.x / GROUP * LEFT_BYTES;
  const u32 right = shared_address(tiles) + GROUPS * LEFT_BYTES;
  const u64 of_a = descriptor(left, 1, 1024, LAYOUT_128);
  const u64 of_b = descriptor(right, 1, 1024, LAYOUT_128);
  f32 d[COLUMNS / 2] = {};
  settle(d);
  const i64 start = clock64();
#pragma unroll 1
  for (u32 round = 0; round < args.rounds; round++) {
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      // Descriptors count in 16 bytes
      if constexpr (FACTORS == Factors::Shared) wgmma_bf16<0, 0>(d, of_a + 2 * step, of_b + 2 * step, true);
      if constexpr (FACTORS == Factors::Held) wgmma_bf16<0>(d, held[step], of_b + 2 * step, true);
      if constexpr (FACTORS == Factors::E4m3) wgmma_e4m3(d, of_a + 2 * step, of_b + 2 * step, true);
    }
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  settle(d);
  __syncthreads();
  if (threadIdx.x == 0) args.cycles[blockIdx.x] = clock64() - start;
  f32 sum = 0;
#pragma unroll
  for (int i = 0; i < COLUMNS / 2; i++) sum += d[i];
  args.sums[blockIdx.x * GROUPS * GROUP + threadIdx.x] = sum;
}

template <class Cfg>
__device__ void multiply_shared(const Multiplying& args) {
  multiply_again<Cfg::COLUMNS, Factors::Shared>(args);
}
template <class Cfg>
__device__ void multiply_held(const Multiplying& args) {
  multiply_again<Cfg::COLUMNS, Factors::Held>(args);
}
template <class Cfg>
__device__ void multiply_e4m3(const Multiplying& args) {
  multiply_again<Cfg::COLUMNS, Factors::E4m3>(args);
}
