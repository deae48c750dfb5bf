// The gradient of one key, by a block that walks over a list of rows: products of the key and each row, and then rows times weights.

#include "prelude.cuh"

constexpr int MET = WARP;             // rows that a block meets at a time
constexpr int OWN_MET = MET / WARPS;  // rows of a warp: neighbours

// sums[i] += this lane's share of the product of the key and row `warp() · OWN_MET + i`.
__device__ inline void add_shares(const Elem* const (&lines)[MET], const Accum* key, int width, Accum (&sums)[OWN_MET]) {
  for (int column = lane(); column < width; column += WARP) {
    const Accum x = key[column];
#pragma unroll
    for (int i = 0; i < OWN_MET; i++) sums[i] += load(lines[warp() * OWN_MET + i] + column) * x;
  }
}

// The whole product of row `warp() · OWN_MET + lane()`, for the lanes that have one.
__device__ inline Accum own_sum(const Accum (&shares)[OWN_MET]) {
  Accum own = 0;
#pragma unroll
  for (int i = 0; i < OWN_MET; i++) {
    const Accum whole = warp_sum(shares[i]);
    if (lane() == i) own = whole;
  }
  return own;
}

// A part of a key's gradient: a thread's columns of it. Where weights are `SPARSE`, a row whose weight is 0 is not read.
template <int WIDTH, bool SPARSE = false>
struct Gradient {
  static constexpr int OWN_COLUMNS = (WIDTH + THREADS - 1) / THREADS;
  Accum sums[OWN_COLUMNS > 0 ? OWN_COLUMNS : 1] = {};

  // Adds lines times weights. What these lines give is added up by itself first: a list may be long, and a sum of sums rounds less.
  __device__ void add(const Elem* const (&lines)[MET], const Accum (&weights)[MET], int count) {
    Accum of_these[OWN_COLUMNS > 0 ? OWN_COLUMNS : 1] = {};
    for (int j = 0; j < count; j++) {
      const Elem* line = lines[j];
      const Accum weight = weights[j];
      if (SPARSE && weight == Accum(0)) continue;
#pragma unroll
      for (int i = 0; i < OWN_COLUMNS; i++) {
        const int column = threadIdx.x + i * THREADS;
        if (column < WIDTH) of_these[i] += weight * load(line + column);
      }
    }
#pragma unroll
    for (int i = 0; i < OWN_COLUMNS; i++) sums[i] += of_these[i];
  }

  __device__ void land(Accum* to) const {
    if (!to) return;
#pragma unroll
    for (int i = 0; i < OWN_COLUMNS; i++) {
      const int column = threadIdx.x + i * THREADS;
      if (column < WIDTH) to[column] += sums[i];
    }
  }

  __device__ void keep(Accum* to) const {
#pragma unroll
    for (int i = 0; i < OWN_COLUMNS; i++) {
      const int column = threadIdx.x + i * THREADS;
      if (column < WIDTH) to[column] = sums[i];
    }
  }

  __device__ void add_kept(const Accum* from) {
#pragma unroll
    for (int i = 0; i < OWN_COLUMNS; i++) {
      const int column = threadIdx.x + i * THREADS;
      if (column < WIDTH) sums[i] += from[column];
    }
  }
};
