// Softmax attention: a block for a row of queries, some neighbouring heads that read the same keys, and a part of what the row sees.
//
// Keys come in tiles. The logits of a tile are products of queries and keys that are staged through shared memory, some values
// of each at a time; every thread has one key and some heads. The softmax runs along with the tiles. Values are read once, by
// threads that own columns of the result in registers. What a row does not see is never read: 0 times a NaN is a NaN.

#include "prelude.cuh"

using Key = MLA_KEY;

// What a row of queries sees. Keys count from the segment's first.
struct Sight {
  i64 first;
  i64 last;       // one past
  i64 base;       // row of the segment's first key, or where its blocks start in the table
  i64 blocks;     // blocks that the segment has
  i64 first_key;  // index in the sequence of the segment's first key
  i64 query;      // index in the sequence of the query
  i64 given;      // where the dense mask's line of the row has the segment's first key
  u64 stream;     // the random numbers of the sequence
};

struct Attending {
  Window<const Elem> q;
  Window<const Elem> q_rope;
  Window<const Key> k;
  Window<const Key> k_rope;
  Window<const Key> v;
  Accum* out;  // [splits, rows, H, V]
  Accum* lse;
  Accum* max_logit;
  const Sight* sights;
  const u32* table;    // ids of blocks
  const u8* given;     // null: no dense mask
  const i32* chosen;   // [rows, width] indices in the sequence; null: all that a row sees
  const Accum* bias;   // [bias_heads, bias_queries, bias_keys], or null
  i64 splits;
  i64 page;  // slots of a block; 0 where keys are rows
  i64 width;
  i64 bias_heads;
  i64 bias_queries;
  i64 bias_keys;
  f64 scale;
  f64 cap;   // 0: none
  f64 drop;  // the chance that a probability becomes 0
};

static_assert(sizeof(Sight) == 64 && sizeof(Attending) == 336, "as the runtime lays them out");

__device__ constexpr int divisor_of_both(int a, int b) { return b == 0 ? a : divisor_of_both(b, a % b); }
__device__ constexpr int power_from(int x) { return x <= 1 ? 1 : 2 * power_from((x + 1) / 2); }
__device__ constexpr int quotient_up(int a, int b) { return (a + b - 1) / b; }

constexpr int MOST_HEADS = 16;
constexpr int ROOM = 256 / int(sizeof(Accum));  // results that a thread has registers for
constexpr int DEPTH = 32;                       // values of queries and keys that are staged at a time
constexpr int AHEAD = 4;                        // keys whose values are on their way at a time

// How the work of a block lies on its threads. The runtime counts blocks by the same rules.
template <class Cfg>
struct Lie {
  // Neighbouring heads that read the same heads of keys, of their rotated parts and of values
  static constexpr int SHARING = divisor_of_both(divisor_of_both(Cfg::H / Cfg::GK, Cfg::H / Cfg::GR), Cfg::H / Cfg::GV);
  // Threads beside each other own columns of the result, and these lines of threads own heads
  static constexpr int COLUMNS = Cfg::V > 0 ? Cfg::V : 1;
  static constexpr int COLUMN_THREADS = power_from(COLUMNS) < THREADS ? power_from(COLUMNS) : THREADS;
  static constexpr int OWN_COLUMNS = quotient_up(COLUMNS, COLUMN_THREADS);
  static constexpr int LINES = THREADS / COLUMN_THREADS;

  __device__ static constexpr int heads_from(int heads) {
    return heads > 1 && quotient_up(heads, LINES) * OWN_COLUMNS > ROOM ? heads_from(heads / 2) : heads;
  }
  // Of a block, those past the end included
  static constexpr int HEADS = heads_from(power_from(SHARING) < MOST_HEADS ? power_from(SHARING) : MOST_HEADS);
  static constexpr int OWN_HEADS = quotient_up(HEADS, LINES);
  static constexpr int BLOCKS_OF_SHARING = quotient_up(SHARING, HEADS);

  static constexpr int TILE = HEADS == 1 ? 128 : 64;  // keys
  static constexpr int OWN_LOGITS = HEADS * TILE / THREADS;
};

template <class Cfg>
struct Staged {
  Accum keys[Lie<Cfg>::TILE][DEPTH + 1];
  Accum queries[DEPTH][Lie<Cfg>::HEADS];
};

// Adds to the logits of this thread's key the products of `WIDTH` values. `slots` are rows of `k`, negative where nothing is seen.
template <class Cfg, int WIDTH>
__device__ inline void add_products(const Window<const Elem>& q, i64 row, int first_head, int end_head, const Window<const Key>& k,
                                    int key_head, const i64* slots, Staged<Cfg>& staged, Accum (&logits)[Lie<Cfg>::OWN_LOGITS]) {
  using L = Lie<Cfg>;
  const int key = threadIdx.x % L::TILE;
  const int head = int(threadIdx.x) / L::TILE * L::OWN_LOGITS;
  for (int from = 0; from < WIDTH; from += DEPTH) {
    __syncthreads();
#pragma unroll 8
    for (int i = threadIdx.x; i < L::TILE * DEPTH; i += THREADS) {
      const int at = from + i % DEPTH;
      const i64 slot = slots[i / DEPTH];
      staged.keys[i / DEPTH][i % DEPTH] = slot >= 0 && at < WIDTH ? load(k.at(slot, key_head) + at) : Accum(0);
    }
    for (int i = threadIdx.x; i < L::HEADS * DEPTH; i += THREADS) {
      const int at = from + i % DEPTH;
      const int of = first_head + i / DEPTH;
      staged.queries[i % DEPTH][i / DEPTH] = of < end_head && at < WIDTH ? load(q.at(row, of) + at) : Accum(0);
    }
    __syncthreads();
#pragma unroll 8
    for (int d = 0; d < DEPTH; d++) {
      const Accum value = staged.keys[key][d];
#pragma unroll
      for (int i = 0; i < L::OWN_LOGITS; i++) logits[i] += staged.queries[d][head + i] * value;
    }
  }
}

// The larger one; a NaN takes over and stays, so that a poisoned input shows.
__device__ inline Accum peak(Accum x, Accum y) { return x >= y || is_nan(x) ? x : y; }

// The finaliser of SplitMix64, and its increment: bits of the runtime's `Dropout`.
__device__ inline u64 mixed(u64 bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
  return bits ^ (bits >> 31);
}
constexpr u64 GOLDEN = 0x9e3779b97f4a7c15ull;

__device__ inline u64 stream_of(u64 stream, i64 part) { return mixed((stream + GOLDEN) ^ mixed(u64(part))); }

__device__ inline bool is_dropped(u64 stream, i64 key, f64 drop) {
  const u64 bits = mixed(stream + (u64(key) + 1) * GOLDEN);
  return f64(bits >> 11) * (1.0 / 9007199254740992.0) < drop;
}

// The row of `k` that holds a key counted from its segment's first.
__device__ inline i64 slot_of(const Attending& args, const Sight& sight, i64 key) {
  i64 slot = sight.base + key;
  if (args.page > 0) {
    // Sequences are shorter than 2^32: a division of 64 bits is a call, for which registers are spilled
    const u32 block = u32(key) / u32(args.page);
    if (!IN_RANGE(block, sight.blocks)) return -1;
    slot = i64(args.table[sight.base + block]) * args.page + u32(key) % u32(args.page);
  }
  return IN_RANGE(slot, args.k.rows) ? slot : -1;
}

template <class Cfg>
__device__ void attend(const Attending& args) {
  using L = Lie<Cfg>;
  __shared__ Staged<Cfg> staged;
  alignas(16) __shared__ Accum weights[L::TILE][L::HEADS];  // logits, then probabilities
  __shared__ i64 slots[L::TILE];
  __shared__ i64 indices[L::TILE];
  __shared__ u64 streams[L::HEADS];
  __shared__ Accum top[L::HEADS];
  __shared__ Accum sums[L::HEADS];
  __shared__ Accum shrink[L::HEADS];

  // Rows are next to each other among blocks that run together: those of a sequence read the same keys
  const u32 rows = u32(args.q.rows);
  const u32 splits = u32(args.splits);
  const i64 row = blockIdx.x % rows;
  const u32 split = blockIdx.x / rows % splits;
  const int group = int(blockIdx.x / rows / splits);
  const int first_shared = group / L::BLOCKS_OF_SHARING * L::SHARING;
  const int first_head = first_shared + group % L::BLOCKS_OF_SHARING * L::HEADS;
  const int end_head = min(first_head + L::HEADS, first_shared + L::SHARING);

  const Sight sight = args.sights[row];
  const i64 from = args.chosen ? 0 : sight.first;
  const u32 count = u32(args.chosen ? (sight.first < sight.last ? args.width : 0) : sight.last - sight.first);
  // The first parts have one more where they can't be equal
  const u32 rest = count % splits;
  const i64 start = from + i64(count / splits) * split + min(split, rest);
  const i64 end = start + count / splits + (split < rest ? 1 : 0);

  if (threadIdx.x < L::HEADS) {
    top[threadIdx.x] = minus_infinity();
    sums[threadIdx.x] = 0;
    streams[threadIdx.x] = stream_of(stream_of(sight.stream, first_head + threadIdx.x), sight.query);
  }
  const int column = threadIdx.x % L::COLUMN_THREADS;
  const int first_own = int(threadIdx.x) / L::COLUMN_THREADS * L::OWN_HEADS;
  Accum own[L::OWN_HEADS][L::OWN_COLUMNS] = {};

  for (i64 tile = start; tile < end; tile += L::TILE) {
    __syncthreads();
    bool sees = false;
    for (int i = threadIdx.x; i < L::TILE; i += THREADS) {
      i64 key = tile + i < end ? tile + i : -1;
      if (args.chosen && key >= 0) key = args.chosen[row * args.width + key] - sight.first_key;
      bool visible = key >= sight.first && key < sight.last;
      if (visible && args.given) visible = args.given[sight.given + key] != 0;
      slots[i] = visible ? slot_of(args, sight, key) : -1;
      indices[i] = sight.first_key + key;
      sees |= slots[i] >= 0;
    }
    if (!__syncthreads_or(sees)) continue;

    Accum logits[L::OWN_LOGITS] = {};
    add_products<Cfg, Cfg::A>(args.q, row, first_head, end_head, args.k, first_head * Cfg::GK / Cfg::H, slots, staged, logits);
    add_products<Cfg, Cfg::R>(args.q_rope, row, first_head, end_head, args.k_rope, first_head * Cfg::GR / Cfg::H, slots, staged,
                              logits);
    const int mine = threadIdx.x % L::TILE;
    const int first_logit = int(threadIdx.x) / L::TILE * L::OWN_LOGITS;
#pragma unroll
    for (int i = 0; i < L::OWN_LOGITS; i++) {
      const i64 head = first_head + first_logit + i;
      Accum logit = logits[i] * Accum(args.scale);
      if (args.cap > 0) logit = Accum(args.cap) * tangent(logit * (Accum(1) / Accum(args.cap)));
      if (slots[mine] < 0) {
        logit = minus_infinity();
      } else if (args.bias && head < end_head) {
        const i64 line = (args.bias_heads == 1 ? 0 : head) * args.bias_queries + sight.query;
        logit += args.bias[line * args.bias_keys + indices[mine]];
      }
      weights[mine][first_logit + i] = logit;
    }
    __syncthreads();

    // A warp for a head
    for (int head = warp(); head < L::HEADS; head += WARPS) {
      const Accum before = top[head];
      Accum now = before;
      for (int i = lane(); i < L::TILE; i += WARP) now = peak(now, weights[i][head]);
      for (int offset = WARP / 2; offset > 0; offset /= 2) now = peak(now, __shfl_xor_sync(ALL_LANES, now, offset));
      const Accum base = now == minus_infinity() ? Accum(0) : now;
      Accum sum = 0;
      for (int i = lane(); i < L::TILE; i += WARP) {
        Accum weight = exponential(weights[i][head] - base);
        sum += weight;
        if (args.drop > 0) {
          const Accum left = is_dropped(streams[head], indices[i], args.drop) ? Accum(0) : Accum(1.0 / (1.0 - args.drop));
          weight *= left;
        }
        weights[i][head] = weight;
      }
      sum = warp_sum(sum);
      __syncwarp();  // every lane has read what stood there before
      if (lane() == 0) {
        shrink[head] = before == now ? Accum(1) : exponential(before - base);
        sums[head] = sums[head] * shrink[head] + sum;
        top[head] = now;
      }
    }
    __syncthreads();

    if (first_own >= L::HEADS) continue;
#pragma unroll
    for (int h = 0; h < L::OWN_HEADS; h++) {
#pragma unroll
      for (int c = 0; c < L::OWN_COLUMNS; c++) own[h][c] *= shrink[first_own + h];
    }
    const int keys = int(min(end - tile, i64(L::TILE)));
    for (int first = 0; first < keys; first += AHEAD) {
      Accum values[AHEAD][L::OWN_COLUMNS];
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        const i64 slot = slots[first + i];
        const Key* line = args.v.at(slot, first_head * Cfg::GV / Cfg::H);
#pragma unroll
        for (int c = 0; c < L::OWN_COLUMNS; c++) {
          const int at = column + c * L::COLUMN_THREADS;
          values[i][c] = slot >= 0 && at < Cfg::V ? load(line + at) : Accum(0);
        }
      }
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
#pragma unroll
        for (int h = 0; h < L::OWN_HEADS; h++) {
          const Accum weight = weights[first + i][first_own + h];
#pragma unroll
          for (int c = 0; c < L::OWN_COLUMNS; c++) own[h][c] += weight * values[i][c];
        }
      }
    }
  }
  __syncthreads();

  const i64 line = (i64(split) * rows + row) * Cfg::H + first_head;
  if (threadIdx.x < end_head - first_head) {
    const bool saw = top[threadIdx.x] != minus_infinity();
    args.lse[line + threadIdx.x] = saw ? top[threadIdx.x] + logarithm(sums[threadIdx.x]) : minus_infinity();
    args.max_logit[line + threadIdx.x] = top[threadIdx.x];
  }
#pragma unroll
  for (int h = 0; h < L::OWN_HEADS; h++) {
    const int head = first_own + h;
    if (first_head + head >= end_head) continue;
    const Accum inverse = Accum(1) / sums[head];
#pragma unroll
    for (int c = 0; c < L::OWN_COLUMNS; c++) {
      const int at = column + c * L::COLUMN_THREADS;
      if (at < Cfg::V) args.out[(line + head) * Cfg::V + at] = top[head] == minus_infinity() ? Accum(0) : own[h][c] * inverse;
    }
  }
}
