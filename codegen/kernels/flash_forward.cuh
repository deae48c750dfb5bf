// Softmax attention over rows of keys and values, 128 rows of queries of a head at a time: what docs/kernels/prefill.md draws.
//
// Three warpgroups. A thread of the first has keys and values copied to rings of stages. The second and third have 64 rows each, meet the same keys, and
// take turns at the tensor cores: while one of them has its products there, the other makes probabilities. Keys may have a second part that heads share,
// and queries, keys and values may be columns of wider tensors: nothing is put together before.

#include "flash_rows.cuh"
#include "wgmma.cuh"

// Waits until it is this warpgroup's turn to begin products, or says that it is the other's, where they take turns.
template <class Cfg>
__device__ inline void wait_for_products() {
  if constexpr (Place<Cfg>::TURNS) wait_for_turn();
}
template <class Cfg>
__device__ inline void pass_products() {
  if constexpr (Place<Cfg>::TURNS) pass_turn();
}

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

// Begins what a tile adds to the output, or makes of it.
template <class Cfg>
__device__ inline void multiply_weights(u32 values, const u32 (&p)[Place<Cfg>::KEYS / 16][4], bool add, f32 (&o)[Cfg::V / 2]) {
  using P = Place<Cfg>;
  const u32 right = place_of(values);
  settle(o);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::KEYS / 16; k++) wgmma_bf16<1>(o, p[k], columns_at(right + k * 128, P::SLOT_BYTES), k > 0 || add);
  wgmma_commit();
}

// Waits for the next task, and takes its queries out of shared memory.
template <class Cfg>
__device__ inline Pair take_task(u32 base, u32& parity, u32 (&q)[Place<Cfg>::HELD + 1][4]) {
  using P = Place<Cfg>;
  barrier_wait(base + P::Q_FULL, parity);
  parity ^= 1;
  const Pair task = shared_pair(base + P::TASK);
  const u32 self = own_number();
  const u32 line = own_rows() * 64 + self / 32 * 16 + self % 16;
  if (task.x != NO_WORK) {
#pragma unroll
    for (int k = 0; k < P::HELD; k++) {
      const u32 at = P::step_at(k, P::Q_TILE_BYTES);
      load_blocks(q[k], base + P::Q + at / P::Q_TILE_BYTES * P::Q_TILE_BYTES + swizzled_128(line * 128 + at % P::Q_TILE_BYTES + self % 32 / 16 * 16));
    }
  }
  if (P::HELD == P::STEPS || task.x == NO_WORK) arrive_once_a_warp(base + P::Q_FREE);
  return task;
}

// Where who attends stands.
template <class Cfg>
struct Attending {
  Ring<Place<Cfg>::STAGES> k;
  Ring<Place<Cfg>::STAGES> v;
  u32 parity = 0;
};

// All tasks that are brought, for 64 rows. `trusting`: what a row's exponents count from does not follow its logits beyond the first tile.
template <class Cfg>
__device__ inline void attend_tasks(const FlashForward& args, u32 base, bool trusting, Attending<Cfg>& stands) {
  using P = Place<Cfg>;
  Ring<P::STAGES>& k_turn = stands.k;
  Ring<P::STAGES>& v_turn = stands.v;
  u32& parity = stands.parity;
  Rows<Cfg> rows;
  u32 q[P::HELD + 1][4];
  u32 p[P::KEYS / 16][4];
  f32 s[P::KEYS / 2];
  f32 less[2];
  // Begins logits of a task's first tile, or the next one
  const auto begin_logits = [&](u32 at) {
    barrier_wait(at + P::K_FULL + k_turn.stage * 8, k_turn.parity);
    wait_for_products<Cfg>();
    multiply_queries<Cfg>(at, at + P::K + k_turn.stage * P::K_BYTES, q, s);
  };
  if (own_rows() == 1) pass_products<Cfg>();
  Pair task = take_task<Cfg>(base, parity, q);
  if (task.x != NO_WORK) {
    begin_logits(base);
    pass_products<Cfg>();
    wgmma_wait<0>();
    settle(s);
  }
#pragma unroll
  for (int k = 0; k < Cfg::V / 2; k++) rows.o[k] = 0;
#pragma unroll 1
  while (task.x != NO_WORK) {
    const u32 tops = base + P::TOPS + (own_rows() * WARPGROUP + own_number()) * 8;
    begin_rows<Cfg>(args.works[task.x], tops, rows.sums);
    i32 key = last_tile<Cfg>(args.works[task.x]);
    const i32 first = first_tile<Cfg>(args.works[task.x]);
    // Makes exponentials of a tile's logits
    const auto weigh = [&](u32 at, bool follows) {
      arrive_once_a_warp(at + P::K_FREE + k_turn.stage * 8);
      k_turn.next();
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
      if (follows || waits_for_keys(rows.sums)) {
        follow<Cfg::MOST>(tops, args.scale_log2, s, rows.sums, less);
      } else {
        less[0] = less[1] = 1;
      }
      soften(args.scale_log2, s, rows.sums);
    };
    weigh(base, true);
    pack_weights(s, p);
    bool add = false;
#pragma unroll 1
    while ((key -= P::KEYS) >= first) {
      u32 at = base;
      asm volatile("" : "+r"(at));  // descriptors are made anew for each step: there are no registers for all of them
      begin_logits(at);
      barrier_wait(at + P::V_FULL + v_turn.stage * 8, v_turn.parity);
      multiply_weights<Cfg>(at + P::V + v_turn.stage * P::V_BYTES, p, add, rows.o);
      pass_products<Cfg>();
      wgmma_wait<1>();
      const u32 before = v_turn.stage;
      v_turn.next();
      weigh(at, !trusting);
      wgmma_wait<0>();
      settle(rows.o);
      arrive_once_a_warp(at + P::V_FREE + before * 8);
      shrink(less, rows.o);
      pack_weights(s, p);
      add = true;
    }
    if (P::HELD < P::STEPS) arrive_once_a_warp(base + P::Q_FREE);
    barrier_wait(base + P::V_FULL + v_turn.stage * 8, v_turn.parity);
    multiply_weights<Cfg>(base + P::V + v_turn.stage * P::V_BYTES, p, add, rows.o);
    const Pair done = task;
    if constexpr (P::HELD == P::STEPS) {
      // The next task's first logits run beside this one's last values and its output. Where there is none, they are of nothing: a way around them would
      // have all products wait for each other
      task = take_task<Cfg>(base, parity, q);
      if (task.x != NO_WORK) {
        barrier_wait(base + P::K_FULL + k_turn.stage * 8, k_turn.parity);
        wait_for_products<Cfg>();
      }
      multiply_queries<Cfg>(base, base + P::K + k_turn.stage * P::K_BYTES, q, s);
      if (task.x != NO_WORK) pass_products<Cfg>();
      wgmma_wait<1>();
    } else {
      wgmma_wait<0>();
    }
    settle(rows.o);
    arrive_once_a_warp(base + P::V_FREE + v_turn.stage * 8);
    v_turn.next();
    write_rows<Cfg>(args, done, trusting, tops, rows);
    if constexpr (P::HELD < P::STEPS) {
      task = take_task<Cfg>(base, parity, q);
      if (task.x == NO_WORK) break;
      begin_logits(base);
      pass_products<Cfg>();
    }
    wgmma_wait<0>();
    settle(s);
  }
  if (own_rows() == 0) wait_for_products<Cfg>();  // the other's last word
}

// All tasks of a block, for 64 rows.
template <class Cfg>
__device__ inline void attend_tiles(const FlashForward& args, u32 base) {
  using P = Place<Cfg>;
  Attending<Cfg> at;
#pragma unroll 1
  for (bool trusting = !Cfg::MOST;; trusting = false) {
    attend_tasks<Cfg>(args, base, trusting, at);
    if (!trusting) return;
    arrive_once_a_warp(base + P::DONE);
    if (!goes_on<Cfg>(base)) return;
  }
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
      if (threadIdx.x == 0) bring_tasks<Cfg>(args, base);
      if (threadIdx.x == WARP) bring_values<Cfg>(args, base);
      __syncwarp();  // registers are a warp's
    });
  } else {
    with_registers<P::ATTENDS>([&] { attend_tiles<Cfg>(args, base); });
  }
}
