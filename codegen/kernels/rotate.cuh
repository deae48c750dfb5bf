// Rotary embedding in place: `2 · PAIRS` values of each head, from value `START` on.

#include "prelude.cuh"

struct Turning {
  Elem* x;           // [rows, heads, WIDTH]
  const Accum* cos;  // [rows, PAIRS]
  const Accum* sin;
  i64 heads;
  i64 backward;
};

// Where the values of a pair stand among the rotated ones.
template <class Cfg, int HALF>
__device__ inline int first_of(int pair) {
  return HALF ? pair : 2 * pair;
}
template <class Cfg, int HALF>
__device__ inline int second_of(int pair) {
  return HALF ? pair + Cfg::PAIRS : 2 * pair + 1;
}

// (a, b) → (a cos θ − b sin θ, a sin θ + b cos θ), a block for each row and head. `-θ` if backward.
template <class Cfg>
__device__ void rotate(const Turning& args) {
  __shared__ Elem turned[2 * Cfg::PAIRS];
  const i64 row = blockIdx.x / args.heads;
  Elem* x = args.x + i64(blockIdx.x) * Cfg::WIDTH + Cfg::START;
  for (int pair = threadIdx.x; pair < Cfg::PAIRS; pair += THREADS) {
    const Accum cos = args.cos[row * Cfg::PAIRS + pair];
    const Accum forward = args.sin[row * Cfg::PAIRS + pair];
    const Accum sin = args.backward ? -forward : forward;
    const Accum a = load(x + first_of<Cfg, Cfg::HALF_IN>(pair));
    const Accum b = load(x + second_of<Cfg, Cfg::HALF_IN>(pair));
    store(turned + first_of<Cfg, Cfg::HALF_OUT>(pair), a * cos - b * sin);
    store(turned + second_of<Cfg, Cfg::HALF_OUT>(pair), a * sin + b * cos);
  }
  // Pairs may be written where other pairs are still to be read
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * Cfg::PAIRS; i += THREADS) x[i] = turned[i];
}
