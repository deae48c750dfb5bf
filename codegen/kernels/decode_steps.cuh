// Steps that kernels of absorbed attention have in common.

#include "decoding.cuh"
#include "convert.cuh"
#include "shared.cuh"

constexpr int TILE = 64;  // columns of a tile
constexpr u32 TILE_BYTES = 8192;
constexpr int WARPGROUP = 128;
constexpr f32 LOG2_E = 1.4426950408889634f;
constexpr f32 SLACK = 8;  // what exponents count from may lag behind the largest logit by this much, in powers of two: most tiles then change no sum
constexpr f32 LOW = -1e30f;  // below every logit, and far above what a key gets that is not seen, minus infinity: an exponential of 0 whatever its scale

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

// ---- Descriptors of operands in tiles of 64 columns: the lower half names a place, the upper half is the same for all of a kind ----

__device__ inline u32 place_of(u32 address) { return __shfl_sync(ALL_LANES, address >> 4, 0); }
__device__ inline u64 rows_at(u32 place) { return u64(1024 >> 4 | u32(LAYOUT_128) << 30) << 32 | place | 1 << 16; }
// `tile`: bytes from 64 columns to the next.
__device__ inline u64 columns_at(u32 place, u32 tile = TILE_BYTES) { return u64(1024 >> 4 | u32(LAYOUT_128) << 30) << 32 | place | (tile >> 4) << 16; }

__device__ inline void arrive_once_a_warp(u32 barrier) {
  __syncwarp();
  if (lane() == 0) barrier_arrive(barrier);
}

// The row of `k` that a key stands in.
__device__ inline i32 row_of_key(const Decoding& args, i32 table, i32 key) {
  if (args.page == 0) return table + key;
  return i32(args.table[table + u32(key) / u32(args.page)]) * args.page + u32(key) % u32(args.page);
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

constexpr int ALL_HAVE = 168;  // registers of each thread before it and after it

// Has as many registers as its work wants, and does it.
template <int WANTED, class Work>
__device__ inline void with_registers(Work work) {
  if constexpr (WANTED < ALL_HAVE) registers_down<WANTED>();
  else registers_up<WANTED>();
  work();
  if constexpr (WANTED < ALL_HAVE) registers_up<ALL_HAVE>();
  else registers_down<ALL_HAVE>();
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

// What a block's first thread does at first: sees that shared memory begins where swizzles count from, and fetches the maps that the copy engine will want.
template <class Cfg>
__device__ inline void begin_block(const Decoding& args, u32 base) {
  if (base % 1024 != 0) __trap();
  prefetch_map(args.q);
  prefetch_map(args.k);
  if (Cfg::ROPE == 0) return;
  prefetch_map(args.q_rope);
  prefetch_map(args.k_rope);
}

// Has a block's queries brought, `TILES` tiles of 64 columns of all of its rows, from the `FIRST` on: at once where they are as many as a tile has rows.
template <class Cfg, int TILES, int FIRST = 0>
__device__ inline void copy_queries(const Decoding& args, const TensorMap& map, u32 to, u32 barrier, const Row& first) {
  constexpr int AT_ONCE = Cfg::H >= Cfg::ROWS ? TILES : 1;
#pragma unroll
  for (int t = 0; t < TILES; t += AT_ONCE) copy_tile_4d(to + t * (Cfg::ROWS * 128), map, barrier, 0, first.head, first.query, FIRST + t);
}

// Bytes of such a tile that come.
template <class Cfg>
__device__ inline int bytes_of_queries(const Decoding& args) {
  return (Cfg::H >= Cfg::ROWS ? Cfg::ROWS : Cfg::H * args.at_once) * 128;
}

// Makes zeros of what no query of the group sees: it may be anything, and probabilities of 0 would not undo a NaN.
template <int TILES, int OF_TILE = KEYS>
__device__ inline void clear_unseen(u32 values, i32 first, i32 end, u32 name) {
#pragma unroll 1
  for (int at = threadIdx.x % WARPGROUP; at < OF_TILE * 8 * TILES; at += WARPGROUP) {
    const int key = at / 8 % OF_TILE;
    if (key < first || key >= end) share(values + at * 16, Four{});
  }
  fence_proxy_async();
  named_wait(name, WARPGROUP);
}

// Hides keys from rows that don't see them. `limits`: where they stand in shared memory; `first`: the key that logits begin with; `self`: the thread's
// number among those of 64 rows.
template <int N>
__device__ inline void hide_unseen(u32 limits, i32 first, u32 self, f32 (&s)[N]) {
  first += accumulator_column(self, 0);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Pair limit = shared_pair(limits + accumulator_row(self, half) * 8);
    const i32 from = limit.x - first, end = limit.y - first;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      const int key = i / 2 * 8 + i % 2;
      if (key < from || key >= end) s[i / 2 * 4 + half * 2 + i % 2] = minus_infinity();
    }
  }
}
