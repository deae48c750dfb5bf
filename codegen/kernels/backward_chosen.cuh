// The gradients of keys and values that queries chose. `choosers.cuh` lists for each key who chose it, and a block walks over the heads of
// those queries: rows that did not choose the key cost nothing.
//
// A block has one key, so nothing of what it reads is shared with other keys: each row is read for its products with the key and the value,
// and once more for what it adds to them, near enough to be in the L1. Sums stay in registers from the first row to the last.
//
// Lists differ in length: some keys are chosen by everyone. Of a long one a block takes a piece, the first of which lands where the gradient
// goes. The sums of others stand in memory of their own until `add_pieces` adds them in order.

#include "attend_pairs.cuh"
#include "key_sums.cuh"

struct ChosenBackward {
  Backward of;
  const i64* first;     // [keys + 1]: where the list of each key begins
  const i32* choosers;  // the lists: queries, ascending
  i64 piece;            // most queries of a piece
  i64 slots;            // pieces that are no list's first, at most
  Accum* pieces;        // [slots, GK, A + R + V]: their sums
};
static_assert(sizeof(ChosenBackward) == sizeof(Backward) + 5 * 8);

// Heads of queries that chose the key: some of the list.
struct Met {
  const Elem* line[PARTS][MET];
  i64 query[MET];
  int head[MET];
  Accum d_s[MET];
  Accum p[MET];
};

// The gradients of all parts of a key.
template <class Cfg>
struct Gradients {
  static constexpr int WIDTH = Cfg::A + Cfg::R + Cfg::V;
  Gradient<Cfg::A> k;
  Gradient<Cfg::R> k_rope;
  Gradient<Cfg::V> v;

  __device__ void land(const Backward& args, i64 row, int key_head) const {
    const i64 line = row * Cfg::GK + key_head;
    k.land(place(args.d_k, line));
    k_rope.land(place(args.d_k_rope, line));
    // Where values are keys, a thread has the same columns of both
    v.land(place(args.d_v.at ? args.d_v : args.d_k, line));
  }

  __device__ void keep(Accum* to) const {
    k.keep(to);
    k_rope.keep(to + Cfg::A);
    v.keep(to + Cfg::A + Cfg::R);
  }

  __device__ void add_kept(const Accum* from) {
    k.add_kept(from);
    k_rope.add_kept(from + Cfg::A);
    v.add_kept(from + Cfg::A + Cfg::R);
  }
};

// Where the sums of a piece stand.
template <class Cfg>
__device__ inline Accum* kept(const ChosenBackward& args, i64 slot, int key_head) {
  return args.pieces + (slot * Cfg::GK + key_head) * Gradients<Cfg>::WIDTH;
}

// Adds what the queries `from .. to` of the lists give to the key of a row.
template <class Cfg>
__device__ inline void add_choosers(const ChosenBackward& args, i64 row, int key_head, i64 from, i64 to, Gradients<Cfg>& gradients) {
  constexpr int GROUP = Cut<Cfg>::GROUP;
  __shared__ Accum key[Gradients<Cfg>::WIDTH];
  __shared__ Met met;
  const Backward& of = args.of;
  const Elem* k = of.k.at(row, key_head);
  const Elem* v = of.v.at(row, key_head);
  for (int i = threadIdx.x; i < Cfg::A; i += THREADS) key[i] = load(k + i);
  for (int i = threadIdx.x; i < Cfg::V; i += THREADS) key[Cfg::A + Cfg::R + i] = load(v + i);
  if (Cfg::R > 0) {
    const Elem* k_rope = of.k_rope.at(row, key_head * Cfg::GR / Cfg::GK);
    for (int i = threadIdx.x; i < Cfg::R; i += THREADS) key[Cfg::A + i] = load(k_rope + i);
  }
  const i64 lines = (to - from) * GROUP;
  for (i64 start = 0; start < lines; start += MET) {
    const int count = lines - start < MET ? int(lines - start) : MET;
    __syncthreads();
    if (threadIdx.x < MET) {
      // Behind the last stands one that is there, and is left out of the sums
      const i64 n = start + (int(threadIdx.x) < count ? int(threadIdx.x) : 0);
      const i64 query = args.choosers[from + n / GROUP];
      const int head = key_head * GROUP + int(n % GROUP);
      met.query[threadIdx.x] = query;
      met.head[threadIdx.x] = head;
      met.line[NOPE][threadIdx.x] = of.q.at(query, head);
      met.line[ROPE][threadIdx.x] = of.q_rope.at(query, head);
      met.line[VALUE][threadIdx.x] = of.d_out.at(query, head);
    }
    __syncthreads();
    Accum dots[OWN_MET] = {};
    Accum d_ps[OWN_MET] = {};
    add_shares(met.line[NOPE], key, Cfg::A, dots);
    add_shares(met.line[ROPE], key + Cfg::A, Cfg::R, dots);
    add_shares(met.line[VALUE], key + Cfg::A + Cfg::R, Cfg::V, d_ps);
    const Accum dot = own_sum(dots);
    const Accum d_p = own_sum(d_ps);
    if (lane() < OWN_MET) {
      const int own = warp() * OWN_MET + lane();
      const i64 query = met.query[own];
      const QueryRow& asks = of.rows[query];
      const Pair pair = pair_of<Cfg>(of, asks, query, met.head[own], row - asks.first_key_row, dot, d_p);
      met.d_s[own] = pair.d_s * pair.slope * Accum(of.softmax.scale);
      met.p[own] = pair.p;
    }
    __syncthreads();
    gradients.k.add(met.line[NOPE], met.d_s, count);
    gradients.k_rope.add(met.line[ROPE], met.d_s, count);
    gradients.v.add(met.line[VALUE], met.p, count);
  }
}

// Piece `i` of a list that begins at `first` has slot `first / piece + i`, pieces but the first: so a list of `n` has slots up to
// `(first + n - 1) / piece` at most, and the next one's come behind it. Whose piece a slot has, the last key says whose list begins before
// `slot · piece`.
__device__ inline i64 key_of_slot(const ChosenBackward& args, i64 slot) {
  i64 from = 0;
  i64 to = args.of.k.rows;
  while (from < to) {
    const i64 middle = (from + to) / 2;
    if (args.first[middle] < slot * args.piece) {
      from = middle + 1;
    } else {
      to = middle;
    }
  }
  return from - 1;
}

// Blocks are [slots + keys, GK]: the longest ones first.
template <class Cfg>
__device__ void backward_chosen(const ChosenBackward& args) {
  const i64 number = blockIdx.x / Cfg::GK;
  const int key_head = blockIdx.x % Cfg::GK;
  const i64 slot = number + 1;
  const bool is_first = number >= args.slots;
  const i64 row = is_first ? number - args.slots : key_of_slot(args, slot);
  const i64 first = args.first[row];
  const i64 end = args.first[row + 1];
  const i64 from = is_first ? first : first + (slot - first / args.piece) * args.piece;
  const i64 to = from + args.piece < end ? from + args.piece : end;
  if (from >= to) return;
  Gradients<Cfg> gradients;
  add_choosers(args, row, key_head, from, to, gradients);
  if (is_first) {
    gradients.land(args.of, row, key_head);
  } else {
    gradients.keep(kept<Cfg>(args, slot - 1, key_head));
  }
}

// Adds the pieces of each list to its first: blocks are [keys, GK].
template <class Cfg>
__device__ void add_pieces(const ChosenBackward& args) {
  const i64 row = blockIdx.x / Cfg::GK;
  const int key_head = blockIdx.x % Cfg::GK;
  const i64 first = args.first[row];
  const i64 more = (args.first[row + 1] - first - 1) / args.piece;
  if (more <= 0) return;
  Gradients<Cfg> gradients;
  for (i64 i = 1; i <= more; i++) gradients.add_kept(kept<Cfg>(args, first / args.piece + i - 1, key_head));
  gradients.land(args.of, row, key_head);
}
