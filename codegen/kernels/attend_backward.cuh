// The gradients of attention, tile by tile: logits are computed again, and turned to probabilities by the log-sum-exp that there is.
//
// Blocks are of two kinds. One has some (query, head) rows and walks over the keys that they see: it adds up the gradients of queries, or
// of the bias. The other has some keys of one head and walks over the rows that see them: it adds up the gradients of keys and values.
// Either way a block has `OUTER` lines of its own and meets `INNER` others at a time. Sums stay where they land, which is nobody
// else's: the block reads and writes them once for each tile, in order.

#include "attend_pairs.cuh"

// ---- Rows over keys ----

// Calls `then(tile)` for the keys that some rows see: `heads` heads from `first_head` on of `queries` queries from `first_query` on. Outer
// line `query · HEADS + head`. `d_s` is what `BIAS` says: the gradient of the bias, or of the product of query and key.
template <class Cfg, bool BIAS, class Then>
__device__ inline void over_keys(const Backward& args, i64 first_query, int queries, int first_head, int heads, Then then) {
  using Rows = Cut<Cfg>;
  __shared__ Tile tile;
  __shared__ QueryRow rows[Rows::QUERIES];
  __syncthreads();
  if (int(threadIdx.x) < queries) rows[threadIdx.x] = args.rows[first_query + threadIdx.x];
  if (threadIdx.x < OUTER) {
    const int o = threadIdx.x;
    const bool present = o / Rows::HEADS < queries && o % Rows::HEADS < heads;
    const i64 query = first_query + o / Rows::HEADS;
    const int head = first_head + o % Rows::HEADS;
    tile.outer[NOPE][o] = present ? args.q.at(query, head) : nullptr;
    tile.outer[ROPE][o] = present ? args.q_rope.at(query, head) : nullptr;
    tile.outer[VALUE][o] = present ? args.d_out.at(query, head) : nullptr;
  }
  __syncthreads();
  // Rows of keys, or places in the only query's list: neither are as many as an `int` can't count
  int from = 0;
  int to = 0;
  for (int i = 0; i < queries; i++) {
    const QueryRow& row = rows[i];
    if (row.seen_from >= row.seen_to) continue;
    const int first =
        int(args.indices ? lower_bound(args, first_query, row.first_key + row.seen_from) : row.first_key_row + row.seen_from);
    const int last = int(args.indices ? lower_bound(args, first_query, row.first_key + row.seen_to) : row.first_key_row + row.seen_to);
    if (from < to) {
      from = from < first ? from : first;
      to = to < last ? last : to;
    } else {
      from = first;
      to = last;
    }
  }
  const u32 of_query = (1u << heads) - 1;
  u32 full = 0;
  for (int i = 0; i < queries; i++) full |= of_query << i * Rows::HEADS;
  const int key_head = first_head / Rows::GROUP;
  const int rope_head = first_head * Cfg::GR / Cfg::H;
  for (int start = from; start < to; start += INNER) {
    __syncthreads();
    if (threadIdx.x < INNER) {
      const int n = start + int(threadIdx.x);
      i64 key_row = n;
      if (args.indices && n < to) {
        key_row = args.indices[first_query * args.chosen + n] - rows[0].first_key + rows[0].first_key_row;
      }
      const bool present = n < to && IN_RANGE(key_row, args.k.rows);
      u32 seen = 0;
      for (int i = 0; present && i < queries; i++) {
        if (sees(rows[i], args.given, key_row - rows[i].first_key_row)) seen |= of_query << i * Rows::HEADS;
      }
      tile.row[threadIdx.x] = present ? key_row : -1;
      tile.inner[NOPE][threadIdx.x] = present ? args.k.at(key_row, key_head) : nullptr;
      tile.inner[ROPE][threadIdx.x] = present ? args.k_rope.at(key_row, rope_head) : nullptr;
      tile.inner[VALUE][threadIdx.x] = present ? args.v.at(key_row, key_head) : nullptr;
      judge(tile, present, seen, full);
    }
    __syncthreads();
    if (!tile.any) continue;
    multiply<Cfg>(tile);
    for (int i = 0; i < OWN; i++) {
      const int o = warp() * OWN + i;
      Accum d_s = 0;
      if (tile.seen[lane()] >> o & 1) {
        const QueryRow& row = rows[o / Rows::HEADS];
        const i64 query = first_query + o / Rows::HEADS;
        const Pair pair =
            pair_of<Cfg>(args, row, query, first_head + o % Rows::HEADS, tile.row[lane()] - row.first_key_row, tile.d_s[lane()][o],
                         tile.p[lane()][o]);
        d_s = BIAS ? pair.d_s : pair.d_s * pair.slope * Accum(args.softmax.scale);
      }
      tile.d_s[lane()][o] = d_s;
    }
    __syncthreads();
    then(tile);
  }
}

// The gradients of some rows: blocks are [queries, heads].
template <class Cfg>
__device__ void backward_queries(const Backward& args) {
  using Rows = Cut<Cfg>;
  __shared__ Accum* to[2][OUTER];
  // Each query has a list of its own, where there are lists
  const int most = args.indices ? 1 : Rows::QUERIES;
  constexpr int CHUNKS = Cfg::GK * Rows::CHUNKS;
  const i64 first_query = blockIdx.x / CHUNKS * i64(most);
  const int chunk = blockIdx.x % CHUNKS;
  const int first_in_group = chunk % Rows::CHUNKS * Rows::HEADS;
  const int first_head = chunk / Rows::CHUNKS * Rows::GROUP + first_in_group;
  const int queries = args.q.rows - first_query < most ? int(args.q.rows - first_query) : most;
  const int heads = Rows::GROUP - first_in_group < Rows::HEADS ? Rows::GROUP - first_in_group : Rows::HEADS;
  if (threadIdx.x < OUTER) {
    const int o = threadIdx.x;
    const bool present = o / Rows::HEADS < queries && o % Rows::HEADS < heads;
    const i64 line = (first_query + o / Rows::HEADS) * Cfg::H + first_head + o % Rows::HEADS;
    to[0][o] = present ? place(args.d_q, line) : nullptr;
    to[1][o] = present ? place(args.d_q_rope, line) : nullptr;
  }
  over_keys<Cfg, false>(args, first_query, queries, first_head, heads, [&](const Tile& tile) {
    spread(tile, tile.d_s, NOPE, Cfg::A, to[0]);
    spread(tile, tile.d_s, ROPE, Cfg::R, to[1]);
  });
}

// The gradient of the bias: blocks are [spans, heads of the bias]. A span is some queries' indices in their sequences; its visits are the
// rows of queries that have them, sequence by sequence.
template <class Cfg>
__device__ void backward_bias(const Backward& args) {
  using Rows = Cut<Cfg>;
  const bool shared = args.softmax.bias_heads == 1;
  const int chunks = shared ? 1 : Cfg::GK * Rows::CHUNKS;
  const Span span = args.spans[blockIdx.x / chunks];
  const int first_chunk = blockIdx.x % chunks;
  const int end_chunk = shared ? Cfg::GK * Rows::CHUNKS : first_chunk + 1;
  for (int i = int(span.first_visit); i < int(span.end_visit); i++) {
    const Visit visit = args.visits[i];
    const int queries = int(visit.end - visit.first);
    for (int chunk = first_chunk; chunk < end_chunk; chunk++) {
      const int first_in_group = chunk % Rows::CHUNKS * Rows::HEADS;
      const int first_head = chunk / Rows::CHUNKS * Rows::GROUP + first_in_group;
      const int heads = Rows::GROUP - first_in_group < Rows::HEADS ? Rows::GROUP - first_in_group : Rows::HEADS;
      over_keys<Cfg, true>(args, visit.first, queries, first_head, heads, [&](const Tile& tile) {
        const int j = lane();
        if (tile.row[j] < 0) return;
        for (int q = warp(); q < queries; q += WARPS) {
          const QueryRow& row = args.rows[visit.first + q];
          const i64 index = row.first_key + tile.row[j] - row.first_key_row;
          if ((tile.seen[j] >> q * Rows::HEADS & 1) == 0) continue;
          if (!IN_RANGE(row.index, args.softmax.bias_queries) || !IN_RANGE(index, args.softmax.bias_keys)) continue;
          Accum* to = args.d_bias + row.index * args.softmax.bias_keys + index;
          const i64 head_stride = shared ? 0 : args.softmax.bias_queries * args.softmax.bias_keys;
          for (int h = 0; h < heads; h++) to[(first_head + h) * head_stride] += tile.d_s[j][q * Rows::HEADS + h];
        }
      });
    }
  }
}

// ---- Keys over rows ----

// Which keys of a span a query sees, a bit for each.
__device__ inline u32 seen_keys(const Backward& args, const QueryRow& row, const Span& span) {
  const i64 first = span.first - row.first_key_row;
  u32 seen = 0;
  if (row.seen_to <= first || row.seen_from >= first + span.count) return seen;
  for (int o = 0; o < span.count; o++) seen |= u32(sees(row, args.given, first + o)) << o;
  return seen;
}

// The gradients of some keys and values: blocks are [spans, GK]. A span's visits are the rows of queries that may see its keys. Where
// queries chose keys, `backward_chosen.cuh` has them.
template <class Cfg>
__device__ void backward_keys(const Backward& args) {
  constexpr int GROUP = Cut<Cfg>::GROUP;
  __shared__ Tile tile;
  __shared__ Accum* to[PARTS][OUTER];
  const Span span = args.spans[blockIdx.x / Cfg::GK];
  const int key_head = blockIdx.x % Cfg::GK;
  if (threadIdx.x < OUTER) {
    const int o = threadIdx.x;
    const bool present = o < span.count;
    const i64 row = span.first + o;
    const i64 line = row * Cfg::GK + key_head;
    tile.outer[NOPE][o] = present ? args.k.at(row, key_head) : nullptr;
    tile.outer[ROPE][o] = present ? args.k_rope.at(row, key_head * Cfg::GR / Cfg::GK) : nullptr;
    tile.outer[VALUE][o] = present ? args.v.at(row, key_head) : nullptr;
    to[NOPE][o] = present ? place(args.d_k, line) : nullptr;
    to[ROPE][o] = present ? place(args.d_k_rope, line) : nullptr;
    to[VALUE][o] = present ? place(args.d_v.at ? args.d_v : args.d_k, line) : nullptr;
  }
  const u32 full = (1u << span.count) - 1;
  for (i64 i = span.first_visit; i < span.end_visit; i++) {
    const Visit visit = args.visits[i];
    const i64 lines = (visit.end - visit.first) * GROUP;
    for (i64 start = 0; start < lines; start += INNER) {
      __syncthreads();
      if (threadIdx.x < INNER) {
        const i64 n = start + threadIdx.x;
        const bool present = n < lines;
        const i64 query = visit.first + n / GROUP;
        const int head = key_head * GROUP + int(n % GROUP);
        const u32 seen = present ? seen_keys(args, args.rows[query], span) : 0;
        tile.row[threadIdx.x] = present ? query : -1;
        tile.head[threadIdx.x] = head;
        tile.inner[NOPE][threadIdx.x] = present ? args.q.at(query, head) : nullptr;
        tile.inner[ROPE][threadIdx.x] = present ? args.q_rope.at(query, head) : nullptr;
        tile.inner[VALUE][threadIdx.x] = present ? args.d_out.at(query, head) : nullptr;
        judge(tile, present, seen, full);
      }
      __syncthreads();
      if (!tile.any) continue;
      multiply<Cfg>(tile);
      for (int i = 0; i < OWN; i++) {
        const int o = warp() * OWN + i;
        Pair pair = {};
        if (tile.seen[lane()] >> o & 1) {
          const i64 query = tile.row[lane()];
          const QueryRow& row = args.rows[query];
          pair = pair_of<Cfg>(args, row, query, tile.head[lane()], span.first + o - row.first_key_row, tile.d_s[lane()][o],
                              tile.p[lane()][o]);
        }
        tile.d_s[lane()][o] = pair.d_s * pair.slope * Accum(args.softmax.scale);
        tile.p[lane()][o] = pair.p;
      }
      __syncthreads();
      spread(tile, tile.d_s, NOPE, Cfg::A, to[NOPE]);
      spread(tile, tile.d_s, ROPE, Cfg::R, to[ROPE]);
      // Where values are keys, a thread has the same columns of both
      spread(tile, tile.p, VALUE, Cfg::V, to[VALUE]);
    }
  }
}

// What heads of keys give to a second part that they share, added up.
struct RopeSums {
  const Accum* of_heads;  // [keys, GK, R]
  Landing sums;           // lines are [keys, 1]
  i64 keys;
};

template <class Cfg>
__device__ void backward_rope_sums(const RopeSums& args) {
  for (i64 i = thread_of_grid(); i < args.keys * Cfg::R; i += threads_of_grid()) {
    // A kernel without a second part never gets here
    const i64 key = i / (Cfg::R > 0 ? Cfg::R : 1);
    const i64 column = i - key * Cfg::R;
    Accum sum = 0;
    for (int head = 0; head < Cfg::GK; head++) sum += args.of_heads[(key * Cfg::GK + head) * Cfg::R + column];
    args.sums.at[key * args.sums.line + column] = sum;
  }
}
