// What `wgmma.cuh` has, on the host: products are added up in f32, term by term.

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
struct E5m2 {
  static constexpr u32 BYTES = 1;
  static f32 of(const unsigned char* at) { return of_e5m2(*at); }
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
  u32 held[4];
  u64 a, b;  // descriptors; of a warp's product, B's own registers
  bool add;
};

// The row and column of a thread's `i`th accumulator, of a warp's 16 rows for each 32 threads.
inline u32 accumulator_row_of(u32 thread, u32 i) { return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8; }
inline u32 accumulator_column_of(u32 thread, u32 i) { return i / 4 * 8 + thread % 4 * 2 + i % 2; }

// A left operand of 32 bytes a row in registers: of each, four threads have the first 16 and then the others.
template <class Number, u32 THREADS, class To>
void take_held(const Product (&of)[THREADS], To to) {
  constexpr u32 OWN = 4 / Number::BYTES;  // of a register
  for (u32 t = 0; t < THREADS; t++) {
    for (u32 i = 0; i < 4; i++) {
      const unsigned char* numbers = reinterpret_cast<const unsigned char*>(of[t].held + i);
      for (u32 k = 0; k < OWN; k++) to(accumulator_row_of(t, i % 2 * 2), (i / 2 * 4 + t % 4) * OWN + k) = Number::of(numbers + k * Number::BYTES);
    }
  }
}

// D[THREADS / 2, N] (+)= A[THREADS / 2, TERMS] B[TERMS, N].
template <u32 THREADS, u32 N, u32 TERMS>
void add_products(const Product (&of)[THREADS], const f32 (&a)[THREADS / 2][TERMS], const f32 (&b)[TERMS][N]) {
  for (u32 row = 0; row < THREADS / 2; row++) {
    alignas(64) f32 sums[N] = {};
    const Product* quad = of + row / 16 * 32 + row % 8 * 4;
    const u32 low = row / 8 % 2 * 2;
    if (quad->add) {
      for (u32 n = 0; n < N; n++) sums[n] = quad[n % 8 / 2].d[n / 8 * 4 + low + n % 2];
    }
    for (u32 term = 0; term < TERMS; term++) {
      const f32 x = a[row][term];
      for (u32 n = 0; n < N; n++) sums[n] += x * b[term][n];
    }
    for (u32 n = 0; n < N; n++) quad[n % 8 / 2].d[n / 8 * 4 + low + n % 2] = sums[n];
  }
}

// Where the left operand of a warpgroup's product is, and how it lies.
enum class Left { Rows, Columns, Held };

// What all of a warpgroup have asked for. A turned B lies row by row.
template <class Number, u32 N, class Right>
void multiply_all(const Product (&of)[WARPGROUP], Left left, bool b_turned) {
  constexpr u32 TERMS = 32 / Number::BYTES;
  alignas(64) f32 a[64][TERMS];
  alignas(64) f32 b[TERMS][N];
  const auto of_a = [&](u32 row, u32 term) -> f32& { return a[row][term]; };
  if (left == Left::Held) take_held<Number>(of, of_a);
  else Operand(of[0].a).take_all<Number>(left == Left::Columns, 64, TERMS, of_a);
  Operand(of[0].b).take_all<Right>(b_turned, N, TERMS, [&](u32 column, u32 term) -> f32& { return b[term][column]; });
  add_products(of, a, b);
}

// A warpgroup's product.
template <class Number, u32 N, class Right = Number>
void multiply(const char* what, Product own, Left left, bool b_turned) {
  const int group = self.block->running / WARPGROUP;
  meet_to(self.block->warpgroups[group], what, WARPGROUP, &own, [&] {
    struct {
      Product of[WARPGROUP];
    } all;
    for (int t = 0; t < WARPGROUP; t++) {
      const Product& its = all.of[t] = asked<Product>(group * WARPGROUP + t);
      if (its.a != own.a || its.b != own.b || its.add != own.add) mistaken("multiplies other operands than thread %d", group * WARPGROUP + t);
    }
    ask(Kind::Multiply, [=] { multiply_all<Number, N, Right>(all.of, left, b_turned); });
  });
}

// A warp's product of 16 rows and 8 columns, which is done at once.
template <class Number>
void multiply_by_warp(const char* what, f32* d, const u32 (&a)[4], u32 b_low, u32 b_high) {
  Product own = {d, {a[0], a[1], a[2], a[3]}, b_low, b_high, true};
  const int warp = self.block->running / WARP;
  meet_to(self.block->warps[warp], what, WARP, &own, [&] {
    Product of[WARP];
    f32 left[16][16], right[16][8];
    for (u32 lane = 0; lane < WARP; lane++) {
      of[lane] = asked<Product>(warp * WARP + lane);
      const u32 own_b[2] = {u32(of[lane].a), u32(of[lane].b)};
      for (u32 i = 0; i < 4; i++) {
        const unsigned char* pair = reinterpret_cast<const unsigned char*>(own_b + i / 2);
        right[i / 2 * 8 + lane % 4 * 2 + i % 2][lane / 4] = Number::of(pair + i % 2 * 2);
      }
    }
    take_held<Number>(of, [&](u32 row, u32 term) -> f32& { return left[row][term]; });
    add_products(of, left, right);
  });
}

}  // namespace simt

inline void wgmma_fence() {}
inline void wgmma_commit() { simt::groups(simt::Kind::Multiply)++; }
template <int LEFT>
void wgmma_wait() {
  simt::meet_lanes("wgmma.wait_group");  // all of a warp have asked for what is waited for
  simt::catch_up(simt::Kind::Multiply, LEFT);
}

template <int HALF>
void settle(f32 (&)[HALF]) {}

template <int A_TURNED, int B_TURNED, int HALF>
void wgmma_bf16(f32 (&d)[HALF], u64 a, u64 b, bool add) {
  simt::multiply<simt::Bf16, HALF * 2>("wgmma of bf16", {d, {}, a, b, add}, A_TURNED ? simt::Left::Columns : simt::Left::Rows, B_TURNED);
}
template <int B_TURNED, int HALF>
void wgmma_bf16(f32 (&d)[HALF], const u32 (&a)[4], u64 b, bool add) {
  simt::multiply<simt::Bf16, HALF * 2>("wgmma of bf16", {d, {a[0], a[1], a[2], a[3]}, 0, b, add}, simt::Left::Held, B_TURNED);
}
template <int B_TURNED, int HALF>
void wgmma_f16(f32 (&d)[HALF], const u32 (&a)[4], u64 b, bool add) {
  simt::multiply<simt::F16, HALF * 2>("wgmma of f16", {d, {a[0], a[1], a[2], a[3]}, 0, b, add}, simt::Left::Held, B_TURNED);
}
template <int HALF>
void wgmma_e4m3(f32 (&d)[HALF], u64 a, u64 b, bool add) {
  simt::multiply<simt::E4m3, HALF * 2>("wgmma of e4m3", {d, {}, a, b, add}, simt::Left::Rows, false);
}

inline void wgmma_e4m3(f32 (&d)[16], const u32 (&a)[4], u64 b, bool add) {
  simt::multiply<simt::E4m3, 32>("wgmma of e4m3", {d, {a[0], a[1], a[2], a[3]}, 0, b, add}, simt::Left::Held, false);
}
inline void wgmma_e5m2(f32 (&d)[16], const u32 (&a)[4], u64 b, bool add) {
  simt::multiply<simt::E5m2, 32, simt::E4m3>("wgmma of e5m2", {d, {a[0], a[1], a[2], a[3]}, 0, b, add}, simt::Left::Held, false);
}

inline void mma_bf16(f32* d, const u32 (&a)[4], u32 b_low, u32 b_high) { simt::multiply_by_warp<simt::Bf16>("mma of bf16", d, a, b_low, b_high); }
