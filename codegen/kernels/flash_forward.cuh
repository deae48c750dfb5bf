// Softmax attention over rows of keys and values, 128 rows of queries of a head at a time: what docs/kernels/prefill.md draws.
//
// Three warpgroups. A thread of the first has keys and values copied to rings of stages. The second and third have 64 rows each, meet the same keys, and
// take turns at the tensor cores: while one of them has its products there, the other makes probabilities. Keys may have a second part that heads share,
// and queries, keys and values may be columns of wider tensors: nothing is put together before.

#include "flash_rows.cuh"
#include "wgmma.cuh"

// Begins logits of a tile, or of its first keys.
template <class Cfg, int N>
__device__ inline void multiply_queries(u32 base, u32 keys, const u32 (&q)[Place<Cfg>::HELD + 1][4], f32 (&s)[N]) {
  using P = Place<Cfg>;
  const u32 left = place_of(base + P::Q + own_rows() * 64 * 128);
  const u32 right = place_of(keys);
  settle(s);
  wgmma_fence();
  // Those in shared memory first: registers may be on their way
#pragma unroll
  for (int k = P::HELD; k < P::STEPS; k++)
    wgmma_bf16<0, 0>(s, rows_at(left + P::step_at(k, P::Q_TILE_BYTES) / 16), rows_at(right + P::step_at(k, P::SLOT_BYTES) / 16), k > P::HELD);
#pragma unroll
  for (int k = 0; k < P::HELD; k++) wgmma_bf16<0>(s, q[k], rows_at(right + P::step_at(k, P::SLOT_BYTES) / 16), P::STEPS > P::HELD || k > 0);
  wgmma_commit();
}

// Logits of the last tile, whose first half may be all that this warpgroup's rows see.
template <class Cfg>
__device__ inline void first_logits(const Work& work, i32 key, u32 base, u32 keys, const u32 (&q)[Place<Cfg>::HELD + 1][4],
                                    f32 (&s)[Place<Cfg>::KEYS / 2]) {
  using P = Place<Cfg>;
  wait_for_turn();
  if constexpr (P::HALVES) {
    constexpr int HALF = P::KEYS / 4;
    if (own_rows() == 0 && work.half_end <= key + P::KEYS / 2) {
      f32 half[HALF];
      multiply_queries<Cfg>(base, keys, q, half);
      pass_turn();
      wgmma_wait<0>();
      settle(half);
#pragma unroll
      for (int i = 0; i < 2 * HALF; i++) s[i] = i < HALF ? half[i] : minus_infinity();
      return;
    }
  }
  multiply_queries<Cfg>(base, keys, q, s);
  pass_turn();
  wgmma_wait<0>();
  settle(s);
}

// Begins what a tile adds to the output.
template <class Cfg>
__device__ inline void multiply_weights(u32 values, const u32 (&p)[Place<Cfg>::KEYS / 16][4], f32 (&o)[Place<Cfg>::V_TILES * TILE / 2]) {
  using P = Place<Cfg>;
  const u32 right = place_of(values);
  settle(o);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::KEYS / 16; k++) wgmma_bf16<1>(o, p[k], columns_at(right + k * 128, P::SLOT_BYTES), true);
  wgmma_commit();
}

// Takes a work's queries out of shared memory, and begins its rows.
template <class Cfg>
__device__ inline void take_rows(u32 base, u32 tops, u32 (&q)[Place<Cfg>::HELD + 1][4], Rows<Cfg>& rows) {
  using P = Place<Cfg>;
  const u32 self = own_number();
  const u32 line = own_rows() * 64 + self / 32 * 16 + self % 16;
#pragma unroll
  for (int k = 0; k < P::HELD; k++) {
    const u32 at = P::step_at(k, P::Q_TILE_BYTES);
    load_blocks(q[k], base + P::Q + at / P::Q_TILE_BYTES * P::Q_TILE_BYTES + swizzled_128(line * 128 + at % P::Q_TILE_BYTES + self % 32 / 16 * 16));
  }
  if (P::HELD == P::STEPS) arrive_once_a_warp(base + P::Q_FREE);
  if (Cfg::MOST) share(tops, Two{minus_infinity(), minus_infinity()});
#pragma unroll
  for (int half = 0; half < 2; half++) {
    rows.sums.shift[half] = LOW;
    rows.sums.total[half] = 0;
  }
#pragma unroll
  for (int k = 0; k < P::V_TILES * TILE / 2; k++) rows.o[k] = 0;
}

// All works of a block, for 64 rows.
template <class Cfg>
__device__ inline void attend_tiles(const FlashForward& args, u32 base) {
  using P = Place<Cfg>;
  Ring<P::K_STAGES> k_turn;
  Ring<P::V_STAGES> v_turn;
  u32 q_parity = 0;
  Rows<Cfg> rows;
  u32 q[P::HELD + 1][4];
  u32 p[P::KEYS / 16][4];
  f32 s[P::KEYS / 2];
  f32 less[2];
  if (own_rows() == 1) pass_turn();
#pragma unroll 1
  for (;;) {
    barrier_wait(base + P::Q_FULL, q_parity);
    q_parity ^= 1;
    const Pair task = shared_pair(base + P::TASK);
    if (task.x == NO_WORK) break;
    const u32 tops = base + P::TOPS + (own_rows() * WARPGROUP + own_number()) * 8;
    take_rows<Cfg>(base, tops, q, rows);
    i32 key = last_tile<Cfg>(args.works[task.x]);
    const i32 first = first_tile<Cfg>(args.works[task.x]);
    // Makes exponentials of a tile's logits
    const auto weigh = [&](u32 at) {
      settle(s);
      if constexpr (Cfg::CAP) bend(args.bend, s);
      const Work& work = args.works[task.x];
      if (key < work.all_first || key + P::KEYS > work.all_end) {
        hide_unseen(args, work, key, s);
        if (key < work.first || key + P::KEYS > work.end) {
          barrier_wait(at + P::V_FULL + v_turn.stage * 8, v_turn.parity);
          clear_unseen<Cfg>(at + P::V + v_turn.stage * P::V_BYTES, work.first - key, work.end - key);
        }
      }
      soften<Cfg::MOST>(tops, args.scale_log2, s, rows.sums, less);
    };
    if (key >= first) {
      barrier_wait(base + P::K_FULL + k_turn.stage * 8, k_turn.parity);
      first_logits<Cfg>(args.works[task.x], key, base, base + P::K + k_turn.stage * P::K_BYTES, q, s);
      arrive_once_a_warp(base + P::K_FREE + k_turn.stage * 8);
      k_turn.next();
      weigh(base);
      pack_weights(s, p);
#pragma unroll 1
      while ((key -= P::KEYS) >= first) {
        u32 at = base;
        asm volatile("" : "+r"(at));  // descriptors are made anew for each step: there are no registers for all of them
        barrier_wait(at + P::K_FULL + k_turn.stage * 8, k_turn.parity);
        wait_for_turn();
        multiply_queries<Cfg>(at, at + P::K + k_turn.stage * P::K_BYTES, q, s);
        barrier_wait(at + P::V_FULL + v_turn.stage * 8, v_turn.parity);
        multiply_weights<Cfg>(at + P::V + v_turn.stage * P::V_BYTES, p, rows.o);
        pass_turn();
        wgmma_wait<1>();
        arrive_once_a_warp(at + P::K_FREE + k_turn.stage * 8);
        k_turn.next();
        const u32 before = v_turn.stage;
        v_turn.next();
        weigh(at);
        wgmma_wait<0>();
        settle(rows.o);
        arrive_once_a_warp(at + P::V_FREE + before * 8);
        shrink(less, rows.o);
        pack_weights(s, p);
      }
      if (P::HELD < P::STEPS) arrive_once_a_warp(base + P::Q_FREE);
      barrier_wait(base + P::V_FULL + v_turn.stage * 8, v_turn.parity);
      multiply_weights<Cfg>(base + P::V + v_turn.stage * P::V_BYTES, p, rows.o);
      wgmma_wait<0>();
      settle(rows.o);
      arrive_once_a_warp(base + P::V_FREE + v_turn.stage * 8);
      v_turn.next();
    } else if (P::HELD < P::STEPS) {
      arrive_once_a_warp(base + P::Q_FREE);
    }
    write_rows<Cfg>(args, task, tops, rows);
  }
  if (own_rows() == 0) wait_for_turn();  // the other's last word
}

template <class Cfg>
__device__ void flash_forward(const FlashForward& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    if (base % 1024 != 0) __trap();
    prefetch_map(args.q);
    prefetch_map(args.k);
    prefetch_map(args.v);
    init_barriers<Cfg>(base);
  }
  __syncthreads();
  if (threadIdx.x < WARPGROUP) {
    with_registers<P::BRINGS>([&] {
      if (threadIdx.x == 0) bring_tiles<Cfg>(args, base);
    });
  } else {
    with_registers<P::ATTENDS>([&] { attend_tiles<Cfg>(args, base); });
  }
}
