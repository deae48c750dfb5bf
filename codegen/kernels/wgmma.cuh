// Products of Hopper's tensor cores. A warpgroup multiplies 64 rows of A by N columns of B; how many they are is seen by the accumulators: a
// thread has N / 2, placed as `accumulator_row` and `accumulator_column` of `tile.cuh` say. Operands in shared memory are named by
// `descriptor`s. Without `add`, what the accumulators hold is forgotten.

#ifndef MLA_EMULATED  // the host has its own

// Registers that products read or add to are not touched before it.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Ends a group of products.
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until no more than `LEFT` groups are under way.
template <int LEFT>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// ---- What the assembler is told of accumulators: which they are, and the numbers that it knows them by ----

#define MLA_EIGHT(d, i) \
  "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3]), "+f"(d[(i) + 4]), "+f"(d[(i) + 5]), "+f"(d[(i) + 6]), "+f"(d[(i) + 7])
#define MLA_SUMS_8(d) MLA_EIGHT(d, 0)
#define MLA_SUMS_16(d) MLA_SUMS_8(d), MLA_EIGHT(d, 8)
#define MLA_SUMS_24(d) MLA_SUMS_16(d), MLA_EIGHT(d, 16)
#define MLA_SUMS_32(d) MLA_SUMS_24(d), MLA_EIGHT(d, 24)
#define MLA_SUMS_40(d) MLA_SUMS_32(d), MLA_EIGHT(d, 32)
#define MLA_SUMS_48(d) MLA_SUMS_40(d), MLA_EIGHT(d, 40)
#define MLA_SUMS_56(d) MLA_SUMS_48(d), MLA_EIGHT(d, 48)
#define MLA_SUMS_64(d) MLA_SUMS_56(d), MLA_EIGHT(d, 56)
#define MLA_SUMS_72(d) MLA_SUMS_64(d), MLA_EIGHT(d, 64)
#define MLA_SUMS_80(d) MLA_SUMS_72(d), MLA_EIGHT(d, 72)
#define MLA_SUMS_88(d) MLA_SUMS_80(d), MLA_EIGHT(d, 80)
#define MLA_SUMS_96(d) MLA_SUMS_88(d), MLA_EIGHT(d, 88)
#define MLA_SUMS_104(d) MLA_SUMS_96(d), MLA_EIGHT(d, 96)
#define MLA_SUMS_112(d) MLA_SUMS_104(d), MLA_EIGHT(d, 104)
#define MLA_SUMS_120(d) MLA_SUMS_112(d), MLA_EIGHT(d, 112)
#define MLA_SUMS_128(d) MLA_SUMS_120(d), MLA_EIGHT(d, 120)
#define MLA_PLACES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define MLA_PLACES_16 MLA_PLACES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define MLA_PLACES_24 MLA_PLACES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define MLA_PLACES_32 MLA_PLACES_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define MLA_PLACES_40 MLA_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define MLA_PLACES_48 MLA_PLACES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define MLA_PLACES_56 MLA_PLACES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define MLA_PLACES_64 MLA_PLACES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define MLA_PLACES_72 MLA_PLACES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define MLA_PLACES_80 MLA_PLACES_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define MLA_PLACES_88 MLA_PLACES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define MLA_PLACES_96 MLA_PLACES_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define MLA_PLACES_104 MLA_PLACES_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define MLA_PLACES_112 MLA_PLACES_104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define MLA_PLACES_120 MLA_PLACES_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define MLA_PLACES_128 MLA_PLACES_120 ", %120, %121, %122, %123, %124, %125, %126, %127"

// ---- The instruction in its forms. `N`: columns; `D`: accumulators of a thread; then the numbers of the operands behind them ----

#define MLA_PRODUCTS(N, D, X0, X1, X2, X3, X4, X5, X6)                                                                                     \
  /* The accumulators have their values here: the compiler may not put off setting them until a product has begun. */                      \
  __device__ inline void settle(f32 (&d)[D]) { asm volatile("" : MLA_SUMS_##D(d)::"memory"); }                                             \
  /* D[64, N] += A[64, 16] B[16, N], both of bf16 in shared memory. `A_TURNED`: A lies column by column; `B_TURNED`: B lies row by row. */ \
  template <int A_TURNED, int B_TURNED>                                                                                                    \
  __device__ inline void wgmma_bf16(f32 (&d)[D], u64 a, u64 b, bool add) {                                                                 \
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %" #X2 ", 0;\n"                                                                         \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" MLA_PLACES_##D "}, %" #X0 ", %" #X1                          \
                 ", p, 1, 1, %" #X3 ", %" #X4 ";\n}"                                                                                       \
                 : MLA_SUMS_##D(d)                                                                                                         \
                 : "l"(a), "l"(b), "r"(u32(add)), "n"(A_TURNED), "n"(B_TURNED));                                                           \
  }                                                                                                                                        \
  /* The same, with A in registers: four pairs of bf16 of each thread, as `left_row` and `left_column` say. */                             \
  template <int B_TURNED>                                                                                                                  \
  __device__ inline void wgmma_bf16(f32 (&d)[D], const u32 (&a)[4], u64 b, bool add) {                                                     \
    MLA_HELD(N, D, bf16, X0, X1, X2, X3, X4, X5, X6);                                                                                      \
  }

#define MLA_HELD(N, D, TYPE, X0, X1, X2, X3, X4, X5, X6)                                                                             \
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %" #X5 ", 0;\n"                                                                     \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #TYPE "." #TYPE " {" MLA_PLACES_##D "}, {%" #X0 ", %" #X1 ", %" #X2 \
               ", %" #X3 "}, %" #X4 ", p, 1, 1, %" #X6 ";\n}"                                                                        \
               : MLA_SUMS_##D(d)                                                                                                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(u32(add)), "n"(B_TURNED))

// Columns come by 16.
MLA_PRODUCTS(16, 8, 8, 9, 10, 11, 12, 13, 14)
MLA_PRODUCTS(32, 16, 16, 17, 18, 19, 20, 21, 22)
MLA_PRODUCTS(48, 24, 24, 25, 26, 27, 28, 29, 30)
MLA_PRODUCTS(64, 32, 32, 33, 34, 35, 36, 37, 38)
MLA_PRODUCTS(80, 40, 40, 41, 42, 43, 44, 45, 46)
MLA_PRODUCTS(96, 48, 48, 49, 50, 51, 52, 53, 54)
MLA_PRODUCTS(112, 56, 56, 57, 58, 59, 60, 61, 62)
MLA_PRODUCTS(128, 64, 64, 65, 66, 67, 68, 69, 70)
MLA_PRODUCTS(144, 72, 72, 73, 74, 75, 76, 77, 78)
MLA_PRODUCTS(160, 80, 80, 81, 82, 83, 84, 85, 86)
MLA_PRODUCTS(176, 88, 88, 89, 90, 91, 92, 93, 94)
MLA_PRODUCTS(192, 96, 96, 97, 98, 99, 100, 101, 102)
MLA_PRODUCTS(208, 104, 104, 105, 106, 107, 108, 109, 110)
MLA_PRODUCTS(224, 112, 112, 113, 114, 115, 116, 117, 118)
MLA_PRODUCTS(240, 120, 120, 121, 122, 123, 124, 125, 126)
MLA_PRODUCTS(256, 128, 128, 129, 130, 131, 132, 133, 134)

// ---- Of other types ----

// D[64, N] += A[64, 16] B[16, N] of f16, with A in registers, for 64 columns and for 16.
template <int B_TURNED>
__device__ inline void wgmma_f16(f32 (&d)[32], const u32 (&a)[4], u64 b, bool add) {
  MLA_HELD(64, 32, f16, 32, 33, 34, 35, 36, 37, 38);
}
template <int B_TURNED>
__device__ inline void wgmma_f16(f32 (&d)[8], const u32 (&a)[4], u64 b, bool add) {
  MLA_HELD(16, 8, f16, 8, 9, 10, 11, 12, 13, 14);
}

// D[64, N] += A[64, 32] B[32, N], both of e4m3 in shared memory, A row by row and B column by column.
#define MLA_PRODUCTS_E4M3(N, D, X0, X1, X2)                                                                                       \
  __device__ inline void wgmma_e4m3(f32 (&d)[D], u64 a, u64 b, bool add) {                                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %" #X2 ", 0;\n"                                                                \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" MLA_PLACES_##D "}, %" #X0 ", %" #X1 ", p, 1, 1;\n}" \
                 : MLA_SUMS_##D(d)                                                                                                \
                 : "l"(a), "l"(b), "r"(u32(add)));                                                                                \
  }
MLA_PRODUCTS_E4M3(64, 32, 32, 33, 34)
MLA_PRODUCTS_E4M3(128, 64, 64, 65, 66)
MLA_PRODUCTS_E4M3(256, 128, 128, 129, 130)

// D[64, 32] += A[64, 32] B[32, 32] of codes, B of e4m3, column by column. A is in registers, a thread's four codes in each side by side: of the rows that
// `left_row` says, of columns 4 (thread % 4) and on, or 16 further.
#define MLA_HELD_CODES(NAME, TYPE)                                                                                                                       \
  __device__ inline void NAME(f32 (&d)[16], const u32 (&a)[4], u64 b, bool add) {                                                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %21, 0;\n"                                                                                           \
                 "wgmma.mma_async.sync.aligned.m64n32k32.f32." #TYPE ".e4m3 {" MLA_PLACES_16 "}, {%16, %17, %18, %19}, %20, p, 1, 1;\n}"                  \
                 : MLA_SUMS_16(d)                                                                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(u32(add)));                                                                    \
  }
MLA_HELD_CODES(wgmma_e4m3, e4m3)
MLA_HELD_CODES(wgmma_e5m2, e5m2)

// ---- Products of a warp, whose operands are in registers: B as `load_blocks` reads it ----

// D[16, 8] += A[16, 16] B[16, 8] of bf16, by a warp.
__device__ inline void mma_bf16(f32* d, const u32 (&a)[4], u32 b_low, u32 b_high) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

#endif
