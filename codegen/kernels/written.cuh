// Rows of accumulators on their way to memory: lanes write 8 bytes at a time, and the four of a row 32 that lie side by side.

// Lanes that are neighbours exchange: then the even one has both of their `x`, the odd one both of their `y`.
__device__ inline void exchange(u32& x, u32& y) {
  const bool odd = lane() % 2 != 0;
  const u32 other = __shfl_xor_sync(ALL_LANES, odd ? x : y, 1);
  if (odd) x = other;
  else y = other;
}

// Writes `COLUMNS` of a row in bf16, from the `FIRST` that accumulators are of. `half`: which of the two rows that a thread has.
template <int COLUMNS, int FIRST = 0, int N>
__device__ inline void write_narrow(bf16* to, bool there, int half, f32 by, const f32 (&o)[N]) {
  static_assert(COLUMNS % 16 == 0, "lanes write 16 columns at a time");
  u32 x[COLUMNS / 8];
#pragma unroll
  for (int block = 0; block < COLUMNS / 8; block++) {
    const int k = ((FIRST / 8 + block) * 2 + half) * 2;
    x[block] = pack_bf16(o[k] * by, o[k + 1] * by);
  }
#pragma unroll
  for (int block = 0; block < COLUMNS / 8; block += 2) exchange(x[block], x[block + 1]);
  if (!there) return;
  to += lane() % 2 * 8 + lane() % 4 / 2 * 4;
  asm volatile("" : "+l"(to));  // addresses are offsets from it, and not made anew for each store
#pragma unroll
  for (int block = 0; block < COLUMNS / 8; block += 2) store_pair(to + block * 8, x[block], x[block + 1]);
}

// The same in f32.
template <int COLUMNS, int FIRST = 0, int N>
__device__ inline void write_wide(f32* to, bool there, int half, f32 by, const f32 (&o)[N]) {
  if (!there) return;
  to += lane() % 4 * 2;
#pragma unroll
  for (int block = 0; block < COLUMNS / 8; block++) {
    const int k = ((FIRST / 8 + block) * 2 + half) * 2;
    *reinterpret_cast<float2*>(to + block * 8) = float2{o[k] * by, o[k + 1] * by};
  }
}

// Where rows of a gradient go: to one of the two.
struct Gradient {
  bf16* narrow;
  f32* wide;
  i64 row_stride, head_stride;  // in elements
};

// Writes `COLUMNS` of a row likewise, where the gradient's `TO`th column is.
template <int COLUMNS, int FIRST, int TO, int N>
__device__ inline void write_gradient(const Gradient& to, i64 row, i32 head, bool there, int half, f32 by, const f32 (&d)[N]) {
  const i64 at = row * to.row_stride + head * to.head_stride + TO;
  if (to.narrow) write_narrow<COLUMNS, FIRST>(to.narrow + at, there, half, by, d);
  else write_wide<COLUMNS, FIRST>(to.wide + at, there, half, by, d);
}
