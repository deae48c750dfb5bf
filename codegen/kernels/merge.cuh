// Attention over several sets of keys as one, and sinks. A block for a row and head.

#include "prelude.cuh"

// What each side of a merge is multiplied by, and the joint log-sum-exp.
struct Shares {
  Accum own;
  Accum other;
  Accum lse;
};

// Of two that are not both minus infinity.
__device__ inline Shares shares_of(Accum own, Accum other) {
  if (own == minus_infinity()) return {0, 1, other};
  const Accum most = own > other ? own : other;
  const Accum a = exponential(own - most);
  const Accum b = exponential(other - most);
  return {a / (a + b), b / (a + b), most + logarithm(a + b)};
}

struct Merging {
  Accum* out;  // [lines, width]
  Accum* lse;
  Accum* max_logit;
  const Accum* other_out;
  const Accum* other_lse;
  const Accum* other_max_logit;
  i64 width;
};

template <class Cfg>
__device__ void merge(const Merging& args) {
  const i64 line = blockIdx.x;
  const Accum own = args.lse[line];
  const Accum other = args.other_lse[line];
  if (other == minus_infinity()) return;
  const Shares shares = shares_of(own, other);
  Accum* out = args.out + line * args.width;
  const Accum* added = args.other_out + line * args.width;
  for (i64 i = threadIdx.x; i < args.width; i += THREADS) {
    out[i] = own == minus_infinity() ? added[i] : out[i] * shares.own + added[i] * shares.other;
  }
  // Everybody has read what is written here
  __syncthreads();
  if (threadIdx.x > 0) return;
  args.lse[line] = shares.lse;
  args.max_logit[line] = larger(args.max_logit[line], args.other_max_logit[line]);
}

struct Sinking {
  Accum* out;  // [lines, width]
  Accum* lse;
  const Accum* sinks;  // one for each head; null: zeros
  i64 heads;
  i64 width;
};

// Multiplies by what a sink leaves, and adds the sink to the log-sum-exp.
template <class Cfg>
__device__ void sink(const Sinking& args) {
  const i64 line = blockIdx.x;
  const Accum other = args.sinks ? args.sinks[line % args.heads] : Accum(0);
  if (other == minus_infinity()) return;
  const Shares shares = shares_of(args.lse[line], other);
  for (i64 i = threadIdx.x; i < args.width; i += THREADS) args.out[line * args.width + i] *= shares.own;
  __syncthreads();
  if (threadIdx.x == 0) args.lse[line] = shares.lse;
}

struct Joining {
  const Accum* parts;  // [splits, lines, width]
  const Accum* part_lse;
  const Accum* part_max_logit;
  Accum* out;  // [lines, width]
  Accum* lse;
  Accum* max_logit;
  i64 splits;  // THREADS at most
  i64 lines;
  i64 width;
};

// The parts that keys were split into as one, in their order. A NaN in any of them shows.
template <class Cfg>
__device__ void merge_splits(const Joining& args) {
  __shared__ Accum weights[THREADS];
  const i64 line = blockIdx.x;
  const bool has_part = threadIdx.x < args.splits;
  const i64 at = threadIdx.x * args.lines + line;
  const Accum mine = has_part ? args.part_lse[at] : minus_infinity();
  weights[threadIdx.x] = mine;
  __syncthreads();
  Accum most = minus_infinity();
  for (int i = 0; i < args.splits; i++) most = most >= weights[i] || is_nan(most) ? most : weights[i];
  __syncthreads();
  // An empty part weighs nothing, and neither does any where all are empty
  weights[threadIdx.x] = mine == minus_infinity() ? Accum(0) : exponential(mine - most);
  __syncthreads();
  Accum sum = 0;
  for (int i = 0; i < args.splits; i++) sum += weights[i];
  const Accum inverse = Accum(1) / sum;
  for (i64 column = threadIdx.x; column < args.width; column += THREADS) {
    Accum value = 0;
    for (i64 i = 0; i < args.splits; i++) value += weights[i] * args.parts[(i * args.lines + line) * args.width + column];
    args.out[line * args.width + column] = most == minus_infinity() ? Accum(0) : value * inverse;
  }
  if (threadIdx.x > 0) return;
  args.lse[line] = most == minus_infinity() ? most : most + logarithm(sum);
  Accum top = minus_infinity();
  for (i64 i = 0; i < args.splits; i++) {
    const Accum part = args.part_max_logit[i * args.lines + line];
    top = top >= part || is_nan(top) ? top : part;
  }
  args.max_logit[line] = top;
}
