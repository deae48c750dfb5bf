// Absorbed attention over a cache of codes, 64 rows of queries at a time: what docs/kernels/decode.md draws.
//
// Three warpgroups, and operands exchanged. The first makes logits and probabilities, the second and third each multiply them with one half of the
// latents' columns. A thread of the third has the copy engine fill a stage of the ring again once both are done with it.

#include "wide_codes.cuh"

// Logits and probabilities of all items of a team.
template <class Cfg>
__device__ inline void weigh(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  Turn<Cfg> turn;
  RowSums sums;
  for (;;) {
    barrier_wait(base + P::FULL + turn.stage * 8, turn.parity);
    const Pair first = shared_pair(base + P::LOADS + turn.stage * 16);
    if (first.y == NOTHING) break;
    take_queries<Cfg>(args, base, first.x, sums);
    arrive_once_a_warp(base + P::WEIGHED + turn.stage * 8);
    turn.next();
    i32 marks;
    bool waits = false;  // the tile before has not been passed on
    do {
      u32 at = base;
      asm volatile("" : "+r"(at));  // descriptors are made anew for each tile: there are no registers for all of them
      const u32 keys = at + turn.stage * P::STAGE_BYTES;
      barrier_wait(at + P::FULL + turn.stage * 8, turn.parity);
      f32 s[32];
      // As in `decode_wide.cuh`: values of the tile before are added beside this tile's softmax
      multiply_coded_keys<Cfg>(at, keys, s, [&] {
        if (waits) arrive_once_a_warp(at + P::WEIGHED + turn.before() * 8);
        waits = true;
      });
      const Four load = shared_four(at + P::LOADS + turn.stage * 16);
      marks = load.x;
      if (marks >= LAST) arrive_once_a_warp(at + P::Q_FREE);
      if constexpr (CHOOSES<Cfg>) hide_missing<Cfg>(at + P::SEEN + turn.stage * 16, s);
      else if (marks & EDGE) hide_unseen<Cfg>(at + P::LIMITS, load.y, s);
      f32 scales[2] = {0, 0};
      if (P::SCALED) own_scales<Cfg>(keys, load, scales);
      soften<Cfg>(args, at, turn.stage, scales, s, sums);
      leave_weights<Cfg>(keys + P::WEIGHTS, s);
      if (P::SCALED) leave_scales(keys + P::HALF_SCALES, scales, sums.unit);
      fence_proxy_async();
      if (marks >= LAST) leave_final<Cfg>(args, at, marks, sums);
      if (marks >= LAST) arrive_once_a_warp(at + P::WEIGHED + turn.stage * 8);
      turn.next();
    } while (marks < LAST);
    write_sums<Cfg>(args, base, marks & (EDGE - 1), sums);
  }
  arrive_once_a_warp(base + P::WEIGHED + turn.stage * 8);
}

// All items of a team. A thread of the third warpgroup has stages filled besides.
template <class Cfg, int SIDE>
__device__ inline void add_values(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  constexpr int TILES = Cfg::LATENT / 128;
  fill_first<Cfg, SIDE>(args, base, team, member);
  Turn<Cfg> turn;
  f32 o[TILES][32];
  for (;;) {
    barrier_wait(base + P::WEIGHED + turn.stage * 8, turn.parity);
    if (shared_pair(base + P::LOADS + turn.stage * 16).y == NOTHING) break;
    refill<Cfg, SIDE>(args, base, turn, member);
#pragma unroll
    for (int k = 0; k < TILES * 32; k++) o[k / 32][k % 32] = 0;
    i32 marks;
    do {
      u32 at = base;
      asm volatile("" : "+r"(at));  // as in `weigh`
      const u32 stage = at + turn.stage * P::STAGE_BYTES;
      barrier_wait(at + P::WEIGHED + turn.stage * 8, turn.parity);
      const Four load = shared_four(at + P::LOADS + turn.stage * 16);
      marks = load.x;
      if (load.z > 0 || load.w < KEYS) clear_unseen_codes<Cfg, SIDE>(stage, load.z, load.w);
      if (shared_i32(at + P::CHANGED + turn.stage * 4)) multiply_rows<Cfg>(at + P::SHRINK + turn.stage * ROWS * 4, o);
      multiply_coded_latents<Cfg, SIDE>(stage, o);
      if (marks < LAST) refill<Cfg, SIDE>(args, at, turn, member);
    } while (marks < LAST);
    const Item item = args.items[marks & (EDGE - 1)];
    const u32 stage = base + turn.stage * P::STAGE_BYTES;
    if (item.parts == 1) refill<Cfg, SIDE>(args, base, turn, member);
    write_half<Cfg, SIDE>(args, stage, base + P::FINAL + (marks & 1) * ROWS * 4, item, member, o);
    if (item.parts > 1) refill<Cfg, SIDE>(args, base, turn, member);
  }
}

// The same over keys that are chosen. Who fills a stage again is much text, so it is done at two places only, once for all tiles.
template <class Cfg, int SIDE>
__device__ inline void add_chosen(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  constexpr int TILES = Cfg::LATENT / 128;
  i32 position = -1;
  fill_first_chosen<Cfg, SIDE>(args, base, position);
  Turn<Cfg> turn;
  f32 o[TILES][32];
  for (;;) {
    barrier_wait(base + P::WEIGHED + turn.stage * 8, turn.parity);
    if (shared_pair(base + P::LOADS + turn.stage * 16).y == NOTHING) break;
    refill_chosen<Cfg, SIDE>(args, base, turn, position);
#pragma unroll
    for (int k = 0; k < TILES * 32; k++) o[k / 32][k % 32] = 0;
    i32 marks;
    do {
      u32 at = base;
      asm volatile("" : "+r"(at));  // as in `weigh`
      const u32 stage = at + turn.stage * P::STAGE_BYTES;
      barrier_wait(at + P::WEIGHED + turn.stage * 8, turn.parity);
      marks = shared_pair(at + P::LOADS + turn.stage * 16).x;
      if (shared_i32(at + P::CHANGED + turn.stage * 4)) multiply_rows<Cfg>(at + P::SHRINK + turn.stage * ROWS * 4, o);
      multiply_coded_latents<Cfg, SIDE>(stage, o);
      if (marks >= LAST) write_half<Cfg, SIDE>(args, stage, at + P::FINAL + (marks & 1) * ROWS * 4, args.items[marks & (EDGE - 1)], block_number() % args.team, o);
      refill_chosen<Cfg, SIDE>(args, at, turn, position);
    } while (marks < LAST);
  }
}

template <class Cfg>
__device__ void decode_wide_fp8(const Decoding& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    begin_block<Cfg>(args, base);
    init_barriers<Cfg>(base);
  }
  __syncthreads();
  const int team = blockIdx.x / args.team;
  const int member = blockIdx.x % args.team;
  if constexpr (CHOOSES<Cfg>) {
    as_warpgroups<P::WEIGHS, P::ADDS>([=, &args] { weigh<Cfg>(args, base); }, [=, &args] { add_chosen<Cfg, 0>(args, base); },
                                      [=, &args] { add_chosen<Cfg, 1>(args, base); });
  } else {
    as_warpgroups<P::WEIGHS, P::ADDS>([=, &args] { weigh<Cfg>(args, base); }, [=, &args] { add_values<Cfg, 0>(args, base, team, member); },
                                      [=, &args] { add_values<Cfg, 1>(args, base, team, member); });
  }
  join_items<Cfg, 3>(args);
}
