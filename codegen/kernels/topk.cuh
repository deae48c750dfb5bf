// The best keys of each query: exact, and the same in every run.

#include "sights.cuh"

constexpr int BINS = 256;
constexpr int EACH = 4;  // neighbouring keys of a thread

template <class T>
struct ImageOf {
  using Type = u32;
};
template <>
struct ImageOf<f64> {
  using Type = u64;
};

// An integer for each score, larger where the score is better: 0 for what is never chosen, 1 for a NaN, more for numbers.
using Image = ImageOf<Accum>::Type;
constexpr int BITS = int(sizeof(Image)) * 8;

struct Choosing {
  Sights sights;
  const Accum* scores;  // [groups, per_group, width] from the first group on; column 0 is the first key that the group scores
  i32* out;             // [rows, most]
  i64 most;
  i64 width;
  i64 first_group;
  i64 per_group;
};

__device__ inline Image image(Accum score) {
  if (is_nan(score)) return 1;
  if (score == minus_infinity()) return 0;
  if (score == Accum(0)) score = Accum(0);  // -0 is no worse
  Image bits;
  memcpy(&bits, &score, sizeof(Image));
  const Image sign = Image(1) << (BITS - 1);
  return bits & sign ? ~bits : bits | sign;
}

// The sum over the threads before this one, and that over all.
__device__ inline u32 sum_before(u32 own, u32* all) {
  __shared__ u32 of_warp[WARPS];
  u32 sum = own;
  for (int offset = 1; offset < WARP; offset *= 2) {
    const u32 before = __shfl_up_sync(ALL_LANES, sum, offset);
    if (lane() >= offset) sum += before;
  }
  __syncthreads();
  if (lane() == WARP - 1) of_warp[warp()] = sum;
  __syncthreads();
  u32 before = sum - own;
  *all = 0;
  for (int i = 0; i < WARPS; i++) {
    if (i < warp()) before += of_warp[i];
    *all += of_warp[i];
  }
  return before;
}

// The scores of one query.
struct Row {
  const Sights* sights;
  Query query;
  const Accum* scores;  // by key

  __device__ bool is_scored(i64 key) const { return key >= query.begin && key < query.end; }
  __device__ Image at(i64 key) const { return sights->allows(query, key) ? image(scores[key]) : Image(0); }
};

// The least image that is chosen, and how many of those that equal it are; the others are lower, or chosen.
struct Bar {
  Image image;
  u32 equals;
};

// A digit of 8 bits at a time from the highest one on: the images that share the bar's digits so far are counted by their next one.
__device__ inline Bar bar_of(const Row& row) {
  __shared__ u32 bins[BINS];
  __shared__ u32 found[2];  // a digit, and how many are wanted of those that have it
  if (row.query.keep == 0) return {~Image(0), 0};
  Bar bar = {0, u32(row.query.keep)};
  Image mask = 0;
  for (int shift = BITS - 8; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < BINS; i += THREADS) bins[i] = 0;
    __syncthreads();
    for (i64 key = row.query.begin + threadIdx.x; key < row.query.end; key += THREADS) {
      const Image own = row.at(key);
      if (own != 0 && (own & mask) == bar.image) atomicAdd(&bins[int(own >> shift) & (BINS - 1)], 1u);
    }
    __syncthreads();
    // Largest digits first
    const int high = BINS - 1 - 2 * int(threadIdx.x);
    u32 all;
    const u32 before = sum_before(bins[high] + bins[high - 1], &all);
    if (mask == 0 && all <= bar.equals) return {0, 0};  // no more than are wanted
    if (before < bar.equals && bar.equals <= before + bins[high] + bins[high - 1]) {
      const bool in_high = bar.equals <= before + bins[high];
      found[0] = in_high ? high : high - 1;
      found[1] = bar.equals - before - (in_high ? 0 : bins[high]);
    }
    __syncthreads();
    bar = {bar.image | Image(found[0]) << shift, found[1]};
    mask |= Image(BINS - 1) << shift;
  }
  return bar;
}

// A block for each query: first the bar, then what is chosen in the order of the keys.
template <class Cfg>
__device__ void topk(const Choosing& args) {
  const Group group = args.sights.groups[args.first_group + blockIdx.x / args.per_group];
  const i64 own = blockIdx.x % args.per_group;
  if (own >= group.count) return;
  const Accum* scores = args.scores + i64(blockIdx.x) * args.width - group.begin;
  const Row row = {&args.sights, args.sights.queries[group.row + own], scores};
  i32* out = args.out + (group.row + own) * args.most;
  const Bar bar = bar_of(row);
  const i64 equals = bar.equals;
  i64 above = 0;   // chosen so far, those that equal the bar aside
  i64 at_bar = 0;  // and how many equal it so far
  for (i64 first = row.query.seen_begin; first < row.query.seen_end; first += THREADS * EACH) {
    const i64 first_own = first + threadIdx.x * EACH;
    u32 is_above = 0;
    u32 is_equal = 0;
    for (int i = 0; i < EACH; i++) {
      const i64 key = first_own + i;
      if (key >= row.query.seen_end) continue;
      if (row.is_scored(key)) {
        const Image own = row.at(key);
        is_above |= u32(own > bar.image) << i;
        is_equal |= u32(own == bar.image && equals > 0) << i;
      } else {
        is_above |= u32(args.sights.allows(row.query, key)) << i;
      }
    }
    // Two counts in one number: neither is above THREADS · EACH
    u32 all;
    const u32 before = sum_before(u32(__popc(is_above)) | u32(__popc(is_equal)) << 16, &all);
    i64 own_above = above + (before & 0xffff);
    i64 own_equal = at_bar + (before >> 16);
    for (int i = 0; i < EACH; i++) {
      const bool equal = is_equal >> i & 1;
      const i64 place = own_above + (own_equal < equals ? own_equal : equals);
      if ((is_above >> i & 1) || (equal && own_equal < equals)) {
        if (IN_RANGE(place, args.most)) out[place] = i32(group.first_position + first_own + i);
      }
      own_above += is_above >> i & 1;
      own_equal += equal;
    }
    above += all & 0xffff;
    at_bar += all >> 16;
  }
  const i64 chosen = above + (at_bar < equals ? at_bar : equals);
  for (i64 i = chosen + threadIdx.x; i < args.most; i += THREADS) out[i] = -1;
}
