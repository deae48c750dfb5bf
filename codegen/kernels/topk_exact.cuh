// The best scores of any row, in as many passes over it as it takes: where no list has room for those that a guess leaves.

#include "topk_row.cuh"

// The least image that is chosen, and how many of those that equal it are; the others are lower, or chosen.
struct Bar {
  Image image;
  u32 equals;
};

// One more in a bin of each thread that has one; where all of a warp have the same, their sum.
__device__ inline void count_in(u32* bins, u32 bin, bool has) {
  const u32 first = __shfl_sync(ALL_LANES, bin, 0);
  if (__all_sync(ALL_LANES, has && bin == first)) {
    if (lane() == 0) atomicAdd(&bins[bin], u32(WARP));
  } else if (has) {
    atomicAdd(&bins[bin], 1u);
  }
}

// A digit at a time from the highest one on: the images that share the bar's digits so far are counted by their next one.
template <class Own>
__device__ inline Bar exact_bar(const Row& row, Bins& bins) {
  if (row.keep == 0) return {~Image(0), 0};
  Bar bar = {0, row.keep};
  Image mask = 0;
  for (int bits = BITS; bits > 0; bits -= DIGIT) {
    const int shift = bits > DIGIT ? bits - DIGIT : 0;
    for (u32 first = 0; first < row.keys; first += Own::THREADS) {
      const u32 key = first + threadIdx.x;
      const Image own = key < row.keys ? row.at(key) : Image(0);
      count_in(bins.count, BINS - 1 - (u32(own >> shift) & (BINS - 1)), own != 0 && (own & mask) == bar.image);
    }
    const u32 all = bins.find<Own>(bar.equals);
    if (mask == 0 && all <= bar.equals) return {0, 0};  // no more than are wanted
    bar = {bar.image | Image(BINS - 1 - bins.found[0]) << shift, bar.equals - bins.found[1]};
    mask |= Image(BINS - 1) << shift;
  }
  return bar;
}

// What has been chosen so far.
struct Chosen {
  u32 above = 0;   // the bar, or of those that need no score
  u32 at_bar = 0;  // how many have equalled it

  __device__ u32 count(u32 equals) const { return above + min(at_bar, equals); }
};

// Writes in the order of the keys what is chosen of some of them: those that are scored by the bar, others whatever their scores. Ends where `enough` of them
// are.
template <class Own, bool SCORED>
__device__ inline void choose_range(const Row& row, const Bar& bar, u32 begin, u32 end, u32 enough, Chosen& chosen) {
  constexpr int EACH = 4;  // neighbouring keys of a thread
  for (u32 first = begin; first < end && chosen.count(bar.equals) < enough; first += Own::THREADS * EACH) {
    const u32 first_own = first + threadIdx.x * EACH;
    u32 is_above = 0;
    u32 is_equal = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const u32 key = first_own + i;
      if (key >= end) continue;
      if (SCORED) {
        const Image own = row.at(key - row.begin);
        is_above |= u32(own > bar.image) << i;
        is_equal |= u32(own == bar.image && bar.equals > 0) << i;
      } else {
        is_above |= u32(row.allows(key)) << i;
      }
    }
    // Two counts in one number: neither is above THREADS · EACH
    u32 all;
    const u32 before = sum_before<Own>(u32(__popc(is_above)) | u32(__popc(is_equal)) << 16, &all);
    Chosen own = {chosen.above + (before & 0xffff), chosen.at_bar + (before >> 16)};
    for (int i = 0; i < EACH; i++) {
      const bool above = is_above >> i & 1, equal = is_equal >> i & 1;
      if (above || (equal && own.at_bar < bar.equals)) row.choose(own.count(bar.equals), first_own + i);
      own.above += above;
      own.at_bar += equal;
    }
    chosen.above += all & 0xffff;
    chosen.at_bar += all >> 16;
    __syncthreads();
  }
}

// Writes what a bar chooses, and those that are chosen without one. Whether it has chosen as many as are wanted.
template <class Own>
__device__ inline bool choose_by(const Row& row, const Bar& bar) {
  constexpr u32 ALL = ~0u;
  Chosen chosen;
  choose_range<Own, false>(row, bar, row.seen_begin, row.begin, ALL, chosen);
  const u32 wanted = chosen.above + row.keep;
  choose_range<Own, true>(row, bar, row.begin, row.end, wanted, chosen);
  const u32 scored = chosen.count(bar.equals);
  // From here on nothing has a bar
  chosen = {scored, 0};
  choose_range<Own, false>(row, {0, 0}, row.end, row.seen_end, ALL, chosen);
  end_row<Own>(row, chosen.above);
  return scored == wanted;
}
