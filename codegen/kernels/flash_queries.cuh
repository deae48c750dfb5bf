// What `flash_backward.cuh` has added up of the queries' gradients, as rows.

#include "flash_cut.cuh"

struct FlashQueries {
  const f32* d_queries;  // as of `FlashBackward`
  const Pair* tiles;     // [tiles]: the first row of each, and how many it has
  Gradient d_q, d_q_rope;
  i32 count;  // tiles
  f32 scale;  // of logits
};
static_assert(sizeof(FlashQueries) == 88, "as the runtime lays it out");

// Writes the columns from the `FIRST` to `END` of a row, of which accumulators have those from `HELD` on: those that a part's `WIDTH` columns are, which begin
// at `BEGIN`.
template <int HELD, int FIRST, int END, int BEGIN, int WIDTH, int N>
__device__ inline void write_part(const Gradient& to, i64 row, i32 head, bool there, int half, f32 by, const f32 (&d)[N]) {
  constexpr int FROM = FIRST > BEGIN ? FIRST : BEGIN, TO = END < BEGIN + WIDTH ? END : BEGIN + WIDTH;
  if constexpr (FROM < TO) write_gradient<TO - FROM, FROM - HELD, FROM - BEGIN>(to, row, head, there, half, by, d);
}

// Writes one of the two sides of a tile: those columns of all rows, or those rows, that a warpgroup added.
template <class Cfg, int SIDE>
__device__ inline void write_side(const FlashQueries& args, i32 number) {
  using P = Cut<Cfg>;
  constexpr bool COLUMNS = P::QUERIES == 64;  // whether sides are columns
  constexpr int FIRST = COLUMNS ? SIDE * P::N : 0, END = FIRST + P::N < P::D ? FIRST + P::N : P::D;
  const Pair tile = args.tiles[number % args.count];
  const i32 head = number / args.count;
  const Quad* from = reinterpret_cast<const Quad*>(args.d_queries) + (i64(number) * 2 + SIDE) * (P::N / 8 * WARPGROUP) + threadIdx.x;
  f32 d[P::N / 2];
#pragma unroll
  for (int i = 0; i < P::N / 8; i++) {
    const Quad quad = load_once(from + i * WARPGROUP);
#pragma unroll
    for (int j = 0; j < 4; j++) d[i * 4 + j] = f32_of(quad.words[j]);
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = (COLUMNS ? 0 : SIDE * 64) + accumulator_row(threadIdx.x, half);
    write_part<FIRST, FIRST, END, 0, Cfg::A>(args.d_q, tile.x + r, head, r < tile.y, half, args.scale, d);
    write_part<FIRST, FIRST, END, Cfg::A, Cfg::R>(args.d_q_rope, tile.x + r, head, r < tile.y, half, args.scale, d);
  }
}

// Blocks are [heads, tiles, 2].
template <class Cfg>
__device__ void flash_queries(const FlashQueries& args) {
  if (blockIdx.x % 2 == 0) write_side<Cfg, 0>(args, blockIdx.x / 2);
  else write_side<Cfg, 1>(args, blockIdx.x / 2);
}
