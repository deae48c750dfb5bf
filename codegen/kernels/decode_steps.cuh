// Steps that kernels of absorbed attention have in common.

#include "decoding.cuh"
#include "steps.cuh"

// Whether `Cfg` says that keys are chosen, each query's its own.
template <class>
using Nothing = void;
template <class Cfg, class = void>
struct ChoiceOf {
  static constexpr bool IS = false;
};
template <class Cfg>
struct ChoiceOf<Cfg, Nothing<decltype(Cfg::CHOSEN)>> {
  static constexpr bool IS = Cfg::CHOSEN != 0;
};
template <class Cfg>
constexpr bool CHOOSES = ChoiceOf<Cfg>::IS;

// The row of `k` that a key stands in.
__device__ inline i32 row_of_key(const Decoding& args, i32 table, i32 key) {
  if (args.page == 0) return table + key;
  return i32(args.table[table + u32(key) / u32(args.page)]) * args.page + u32(key) % u32(args.page);
}

// What a block's first thread does at first: sees that shared memory begins where swizzles count from, and fetches the maps that the copy engine will want.
template <class Cfg>
__device__ inline void begin_block(const Decoding& args, u32 base) {
  if (base % 1024 != 0) __trap();
  prefetch_map(args.q);
  if (!CHOOSES<Cfg>) prefetch_map(args.k);
  if (Cfg::ROPE == 0) return;
  prefetch_map(args.q_rope);
  if (!CHOOSES<Cfg>) prefetch_map(args.k_rope);
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
