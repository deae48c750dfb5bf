// From the gradients of an indexer's scores to those of its queries, weights and keys: `HI` heads, `D` wide.
//
// With `dot = q_j · k` a score is `scale · Σ_j w_j relu(dot)`, so that `d_dot = scale · d_score · w_j` where the dot counts.

#include "key_sums.cuh"
#include "sights.cuh"

// Heads, and keys, that are staged at a time: as many as fit.
__device__ constexpr int fitting(int width) {
  int tile = 32;
  while (tile > 1 && 2 * tile * (width + tile + 2) * int(sizeof(Accum)) > 44 << 10) tile /= 2;
  return tile;
}

struct Spreading {
  Window<const Elem> q;
  Window<const Elem> k;
  Sights sights;
  const Accum* weights;   // [rows, HI]
  const Accum* d_scores;  // [groups, per_group, width] from the first group on; column 0 is the first key of the group
  Accum* d_q;             // [rows, HI, D]
  Accum* d_weights;       // [rows, HI]
  Accum* d_k;             // [keys, D], added to
  f64 scale;
  i64 width;
  i64 first_group;
  i64 groups;
  i64 per_group;
  i64 relu;
};

// Some heads of a query against some keys.
template <class Cfg>
struct Staged {
  static constexpr int TILE = fitting(Cfg::D);
  static constexpr int OWN = (TILE * Cfg::D + THREADS - 1) / THREADS;  // values of a tile of lines that are a thread's
  Accum q[TILE][Cfg::D + 1];
  Accum k[TILE][Cfg::D + 1];
  Accum d_dot[TILE][TILE + 1];   // [head][key]
  Accum d_kept[TILE][TILE + 1];  // what the head's weight gets of it
  Accum d_score[TILE];           // scale in it; 0: the key is passed over
  i64 row[TILE];

  __device__ void load_heads(const Spreading& args, i64 of, int first_head) {
    for (int i = threadIdx.x; i < TILE * Cfg::D; i += THREADS) {
      const int head = first_head + i / Cfg::D;
      q[i / Cfg::D][i % Cfg::D] = head < Cfg::HI ? load(args.q.at(of, head) + i % Cfg::D) : Accum(0);
    }
  }

  __device__ void load_keys(const Spreading& args) {
    for (int i = threadIdx.x; i < TILE * Cfg::D; i += THREADS) {
      const i64 of = row[i / Cfg::D];
      k[i / Cfg::D][i % Cfg::D] = of >= 0 ? load(args.k.at(of, 0) + i % Cfg::D) : Accum(0);
    }
  }

  // The gradients of products. What the query does not see may be no number, and is left out.
  __device__ void multiply(const Spreading& args, i64 of, int first_head) {
    for (int i = threadIdx.x; i < TILE * TILE; i += THREADS) {
      const int line = i / TILE;
      const int key = i % TILE;
      const Accum slope = d_score[key];
      Accum by_dot = 0;
      Accum by_weight = 0;
      if (slope != Accum(0) && first_head + line < Cfg::HI) {
        Accum dot = 0;
        for (int depth = 0; depth < Cfg::D; depth++) dot += q[line][depth] * k[key][depth];
        const bool off = args.relu && dot <= Accum(0);
        by_weight = slope * (off ? Accum(0) : dot);
        by_dot = (off ? Accum(0) : slope) * args.weights[of * Cfg::HI + first_head + line];
      }
      d_dot[line][key] = by_dot;
      d_kept[line][key] = by_weight;
    }
  }
};

// The gradients of a query's heads and their weights: a block for some heads, over all keys.
template <class Cfg>
__device__ void spread_queries(const Spreading& args) {
  constexpr int TILE = Staged<Cfg>::TILE;
  constexpr int OWN = Staged<Cfg>::OWN;
  __shared__ Staged<Cfg> staged;
  const Group& group = args.sights.groups[args.first_group + blockIdx.x / args.per_group];
  const i64 own = blockIdx.x % args.per_group;
  if (own >= group.count) return;
  const i64 row = group.row + own;
  const Query query = args.sights.queries[row];
  const Accum* d_scores = args.d_scores + i64(blockIdx.x) * args.width;
  const int first_head = blockIdx.y * TILE;
  staged.load_heads(args, row, first_head);
  Accum sum[OWN > 0 ? OWN : 1] = {};
  Accum d_weight = 0;
  const i64 end = args.sights.end_column(group, query);
  for (i64 first = args.sights.first_column(group, query); first < end; first += TILE) {
    int needed = 0;
    if (threadIdx.x < TILE) {
      const i64 column = first + threadIdx.x;
      const Accum slope = column < end ? Accum(args.scale) * d_scores[column] : Accum(0);
      i64 key_row = slope != Accum(0) ? args.sights.row_of(group, args.sights.key_of(group, row, group.begin, column)) : -1;
      needed = slope != Accum(0) && IN_RANGE(key_row, args.sights.key_rows);
      staged.d_score[threadIdx.x] = needed ? slope : Accum(0);
      staged.row[threadIdx.x] = needed ? key_row : -1;
    }
    if (!__syncthreads_or(needed)) continue;
    staged.load_keys(args);
    __syncthreads();
    staged.multiply(args, row, first_head);
    __syncthreads();
    // Both loops unrolled are a thousand steps, which compile for half a minute
#pragma unroll 1
    for (int key = 0; key < TILE; key++) {
#pragma unroll
      for (int j = 0; j < OWN; j++) {
        const int i = threadIdx.x + j * THREADS;
        if (i >= TILE * Cfg::D) continue;
        const Accum d_dot = staged.d_dot[i / Cfg::D][key];
        if (d_dot != Accum(0)) sum[j] += d_dot * staged.k[key][i % Cfg::D];
      }
    }
    if (threadIdx.x < TILE) {
      for (int key = 0; key < TILE; key++) d_weight += staged.d_kept[threadIdx.x][key];
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < OWN; j++) {
    const int i = threadIdx.x + j * THREADS;
    if (i >= TILE * Cfg::D || first_head + i / Cfg::D >= Cfg::HI) continue;
    args.d_q[(row * Cfg::HI + first_head) * Cfg::D + i] = sum[j];
  }
  if (threadIdx.x < TILE && first_head + threadIdx.x < Cfg::HI) args.d_weights[row * Cfg::HI + first_head + threadIdx.x] = d_weight;
}

// The gradients of keys: a block for some neighbouring rows of keys, over all queries of the launch, in their order. Where queries chose keys,
// `spread_chosen_keys` has them.
template <class Cfg>
__device__ void spread_keys(const Spreading& args) {
  constexpr int TILE = Staged<Cfg>::TILE;
  constexpr int OWN = Staged<Cfg>::OWN;
  __shared__ Staged<Cfg> staged;
  const i64 first_row = i64(blockIdx.x) * TILE;
  if (threadIdx.x < TILE) staged.row[threadIdx.x] = first_row + threadIdx.x < args.k.rows ? first_row + threadIdx.x : -1;
  __syncthreads();
  staged.load_keys(args);
  Accum sum[OWN > 0 ? OWN : 1] = {};
  for (i64 slot = 0; slot < args.groups * args.per_group; slot++) {
    const Group& group = args.sights.groups[args.first_group + slot / args.per_group];
    const i64 own = slot % args.per_group;
    const i64 first_key = first_row - group.keys;
    if (own >= group.count || first_key >= group.end || first_key + TILE <= group.begin) continue;
    const i64 row = group.row + own;
    const Query query = args.sights.queries[row];
    if (first_key >= query.end || first_key + TILE <= query.begin) continue;
    const Accum* d_scores = args.d_scores + slot * args.width;
    int needed = 0;
    if (threadIdx.x < TILE) {
      const i64 key = first_key + threadIdx.x;
      const bool seen = key >= query.begin && key < query.end;
      staged.d_score[threadIdx.x] = seen ? Accum(args.scale) * d_scores[key - group.begin] : Accum(0);
      needed = staged.d_score[threadIdx.x] != Accum(0);
    }
    if (!__syncthreads_or(needed)) continue;
    for (int first_head = 0; first_head < Cfg::HI; first_head += TILE) {
      staged.load_heads(args, row, first_head);
      __syncthreads();
      staged.multiply(args, row, first_head);
      __syncthreads();
#pragma unroll 1
      for (int line = 0; line < TILE; line++) {
#pragma unroll
        for (int j = 0; j < OWN; j++) {
          const int i = threadIdx.x + j * THREADS;
          if (i >= TILE * Cfg::D) continue;
          const Accum d_dot = staged.d_dot[line][i / Cfg::D];
          if (d_dot != Accum(0)) sum[j] += d_dot * staged.q[line][i % Cfg::D];
        }
      }
      __syncthreads();
    }
  }
#pragma unroll
  for (int j = 0; j < OWN; j++) {
    const int i = threadIdx.x + j * THREADS;
    if (i >= TILE * Cfg::D || first_row + i / Cfg::D >= args.k.rows) continue;
    args.d_k[first_row * Cfg::D + i] += sum[j];
  }
}

struct ChosenSpreading {
  Spreading of;
  const i64* first;     // [keys + 1]: where the list of each key begins, as `choosers.cuh` has it
  const i32* choosers;  // the lists: rows of queries, ascending
  const i32* slots;     // [rows]: the group of each query, which is its only one
};

// The first of a query's chosen columns whose position is not below `position`: they ascend, negative ones behind the last.
__device__ inline i64 first_from(const i32* chosen, i64 width, i64 position) {
  i64 low = 0;
  i64 high = width;
  while (low < high) {
    const i64 middle = (low + high) / 2;
    if (chosen[middle] >= 0 && chosen[middle] < position) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// The gradient of the score of a key, as a query of the launch has it, times the scale; 0 where the query is another launch's.
__device__ inline Accum slope_of(const ChosenSpreading& args, i64 query, i64 key_row) {
  const Spreading& of = args.of;
  const i64 slot = args.slots[query] - of.first_group;
  if (slot < 0 || slot >= of.groups) return Accum(0);
  const Group& group = of.sights.groups[of.first_group + slot];
  const i32* chosen = of.sights.chosen + query * of.sights.chosen_width;
  const i64 column = first_from(chosen, of.sights.chosen_width, group.first_position + key_row - group.keys);
  return Accum(of.scale) * of.d_scores[slot * of.width + column];
}

// The gradients of keys that queries chose: a block for each row of keys, over the queries that chose it, in their order.
template <class Cfg>
__device__ void spread_chosen_keys(const ChosenSpreading& args) {
  __shared__ Accum key[Cfg::D];
  __shared__ i64 queries[MET];
  __shared__ Accum slopes[MET];
  __shared__ const Elem* heads[MET];
  __shared__ Accum d_dots[MET];
  const Spreading& of = args.of;
  const i64 row = blockIdx.x;
  const i64 end = args.first[row + 1];
  for (int i = threadIdx.x; i < Cfg::D; i += THREADS) key[i] = load(of.k.at(row, 0) + i);
  Gradient<Cfg::D, true> d_k;
  for (i64 start = args.first[row]; start < end; start += MET) {
    const int count = end - start < MET ? int(end - start) : MET;
    __syncthreads();
    if (int(threadIdx.x) < count) {
      queries[threadIdx.x] = args.choosers[start + threadIdx.x];
      slopes[threadIdx.x] = slope_of(args, queries[threadIdx.x], row);
    }
    __syncthreads();
    for (int i = 0; i < count; i++) {
      const Accum slope = slopes[i];
      if (slope == Accum(0)) continue;
      for (int first_head = 0; first_head < Cfg::HI; first_head += MET) {
        const int some = Cfg::HI - first_head < MET ? Cfg::HI - first_head : MET;
        __syncthreads();
        // Behind the last stands one that is there, and is left out of the sums
        if (threadIdx.x < MET) heads[threadIdx.x] = of.q.at(queries[i], first_head + (int(threadIdx.x) < some ? int(threadIdx.x) : 0));
        __syncthreads();
        Accum shares[OWN_MET] = {};
        add_shares(heads, key, Cfg::D, shares);
        const Accum dot = own_sum(shares);
        const int own = warp() * OWN_MET + lane();
        if (lane() < OWN_MET && own < some) {
          const bool off = of.relu && dot <= Accum(0);
          d_dots[own] = (off ? Accum(0) : slope) * of.weights[queries[i] * Cfg::HI + first_head + own];
        }
        __syncthreads();
        d_k.add(heads, d_dots, some);
      }
    }
  }
  d_k.land(of.d_k + row * Cfg::D);
}
