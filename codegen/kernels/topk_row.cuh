// What the kernels of the best scores are told, and what one of their blocks knows: its row, its part of it, and sums over its threads.

#include "sights.cuh"
#include "copies.cuh"

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

constexpr int BINS = 2048;    // that images are counted in
constexpr int DIGIT = 11;     // bits of a bin's number
constexpr int QUAD = 16 / int(sizeof(Accum));  // scores that are read at once

// A score that may be chosen, and its key, counted from the first scored one.
struct alignas(2 * sizeof(Accum)) Candidate {
  Accum score;
  u32 key;
};

struct Choosing {
  Sights sights;
  const Accum* scores;     // [groups, per_group, width] from the first group on; column 0 is the first key that the group scores
  i32* out;                // [rows, most]
  Candidate* candidates;   // [rows, split, room]: what blocks of one row hand on; null where each row has one
  u32* counts;             // [rows, split]: how many they are
  u32* arrived;            // [rows]: how many of a row's blocks have handed on; 0 before a launch and after it
  i64 most;
  i64 width;
  i64 first_group;
  i64 per_group;
  i32 split;  // blocks of a row
  u32 room;   // candidates that a block has room for: a multiple of 4
  u32 piece;  // keys whose choice a block writes at a time: a power of two, 32 or more
  i32 slots;  // whether `out` gets rows of keys, as lists of blocks have them, instead of positions
};
static_assert(sizeof(Choosing) == sizeof(Sights) + 88, "the host lays it out alike");

__device__ inline Image image(Accum score) {
  const Accum number = score == Accum(0) ? Accum(0) : score;  // -0 is no worse
  Image bits;
  memcpy(&bits, &number, sizeof(Image));
  const Image sign = Image(1) << (BITS - 1);
  const Image own = bits & sign ? ~bits : bits | sign;
  return is_nan(score) ? Image(1) : score == minus_infinity() ? Image(0) : own;
}

// The number that an image is of.
__device__ inline Accum number_of(Image own) {
  const Image sign = Image(1) << (BITS - 1);
  const Image bits = own & sign ? own ^ sign : ~own;
  Accum score;
  memcpy(&score, &bits, sizeof(Image));
  return score;
}

// The bits that a number takes.
__device__ inline int bits_to_write(u32 x) { return 32 - __clz(int(x)); }
__device__ inline int bits_to_write(u64 x) { return x >> 32 ? 32 + bits_to_write(u32(x >> 32)) : bits_to_write(u32(x)); }

// A block's threads, how many reads of 16 bytes each has under way, how many it samples of a row with many keys, and whether it is alone on a multiprocessor:
// then it reads ahead, while it does something else.
template <int THREADS_, int UNDER_WAY_, int SAMPLES_, bool ALONE_>
struct Crew {
  static constexpr int THREADS = THREADS_, WARPS = THREADS / WARP, UNDER_WAY = UNDER_WAY_, SAMPLES = SAMPLES_;
  static constexpr bool ALONE = ALONE_;
};
constexpr u32 MANY = 1 << 18;  // keys

// The sum over the threads before this one, and that over all. A barrier stands between two calls.
template <class Own>
__device__ inline u32 sum_before(u32 own, u32* all) {
  __shared__ u32 of_warp[Own::WARPS];
  u32 sum = own;
#pragma unroll
  for (int offset = 1; offset < WARP; offset *= 2) {
    const u32 before = __shfl_up_sync(ALL_LANES, sum, offset);
    if (lane() >= offset) sum += before;
  }
  if (lane() == WARP - 1) of_warp[warp()] = sum;
  __syncthreads();
  u32 warps = lane() < Own::WARPS ? of_warp[lane()] : 0;
#pragma unroll
  for (int offset = 1; offset < Own::WARPS; offset *= 2) {
    const u32 before = __shfl_up_sync(ALL_LANES, warps, offset);
    if (lane() >= offset) warps += before;
  }
  *all = __shfl_sync(ALL_LANES, warps, Own::WARPS - 1);
  const u32 before = __shfl_sync(ALL_LANES, warps, warp() == 0 ? 0 : warp() - 1);
  return sum - own + (warp() == 0 ? 0 : before);
}

// The row that a block works on. It stands in shared memory: threads have few registers.
struct Row {
  const u8* given;      // its line of the mask, by key; null: it has none
  const Accum* scores;  // from its first scored key on
  i32* out;             // null: there is no such row
  const u32* blocks;    // its list of them, where rows of keys are wanted; null: positions are
  u32 begin, end, seen_begin, seen_end, keep;  // as of `Query`
  u32 first_position;
  u32 most;
  u32 page;
  u32 keys;   // that are scored
  u32 head;   // of them, those before the first address that is a multiple of 16 bytes
  u32 quads;  // reads of 16 bytes from there on; fewer than 16 bytes are left behind them

  // One thread finds the row of a number, which may be nobody's.
  __device__ void find(const Choosing& args, u32 number) {
    const u32 each = u32(args.per_group), own = number % each;
    const Group group = args.sights.groups[args.first_group + number / each];
    out = nullptr;
    if (own >= group.count) return;
    const Query query = args.sights.queries[group.row + own];
    given = query.given < 0 ? nullptr : args.sights.given + query.given;
    scores = args.scores + i64(number) * args.width - group.begin + query.begin;
    out = args.out + (group.row + own) * args.most;
    blocks = args.slots ? args.sights.blocks + group.keys : nullptr;
    begin = u32(query.begin), end = u32(query.end), seen_begin = u32(query.seen_begin), seen_end = u32(query.seen_end), keep = u32(query.keep);
    first_position = u32(group.first_position);
    most = u32(args.most);
    page = u32(args.sights.page);
    keys = u32(query.end - query.begin);
    head = min(keys, (QUAD - u32(reinterpret_cast<u64>(scores) / sizeof(Accum))) % QUAD);
    quads = (keys - head) / QUAD;
  }

  __device__ const Quad* first_quad() const { return reinterpret_cast<const Quad*>(scores + head); }

  // Whether a key may be chosen.
  __device__ bool allows(u32 key) const { return !given || given[key] != 0; }

  // The image of a scored key, counted from the first of them.
  __device__ Image at(u32 key) const { return allows(begin + key) ? image(scores[key]) : Image(0); }

  // Writes what has been chosen as the `place`th.
  __device__ void choose(u32 place, u32 key) const {
    if (!IN_RANGE(place, most)) return;
    out[place] = i32(blocks ? blocks[key / page] * page + key % page : first_position + key);
  }
};

// Behind what has been chosen there is nothing.
template <class Own>
__device__ inline void end_row(const Row& row, u32 chosen) {
#pragma unroll 1
  for (u32 i = chosen + threadIdx.x; i < row.most; i += Own::THREADS) row.out[i] = -1;
}

// ---- Reading ----

// What a thread has read at once: minus infinity, where there are no more quads.
template <class Own>
struct Batch {
  static constexpr int COUNT = Own::UNDER_WAY * QUAD;
  static constexpr u32 QUADS = u32(Own::UNDER_WAY) * Own::THREADS;  // of all threads

  Accum score[COUNT];

  // How far a score's key is behind that of the thread's first one.
  __device__ static constexpr u32 apart(int i) { return u32(i / QUAD) * Own::THREADS * QUAD + i % QUAD; }

  // From quad `first` on, up to `end`.
  __device__ void read(const Row& row, u32 first, u32 end) {
    const u32 own = first + threadIdx.x;
    const Quad* from = row.first_quad() + own;
#pragma unroll
    for (int i = 0; i < COUNT; i++) score[i] = minus_infinity();
#pragma unroll
    for (int i = 0; i < Own::UNDER_WAY; i++) {
      if (own + i * Own::THREADS >= end) continue;
      const Quad quad = load_once(from + i * Own::THREADS);
      memcpy(&score[i * QUAD], &quad, sizeof(Quad));
    }
  }
};

// ---- Counting ----

// The bins that images are counted in, the best ones first, and what has been found in them.
struct Bins {
  u32 count[BINS];
  u32 found[3];  // the bin, how many are in those before it, and how many in it

  template <class Own>
  __device__ void clear() {
    for (int i = threadIdx.x; i < BINS; i += Own::THREADS) count[i] = 0;
  }

  // Finds the bin that has the `wanted`th; all threads have counted, and count anew after it. Returns how many there are, of which `found` says something where
  // they are enough.
  template <class Own>
  __device__ u32 find(u32 wanted) {
    constexpr int EACH = BINS / Own::THREADS;
    __syncthreads();
    u32 own[EACH], sum = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const int bin = int(threadIdx.x) * EACH + i;
      sum += own[i] = count[bin];
      count[bin] = 0;
    }
    u32 all, before = sum_before<Own>(sum, &all);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      if (before < wanted && wanted <= before + own[i]) {
        found[0] = u32(threadIdx.x * EACH + i);
        found[1] = before;
        found[2] = own[i];
      }
      before += own[i];
    }
    __syncthreads();
    return all;
  }
};
