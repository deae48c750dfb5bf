// Blocks of 128 keys: each of the two warpgroups has a half of them, with the gradients of those and of their values in registers, and they take turns at the
// tensor cores. What a tile gives to its queries they multiply in halves, from gradients of logits of all keys.

#include "flash_landing.cuh"

// Waits until it is this warpgroup's turn to begin products, or says that it is the other's.
__device__ inline void wait_for_turn() { named_wait(1 + own_side(), 2 * WARPGROUP); }
__device__ inline void pass_turn() { named_arrive(2 - own_side(), 2 * WARPGROUP); }

// The first warpgroup is half a tile ahead of the second, so it adds to the queries of a tile when it has the next one's gradients of logits.
__device__ inline bool is_ahead() { return own_side() == 0; }

// Of the four turns of a tile two are between the warpgroups.
__device__ inline void skip_turns() {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    wait_for_turn();
    pass_turn();
  }
}

// A tile of queries. Whether it is the last.
template <class Cfg>
__device__ inline bool add_tile(const FlashBackward& args, u32 base, const Met& met, f32 (&d_k)[Place<Cfg>::D / 2], f32 (&d_v)[Cfg::V / 2]) {
  using P = Place<Cfg>;
  constexpr int STEPS = P::QUERIES / 16;
  asm volatile("" : "+r"(base));  // descriptors are made anew for each tile: there are no registers for all of them
  const u32 tile = met.tile, stage = tile % STAGES;
  const u32 queries = base + P::STAGE + stage * P::STAGE_BYTES, d_out = queries + P::Q_BYTES;
  const u32 d_logits = base + P::D_S + stage * P::D_S_BYTES;
  take_tile<Cfg>(base, tile);
  f32 s[P::QUERIES / 2];
  wait_for_turn();
  multiply_keys<Cfg>(base + P::K, queries, s);
  pass_turn();
  wgmma_wait<0>();
  settle(s);
  u32 p[STEPS][4], slopes[STEPS][4];
  weigh<Cfg>(args, base, met, s, p, slopes);
  f32 d_p[P::QUERIES / 2];
  count_from_delta<Cfg>(base + P::SUMS + stage * P::SUMS_BYTES, d_p);
  wait_for_turn();
  settle(d_p);
  settle(d_v);
  wgmma_fence();  // one for both: nobody waits for a turn with exponentials left to make
  multiply_values<Cfg>(base + P::V, d_out, d_p);
  multiply_rows<TILE>(p, d_out, P::O_TILE_BYTES, d_v);
  pass_turn();
  wgmma_wait<1>();
  settle(d_p);
  u32 d_s[STEPS][4];
  weigh_gradients<Cfg>(s, Cfg::CAP ? slopes : p, d_p, d_s);
  barrier_wait(base + P::D_S_FREE + stage * 8, tile / STAGES % 2 ^ 1);
  leave_gradients<Cfg>(d_logits, d_s);
  arrive_once_a_warp(base + P::D_S_FULL + stage * 8);
  wait_for_turn();
  settle(d_k);
  wgmma_fence();
  multiply_rows<P::Q_COLUMNS>(d_s, queries, P::Q_TILE_BYTES, d_k);
  pass_turn();
  const u32 of = tile - is_ahead();
  const i32 marks = shared_four(mark_of<Cfg>(base, tile)).z;
  const bool has = !is_ahead() || !(marks & FIRST);  // else what is multiplied is nothing, and goes nowhere
  wgmma_wait<0>();
  arrive_once_a_warp(base + P::FREE + stage * 8);
  if (has) barrier_wait(base + P::D_S_FULL + of % STAGES * 8, of / STAGES % 2);
  f32 d_q[P::N / 2];
  wait_for_turn();
  multiply_gradients<Cfg>(base + P::D_S + of % STAGES * P::D_S_BYTES, base + P::K, d_q);
  pass_turn();
  wgmma_wait<0>();
  if (has) add_queries<Cfg>(args, base, of, d_q);
  return marks & LAST;
}

// All tasks of a thread block, for a half of the keys.
template <class Cfg>
__device__ inline void add_halves(const FlashBackward& args, u32 base) {
  using P = Place<Cfg>;
  f32 d_k[P::D / 2], d_v[Cfg::V / 2];
  Met met;
  if (!is_ahead()) pass_turn();
#pragma unroll 1
  for (; find_task<Cfg>(base, met); met.next_task()) {
#pragma unroll
    for (int i = 0; i < P::D / 2; i++) d_k[i] = 0;
#pragma unroll
    for (int i = 0; i < Cfg::V / 2; i++) d_v[i] = 0;
    take_keys<Cfg>(base, met);
    if (!is_ahead()) skip_turns();
    bool more = shared_four(slot_of<Cfg>(base, met) + 16).x > 0;
#pragma unroll 1
    for (; more; met.next_tile()) more = !add_tile<Cfg>(args, base, met, d_k, d_v);
    if (is_ahead()) {
      skip_turns();
      if (shared_four(slot_of<Cfg>(base, met) + 16).x > 0) add_last<Cfg>(args, base, met.tile - 1);
    }
    arrive_once_a_warp(base + P::K_FREE);
    write_values<Cfg>(args, slot_of<Cfg>(base, met), d_v);
    write_keys<Cfg>(args, slot_of<Cfg>(base, met), d_k);
    arrive_once_a_warp(base + P::TASK_FREE + met.task() % 2 * 8);
  }
  if (is_ahead()) wait_for_turn();  // the other's last word
}
