// Where gradients of `flash_backward.cuh` go: those of queries are added up in memory, tile by tile, those of keys and values are written in the end.

#include "flash_gradients.cuh"

// Adds what a warpgroup has of a tile's gradient of queries; with `DETERMINISTIC` when it is its turn, and the first leaves it where nothing stands.
template <class Cfg>
__device__ inline void add_queries(const FlashBackward& args, u32 base, u32 tile, f32 (&d_q)[Place<Cfg>::N / 2]) {
  using P = Place<Cfg>;
  constexpr int QUADS = P::N / 8;
  settle(d_q);
  arrive_once_a_warp(base + P::D_S_FREE + tile % STAGES * 8);
  const i32 number = shared_i32(mark_of<Cfg>(base, tile));
  bool first = false;
  if constexpr (Cfg::DETERMINISTIC) {
    barrier_wait(base + P::MAY_ADD + own_side() * 8, tile % 2);
    first = shared_i32(base + P::ALONE + own_side() * 4) != 0;
  }
  f32* to = args.d_queries + ((i64(number) * 2 + own_side()) * QUADS * WARPGROUP + own_number()) * 4;
  if (Cfg::DETERMINISTIC && first) {
#pragma unroll
    for (int i = 0; i < QUADS; i++) store_four(to + i * (WARPGROUP * 4), d_q[i * 4], d_q[i * 4 + 1], d_q[i * 4 + 2], d_q[i * 4 + 3]);
  } else {
#pragma unroll
    for (int i = 0; i < QUADS; i++) add_four(to + i * (WARPGROUP * 4), d_q[i * 4], d_q[i * 4 + 1], d_q[i * 4 + 2], d_q[i * 4 + 3]);
  }
  if constexpr (Cfg::DETERMINISTIC) arrive_once_a_warp(base + P::ADDED + own_side() * 8);
}

// The same of a task's last tile, which a warpgroup that adds to a tile when it has met the next has not yet multiplied.
template <class Cfg>
__device__ inline void add_last(const FlashBackward& args, u32 base, u32 tile) {
  using P = Place<Cfg>;
  barrier_wait(base + P::D_S_FULL + tile % STAGES * 8, tile / STAGES % 2);
  f32 d_q[P::N / 2];
  multiply_gradients<Cfg>(base + P::D_S + tile % STAGES * P::D_S_BYTES, base + P::K, d_q);
  wgmma_wait<0>();
  add_queries<Cfg>(args, base, tile, d_q);
}

// Adds columns from the `FIRST` on to a row. Lanes that are neighbours exchange, so that each adds four side by side.
template <int FIRST, int COLUMNS, int N>
__device__ inline void add_row(f32* to, bool there, int half, f32 by, const f32 (&d)[N]) {
  to += lane() % 2 * 8 + lane() % 4 / 2 * 4;
#pragma unroll
  for (int block = FIRST / 8; block < (FIRST + COLUMNS) / 8; block += 2) {
    u32 x[2], y[2];
#pragma unroll
    for (int odd = 0; odd < 2; odd++) {
      x[odd] = bits_of(d[(block * 2 + half) * 2 + odd] * by);
      y[odd] = bits_of(d[(block * 2 + 2 + half) * 2 + odd] * by);
      exchange(x[odd], y[odd]);
    }
    if (there) add_four(to + block * 8 - FIRST, f32_of(x[0]), f32_of(x[1]), f32_of(y[0]), f32_of(y[1]));
  }
}

// What a thread knows of one of its two keys: whether it is there, its row, and the head.
struct OwnKey {
  bool there;
  i64 row;
  i32 head;
};
template <class Cfg>
__device__ inline OwnKey own_key(u32 slot, int half) {
  const Four task = shared_four(slot);
  const i32 key = own_keys<Cfg>() + accumulator_row(own_number(), half);
  return {key < task.y, task.x + key, task.w};
}

// Writes the gradients of this warpgroup's values. `slot`: where the task stands.
template <class Cfg>
__device__ inline void write_values(const FlashBackward& args, u32 slot, f32 (&d_v)[Cfg::V / 2]) {
  settle(d_v);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const OwnKey key = own_key<Cfg>(slot, half);
    write_gradient<Cfg::V, 0, 0>(args.d_v, key.row, key.head, key.there, half, 1, d_v);
  }
}

// The same of keys. What heads share of them is added; with `DETERMINISTIC` in turn.
template <class Cfg>
__device__ inline void write_keys(const FlashBackward& args, u32 slot, f32 (&d_k)[Place<Cfg>::D / 2]) {
  settle(d_k);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const OwnKey key = own_key<Cfg>(slot, half);
    write_gradient<Cfg::A, 0, 0>(args.d_k, key.row, key.head, key.there, half, args.scale, d_k);
  }
  if constexpr (Cfg::R > 0) {
    const i32 rope_head = shared_four(slot).w / args.per_rope;
    u32* turn = args.rope_turns + (i64(rope_head) * args.key_blocks + shared_four(slot + 16).y) * 2 + own_side();
    if (Cfg::DETERMINISTIC) {
      while (load_acquire(turn) != u32(shared_four(slot + 16).z)) {
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const OwnKey key = own_key<Cfg>(slot, half);
      add_row<Cfg::A, Cfg::R>(args.d_k_rope + key.row * args.rope_stride + rope_head * Cfg::R, key.there, half, args.scale, d_k);
    }
    if (Cfg::DETERMINISTIC) {
      named_wait(own_name(), WARPGROUP);
      if (own_number() == 0) count_release(turn);
    }
  }
}
