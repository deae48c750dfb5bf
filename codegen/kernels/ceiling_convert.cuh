// How many numbers of e4m3 a multiprocessor turns to f16.

#include "prelude.cuh"
#include "convert.cuh"

constexpr int CHAINS = 16;  // conversions of a thread that do not wait for each other
constexpr int UNROLLED = 8;

struct Converting {
  i64* cycles;  // one of each block
  u32* sums;    // one of each thread
  u32 rounds;   // each of `UNROLLED` · `CHAINS` conversions of a pair
  u32 unused;
};

template <class Cfg>
__device__ void convert_e4m3(const Converting& args) {
  u32 x[CHAINS];
#pragma unroll
  for (int i = 0; i < CHAINS; i++) x[i] = (u32(thread_of_grid()) * CHAINS + i) * 0x9e3779b9u >> 8;
  __syncthreads();
  const i64 start = clock64();
#pragma unroll 1
  for (u32 round = 0; round < args.rounds; round++) {
#pragma unroll
    for (int i = 0; i < UNROLLED * CHAINS; i++) x[i % CHAINS] = widen_e4m3(u16(x[i % CHAINS]));
  }
  __syncthreads();
  if (threadIdx.x == 0) args.cycles[blockIdx.x] = clock64() - start;
  u32 sum = 0;
#pragma unroll
  for (int i = 0; i < CHAINS; i++) sum ^= x[i];
  args.sums[thread_of_grid()] = sum;
}
