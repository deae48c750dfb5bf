// The Walsh-Hadamard transform of runs of `WIDTH` values, a power of two.

#include "prelude.cuh"

struct Transform {
  Elem* x;
};

// x ← H x / sqrt(WIDTH), a block for each run: log2(WIDTH) passes of sums and differences.
template <class Cfg>
__device__ void hadamard(const Transform& args) {
  __shared__ Accum wide[Cfg::WIDTH];
  Elem* x = args.x + i64(blockIdx.x) * Cfg::WIDTH;
  for (int i = threadIdx.x; i < Cfg::WIDTH; i += THREADS) wide[i] = load(x + i);
  for (int half = 1; half < Cfg::WIDTH; half *= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < Cfg::WIDTH / 2; i += THREADS) {
      const int low = i / half * 2 * half + i % half;
      const Accum a = wide[low];
      const Accum b = wide[low + half];
      wide[low] = a + b;
      wide[low + half] = a - b;
    }
  }
  __syncthreads();
  const Accum scale = Accum(1) / root(Accum(Cfg::WIDTH));
  for (int i = threadIdx.x; i < Cfg::WIDTH; i += THREADS) store(x + i, wide[i] * scale);
}
