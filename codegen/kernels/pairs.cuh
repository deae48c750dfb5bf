// Pairs of values that rotary embeddings turn.

#include "fused.cuh"

// Where the values of a pair stand among the `2 · pairs` rotated ones: `half` says that they are half of these apart, and not neighbours.
__device__ inline int first_of(bool half, int pair) { return half ? pair : 2 * pair; }
__device__ inline int second_of(bool half, int pair, int pairs) { return half ? pair + pairs : 2 * pair + 1; }

struct RotaryPair {
  Accum a, b;

  // (a, b) → (a cos θ − b sin θ, a sin θ + b cos θ), one product of each rounded: wherever it stands, the same bits.
  __device__ RotaryPair turned(Accum cos, Accum sin) const { return {fused(a, cos, -(b * sin)), fused(a, sin, b * cos)}; }
};
