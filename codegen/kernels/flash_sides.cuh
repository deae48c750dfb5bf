// Blocks of 64 keys, of widths for which two warpgroups have no registers for 128: one of them has the gradients of the keys in registers and makes
// probabilities, the other those of the values and makes gradients of logits. Each multiplies a half of what a tile gives to its queries.

#include "flash_landing.cuh"

// Left operands on their way to the other warpgroup, whose threads have the same keys and queries: `which` of two.
template <class Cfg>
__device__ inline u32 way_of_weights(u32 base, int which) {
  return base + Place<Cfg>::WEIGHTS + which * (64 * Cfg::QUERIES * 2) + own_number() * 16;
}
template <class Cfg>
__device__ inline void send_weights(u32 base, int which, const u32 (&x)[Cfg::QUERIES / 16][4]) {
#pragma unroll
  for (int k = 0; k < Cfg::QUERIES / 16; k++)
    share(way_of_weights<Cfg>(base, which) + k * (WARPGROUP * 16), Four{i32(x[k][0]), i32(x[k][1]), i32(x[k][2]), i32(x[k][3])});
}
template <class Cfg>
__device__ inline void receive_weights(u32 base, int which, u32 (&x)[Cfg::QUERIES / 16][4]) {
#pragma unroll
  for (int k = 0; k < Cfg::QUERIES / 16; k++) {
    const Four four = shared_four(way_of_weights<Cfg>(base, which) + k * (WARPGROUP * 16));
    x[k][0] = four.x, x[k][1] = four.y, x[k][2] = four.z, x[k][3] = four.w;
  }
}

// Begins what a tile adds to the gradient of keys: gradients of logits, which lie key by key, times rows of queries.
template <class Cfg>
__device__ inline void multiply_queries(u32 d_s, u32 queries, f32 (&d_k)[Place<Cfg>::D / 2]) {
  using P = Place<Cfg>;
  const Along<TILE> left(d_s);
  const Down<P::Q_COLUMNS> right(queries, P::Q_TILE_BYTES);
  settle(d_k);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::QUERIES / 16; k++) wgmma_bf16<0, 1>(d_k, left.at(k * 32), right.at(k * 16 * P::Q_COLUMNS * 2), true);
  wgmma_commit();
}

// A tile of queries, for the keys. While the other makes gradients of logits, what the tile before gives to its queries is multiplied. Whether it is the last.
template <class Cfg>
__device__ inline bool add_to_keys(const FlashBackward& args, u32 base, const Met& met, f32 (&d_k)[Place<Cfg>::D / 2]) {
  using P = Place<Cfg>;
  constexpr int STEPS = P::QUERIES / 16;
  asm volatile("" : "+r"(base));  // descriptors are made anew for each tile: there are no registers for all of them
  const u32 tile = met.tile, stage = tile % STAGES, before = tile - 1;
  const u32 queries = base + P::STAGE + stage * P::STAGE_BYTES;
  take_tile<Cfg>(base, tile);
  f32 s[P::QUERIES / 2];
  multiply_keys<Cfg>(base + P::K, queries, s);
  wgmma_wait<0>();
  settle(s);
  u32 p[STEPS][4], slopes[STEPS][4];
  weigh<Cfg>(args, base, met, s, p, slopes);
  send_weights<Cfg>(base, 0, p);
  if constexpr (Cfg::CAP) send_weights<Cfg>(base, 1, slopes);
  arrive_once_a_warp(base + P::WEIGHTS_FULL);
  const i32 marks = shared_four(mark_of<Cfg>(base, tile)).z;
  f32 d_q[P::N / 2];
  multiply_gradients<Cfg>(base + P::D_S + before % STAGES * P::D_S_BYTES, base + P::K, d_q);
  barrier_wait(base + P::D_S_FULL + stage * 8, tile / STAGES % 2);  // so the weights have been received, too
  multiply_queries<Cfg>(base + P::D_S + stage * P::D_S_BYTES, queries, d_k);
  wgmma_wait<1>();
  if (!(marks & FIRST)) add_queries<Cfg>(args, base, before, d_q);  // else what was multiplied is nothing
  wgmma_wait<0>();
  arrive_once_a_warp(base + P::FREE + stage * 8);
  return marks & LAST;
}

// A tile of queries, for the values. Whether it is the last.
template <class Cfg>
__device__ inline bool add_to_values(const FlashBackward& args, u32 base, const Met& met, f32 (&d_v)[Cfg::V / 2]) {
  using P = Place<Cfg>;
  constexpr int STEPS = P::QUERIES / 16;
  asm volatile("" : "+r"(base));
  const u32 tile = met.tile, stage = tile % STAGES, parity = tile / STAGES % 2;
  const u32 d_out = base + P::STAGE + stage * P::STAGE_BYTES + P::Q_BYTES;
  const u32 d_logits = base + P::D_S + stage * P::D_S_BYTES;
  take_tile<Cfg>(base, tile);
  f32 d_p[P::QUERIES / 2];
  count_from_delta<Cfg>(base + P::SUMS + stage * P::SUMS_BYTES, d_p);
  settle(d_p);
  wgmma_fence();
  multiply_values<Cfg>(base + P::V, d_out, d_p);
  barrier_wait(base + P::WEIGHTS_FULL, tile % 2);
  u32 p[STEPS][4], slopes[STEPS][4], d_s[STEPS][4];
  receive_weights<Cfg>(base, 0, p);
  if constexpr (Cfg::CAP) receive_weights<Cfg>(base, 1, slopes);
  wgmma_wait<0>();
  settle(d_p);
  weigh_gradients<Cfg>(d_p, Cfg::CAP ? slopes : p, d_p, d_s);
  barrier_wait(base + P::D_S_FREE + stage * 8, parity ^ 1);
  leave_gradients<Cfg>(d_logits, d_s);
  arrive_once_a_warp(base + P::D_S_FULL + stage * 8);
  settle(d_v);
  wgmma_fence();
  multiply_rows<TILE>(p, d_out, P::O_TILE_BYTES, d_v);
  barrier_wait(base + P::D_S_FULL + stage * 8, parity);  // all of this warpgroup have left theirs
  f32 d_q[P::N / 2];
  multiply_gradients<Cfg>(d_logits, base + P::K, d_q);
  const i32 marks = shared_four(mark_of<Cfg>(base, tile)).z;
  wgmma_wait<1>();
  arrive_once_a_warp(base + P::FREE + stage * 8);
  wgmma_wait<0>();
  add_queries<Cfg>(args, base, tile, d_q);
  return marks & LAST;
}

// Tasks, with sums of `N` accumulators: calls `meet(met)` for a tile, which says whether it is the last, `last(tile)` behind it, and `write(slot)` in the end.
template <class Cfg, int N, class Meet, class Last, class Write>
__device__ inline void over_tasks(u32 base, f32 (&sums)[N], Meet meet, Last last, Write write) {
  Met met;
#pragma unroll 1
  for (; find_task<Cfg>(base, met); met.next_task()) {
#pragma unroll
    for (int i = 0; i < N; i++) sums[i] = 0;
    take_keys<Cfg>(base, met);
    const bool any = shared_four(slot_of<Cfg>(base, met) + 16).x > 0;
    bool more = any;
#pragma unroll 1
    for (; more; met.next_tile()) more = !meet(met);
    if (any) last(met.tile - 1);
    arrive_once_a_warp(base + Place<Cfg>::K_FREE);
    write(slot_of<Cfg>(base, met));
    arrive_once_a_warp(base + Place<Cfg>::TASK_FREE + met.task() % 2 * 8);
  }
}

// All tasks of a thread block, for the keys.
template <class Cfg>
__device__ inline void add_keys(const FlashBackward& args, u32 base) {
  f32 d_k[Place<Cfg>::D / 2];
  over_tasks<Cfg>(
      base, d_k, [&](const Met& met) { return add_to_keys<Cfg>(args, base, met, d_k); }, [&](u32 tile) { add_last<Cfg>(args, base, tile); },
      [&](u32 slot) { write_keys<Cfg>(args, slot, d_k); });
}

// The same for the values.
template <class Cfg>
__device__ inline void add_values(const FlashBackward& args, u32 base) {
  f32 d_v[Cfg::V / 2];
  over_tasks<Cfg>(
      base, d_v, [&](const Met& met) { return add_to_values<Cfg>(args, base, met, d_v); }, [](u32) {}, [&](u32 slot) { write_values<Cfg>(args, slot, d_v); });
}
