// An indexer's scores: `scale · Σ_j w_j · relu(q_j · k)`, j the `HI` heads of a query, `D` wide.

#include "sights.cuh"

using Key = MLA_KEY;

constexpr int KEYS = 64;   // of a block at a time
constexpr int RUN = 4;     // heads of a query that a thread multiplies
constexpr int RUNS = 8;    // runs of heads at a time
constexpr int LINES = RUN * RUNS;
constexpr int DEPTH = 16;  // terms that are staged at a time
constexpr int QUERIES = 8; // most queries of a group
constexpr int ACROSS = THREADS / RUNS;
constexpr int OWN = KEYS / ACROSS;  // keys of a thread, `ACROSS` apart

struct Scoring {
  Window<const Elem> q;
  Window<const Key> k;
  Sights sights;
  const Accum* weights;  // [rows, HI]
  Accum* out;            // [rows, width], or [groups, per_group, width] from the first group on
  f64 scale;
  i64 relu;
  i64 width;
  i64 first_group;
  i64 per_group;  // 0: rows of `out` are rows of queries
  i64 by_position;  // column 0 is position 0, and not the first key of a group; all columns are written
};

// A group of queries and all of their keys, `KEYS` at a time: keys are staged once for the heads of some queries.
template <class Cfg>
__device__ void index_scores(const Scoring& args) {
  constexpr int PARTS = Cfg::HI > 0 ? (Cfg::HI + RUN - 1) / RUN : 1;  // runs of a query's heads
  __shared__ Accum left[DEPTH][LINES + 1];
  __shared__ Accum right[DEPTH][KEYS + 1];
  __shared__ Accum partial[RUNS][KEYS];
  __shared__ Accum scores[QUERIES][KEYS];
  __shared__ i64 keys[KEYS];
  __shared__ i64 rows[KEYS];  // negative: nobody needs it
  const Group& group = args.sights.groups[args.first_group + blockIdx.x];
  const i64 first_key = args.by_position ? -group.first_position : group.begin;
  const int count = int(group.count);
  const int across = threadIdx.x % ACROSS;
  const int down = threadIdx.x / ACROSS;
  for (i64 first = i64(blockIdx.y) * KEYS; first < args.width; first += i64(gridDim.y) * KEYS) {
    int needed = 0;
    if (threadIdx.x < KEYS) {
      const i64 column = first + threadIdx.x;
      const i64 key = column < args.width && count > 0 ? args.sights.key_of(group, group.row, first_key, column) : -1;
      i64 row = -1;
      if (key >= group.begin && key < group.end) {
        row = args.sights.row_of(group, key);
        if (!IN_RANGE(row, args.sights.key_rows)) row = -1;
      }
      keys[threadIdx.x] = key;
      rows[threadIdx.x] = row;
      needed = row >= 0;
    }
    for (int i = threadIdx.x; i < QUERIES * KEYS; i += THREADS) scores[i / KEYS][i % KEYS] = Accum(0);
    needed = __syncthreads_or(needed);
    if (!needed && !args.by_position) continue;
    const int runs = needed ? count * PARTS : 0;
    for (int first_run = 0; first_run < runs; first_run += RUNS) {
      Accum sum[RUN][OWN] = {};
      for (int depth = 0; depth < Cfg::D; depth += DEPTH) {
        for (int i = threadIdx.x; i < DEPTH * LINES; i += THREADS) {
          const int term = i % DEPTH;
          const int line = i / DEPTH;
          const int run = first_run + line / RUN;
          const int head = run % PARTS * RUN + line % RUN;
          const bool inside = run < runs && head < Cfg::HI && depth + term < Cfg::D;
          left[term][line] = inside ? load(args.q.at(group.row + run / PARTS, head) + depth + term) : Accum(0);
        }
        for (int i = threadIdx.x; i < DEPTH * KEYS; i += THREADS) {
          const int term = i % DEPTH;
          const i64 row = rows[i / DEPTH];
          right[term][i / DEPTH] = row >= 0 && depth + term < Cfg::D ? load(args.k.at(row, 0) + depth + term) : Accum(0);
        }
        __syncthreads();
        for (int term = 0; term < DEPTH; term++) {
          for (int i = 0; i < RUN; i++) {
            for (int j = 0; j < OWN; j++) sum[i][j] += left[term][down * RUN + i] * right[term][across + j * ACROSS];
          }
        }
        __syncthreads();
      }
      const int run = first_run + down;
      Accum weighted[OWN] = {};
      for (int i = 0; i < RUN; i++) {
        const int head = run % PARTS * RUN + i;
        if (run >= runs || head >= Cfg::HI) continue;
        const Accum weight = args.weights[(group.row + run / PARTS) * Cfg::HI + head];
        // A NaN is not below 0 and stays
        for (int j = 0; j < OWN; j++) weighted[j] += weight * (args.relu && sum[i][j] <= Accum(0) ? Accum(0) : sum[i][j]);
      }
      for (int j = 0; j < OWN; j++) partial[down][across + j * ACROSS] = weighted[j];
      __syncthreads();
      if (threadIdx.x < KEYS) {
        for (int i = 0; i < RUNS && first_run + i < runs; i++) {
          scores[(first_run + i) / PARTS][threadIdx.x] += partial[i][threadIdx.x];
        }
      }
      __syncthreads();
    }
    for (int i = threadIdx.x; i < count * KEYS; i += THREADS) {
      const int query = i / KEYS;
      const int key = i % KEYS;
      if (first + key >= args.width) continue;
      const i64 row = args.per_group ? i64(blockIdx.x) * args.per_group + query : group.row + query;
      const bool seen = rows[key] >= 0 && args.sights.sees(group.row + query, keys[key]);
      args.out[row * args.width + first + key] = seen ? Accum(args.scale) * scores[query][key] : minus_infinity();
    }
    __syncthreads();
  }
}
