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

// Operands of the assembler, 32 accumulators from one on, and the numbers that it knows them by.
#define MLA_ACCUMULATORS(d, from)                                                                                     \
  "+f"(d[(from) + 0]), "+f"(d[(from) + 1]), "+f"(d[(from) + 2]), "+f"(d[(from) + 3]),                                 \
  "+f"(d[(from) + 4]), "+f"(d[(from) + 5]), "+f"(d[(from) + 6]), "+f"(d[(from) + 7]),                                 \
  "+f"(d[(from) + 8]), "+f"(d[(from) + 9]), "+f"(d[(from) + 10]), "+f"(d[(from) + 11]),                               \
  "+f"(d[(from) + 12]), "+f"(d[(from) + 13]), "+f"(d[(from) + 14]), "+f"(d[(from) + 15]),                             \
  "+f"(d[(from) + 16]), "+f"(d[(from) + 17]), "+f"(d[(from) + 18]), "+f"(d[(from) + 19]),                             \
  "+f"(d[(from) + 20]), "+f"(d[(from) + 21]), "+f"(d[(from) + 22]), "+f"(d[(from) + 23]),                             \
  "+f"(d[(from) + 24]), "+f"(d[(from) + 25]), "+f"(d[(from) + 26]), "+f"(d[(from) + 27]),                             \
  "+f"(d[(from) + 28]), "+f"(d[(from) + 29]), "+f"(d[(from) + 30]), "+f"(d[(from) + 31])
#define MLA_PLACES_32                                                                                                 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "              \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MLA_PLACES_64                                                                                                 \
  MLA_PLACES_32 ", "                                                                                                  \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, "              \
  "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MLA_PLACES_128                                                                                                \
  MLA_PLACES_64 ", "                                                                                                  \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, "              \
  "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, "                \
  "%103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, "                  \
  "%119, %120, %121, %122, %123, %124, %125, %126, %127"
#define MLA_ACCUMULATORS_32(d) MLA_ACCUMULATORS(d, 0)
#define MLA_ACCUMULATORS_64(d) MLA_ACCUMULATORS(d, 0), MLA_ACCUMULATORS(d, 32)
#define MLA_ACCUMULATORS_128(d) MLA_ACCUMULATORS_64(d), MLA_ACCUMULATORS(d, 64), MLA_ACCUMULATORS(d, 96)

#define MLA_ACCUMULATORS_8(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define MLA_ACCUMULATORS_16(d)                                                                                        \
  MLA_ACCUMULATORS_8(d), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])

// ---- 16 columns ----

// The accumulators have their values here: the compiler may not put off setting them until a product has begun.
__device__ inline void settle(f32 (&d)[8]) { asm volatile("" : MLA_ACCUMULATORS_8(d)::"memory"); }

// D[64, 16] += A[64, 16] B[16, 16], both of bf16 in shared memory. `A_TURNED`: A lies column by column; `B_TURNED`: B lies row by row.
template <int A_TURNED, int B_TURNED>
__device__ inline void wgmma_bf16(f32 (&d)[8], u64 a, u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %10, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, p, 1, 1, %11, %12;\n}"
               : MLA_ACCUMULATORS_8(d)
               : "l"(a), "l"(b), "r"(u32(add)), "n"(A_TURNED), "n"(B_TURNED));
}

// ---- 32 columns ----

// The accumulators have their values here: the compiler may not put off setting them until a product has begun.
__device__ inline void settle(f32 (&d)[16]) { asm volatile("" : MLA_ACCUMULATORS_16(d)::"memory"); }

// D[64, 32] += A[64, 16] B[16, 32], both of bf16 in shared memory. `A_TURNED`: A lies column by column; `B_TURNED`: B lies row by row.
template <int A_TURNED, int B_TURNED>
__device__ inline void wgmma_bf16(f32 (&d)[16], u64 a, u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %18, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
               "%15}, %16, %17, p, 1, 1, %19, %20;\n}"
               : MLA_ACCUMULATORS_16(d)
               : "l"(a), "l"(b), "r"(u32(add)), "n"(A_TURNED), "n"(B_TURNED));
}

// ---- 64 columns ----

// The accumulators have their values here: the compiler may not put off setting them until a product has begun.
__device__ inline void settle(f32 (&d)[32]) { asm volatile("" : MLA_ACCUMULATORS_32(d)::"memory"); }

// D[64, 64] += A[64, 16] B[16, 64], both of bf16 in shared memory. `A_TURNED`: A lies column by column; `B_TURNED`: B lies row by row.
template <int A_TURNED, int B_TURNED>
__device__ inline void wgmma_bf16(f32 (&d)[32], u64 a, u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %34, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" MLA_PLACES_32 "}, %32, %33, p, 1, 1, %35, %36;\n}"
               : MLA_ACCUMULATORS_32(d)
               : "l"(a), "l"(b), "r"(u32(add)), "n"(A_TURNED), "n"(B_TURNED));
}

// The same, with A in registers: four pairs of bf16 of each thread, as `left_row` and `left_column` say.
template <int B_TURNED>
__device__ inline void wgmma_bf16(f32 (&d)[32], const u32 (&a)[4], u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %37, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" MLA_PLACES_32
               "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}"
               : MLA_ACCUMULATORS_32(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(u32(add)), "n"(B_TURNED));
}

// The same of f16.
template <int B_TURNED>
__device__ inline void wgmma_f16(f32 (&d)[32], const u32 (&a)[4], u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %37, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" MLA_PLACES_32
               "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}"
               : MLA_ACCUMULATORS_32(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(u32(add)), "n"(B_TURNED));
}

// D[64, 64] += A[64, 32] B[32, 64], both of e4m3 in shared memory, A row by row and B column by column.
__device__ inline void wgmma_e4m3(f32 (&d)[32], u64 a, u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %34, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {" MLA_PLACES_32 "}, %32, %33, p, 1, 1;\n}"
               : MLA_ACCUMULATORS_32(d)
               : "l"(a), "l"(b), "r"(u32(add)));
}

// ---- 128 columns ----

// The accumulators have their values here: the compiler may not put off setting them until a product has begun.
__device__ inline void settle(f32 (&d)[64]) { asm volatile("" : MLA_ACCUMULATORS_64(d)::"memory"); }

// D[64, 128] += A[64, 16] B[16, 128], both of bf16 in shared memory. `A_TURNED`: A lies column by column; `B_TURNED`: B lies row by row.
template <int A_TURNED, int B_TURNED>
__device__ inline void wgmma_bf16(f32 (&d)[64], u64 a, u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %66, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" MLA_PLACES_64 "}, %64, %65, p, 1, 1, %67, %68;\n}"
               : MLA_ACCUMULATORS_64(d)
               : "l"(a), "l"(b), "r"(u32(add)), "n"(A_TURNED), "n"(B_TURNED));
}

// The same, with A in registers: four pairs of bf16 of each thread, as `left_row` and `left_column` say.
template <int B_TURNED>
__device__ inline void wgmma_bf16(f32 (&d)[64], const u32 (&a)[4], u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %69, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" MLA_PLACES_64
               "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}"
               : MLA_ACCUMULATORS_64(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(u32(add)), "n"(B_TURNED));
}

// D[64, 128] += A[64, 32] B[32, 128], both of e4m3 in shared memory, A row by row and B column by column.
__device__ inline void wgmma_e4m3(f32 (&d)[64], u64 a, u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %66, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" MLA_PLACES_64 "}, %64, %65, p, 1, 1;\n}"
               : MLA_ACCUMULATORS_64(d)
               : "l"(a), "l"(b), "r"(u32(add)));
}

// ---- 256 columns ----

// The accumulators have their values here: the compiler may not put off setting them until a product has begun.
__device__ inline void settle(f32 (&d)[128]) { asm volatile("" : MLA_ACCUMULATORS_128(d)::"memory"); }

// D[64, 256] += A[64, 16] B[16, 256], both of bf16 in shared memory. `A_TURNED`: A lies column by column; `B_TURNED`: B lies row by row.
template <int A_TURNED, int B_TURNED>
__device__ inline void wgmma_bf16(f32 (&d)[128], u64 a, u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %130, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" MLA_PLACES_128 "}, %128, %129, p, 1, 1, %131, %132;\n}"
               : MLA_ACCUMULATORS_128(d)
               : "l"(a), "l"(b), "r"(u32(add)), "n"(A_TURNED), "n"(B_TURNED));
}

// The same, with A in registers: four pairs of bf16 of each thread, as `left_row` and `left_column` say.
template <int B_TURNED>
__device__ inline void wgmma_bf16(f32 (&d)[128], const u32 (&a)[4], u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %133, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" MLA_PLACES_128
               "}, {%128, %129, %130, %131}, %132, p, 1, 1, %134;\n}"
               : MLA_ACCUMULATORS_128(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(u32(add)), "n"(B_TURNED));
}

// D[64, 256] += A[64, 32] B[32, 256], both of e4m3 in shared memory, A row by row and B column by column.
__device__ inline void wgmma_e4m3(f32 (&d)[128], u64 a, u64 b, bool add) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %130, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n256k32.f32.e4m3.e4m3 {" MLA_PLACES_128 "}, %128, %129, p, 1, 1;\n}"
               : MLA_ACCUMULATORS_128(d)
               : "l"(a), "l"(b), "r"(u32(add)));
}

#undef MLA_ACCUMULATORS
#undef MLA_ACCUMULATORS_32
#undef MLA_ACCUMULATORS_64
#undef MLA_ACCUMULATORS_128
#undef MLA_PLACES_32
#undef MLA_PLACES_64
#undef MLA_PLACES_128
#undef MLA_ACCUMULATORS_8
#undef MLA_ACCUMULATORS_16

// ---- Products of a warp, whose operands are in registers: B as `load_blocks` reads it ----

// D[16, 8] += A[16, 16] B[16, 8] of bf16, by a warp.
__device__ inline void mma_bf16(f32* d, const u32 (&a)[4], u32 b_low, u32 b_high) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

// The same of f16.
__device__ inline void mma_f16(f32* d, const u32 (&a)[4], u32 b_low, u32 b_high) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

#endif
