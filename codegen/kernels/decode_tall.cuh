// Absorbed attention over a cache of latents of up to 256 columns, 128 rows of queries at a time: what docs/kernels/decode.md draws.
//
// Three warpgroups. A warp of the first copies keys to a ring of stages. The second and third have 64 rows each, meet the same keys, and take turns
// at the tensor cores: while one of them has its products there, the other makes probabilities.

#include "tall_rows.cuh"
#include "wgmma.cuh"

// Begins logits.
template <class Cfg>
__device__ inline void multiply_queries(u32 base, u32 keys, const u32 (&q)[Place<Cfg>::HELD][4], f32 (&s)[Place<Cfg>::STEP / 2]) {
  using P = Place<Cfg>;
  const u32 left = place_of(base + P::Q + own_rows() * 64 * 128);
  const u32 right = place_of(keys);
  settle(s);
  wgmma_fence();
#pragma unroll
  for (int k = P::HELD; k < P::STEPS; k++)
    wgmma_bf16<0, 0>(s, rows_at(left + ((k - P::HELD) / 4 * P::Q_TILE_BYTES + k % 4 * 32) / 16),
                     rows_at(right + (k / 4 * P::SLOT_BYTES + k % 4 * 32) / 16), k > P::HELD);
#pragma unroll
  for (int k = 0; k < P::ROPE_STEPS; k++)
    wgmma_bf16<0, 0>(s, rows_at(left + ((P::VALUE_TILES - P::HELD_TILES) * P::Q_TILE_BYTES + k * 32) / 16),
                     rows_at(right + (P::VALUE_TILES * P::SLOT_BYTES + k * 32) / 16), P::STEPS > P::HELD || k > 0);
#pragma unroll
  for (int k = 0; k < P::HELD; k++) wgmma_bf16<0>(s, q[k], rows_at(right + (k / 4 * P::SLOT_BYTES + k % 4 * 32) / 16), P::KEPT_TILES > 0 || k > 0);
  wgmma_commit();
}

// Begins what a step adds to the output.
template <class Cfg>
__device__ inline void multiply_weights(u32 keys, const u32 (&p)[Place<Cfg>::STEP / 16][4], f32 (&o)[Cfg::LATENT / 2]) {
  using P = Place<Cfg>;
  const u32 right = place_of(keys);
  settle(o);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::STEP / 16; k++) wgmma_bf16<1>(o, p[k], columns_at(right + k * 128, P::SLOT_BYTES), true);
  wgmma_commit();
}

// All items of a team, for 64 rows.
template <class Cfg>
__device__ inline void attend_tiles(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  Turn<Cfg> turn;
  Rows<Cfg> rows;
  u32 q[P::HELD][4];
  u32 p[P::STEP / 16][4];
  f32 s[P::STEP / 2];
  f32 less[2];
  if (own_rows() == 1) pass_turn();
#pragma unroll 1
  for (i32 i = args.starts[block_number() / args.team]; i < args.starts[block_number() / args.team + 1]; i++) {
    i32 key = take_item<Cfg>(args, base, i, base + turn.stage * P::STAGE_BYTES, base + P::FULL + turn.stage * 8, turn.parity, q, rows);
    arrive_once_a_warp(base + P::EMPTY + turn.stage * 8);
    turn.next();
    // Makes exponentials of a step's logits; whether it is the item's last
    const auto weigh = [&](u32 at, u32 keys) {
      settle(s);
      const Four of = shared_four(at + P::WORK + own_rows() * 16);
      if (key < of.z || key + P::STEP > of.w) hide_and_clear<Cfg>(args, at, keys, of, key, s);
      follow<true>(own_tops<Cfg>(at), args.scale_log2, s, rows.sums, less);
      soften(args.scale_log2, s, rows.sums);
      key += P::STEP;
      return key >= of.y;
    };
    u32 keys = base + turn.stage * P::STAGE_BYTES;
    barrier_wait(base + P::FULL + turn.stage * 8, turn.parity);
    wait_for_turn();
    multiply_queries<Cfg>(base, keys, q, s);
    pass_turn();
    wgmma_wait<0>();
    bool last = weigh(base, keys);
    pack_weights(s, p);
    u32 before = turn.stage;
    turn.next();
#pragma unroll 1
    while (!last) {
      u32 at = base;
      asm volatile("" : "+r"(at));  // descriptors are made anew for each step: there are no registers for all of them
      keys = at + turn.stage * P::STAGE_BYTES;
      barrier_wait(at + P::FULL + turn.stage * 8, turn.parity);
      wait_for_turn();
      multiply_queries<Cfg>(at, keys, q, s);
      multiply_weights<Cfg>(at + before * P::STAGE_BYTES, p, rows.o);
      pass_turn();
      wgmma_wait<1>();
      last = weigh(at, keys);
      wgmma_wait<0>();
      settle(rows.o);
      arrive_once_a_warp(at + P::EMPTY + before * 8);
      shrink(less, rows.o);
      pack_weights(s, p);
      before = turn.stage;
      turn.next();
    }
    if (P::KEPT_TILES > 0) arrive_once_a_warp(base + P::Q_FREE);
    multiply_weights<Cfg>(base + before * P::STAGE_BYTES, p, rows.o);
    i = shared_i32(base + P::WORK + own_rows() * 16);
    const Item item = args.items[i];
    const Group group = args.groups[item.group];
    wgmma_wait<0>();
    settle(rows.o);
    if (item.parts == 1) arrive_once_a_warp(base + P::EMPTY + before * 8);
    write_rows<Cfg>(args, base, base + before * P::STAGE_BYTES, item, group, rows);
    if (item.parts > 1) arrive_once_a_warp(base + P::EMPTY + before * 8);
  }
  if (own_rows() == 0) wait_for_turn();  // the other's last word
}

template <class Cfg>
__device__ void decode_tall(const Decoding& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    begin_block<Cfg>(args, base);
    for (int stage = 0; stage < P::STAGES; stage++) {
      barrier_init(base + P::FULL + stage * 8, 1);
      barrier_init(base + P::EMPTY + stage * 8, 8);
    }
    barrier_init(base + P::Q_FREE, 8);
    fence_barrier_init();
  }
  if constexpr (Cfg::H < P::ROWS && P::KEPT_TILES > 0) clear_rows(base + P::Q, P::KEPT_TILES * P::Q_TILE_BYTES);
  __syncthreads();
  if (threadIdx.x < WARPGROUP) {
    with_registers<P::BRINGS>([&] {
      if (threadIdx.x < WARP) bring_tiles<Cfg>(args, base);
    });
  } else {
    with_registers<P::ATTENDS>([&] { attend_tiles<Cfg>(args, base); });
  }
  join_items<Cfg, 2>(args);
}
