// The candidates of a row: the list of what is above a guess, the choice among them, and what is chosen in the order of its keys.

#include "topk_exact.cuh"

constexpr u32 CLOSE = 64;              // candidates among which each is compared with all others
constexpr u32 NOBODY = 0xffffffffu;    // a key that is none, a count that is too large
constexpr int MOST_SPLIT = WARP;       // blocks of a row

// What a block's threads share, besides lists and maps, which lie in the memory that the launch asks for.
struct Shelf {
  Row row;
  Bins bins;
  Image least, largest;  // of candidates
  u32 count;             // candidates, those included that found no room
  u32 close_count;
  u32 close[CLOSE];      // in the list
  u32 ends[MOST_SPLIT];  // of what blocks hand on, in the order of the blocks
  u32 last;              // whether this block is the last of its row

  template <class Own>
  __device__ void clear() {
    bins.clear<Own>();
    if (threadIdx.x > 0) return;
    least = ~Image(0);
    largest = 0;
    count = close_count = 0;
  }
};

// The list of a block.
struct List {
  Candidate* items;
  u32 room;

  // Adds what a batch has above the bar, which begins with this key for this thread. No thread waits for those of other warps.
  template <class Own>
  __device__ void add(const Batch<Own>& batch, u32 first_key, Accum bar, u32* count) const {
    u32 own = 0;
#pragma unroll
    for (int i = 0; i < Batch<Own>::COUNT; i++) own += batch.score[i] > bar;
    u32 sum = own;
#pragma unroll
    for (int offset = 1; offset < WARP; offset *= 2) {
      const u32 before = __shfl_up_sync(ALL_LANES, sum, offset);
      if (lane() >= offset) sum += before;
    }
    const u32 all = __shfl_sync(ALL_LANES, sum, WARP - 1);
    if (all == 0) return;
    u32 begin = 0;
    if (lane() == 0) begin = atomicAdd(count, all);
    begin = __shfl_sync(ALL_LANES, begin, 0);
    if (begin + all > room) return;  // they are too many, which the count says
    Candidate* to = items + begin + sum - own;
#pragma unroll
    for (int i = 0; i < Batch<Own>::COUNT; i++) {
      if (batch.score[i] > bar) *to++ = {batch.score[i], first_key + Batch<Own>::apart(i)};
    }
  }

  // Adds what has no quad: a few scores at the row's ends, each a thread's.
  __device__ void add_ends(const Row& row, Accum bar, u32* count) const {
    const u32 key = threadIdx.x < row.head ? threadIdx.x : threadIdx.x + row.quads * QUAD;
    if (threadIdx.x >= 2 * QUAD || key >= row.keys || !(row.scores[key] > bar)) return;
    const u32 at = atomicAdd(count, 1u);
    if (at < room) items[at] = {row.scores[key], key};
  }
};

// Where the images of candidates are cut: those above `high` are chosen, those below `low` are not, and of those between, `wanted` of `count`.
struct Cut {
  Image low, high;
  u32 wanted, count;
};

template <class Own>
__device__ inline void find_extremes(const List& list, u32 count, Shelf& shelf) {
  Image least = ~Image(0), largest = 0;
  for (u32 i = threadIdx.x; i < count; i += Own::THREADS) {
    const Image own = image(list.items[i].score);
    least = min(least, own);
    largest = max(largest, own);
  }
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset /= 2) {
    least = min(least, __shfl_xor_sync(ALL_LANES, least, offset));
    largest = max(largest, __shfl_xor_sync(ALL_LANES, largest, offset));
  }
  if (lane() == 0 && largest > 0) {
    atomicMin(&shelf.least, least);
    atomicMax(&shelf.largest, largest);
  }
  __syncthreads();
}

// Cuts a list of `count` so that `wanted` of them are chosen: the images between the least and the largest are spread over the bins, those of one bin over all
// bins again, until few are left or all are equal.
template <class Own>
__device__ inline Cut cut_list(const List& list, u32 count, u32 wanted, Shelf& shelf) {
  if (count == wanted) return {0, 0, count, count};
  find_extremes<Own>(list, count, shelf);
  Cut cut = {shelf.least, shelf.largest, wanted, count};
  while (cut.wanted < cut.count && cut.count > CLOSE && cut.low < cut.high) {
    const int shift = max(0, bits_to_write(cut.high - cut.low) - DIGIT);
    for (u32 i = threadIdx.x; i < count; i += Own::THREADS) {
      const Image own = image(list.items[i].score);
      if (own >= cut.low && own <= cut.high) atomicAdd(&shelf.bins.count[BINS - 1 - u32((own - cut.low) >> shift)], 1u);
    }
    shelf.bins.find<Own>(cut.wanted);
    cut.low += Image(BINS - 1 - shelf.bins.found[0]) << shift;
    const Image across = (Image(1) << shift) - 1;
    if (cut.high - cut.low > across) cut.high = cut.low + across;
    cut.wanted -= shelf.bins.found[1];
    cut.count = shelf.bins.found[2];
  }
  return cut;
}

// A bit for each key that is chosen, of a piece of those that a row sees.
template <class Own>
struct Map {
  u32* words;
  u32 piece;  // keys of a piece

  __device__ void clear() const {
#pragma unroll 1
    for (u32 i = threadIdx.x; i < piece / 32; i += Own::THREADS) words[i] = 0;
  }

  // `key` is counted from the piece's first; it may be in another piece.
  __device__ void set(u32 key) const {
    if (key < piece) atomicOr(&words[key / 32], 1u << key % 32);
  }

  // The keys from `begin` to `end`; the piece begins with key `base`.
  __device__ void set_all(u32 base, u32 begin, u32 end) const {
#pragma unroll 1
    for (u32 key = max(base, begin) + threadIdx.x; key < end && key - base < piece; key += Own::THREADS) set(key - base);
  }

  // Writes the keys of a piece, from place `chosen` on, and forgets them. Returns how many they are.
  __device__ u32 write(const Row& row, u32 base, u32 chosen) const {
    const u32 used = (min(row.seen_end - base, piece) + 31) / 32;
    const u32 each = (used + Own::THREADS - 1) / Own::THREADS;
    const u32 first = min(threadIdx.x * each, used), end = min(first + each, used);
    u32 own = 0, all;
#pragma unroll 1
    for (u32 i = first; i < end; i++) own += __popc(words[i]);
    u32 place = chosen + sum_before<Own>(own, &all);
#pragma unroll 1
    for (u32 i = first; i < end; i++) {
#pragma unroll 1
      for (u32 word = words[i]; word != 0; word &= word - 1) row.choose(place++, base + i * 32 + __ffs(int(word)) - 1);
      words[i] = 0;
    }
    return all;
  }
};

// Of the candidates that a cut does not tell apart, each is compared with all others. `to_set` gets those that are chosen; the others are in the list no more.
template <class Own, class Set>
__device__ inline void choose_close(const List& list, const Cut& cut, Shelf& shelf, Set to_set) {
  __syncthreads();
  const bool close = cut.wanted < cut.count && threadIdx.x < cut.count;
  const u32 at = close ? shelf.close[threadIdx.x] : 0;
  u32 better = 0;
  if (close) {
    const Candidate own = list.items[at];
#pragma unroll 1
    for (u32 i = 0; i < cut.count; i++) {
      const Candidate other = list.items[shelf.close[i]];
      better += other.score > own.score || (other.score == own.score && other.key < own.key);
    }
    if (better < cut.wanted) to_set(own.key);
  }
  __syncthreads();
  if (close && better >= cut.wanted) list.items[at].key = NOBODY;
}

// Writes what is chosen of a list that is cut.
template <class Own>
__device__ inline void choose_listed(const Row& row, const List& list, u32 count, const Cut& cut, Shelf& shelf, const Map<Own>& map) {
  const bool tells = cut.wanted == cut.count;
  u32 chosen = 0;
#pragma unroll 1
  for (u32 base = row.seen_begin; base < row.seen_end; base += map.piece) {
    const u32 from = row.begin - base;  // the sum of it and of a key before the piece wraps around
    const bool is_first = base == row.seen_begin;
    // Those that are chosen whatever their scores
    map.set_all(base, row.seen_begin, row.begin);
    map.set_all(base, row.end, row.seen_end);
    for (u32 i = threadIdx.x; i < count; i += Own::THREADS) {
      const Candidate own = list.items[i];
      const Image other = image(own.score);
      if (own.key == NOBODY || other < cut.low) continue;
      if (is_first && !tells && other <= cut.high) shelf.close[atomicAdd(&shelf.close_count, 1u)] = i;
      else map.set(own.key + from);
    }
    if (is_first) choose_close<Own>(list, cut, shelf, [&](u32 key) { map.set(key + from); });
    else __syncthreads();
    chosen += map.write(row, base, chosen);
    __syncthreads();
  }
  end_row<Own>(row, chosen);
}

// Hands a list on to the last of a row's blocks. Whether this block is the last; then it has all lists, whose candidates are `count`.
template <class Own>
__device__ inline bool hand_on(const Choosing& args, const List& list, u32* count, Shelf& shelf) {
  constexpr int WORDS = sizeof(Candidate) / 8, AT_ONCE = 4;
  const i64 number = blockIdx.x / args.split, part = blockIdx.x % args.split, first = number * args.split;
  Candidate* to = args.candidates + (first + part) * list.room;
  for (u32 i = threadIdx.x; *count <= list.room && i < *count; i += Own::THREADS) to[i] = list.items[i];
  if (threadIdx.x == 0) args.counts[first + part] = *count;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shelf.last = atomicAdd(&args.arrived[number], 1u) == u32(args.split - 1);
  __syncthreads();
  if (!shelf.last) return false;
  __threadfence();
  if (threadIdx.x == 0) args.arrived[number] = 0;
  u32 end = lane() < args.split ? __ldcg(&args.counts[first + lane()]) : 0;
#pragma unroll
  for (int offset = 1; offset < WARP; offset *= 2) {
    const u32 before = __shfl_up_sync(ALL_LANES, end, offset);
    if (lane() >= offset) end += before;
  }
  *count = __shfl_sync(ALL_LANES, end, WARP - 1);
  if (warp() == 0) shelf.ends[lane()] = end;
  __syncthreads();
  if (*count > list.room) return true;
  const u64* from = reinterpret_cast<const u64*>(args.candidates + first * list.room);
  int of = 0;
  for (u32 i = threadIdx.x; i < *count; i += AT_ONCE * Own::THREADS) {
    u64 held[AT_ONCE][WORDS];
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const u32 own = i + j * Own::THREADS;
      if (own >= *count) break;
      while (own >= shelf.ends[of]) of++;
      const u32 at = of * list.room + own - (of == 0 ? 0 : shelf.ends[of - 1]);
#pragma unroll
      for (int word = 0; word < WORDS; word++) held[j][word] = __ldcg(from + u64(at) * WORDS + word);
    }
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const u32 own = i + j * Own::THREADS;
      if (own < *count) memcpy(&list.items[own], held[j], sizeof(Candidate));
    }
  }
  __syncthreads();
  return true;
}
