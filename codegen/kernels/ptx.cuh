// Hopper's own instructions, a function for each.

// An address of shared memory as instructions take it.
__device__ inline u32 shared_address(const void* at) { return u32(__cvta_generic_to_shared(at)); }

// Ordinary stores to shared memory before it are seen by the tensor cores and the copy engine after the next barrier.
__device__ inline void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Registers that products read or add to are not touched before it.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Ends a group of products.
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until no more than `LEFT` groups are under way.
template <int LEFT>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

#define MLA_ACCUMULATORS_32(d)                                                                                        \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),         \
      "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),          \
      "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),         \
      "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])

#define MLA_PLACES_32                                                                                                 \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "   \
  "%24, %25, %26, %27, %28, %29, %30, %31}"

// The accumulators have their values here: the compiler may not put off setting them until a product has begun.
__device__ inline void settle(f32 (&d)[32]) { asm volatile("" : MLA_ACCUMULATORS_32(d)::"memory"); }

// D[64, 64] += A[64, 16] B[16, 64], both of bf16 in shared memory. `A_TURNED`: A lies column by column; `B_TURNED`: B lies row by row.
template <int A_TURNED, int B_TURNED>
__device__ inline void wgmma_m64n64k16(f32 (&d)[32], u64 a, u64 b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " MLA_PLACES_32 ", %32, %33, 1, 1, 1, %34, %35;"
               : MLA_ACCUMULATORS_32(d)
               : "l"(a), "l"(b), "n"(A_TURNED), "n"(B_TURNED));
}

// The same, with A in registers: four pairs of bf16 of each thread.
template <int B_TURNED>
__device__ inline void wgmma_m64n64k16(f32 (&d)[32], const u32 (&a)[4], u64 b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " MLA_PLACES_32
               ", {%32, %33, %34, %35}, %36, 1, 1, 1, %37;"
               : MLA_ACCUMULATORS_32(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(B_TURNED));
}

// D[64, 64] += A[64, 32] B[32, 64], both of e4m3 in shared memory, A row by row and B column by column.
__device__ inline void wgmma_m64n64k32_e4m3(f32 (&d)[32], u64 a, u64 b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 " MLA_PLACES_32 ", %32, %33, 1, 1, 1;"
               : MLA_ACCUMULATORS_32(d)
               : "l"(a), "l"(b));
}
