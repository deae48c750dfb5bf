// What an indexer learns from attention: targets, the loss of each query, and the gradients of its scores.
//
// Targets and scores are `[groups, per_group, width]` from the first group on, column 0 the first key that the group sees, or the first
// one that the query chose.

#include "sights.cuh"

// Which queries a launch is for: a block, or a column of blocks, for each.
struct Some {
  i64 width;
  i64 first_group;
  i64 per_group;
};

struct Target {
  Window<const Elem> q;
  Window<const Elem> q_rope;
  Window<const Elem> k;
  Window<const Elem> k_rope;
  Sights sights;
  Some some;
  const Accum* lse;   // [rows, heads]
  const Accum* bias;  // null, or [bias_heads, bias_queries, bias_keys]
  Accum* out;
  i64 bias_heads;
  i64 bias_queries;
  i64 bias_keys;
  f64 scale;
  f64 cap;  // 0: none
};

// This lane's share of the product of a query's head and a key.
__device__ inline Accum share_of_product(const Window<const Elem>& q, const Window<const Elem>& k, i64 row, i64 head, i64 key_row) {
  if (q.width == 0) return Accum(0);
  const Elem* of_q = q.at(row, head);
  const Elem* of_k = k.at(key_row, head * k.heads / q.heads);
  Accum sum = 0;
  for (int i = lane(); i < q.width; i += WARP) sum += load(of_q + i) * load(of_k + i);
  return sum;
}

// `Σ_h e^(logit - lse)`: a warp for each key. 0 where the query does not see it.
template <class Cfg>
__device__ void target(const Target& args) {
  const Group group = args.sights.groups[args.some.first_group + blockIdx.x / args.some.per_group];
  const i64 own = blockIdx.x % args.some.per_group;
  if (own >= group.count) return;
  const i64 row = group.row + own;
  const Query query = args.sights.queries[row];
  const i64 end = args.sights.end_column(group, query);
  const i64 step = i64(gridDim.y) * WARPS;
  for (i64 column = args.sights.first_column(group, query) + i64(blockIdx.y) * WARPS + warp(); column < end; column += step) {
    const i64 key = args.sights.key_of(group, row, group.begin, column);
    Accum sum = 0;
    i64 key_row = -1;
    if (key >= 0 && args.sights.sees(row, key)) {
      key_row = args.sights.row_of(group, key);
      if (!IN_RANGE(key_row, args.sights.key_rows)) key_row = -1;
    }
    for (i64 head = 0; key_row >= 0 && head < args.q.heads; head++) {
      Accum logit = share_of_product(args.q, args.k, row, head, key_row);
      logit += share_of_product(args.q_rope, args.k_rope, row, head, key_row);
      logit = warp_sum(logit) * Accum(args.scale);
      if (args.cap > 0) logit = Accum(args.cap) * tangent(logit * (Accum(1) / Accum(args.cap)));
      if (args.bias) {
        const i64 line = (args.bias_heads == 1 ? 0 : head) * args.bias_queries + group.first_index + own;
        logit += args.bias[line * args.bias_keys + group.first_position + key];
      }
      const Accum lse = args.lse[row * args.q.heads + head];
      sum += exponential(logit - (lse == minus_infinity() ? Accum(0) : lse));
    }
    if (lane() == 0) args.out[i64(blockIdx.x) * args.some.width + column] = sum;
  }
}

struct Seeing {
  Sights sights;
  Some some;
  f64* seeing;  // [rows]
};

// 1 for a query that sees a key, otherwise 0.
template <class Cfg>
__device__ void seeing(const Seeing& args) {
  const Group group = args.sights.groups[args.some.first_group + blockIdx.x / args.some.per_group];
  const i64 own = blockIdx.x % args.some.per_group;
  if (own >= group.count) return;
  const i64 row = group.row + own;
  const Query query = args.sights.queries[row];
  int any = 0;
  for (i64 column = args.sights.first_column(group, query) + threadIdx.x; !any && column < args.sights.end_column(group, query); column += THREADS) {
    const i64 key = args.sights.key_of(group, row, group.begin, column);
    any = key >= 0 && args.sights.sees(row, key);
  }
  any = __syncthreads_or(any);
  if (threadIdx.x == 0) args.seeing[row] = any ? 1 : 0;
}

// The sum over the block, in the same order in every run. Every thread calls it and gets it.
template <class T>
__device__ inline T total(T x) {
  __shared__ T partial[WARPS];
  for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
  __syncthreads();
  if (lane() == 0) partial[warp()] = x;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < WARPS; i++) sum += partial[i];
  return sum;
}

struct Summing {
  const f64* values;
  f64* sum;
  i64 len;
};

// The sum of some values, in one block.
template <class Cfg>
__device__ void sum(const Summing& args) {
  f64 own = 0;
  for (i64 i = threadIdx.x; i < args.len; i += THREADS) own += args.values[i];
  own = total(own);
  if (threadIdx.x == 0) *args.sum = own;
}

struct Losing {
  Sights sights;
  Some some;
  Accum* target;       // used up
  Accum* scores;       // becomes their gradients
  f64* losses;         // [rows]
  const f64* seeing;   // null, or how many queries share the loss
  f64 factor;
  i64 clamped;         // or else ε is added inside logarithms
};

// The larger one; a NaN takes over and stays, so that a poisoned input shows.
__device__ inline Accum largest_or_nan(Accum x, Accum y) { return x >= y || is_nan(x) ? x : y; }

__device__ inline Accum block_largest(Accum x) {
  __shared__ Accum partial[WARPS];
  for (int offset = WARP / 2; offset > 0; offset /= 2) x = largest_or_nan(x, __shfl_xor_sync(ALL_LANES, x, offset));
  __syncthreads();
  if (lane() == 0) partial[warp()] = x;
  __syncthreads();
  Accum largest = minus_infinity();
  for (int i = 0; i < WARPS; i++) largest = largest_or_nan(largest, partial[i]);
  return largest;
}

// With `P = target / sum` and `q = softmax(scores)` a query loses `Σ P (ln P - ln q)`, whose derivative by a score is
// `q · Σ P' - P'`. Clamped, `P'` is `P`; where ε was added inside the logarithms, it is `P q / (q + ε)`.
template <class Cfg>
__device__ void lose(const Losing& args) {
  const Group group = args.sights.groups[args.some.first_group + blockIdx.x / args.some.per_group];
  const i64 own = blockIdx.x % args.some.per_group;
  if (own >= group.count) return;
  const i64 row = group.row + own;
  const Query query = args.sights.queries[row];
  const i64 first = args.sights.first_column(group, query) + threadIdx.x;
  const i64 end = args.sights.end_column(group, query);
  Accum* target = args.target + i64(blockIdx.x) * args.some.width;
  Accum* scores = args.scores + i64(blockIdx.x) * args.some.width;
  Accum most = minus_infinity();
  Accum targets = 0;
  for (i64 column = first; column < end; column += THREADS) {
    // No score was written where nobody of a block of keys sees any
    const i64 key = args.sights.key_of(group, row, group.begin, column);
    if (key < 0 || !args.sights.sees(row, key)) scores[column] = minus_infinity();
    most = largest_or_nan(most, scores[column]);
    targets += target[column];
  }
  most = block_largest(most);
  if (most == minus_infinity()) most = Accum(0);
  targets = total(targets);
  Accum students = 0;
  for (i64 column = first; column < end; column += THREADS) students += exponential(scores[column] - most);
  students = total(students);
  const Accum added = args.clamped ? Accum(0) : Accum(1e-8);
  const Accum least = Accum(1e-10);
  f64 lost = 0;
  Accum weight = 0;
  for (i64 column = first; column < end; column += THREADS) {
    const Accum score = scores[column] - most;
    // What is not seen has 0 of both, whatever the row's sums are
    const Accum q = scores[column] == minus_infinity() ? Accum(0) : exponential(score) / students;
    Accum share = 0;
    if (target[column] != Accum(0)) {
      const Accum p = target[column] / (targets + added);
      if (args.clamped) {
        share = p;
        lost += f64(p * (logarithm(p < least ? least : p) - (score - logarithm(students))));
      } else {
        share = p * (q / (q + added));
        lost += f64(p * (logarithm(p + added) - logarithm(q + added)));
      }
    }
    weight += share;
    target[column] = share;
    scores[column] = q;
  }
  lost = total(lost);
  weight = total(weight);
  const Accum factor = Accum(args.factor * (args.seeing ? 1 / (*args.seeing > 1 ? *args.seeing : 1) : 1));
  for (i64 column = first; column < end; column += THREADS) {
    const Accum q = scores[column];
    const Accum share = target[column];
    // `weight` may be no number: that of a row is for what the row sees
    scores[column] = q == Accum(0) && share == Accum(0) ? Accum(0) : factor * (q * weight - share);
  }
  if (threadIdx.x == 0) args.losses[row] = lost;
}
