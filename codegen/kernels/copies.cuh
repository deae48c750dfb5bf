// Instructions that move data, a function for each: the copy engine's, those of single threads, and those of warps.

#ifndef MLA_EMULATED  // the host has its own

// A tensor in global memory as the copy engine sees it, made by the driver. It stands in a kernel's parameter.
struct alignas(64) TensorMap {
  u64 words[16];
};

// ---- The copy engine: one thread asks, and `barrier` counts the bytes that come ----

// What is copied with this hint leaves the L2 first.
__device__ inline u64 evict_first() {
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// What is copied with this hint leaves the L2 last.
__device__ inline u64 evict_last() {
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Fetches a map, so that the first copy by it need not.
__device__ inline void prefetch_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Copies the tile that begins at element `x` of a row and at row `y` to shared memory.
__device__ inline void copy_tile(u32 to, const TensorMap& map, u32 barrier, i32 x, i32 y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}

// The same, with a hint.
__device__ inline void copy_tile(u32 to, const TensorMap& map, u32 barrier, i32 x, i32 y, u64 hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4}], [%2], "
      "%5;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y), "l"(hint)
      : "memory");
}

// The same of three axes: the tile begins at element `x` of row `y` of matrix `z`.
__device__ inline void copy_tile_3d(u32 to, const TensorMap& map, u32 barrier, i32 x, i32 y, i32 z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// The same of four axes: from element `x` of row `y` of matrix `z` of `w` on.
__device__ inline void copy_tile_4d(u32 to, const TensorMap& map, u32 barrier, i32 x, i32 y, i32 z, i32 w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

// Copies `bytes` that lie side by side; addresses and `bytes` are multiples of 16.
__device__ inline void copy_bulk(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
               "r"(bytes), "r"(barrier)
               : "memory");
}

// Copies `bytes` that lie side by side in shared memory to memory.
__device__ inline void copy_out(void* to, u32 from, u32 bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}

// The same, added to what stands there in numbers of f32. In which order others' are added is a matter of chance.
__device__ inline void add_out(f32* to, u32 from, u32 bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}

// Waits until all that this thread has copied or added out is there.
__device__ inline void copies_out_wait() { asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory"); }

// ---- Copies of single threads, in groups ----

// Copies 16 bytes to shared memory, or writes zeros there and reads nothing.
__device__ inline void copy_quad(u32 to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

// Copies 4 bytes to shared memory.
__device__ inline void copy_word(u32 to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}

// Ends a group of copies.
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until no more than `LEFT` of this thread's groups are under way.
template <int LEFT>
__device__ inline void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Arrives at a barrier once all copies that this thread has asked for so far are there.
__device__ inline void copies_arrive(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// Waits until none of this thread's copies is under way, whether its group has ended or not.
__device__ inline void copies_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// ---- Memory ----

// Writes 16 bytes at once, and reads them.
__device__ inline void store_quad(Quad* at, const u32 (&x)[4]) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]) : "memory");
}
__device__ inline void load_quad(const Quad* at, u32 (&x)[4]) {
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "l"(at) : "memory");
}

// Reads 16 bytes that nobody writes meanwhile, and that this multiprocessor won't read again soon.
__device__ inline Quad load_once(const Quad* at) {
  Quad x;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.words[0]), "=r"(x.words[1]), "=r"(x.words[2]), "=r"(x.words[3])
               : "l"(at));
  return x;
}

// Has what stands at an address come to the L1, without waiting for it.
__device__ inline void expect_soon(const void* at) { asm volatile("prefetch.global.L1 [%0];" ::"l"(at)); }

// Writes 8 bytes at once; a struct's store the compiler may cut into its words'.
__device__ inline void store_pair(void* at, u32 low, u32 high) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(at), "r"(low), "r"(high) : "memory");
}

// Adds four numbers to such that lie side by side, each as if nobody else did at the same time; `at` is a multiple of 16 bytes.
__device__ inline void add_four(f32* at, f32 x, f32 y, f32 z, f32 w) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}

// Writes four numbers.
__device__ inline void store_four(f32* at, f32 x, f32 y, f32 z, f32 w) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}

// ---- Copies of warps between shared memory and a matrix in registers: four blocks of 8 rows and 8 columns of 16 bits ----

// Lane `8 i + r` names row `r` of block `i`. Register `i` of lane `l` gets elements `2 (l % 4)` and the next of row `l / 4` of block `i`.
__device__ inline void load_blocks(u32 (&x)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(row)
               : "memory");
}

// The same of two blocks, whose rows lanes up to 15 name.
__device__ inline void load_two_blocks(u32 (&x)[2], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(x[0]), "=r"(x[1]) : "r"(row) : "memory");
}

// The same with every block turned: rows and columns exchanged.
__device__ inline void load_blocks_turned(u32 (&x)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(row)
               : "memory");
}

// What `load_blocks` reads, written.
__device__ inline void store_blocks(u32 row, const u32 (&x)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(x[0]), "r"(x[1]), "r"(x[2]),
               "r"(x[3])
               : "memory");
}

// The same with every block turned: rows and columns exchanged.
__device__ inline void store_blocks_turned(u32 row, const u32 (&x)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(x[0]), "r"(x[1]), "r"(x[2]),
               "r"(x[3])
               : "memory");
}

// The same of two blocks, whose rows lanes up to 15 name.
__device__ inline void store_two_blocks_turned(u32 row, const u32 (&x)[2]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(x[0]), "r"(x[1]) : "memory");
}

#endif
