// Norms of a row of `WIDTH` values, by a block. What they write may be in shared memory; nobody has waited for it then.

#include "fused.cuh"
#include "runs.cuh"

// y = γ · x / sqrt(mean(x²) + ε); γ may be null: all 1.
template <int WIDTH>
__device__ inline void rms_norm_row(const Elem* x, const Elem* gamma, Accum eps, Elem* y) {
  Accum squares = 0;
  for (int first = 4 * threadIdx.x; first < WIDTH; first += 4 * THREADS) {
    Accum four[4];
    load_run<WIDTH>(x, first, four);
    for (int i = 0; i < 4; i++) squares = fused(four[i], four[i], squares);
  }
  const Accum scale = Accum(1) / root(block_sum(squares) / WIDTH + eps);
  for (int first = 4 * threadIdx.x; first < WIDTH; first += 4 * THREADS) {
    Accum four[4];
    Accum weights[4] = {1, 1, 1, 1};
    load_run<WIDTH>(x, first, four);
    if (gamma) load_run<WIDTH>(gamma, first, weights);
    for (int i = 0; i < 4; i++) four[i] = four[i] * scale * weights[i];
    store_run<WIDTH>(y, first, four);
  }
}

// y = γ · (x − mean) / sqrt(var + ε) + β, var the biased variance
template <int WIDTH>
__device__ inline void layer_norm_row(const Elem* x, const Elem* gamma, const Elem* beta, Accum eps, Elem* y) {
  Accum sum = 0;
  for (int first = 4 * threadIdx.x; first < WIDTH; first += 4 * THREADS) {
    Accum four[4];
    load_run<WIDTH>(x, first, four);
    for (int i = 0; i < 4; i++) sum += four[i];
  }
  const Accum mean = block_sum(sum) / WIDTH;
  Accum squares = 0;
  for (int first = 4 * threadIdx.x; first < WIDTH; first += 4 * THREADS) {
    Accum four[4];
    load_run<WIDTH>(x, first, four);
    for (int i = 0; i < 4; i++) {
      const Accum off = first + i < WIDTH ? four[i] - mean : Accum(0);
      squares = fused(off, off, squares);
    }
  }
  const Accum scale = Accum(1) / root(block_sum(squares) / WIDTH + eps);
  for (int first = 4 * threadIdx.x; first < WIDTH; first += 4 * THREADS) {
    Accum four[4], weights[4], shifts[4];
    load_run<WIDTH>(x, first, four);
    load_run<WIDTH>(gamma, first, weights);
    load_run<WIDTH>(beta, first, shifts);
    for (int i = 0; i < 4; i++) four[i] = fused((four[i] - mean) * scale, weights[i], shifts[i]);
    store_run<WIDTH>(y, first, four);
  }
}
