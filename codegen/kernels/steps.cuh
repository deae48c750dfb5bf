// Steps that kernels of Hopper's tensor cores have in common.

#include "convert.cuh"
#include "shared.cuh"

constexpr int TILE = 64;  // columns of a tile
constexpr u32 TILE_BYTES = 8192;
constexpr int WARPGROUP = 128;
[[maybe_unused]] constexpr f32 LOG2_E = 1.4426950408889634f;
[[maybe_unused]] constexpr f32 SLACK = 8;  // what exponents count from may lag behind the largest logit by this much, in powers of two: most tiles then change no sum
[[maybe_unused]] constexpr f32 LOW = -1e30f;  // below every logit, and far above what a key gets that is not seen, minus infinity: an exponential of 0 whatever its scale

// The power of two that a row counts in as f16, so that its largest is at least 1 and below 2, and its inverse. It is 2^-63 or more: products of it with a
// scale are not 0.
struct RowUnit {
  f32 unit, inverse;
  __device__ explicit RowUnit(f32 largest) {
    const u32 exponent = min(max(bits_of(largest) >> 23, 64u), 253u);
    unit = f32_of(exponent << 23);
    inverse = f32_of((254 - exponent) << 23);
  }
};

// A number rounded to bf16, by one instruction, and two that lie side by side.
__device__ inline void store_rounded(bf16* at, f32 x) { *at = {u16(pack_bf16(x, 0))}; }
__device__ inline void store_rounded(f32* at, f32 x) { *at = x; }
__device__ inline void store_two(bf16* at, f32 x, f32 y) { *reinterpret_cast<u32*>(at) = pack_bf16(x, y); }
__device__ inline void store_two(f32* at, f32 x, f32 y) { *reinterpret_cast<float2*>(at) = float2{x, y}; }

// A thread's number in its warpgroup, asked for anew: what is computed from it is computed again, not kept in registers, of which there are few.
__device__ inline u32 own_number() { return thread_number() % WARPGROUP; }

// ---- Descriptors of operands in tiles of 64 columns, or of 32 or 16 with shorter rows: the lower half names a place, the upper half is the same for all of a kind ----

__device__ inline u32 place_of(u32 address) { return __shfl_sync(ALL_LANES, address >> 4, 0); }

// What the upper half says: a row of a tile is `2 * COLUMNS` bytes, swizzled accordingly, and eight rows follow eight rows.
template <int COLUMNS>
__device__ constexpr u64 kind_of_tile() {
  return u64(COLUMNS * 16 >> 4 | u32(COLUMNS == 64 ? LAYOUT_128 : COLUMNS == 32 ? LAYOUT_64 : LAYOUT_32) << 30) << 32;
}
template <int COLUMNS = TILE>
__device__ inline u64 rows_at(u32 place) {
  return kind_of_tile<COLUMNS>() | place | 1 << 16;
}
// `tile`: bytes from one tile to the next.
template <int COLUMNS = TILE>
__device__ inline u64 columns_at(u32 place, u32 tile = TILE_BYTES) {
  return kind_of_tile<COLUMNS>() | place | (tile >> 4) << 16;
}

__device__ inline void arrive_once_a_warp(u32 barrier) {
  __syncwarp();
  if (lane() == 0) barrier_arrive(barrier);
}

// A stage of a ring, and the parity of its barriers.
template <int STAGES>
struct Ring {
  u32 stage = 0;
  u32 parity = 0;
  __device__ void next() {
    if (++stage < STAGES) return;
    stage = 0;
    parity ^= 1;
  }
  // The stage before.
  __device__ u32 before() const { return (stage == 0 ? STAGES : stage) - 1; }
};

// ---- A block: three warpgroups, which share registers as their work wants it ----

[[maybe_unused]] constexpr int ALL_HAVE = 168;  // registers of each thread before it and after it

// Has as many registers as its work wants, and does it. All of a block come here. Who wants registers back sleeps until all are done: a warp asks for them
// again and again until there are some, and takes turns from those that work.
template <int WANTED, class Work>
__device__ inline void with_registers(Work work) {
  if constexpr (WANTED < ALL_HAVE) registers_down<WANTED>();
  else registers_up<WANTED>();
  work();
  if constexpr (WANTED > ALL_HAVE) registers_down<ALL_HAVE>();
  __syncthreads();
  if constexpr (WANTED < ALL_HAVE) registers_up<ALL_HAVE>();
}

// The work of the first warpgroup, and that of the others, which is told which of them it is.
template <int FIRST, int OTHERS, class First, class Other>
__device__ inline void as_warpgroups(First first, Other other) {
  const u32 group = threadIdx.x / WARPGROUP;
  if (group == 0) with_registers<FIRST>(first);
  else with_registers<OTHERS>([&] { other(group - 1); });
}

// The work of the first warpgroup, of the second and of the third.
template <int FIRST, int OTHERS, class First, class Second, class Third>
__device__ inline void as_warpgroups(First first, Second second, Third third) {
  const int group = threadIdx.x / WARPGROUP;
  if (group == 0) with_registers<FIRST>(first);
  else if (group == 1) with_registers<OTHERS>(second);
  else with_registers<OTHERS>(third);
}

// Makes zeros of shared memory, which all threads of a block do: of rows that no copy fills.
__device__ inline void clear_rows(u32 room, u32 bytes) {
  for (u32 at = threadIdx.x * 16; at < bytes; at += blockDim.x * 16) share(room + at, Four{});
  fence_proxy_async();
}
