// What `flash_backward.cuh` wants to know of rows of queries before it begins, in the order in which its threads read it, and where it counts from.

#include "flash_cut.cuh"

// Rows of heads, `V` columns of each.
struct Source {
  const bf16* at;
  i64 row_stride, head_stride;  // in elements
};

struct FlashDelta {
  Source out, d_out;
  const f32* lse;       // [rows, heads], natural
  const Pair* tiles;    // [tiles]: the first row of each, and how many it has
  const Pair* seen_by;  // with `DETERMINISTIC`: as of `FlashBackward`
  f32* sums;            // likewise
  f32* d_queries;
  u32* turns;
  u32* rope_turns;
  i32 heads;
  i32 count;        // tiles
  i32 rope_counts;  // of `rope_turns`
  i32 unused;
};
static_assert(sizeof(FlashDelta) == 120, "as the runtime lays it out");

// The product of two sets of eight numbers.
__device__ inline f32 dot_eight(const Quad& x, const Quad& y) {
  f32 sum = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    sum += f32_of(x.words[i] << 16) * f32_of(y.words[i] << 16);
    sum += f32_of(x.words[i] & 0xffff0000u) * f32_of(y.words[i] & 0xffff0000u);
  }
  return sum;
}

// Where in a tile's sums a row's log-sum-exp stands, so that a thread's four of 16 rows lie side by side.
__device__ inline int place_of_lse(int row) { return row / 16 * 16 + row % 8 / 2 * 4 + row % 16 / 8 * 2 + row % 2; }

// Makes sums of a tile, a block for each tile and head.
template <class Cfg>
__device__ void flash_delta(const FlashDelta& args) {
  constexpr int QUADS = Cfg::V / 8;
  constexpr int LANES = QUADS > 16 ? 32 : QUADS > 8 ? 16 : QUADS > 4 ? 8 : 4;  // that share a row
  constexpr int ROWS_AT_ONCE = THREADS / LANES;
  __shared__ f32 sums[2 * Cfg::QUERIES];
  const i32 number = blockIdx.x;
  const i32 head = number / args.count;
  const Pair tile = args.tiles[number % args.count];
  const int own = threadIdx.x % LANES;
#pragma unroll
  for (int first = 0; first < Cfg::QUERIES; first += ROWS_AT_ONCE) {
    const int r = first + threadIdx.x / LANES;
    const i64 row = tile.x + r;
    const bool there = r < tile.y;
    f32 sum = 0;
    if (there && own < QUADS) {
      const Quad* out = reinterpret_cast<const Quad*>(args.out.at + row * args.out.row_stride + head * args.out.head_stride);
      const Quad* d_out = reinterpret_cast<const Quad*>(args.d_out.at + row * args.d_out.row_stride + head * args.d_out.head_stride);
      sum = dot_eight(out[own], d_out[own]);
    }
#pragma unroll
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    if (own != 0) continue;
    const f32 lse = there ? args.lse[row * args.heads + head] : minus_infinity();
    // Of a row that saw nothing, or is not there, probabilities are 0
    sums[place_of_lse(r)] = lse == minus_infinity() ? -minus_infinity() : lse * LOG2_E;
    sums[Cfg::QUERIES + r] = -sum;
  }
  __syncthreads();
  f32* to = args.sums + i64(number) * (2 * Cfg::QUERIES);
  for (int i = threadIdx.x; i < 2 * Cfg::QUERIES; i += THREADS) to[i] = sums[i];
  // Sums of the queries' gradients begin with zeros, or with what the first block of keys leaves
  const Pair seen_by = Cfg::DETERMINISTIC ? args.seen_by[number % args.count] : Pair{0, -1};
  if (seen_by.x > seen_by.y) {
    constexpr int ALL = Cut<Cfg>::N / 8 * 2 * WARPGROUP;
    f32* d_queries = args.d_queries + i64(number) * (ALL * 4);
    for (int i = threadIdx.x; i < ALL; i += THREADS) store_four(d_queries + i * 4, 0, 0, 0, 0);
  }
  if constexpr (Cfg::DETERMINISTIC) {
    if (threadIdx.x < 2) args.turns[i64(number) * 2 + threadIdx.x] = 0;
    for (i64 i = thread_of_grid(); i < args.rope_counts; i += threads_of_grid()) args.rope_turns[i] = 0;
  }
}
