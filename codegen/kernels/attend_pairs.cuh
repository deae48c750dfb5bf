// What the gradients of attention are made of: tiles of rows and keys, and what one query and one key give.

#include "query_rows.cuh"

constexpr int OUTER = 16;
constexpr int INNER = WARP;           // a line to a lane
constexpr int OWN = OUTER / WARPS;    // outer lines of a warp: neighbours
constexpr int DEPTH = 32;             // values of lines that are staged at a time
constexpr int PADDED = OUTER + 4;     // a row of weights, so that lanes' rows begin in different banks

// Neighbouring lines, and the rows of queries that matter to them: visits `first_visit .. end_visit`.
struct Span {
  i64 first;
  i64 count;
  i64 first_visit;
  i64 end_visit;
};

struct Visit {
  i64 first;
  i64 end;
};

// From logits to probabilities.
struct Softmax {
  f64 scale;
  f64 cap;   // 0: none
  f64 per_cap;  // 1 / cap
  f64 drop;  // probability; negative: nothing is dropped
  f64 kept;  // what probabilities that stay are multiplied by
  u64 seed;
  const Accum* bias;  // null: none
  i64 bias_heads;
  i64 bias_queries;
  i64 bias_keys;
};

// `line` values for each row and head, and the first that a gradient goes to.
struct Landing {
  Accum* at;  // null: none
  i64 line;
};

struct Backward {
  Window<const Elem> q;
  Window<const Elem> q_rope;
  Window<const Elem> k;
  Window<const Elem> k_rope;
  Window<const Elem> v;
  Window<const Elem> d_out;
  const Accum* lse;    // [queries, H]
  const Accum* delta;  // [queries, H]: d_out · out
  const QueryRow* rows;
  const u8* given;     // null: no mask
  const i32* indices;  // [queries, chosen], null: all that is seen
  i64 chosen;
  const Span* spans;
  const Visit* visits;
  Landing d_q;
  Landing d_q_rope;
  Landing d_k;
  Landing d_k_rope;  // lines are [keys, GK], whatever GR is
  Landing d_v;       // none: where d_k goes
  Accum* d_bias;
  Softmax softmax;
};
static_assert(sizeof(Backward) == 6 * 40 + 8 * 8 + 5 * 16 + 8 + 80);

// ---- Lines and tiles ----

// The parts of a line: its key or query, the second part of that, its value or the gradient of the result.
enum Part { NOPE, ROPE, VALUE, PARTS };

struct Tile {
  const Elem* outer[PARTS][OUTER];  // null: no line
  const Elem* inner[PARTS][INNER];
  Accum d_s[INNER][PADDED];
  Accum p[INNER][PADDED];
  i64 row[INNER];   // of keys or queries; -1: no line
  int head[INNER];  // of queries
  u32 seen[INNER];  // a bit for each outer line
  int count;        // inner lines
  bool any;         // whether any of the pairs see each other
  bool all;
};

// How rows are cut: heads that read the same head of keys, and where those are few, more than one query.
template <class Cfg>
struct Cut {
  static constexpr int GROUP = Cfg::H / Cfg::GK;
  static constexpr int HEADS = GROUP < OUTER ? GROUP : OUTER;
  static constexpr int QUERIES = OUTER / HEADS;
  static constexpr int CHUNKS = (GROUP + HEADS - 1) / HEADS;
};

// sums[i] += outer line `warp() · OWN + i` times inner line `lane()`, over `width` values of a part.
__device__ inline void add_dots(const Tile& tile, int part, int width, Accum (&sums)[OWN]) {
  __shared__ Accum left[DEPTH][OUTER + 1];
  __shared__ Accum right[DEPTH][INNER + 1];
  const int term = threadIdx.x % DEPTH;
  for (int first = 0; first < width; first += DEPTH) {
    __syncthreads();
    const bool inside = first + term < width;
    for (int line = threadIdx.x / DEPTH; line < OUTER; line += THREADS / DEPTH) {
      const Elem* from = tile.outer[part][line];
      left[term][line] = from && inside ? load(from + first + term) : Accum(0);
    }
    for (int line = threadIdx.x / DEPTH; line < INNER; line += THREADS / DEPTH) {
      const Elem* from = tile.inner[part][line];
      right[term][line] = from && inside ? load(from + first + term) : Accum(0);
    }
    __syncthreads();
    const int depth = width - first < DEPTH ? width - first : DEPTH;
    for (int t = 0; t < depth; t++) {
      const Accum y = right[t][lane()];
      for (int i = 0; i < OWN; i++) sums[i] += left[t][warp() * OWN + i] * y;
    }
  }
}

// to[o · stride + column] += Σ weights[j][o] · column of inner line j, over the pairs that see each other: 0 times what is no number is
// none, and would reach lines that have nothing to do with it. Lines from `lines` on are left out.
__device__ inline void spread(const Tile& tile, const Accum (&weights)[INNER][PADDED], int part, int width, Accum* const (&to)[OUTER]) {
  for (int column = threadIdx.x; column < width; column += THREADS) {
    Accum sums[OUTER] = {};
    for (int j = 0; j < tile.count; j++) {
      const Accum x = load(tile.inner[part][j] + column);
      if (tile.all) {
        for (int o = 0; o < OUTER; o++) sums[o] += weights[j][o] * x;
      } else {
        const u32 seen = tile.seen[j];
        for (int o = 0; o < OUTER; o++) sums[o] += seen >> o & 1 ? weights[j][o] * x : Accum(0);
      }
    }
    for (int o = 0; o < OUTER; o++) {
      if (to[o]) to[o][column] += sums[o];
    }
  }
}

// Products of this thread's pairs: of query and key to `d_s`, of value and gradient to `p`, where what they give goes later.
template <class Cfg>
__device__ inline void multiply(Tile& tile) {
  Accum sums[OWN] = {};
  add_dots(tile, NOPE, Cfg::A, sums);
  add_dots(tile, ROPE, Cfg::R, sums);
  for (int i = 0; i < OWN; i++) tile.d_s[lane()][warp() * OWN + i] = sums[i];
  for (int i = 0; i < OWN; i++) sums[i] = 0;
  add_dots(tile, VALUE, Cfg::V, sums);
  for (int i = 0; i < OWN; i++) tile.p[lane()][warp() * OWN + i] = sums[i];
}

// Where lines of a landing begin.
__device__ inline Accum* place(const Landing& landing, i64 line) {
  return landing.at ? landing.at + line * landing.line : nullptr;
}

// ---- Pairs of a query and a key ----

// The finaliser of SplitMix64.
__device__ inline u64 mixed(u64 bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
  return bits ^ (bits >> 31);
}

constexpr u64 GOLDEN = 0x9e3779b97f4a7c15ull;

// What the probability of a pair is multiplied by, key `index` of its sequence.
__device__ inline Accum multiplier(const Softmax& softmax, const QueryRow& row, i64 head, i64 index) {
  if (softmax.drop < 0) return Accum(1);
  u64 stream = mixed(softmax.seed);
  stream = mixed((stream + GOLDEN) ^ mixed(u64(row.sequence)));
  stream = mixed((stream + GOLDEN) ^ mixed(u64(head)));
  stream = mixed((stream + GOLDEN) ^ mixed(u64(row.index)));
  const u64 bits = mixed(stream + (u64(index) + 1) * GOLDEN);
  const f64 uniform = f64(bits >> 11) * (1.0 / 9007199254740992.0);
  return uniform < softmax.drop ? Accum(0) : Accum(softmax.kept);
}

// What a pair gives: its probability, perhaps dropped; the gradient of its logit; and the soft cap's slope there.
struct Pair {
  Accum p;
  Accum d_s;
  Accum slope;
};

// `key` is counted from the segment's first. `dot` is query times key, `d_p` the gradient of the result times the value.
template <class Cfg>
__device__ inline Pair pair_of(const Backward& args, const QueryRow& row, i64 query, i64 head, i64 key, Accum dot, Accum d_p) {
  const Softmax& softmax = args.softmax;
  const i64 index = row.first_key + key;
  Accum logit = dot * Accum(softmax.scale);
  Accum slope = 1;
  if (softmax.cap > 0) {
    const Accum capped = tangent(logit * Accum(softmax.per_cap));
    logit = Accum(softmax.cap) * capped;
    slope = Accum(1) - capped * capped;
  }
  if (softmax.bias && IN_RANGE(row.index, softmax.bias_queries) && IN_RANGE(index, softmax.bias_keys)) {
    const i64 line = (softmax.bias_heads == 1 ? 0 : head) * softmax.bias_queries + row.index;
    logit += softmax.bias[line * softmax.bias_keys + index];
  }
  const i64 at = query * Cfg::H + head;
  const Accum lse = args.lse[at];
  const Accum p = exponential(logit - (lse == minus_infinity() ? Accum(0) : lse));
  const Accum m = multiplier(softmax, row, head, index);
  // A value may be no number where the probability is 0
  return {p * m, p == Accum(0) ? Accum(0) : p * (m * d_p - args.delta[at]), slope};
}

// The first place in the list of a query's keys whose index is not below `index`.
__device__ inline i64 lower_bound(const Backward& args, i64 query, i64 index) {
  const i32* list = args.indices + query * args.chosen;
  i64 from = 0;
  i64 to = args.chosen;
  while (from < to) {
    const i64 middle = (from + to) / 2;
    // -1 stands behind the last
    if (list[middle] >= 0 && list[middle] < index) {
      from = middle + 1;
    } else {
      to = middle;
    }
  }
  return from;
}

// The first warp's last words on a tile's inner lines: `full` has a bit for every outer line that there is.
__device__ inline void judge(Tile& tile, bool present, u32 seen, u32 full) {
  tile.seen[lane()] = seen;
  const bool any = __any_sync(ALL_LANES, seen != 0);
  const bool all = __all_sync(ALL_LANES, !present || seen == full);
  const int count = __popc(__ballot_sync(ALL_LANES, present));
  if (lane() != 0) return;
  tile.any = any;
  tile.all = all;
  tile.count = count;
}
