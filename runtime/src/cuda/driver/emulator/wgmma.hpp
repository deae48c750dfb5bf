// What `wgmma.cuh` has, on the host: products have been added up when a function returns, in f32 and term by term.

namespace simt {

// Numbers of operands.
struct Bf16 {
  static constexpr u32 BYTES = 2;
  static f32 of(const unsigned char* at) { return of_bf16(at[0] | at[1] << 8); }
};
struct F16 {
  static constexpr u32 BYTES = 2;
  static f32 of(const unsigned char* at) { return of_f16(at[0] | at[1] << 8); }
};
struct E4m3 {
  static constexpr u32 BYTES = 1;
  static f32 of(const unsigned char* at) { return of_e4m3(*at); }
};

// What a descriptor says of an operand in shared memory, which lies in groups of eight lines of a swizzle's length.
struct Operand {
  u32 begin, chunk_stride, group_stride, line;

  explicit Operand(u64 descriptor) {
    const u32 layout = u32(descriptor >> 62);
    if (layout == 0 || (descriptor >> 49 & 7) != 0) mistaken("multiplies by a descriptor %#llx, which is not known here", descriptor);
    if (self.shared_bytes > 1 << 18) mistaken("multiplies what lies in %zu bytes that kernels of this text share: descriptors reach 262144", self.shared_bytes);
    begin = u32(descriptor & 0x3fff) << 4;
    chunk_stride = u32(descriptor >> 16 & 0x3fff) << 4;
    group_stride = u32(descriptor >> 32 & 0x3fff) << 4;
    line = 256 >> layout;
  }

  // Numbers of 16 bytes, the `chunk`th of a line, from `byte` on.
  template <class Number, class Each>
  void take(u32 at, u32 byte, Each each) const {
    if ((begin + byte) % line + 16 > line) mistaken("multiplies numbers beyond the end of a line of %u bytes at %#x", line, begin);
    const unsigned char* from = static_cast<const unsigned char*>(shared_at(swizzled(begin + at + byte, line), 16, 16));
    for (u32 i = 0; i < 16 / Number::BYTES; i++) each(i, Number::of(from + i * Number::BYTES));
  }

  // All of it, `rows` with `terms` each, or columns with as many: `to(row, term)` is where a number goes. `turned`: a line has numbers of one term.
  template <class Number, class To>
  void take_all(bool turned, u32 rows, u32 terms, To to) const {
    constexpr u32 AT_ONCE = 16 / Number::BYTES;
    if (!turned) {
      for (u32 row = 0; row < rows; row++) {
        for (u32 term = 0; term < terms; term += AT_ONCE)
          take<Number>(row / 8 * group_stride + row % 8 * line, term * Number::BYTES, [&](u32 i, f32 x) { to(row, term + i) = x; });
      }
      return;
    }
    const u32 chunk = line / Number::BYTES;
    for (u32 term = 0; term < terms; term++) {
      for (u32 row = 0; row < rows; row += AT_ONCE)
        take<Number>(row / chunk * chunk_stride + term / 8 * group_stride + term % 8 * line, row % chunk * Number::BYTES,
                     [&](u32 i, f32 x) { to(row + i, term) = x; });
    }
  }
};

// What a thread asks for.
struct Product {
  f32* d;
  const u32* held;  // A, where registers hold it
  u64 a, b;
  bool add;
};

// The row and column of a thread's `i`th accumulator, of a warp's 16 rows for each 32 threads.
inline u32 accumulator_row_of(u32 thread, u32 i) { return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8; }
inline u32 accumulator_column_of(u32 thread, u32 i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

// A left operand of 16 terms in registers, of `threads` threads.
template <class Number, class To>
void take_held(int first, u32 threads, To to) {
  for (u32 t = 0; t < threads; t++) {
    for (u32 i = 0; i < 8; i++) {
      const unsigned char* pair = reinterpret_cast<const unsigned char*>(asked<Product>(first + t).held + i / 2);
      to(accumulator_row_of(t, i / 2 * 2), accumulator_column_of(t, i / 4 * 4 + i % 2)) = Number::of(pair + i % 2 * 2);
    }
  }
}

// D[rows, N] (+)= A[rows, TERMS] B[TERMS, N] for the `threads` threads from the first on.
template <u32 N, u32 TERMS>
void add_products(int first, u32 threads, bool add, const f32 (*a)[TERMS], const f32 (*b)[N]) {
  for (u32 row = 0; row < threads / 2; row++) {
    alignas(64) f32 sums[N] = {};
    const u32 quad = row / 16 * 32 + row % 8 * 4, low = row / 8 % 2 * 2;
    if (add) {
      for (u32 n = 0; n < N; n++) sums[n] = asked<Product>(first + quad + n % 8 / 2).d[n / 8 * 4 + low + n % 2];
    }
    for (u32 term = 0; term < TERMS; term++) {
      const f32 x = a[row][term];
      for (u32 n = 0; n < N; n++) sums[n] += x * b[term][n];
    }
    for (u32 n = 0; n < N; n++) asked<Product>(first + quad + n % 8 / 2).d[n / 8 * 4 + low + n % 2] = sums[n];
  }
}

// A warpgroup's product. `A_TURNED`, `B_TURNED`: A lies column by column, B row by row.
template <class Number, u32 N>
void multiply(const char* what, Product own, bool a_turned, bool b_turned) {
  constexpr u32 TERMS = 32 / Number::BYTES;
  const int group = self.block->running / WARPGROUP, first = group * WARPGROUP;
  meet_to(self.block->warpgroups[group], what, WARPGROUP, &own, [&] {
    for (int t = first; t < first + WARPGROUP; t++) {
      const Product& other = asked<Product>(t);
      if (other.a != own.a || other.b != own.b || other.add != own.add) mistaken("multiplies other operands than thread %d", t);
    }
    alignas(64) f32 a[64][TERMS];
    alignas(64) f32 b[TERMS][N];
    const auto of_a = [&](u32 row, u32 term) -> f32& { return a[row][term]; };
    if (own.held) take_held<Number>(first, WARPGROUP, of_a);
    else Operand(own.a).take_all<Number>(a_turned, 64, TERMS, of_a);
    Operand(own.b).take_all<Number>(b_turned, N, TERMS, [&](u32 column, u32 term) -> f32& { return b[term][column]; });
    add_products<N, TERMS>(first, WARPGROUP, own.add, a, b);
  });
}

// A warp's product of 16 rows and 8 columns.
template <class Number>
void multiply_by_warp(const char* what, f32* d, const u32 (&a)[4], u32 b_low, u32 b_high) {
  struct Own {
    Product product;  // what `asked` gives
    u32 b[2];
  } own = {{d, a, 0, 0, true}, {b_low, b_high}};
  const int warp = self.block->running / WARP, first = warp * WARP;
  meet_to(self.block->warps[warp], what, WARP, &own, [&] {
    f32 left[16][16], right[16][8];
    take_held<Number>(first, WARP, [&](u32 row, u32 term) -> f32& { return left[row][term]; });
    for (u32 lane = 0; lane < WARP; lane++) {
      for (u32 i = 0; i < 4; i++) {
        const unsigned char* pair = reinterpret_cast<const unsigned char*>(asked<Own>(first + lane).b + i / 2);
        right[i / 2 * 8 + lane % 4 * 2 + i % 2][lane / 4] = Number::of(pair + i % 2 * 2);
      }
    }
    add_products<8, 16>(first, WARP, true, left, right);
  });
}

}  // namespace simt

inline void wgmma_fence() {}
inline void wgmma_commit() {}
// All of a warp have asked for what is waited for
template <int LEFT>
void wgmma_wait() {
  simt::meet_lanes("wgmma.wait_group");
}

template <int HALF>
void settle(f32 (&)[HALF]) {}

template <int A_TURNED, int B_TURNED, int HALF>
void wgmma_bf16(f32 (&d)[HALF], u64 a, u64 b, bool add) {
  simt::multiply<simt::Bf16, HALF * 2>("wgmma of bf16", {d, nullptr, a, b, add}, A_TURNED, B_TURNED);
}
template <int B_TURNED, int HALF>
void wgmma_bf16(f32 (&d)[HALF], const u32 (&a)[4], u64 b, bool add) {
  simt::multiply<simt::Bf16, HALF * 2>("wgmma of bf16", {d, a, 0, b, add}, false, B_TURNED);
}
template <int B_TURNED, int HALF>
void wgmma_f16(f32 (&d)[HALF], const u32 (&a)[4], u64 b, bool add) {
  simt::multiply<simt::F16, HALF * 2>("wgmma of f16", {d, a, 0, b, add}, false, B_TURNED);
}
template <int HALF>
void wgmma_e4m3(f32 (&d)[HALF], u64 a, u64 b, bool add) {
  simt::multiply<simt::E4m3, HALF * 2>("wgmma of e4m3", {d, nullptr, a, b, add}, false, false);
}

inline void mma_bf16(f32* d, const u32 (&a)[4], u32 b_low, u32 b_high) { simt::multiply_by_warp<simt::Bf16>("mma of bf16", d, a, b_low, b_high); }
inline void mma_f16(f32* d, const u32 (&a)[4], u32 b_low, u32 b_high) { simt::multiply_by_warp<simt::F16>("mma of f16", d, a, b_low, b_high); }
