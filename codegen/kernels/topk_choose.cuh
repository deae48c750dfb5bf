// The best keys of a row: exact, and the same in every run. One block has a row, or a part of it.

#include "topk_sample.cuh"
#include "topk_list.cuh"

// Writes what is chosen of a row, by the list of what is above a bar.
template <class Own>
__device__ inline void choose(const Row& row, const List& list, u32 count, Accum guess, Shelf& shelf, const Map<Own>& map) {
  const u32 wanted = row.keep;
  Bar bar = {image(guess), wanted - count};
  if (count >= wanted && count <= list.room) {
    const Cut cut = cut_list<Own>(list, count, wanted, shelf);
    if (cut.wanted == cut.count || cut.count <= CLOSE) return choose_listed(row, list, count, cut, shelf, map);
    // Many equal the least that is chosen
    bar = {cut.low, cut.wanted};
  }
  // Where there are too few, those may be enough that equal the guess
  for (bool exact = count > list.room || bar.image == 0;; exact = true) {
    if (exact) bar = exact_bar<Own>(row, shelf.bins);
    if (choose_by<Own>(row, bar) || exact) return;
  }
}

// Reads a part of a row, and lists what is above a guess.
template <class Own>
__device__ inline Accum list_part(const List& list, u32 part, u32 split, Shelf& shelf) {
  const Row& row = shelf.row;
  const u32 each = (row.quads + split - 1) / split, begin = part * each, end = min(begin + each, row.quads);
  Accum bar = minus_infinity();
  Batch<Own> batch;
  Sample<Own> sample;
  const bool guesses = row.keys > list.room;
  if (guesses) sample.read(row);
  if (guesses && !Own::ALONE) bar = sample.bar(row, shelf.bins);
  const u32 own = row.head + threadIdx.x * QUAD;
  u32 first = begin;
  do {
    batch.read(row, first, end);
    // The first batch comes while a bar is found
    if (guesses && Own::ALONE && first == begin) bar = sample.bar(row, shelf.bins);
    list.add(batch, first * QUAD + own, bar, &shelf.count);
    first += Batch<Own>::QUADS;
  } while (first < end);
  if (part == 0) list.add_ends(row, bar, &shelf.count);
  __syncthreads();
  return bar;
}

// Blocks are [groups, per_group, split].
template <class Own>
__device__ inline void choose_best(const Choosing& args) {
  alignas(1024) extern __shared__ u8 shared[];
  __shared__ Shelf shelf;
  const List list = {reinterpret_cast<Candidate*>(shared), args.room};
  const Map<Own> map = {reinterpret_cast<u32*>(list.items + args.room), args.piece};
  if (threadIdx.x == 0) shelf.row.find(args, blockIdx.x / args.split);
  shelf.clear<Own>();
  map.clear();
  __syncthreads();
  const Row& row = shelf.row;
  const u32 part = blockIdx.x % args.split;
  if (!row.out) return;
  u32 count = NOBODY;
  Accum bar = minus_infinity();
  // Where scores decide alone, and a list holds as many as are wanted
  if (row.keys > 0 && row.keep > 0 && row.keep <= args.room && !row.given) {
    bar = list_part<Own>(list, part, args.split, shelf);
    count = shelf.count;
    if (Own::ALONE && args.split > 1 && !hand_on<Own>(args, list, &count, shelf)) return;
  } else if (part > 0) {
    return;
  }
  choose(row, list, count, bar, shelf, map);
}
