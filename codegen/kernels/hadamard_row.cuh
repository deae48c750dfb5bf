// The Walsh-Hadamard transform of a run of `WIDTH` values, a power of two, by a block.

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
