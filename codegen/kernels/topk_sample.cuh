// A bar that is guessed: what comes above it is a little more than what is wanted, or so a sample says.

#include "topk_row.cuh"

// A sample of a row, spread over it: pairs of quads, or 32 bytes of scores, each somewhere in its share of the row. It is the same for all blocks of a row.
template <class Own>
struct Sample {
  static_assert(Own::SAMPLES <= 2 && (Own::THREADS == 1024 || Own::THREADS == 512 || Own::THREADS == 256), "pairs are a power of two");
  static constexpr int MOST = Own::SAMPLES * QUAD;  // scores of a thread

  Accum score[MOST];
  int quads;  // of a thread

  // Where pair `i` begins. That is not the same place in its share of the row as others have: what repeats in a row is not met again and again. There are
  // as many pairs as half the threads, and twice that where each has two quads.
  __device__ u32 begin(u32 i, u32 all) const {
    constexpr int LOG2 = Own::THREADS == 1024 ? 9 : Own::THREADS == 512 ? 8 : 7;
    const int shift = LOG2 + quads - 1;
    const u32 first = u32(u64(i) * all >> shift), next = u32(u64(i + 1) * all >> shift);
    const u32 spare = next - first < 2 ? 0 : next - first - 2;
    return first + u32(u64(i * 2654435761u) * (spare + 1) >> 32);
  }

  // Asks for them.
  __device__ void read(const Row& row) {
    quads = row.keys >= MANY ? Own::SAMPLES : 1;
#pragma unroll
    for (int i = 0; i < MOST; i++) score[i] = minus_infinity();
#pragma unroll
    for (int i = 0; i < Own::SAMPLES; i++) {
      if (i >= quads) break;
      const u32 own = i * Own::THREADS + threadIdx.x;
      const Quad x = load_once(row.first_quad() + begin(own / 2, row.quads) + own % 2);
      memcpy(&score[i * QUAD], &x, sizeof(Quad));
    }
  }

  // Of the scores, so many best ones are guessed to have the wanted ones among them: their number is that of the wanted ones in a sample, and 4.5 standard
  // deviations of it.
  __device__ u32 rank(const Row& row) const {
    const f32 share = f32(quads * Own::THREADS) / f32(row.quads);
    const f32 wanted = f32(row.keep) * share;
    return u32(wanted + 4.5f * sqrtf(wanted * (share < 1 ? 1 - share : 0)) + 3);
  }

  // Adds those scores to bins that share a bin's digits so far, by their next one.
  __device__ static void count(const Image (&image)[MOST], Bins& bins, Image prefix, Image mask, int shift) {
#pragma unroll
    for (int i = 0; i < MOST; i++) {
      const Image own = image[i];
      if (own != 0 && (own & mask) == prefix) atomicAdd(&bins.count[BINS - 1 - (u32(own >> shift) & (BINS - 1))], 1u);
    }
  }

  // The bar: a score of the sample, or minus infinity, where there are too few. Every thread gets it.
  __device__ Accum bar(const Row& row, Bins& bins) const {
    __shared__ Image least;
    Image image[MOST];
#pragma unroll
    for (int i = 0; i < MOST; i++) image[i] = ::image(score[i]);
    u32 wanted = rank(row);
    Image prefix = 0, mask = 0;
#pragma unroll
    for (int shift = BITS - DIGIT; shift >= BITS - 2 * DIGIT; shift -= DIGIT) {
      count(image, bins, prefix, mask, shift);
      if (bins.find<Own>(wanted) < wanted) return minus_infinity();
      prefix |= Image(BINS - 1 - bins.found[0]) << shift;
      mask |= Image(BINS - 1) << shift;
      wanted -= bins.found[1];
      if (threadIdx.x == 0) least = ~Image(0);
    }
    // Two digits are enough, but the bar has to be a score, so that those that equal it may be many
    Image own = ~Image(0);
#pragma unroll
    for (int i = 0; i < MOST; i++) {
      const Image other = image[i];
      if (other != 0 && (other & mask) == prefix && other < own) own = other;
    }
    __syncthreads();
    if (own != ~Image(0)) atomicMin(&least, own);
    __syncthreads();
    return least <= 1 ? minus_infinity() : number_of(least);
  }
};
