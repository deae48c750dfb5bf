// The Walsh-Hadamard transform of a run of `WIDTH` values, a power of two, by a block or by a warp.

#include "prelude.cuh"

// x ← H x / sqrt(WIDTH): log2(WIDTH) passes of sums and differences. A thread reads and writes its own values of `x`, which may be in shared memory.
template <int WIDTH>
__device__ inline void hadamard_row(Elem* x) {
  __shared__ Accum wide[WIDTH];
  for (int i = threadIdx.x; i < WIDTH; i += THREADS) wide[i] = load(x + i);
  for (int half = 1; half < WIDTH; half *= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < WIDTH / 2; i += THREADS) {
      const int low = i / half * 2 * half + i % half;
      const Accum a = wide[low];
      const Accum b = wide[low + half];
      wide[low] = a + b;
      wide[low + half] = a - b;
    }
  }
  __syncthreads();
  const Accum scale = Accum(1) / root(Accum(WIDTH));
  for (int i = threadIdx.x; i < WIDTH; i += THREADS) store(x + i, wide[i] * scale);
}

// The same of a run whose values lie in a warp's registers, `N` neighbours to a lane: the same sums in the same order.
template <int WIDTH, int N>
__device__ inline void hadamard_lanes(Accum (&x)[N]) {
#pragma unroll
  for (int half = 1; half < N && half < WIDTH; half *= 2) {
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      const int low = i / half * 2 * half + i % half;
      const Accum a = x[low];
      const Accum b = x[low + half];
      x[low] = a + b;
      x[low + half] = a - b;
    }
  }
#pragma unroll
  for (int half = N; half < WIDTH; half *= 2) {
    const bool is_high = lane() & (half / N);
#pragma unroll
    for (int i = 0; i < N; i++) {
      const Accum other = __shfl_xor_sync(ALL_LANES, x[i], half / N);
      x[i] = is_high ? other - x[i] : x[i] + other;
    }
  }
  const Accum scale = Accum(1) / root(Accum(WIDTH));
#pragma unroll
  for (int i = 0; i < N; i++) x[i] = x[i] * scale;
}
