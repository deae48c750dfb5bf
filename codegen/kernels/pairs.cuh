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

// How some neighbours of a row are turned.
struct Turn {
  const Accum* cos;  // [rows, pairs]
  const Accum* sin;
  i32 pairs;
  i32 start;  // the first value that is turned
  i32 half_in;
  i32 half_out;

  // cos θ and sin θ of a pair.
  __device__ RotaryPair angle(i64 row, int pair) const { return {cos[row * pairs + pair], sin[row * pairs + pair]}; }

  // A pair of a row, turned by its angle. `x`: the first value that is.
  __device__ RotaryPair of(const Elem* x, int pair, const RotaryPair& angle) const {
    const RotaryPair read = {load(x + first_of(half_in, pair)), load(x + second_of(half_in, pair, pairs))};
    return read.turned(angle.a, angle.b);
  }

  __device__ void put(Elem* x, int pair, const RotaryPair& turned) const {
    store(x + first_of(half_out, pair), turned.a);
    store(x + second_of(half_out, pair, pairs), turned.b);
  }
};
