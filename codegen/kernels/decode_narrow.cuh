// Absorbed attention over a cache of latents for 16 or 32 rows of queries, with operands exchanged: what docs/kernels/decode.md draws.
//
// Keys and latents are the left operands of all products, and rows of queries their columns, so that few rows don't fill up to 64. Three
// warpgroups. A warp of the first copies tiles of 64 keys to a ring of stages, some columns at a time; the second and third take tiles in turn, each
// with all columns, and become one at an item's end.

#include "narrow_chosen_codes.cuh"

// Logits of a tile as its columns come: `full` are their barriers.
template <class Cfg>
__device__ inline void multiply_keys(u32 keys, u32 queries, u32 full, u32 parity, f32 (&s)[Cfg::ROWS / 2]) {
  using P = Place<Cfg>;
  const u32 left = place_of(keys);
  const u32 right = place_of(queries);
  settle(s);
#pragma unroll
  for (int pair = 0; pair < P::PAIRS; pair++) {
    barrier_wait(full + pair * 8, parity);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < (pair == 0 ? P::ROPE_STEPS : 0); k++)
      wgmma_bf16<0, 0>(s, rows_at(left + (P::VALUE_TILES * TILE_BYTES + k * 32) / 16),
                       rows_at(right + (P::VALUE_TILES * P::Q_TILE_BYTES + k * 32) / 16), k > 0);
#pragma unroll
    for (int k = pair * 8; k < pair * 8 + 8; k++)
      wgmma_bf16<0, 0>(s, rows_at(left + (k / 4 * TILE_BYTES + k % 4 * 32) / 16), rows_at(right + (k / 4 * P::Q_TILE_BYTES + k % 4 * 32) / 16),
                       P::ROPE_STEPS + k > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  settle(s);
}

// Adds a tile's products to the output, and frees its columns one by one, unless it `keeps` them.
template <class Cfg>
__device__ inline void multiply_latents(u32 keys, u32 weights, u32 empty, bool keeps, Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  const u32 left = place_of(keys);
  const u32 right = place_of(weights);
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) settle(sums.o[t]);
  wgmma_fence();
#pragma unroll
  for (int pair = 0; pair < P::PAIRS; pair++) {
#pragma unroll
    for (int t = 2 * pair; t < 2 * pair + 2; t++) {
#pragma unroll
      for (int k = 0; k < 4; k++) wgmma_bf16<1, 0>(sums.o[t], columns_at(left + (t * TILE_BYTES + k * 2048) / 16), rows_at(right + k * 2), true);
    }
    wgmma_commit();
  }
  const auto freed = [&](int pair) {
    if (!keeps) arrive_once_a_warp(empty + pair * 8);
  };
  if constexpr (P::PAIRS == 4) {
    wgmma_wait<3>();
    freed(0);
    wgmma_wait<2>();
    freed(1);
    wgmma_wait<1>();
    freed(2);
  }
  wgmma_wait<0>();
#pragma unroll
  for (int pair = P::PAIRS == 4 ? 3 : 0; pair < P::PAIRS; pair++) freed(pair);
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) settle(sums.o[t]);
}

// All items of a team, with the other warpgroups in turn. `mine`: which of them. They run the same instructions, of which only so many are kept at hand.
template <class Cfg>
__device__ inline void attend_tiles(const Decoding& args, u32 base, u32 mine) {
  using P = Place<Cfg>;
  using S = Sums<Cfg>;
  const u32 name = 1 + mine;
  const int thread = threadIdx.x % WARPGROUP;
  const u32 weights = base + P::WEIGHTS + mine * P::SETS * P::Q_TILE_BYTES;
  const u32 limits = base + P::LIMITS + mine * P::ROWS * 8;
  const u32 peaks = base + P::PEAKS + mine * 4 * P::ROWS * 4;
  Turn<Cfg> turn;
  u32 handed[P::GROUPS - 1] = {};
  [[maybe_unused]] RowUnits<Cfg> units;
  QueriesTurn<Cfg> queries;
  S sums;
  for (int i = args.starts[block_number() / args.team]; i < args.starts[block_number() / args.team + 1]; i++) {
    const Item item = args.items[i];
    const Group group = args.groups[item.group];
    if constexpr (!CHOOSES<Cfg>) {
      named_wait(name, WARPGROUP);  // nobody reads the last item's limits any more
      if (own_number() < P::ROWS) {
        const Row row = row_of<Cfg>(args, group, block_number() % args.team, own_number());
        Limit seen = {0, 0x7fffffff};
        if (row.there) seen = args.limits[row.query];
        share(limits + own_number() * 8, Pair{seen.from, seen.to});
      }
      named_wait(name, WARPGROUP);
    }
    sums.clear();
    const u32 q = base + P::Q + queries.stage * P::Q_BYTES;
    barrier_wait(base + (P::CODED ? P::Q_READY : P::Q_FULL) + queries.stage * 8, queries.parity);
    if constexpr (P::CODED) units.take(base + P::Q_SCALES + queries.stage * P::ROWS * 4);
    u32 last = 0;  // the stage of the last tile
    for (int tile = item.first + mine; tile < item.end; tile += P::GROUPS) {
      const u32 stage = last = turn.stage(mine);
      const u32 keys = base + stage * P::STAGE_BYTES;
      f32 s[S::HELD];
      const u32 full = base + P::FULL + stage * P::PIECES * 8;
      if constexpr (P::CODED) multiply_coded_keys<Cfg>(keys, q, full, turn.parity, units, s);
      else multiply_keys<Cfg>(keys, q, full, turn.parity, s);
      turn.next(mine);
      if constexpr (CHOOSES<Cfg>) hide_missing<Cfg>(base + P::SEEN + stage * 16, s);
      else if (tile * KEYS < group.all_first || tile * KEYS + KEYS > group.all_end) hide_unseen<Cfg>(limits, tile, s);
      if (!CHOOSES<Cfg> && (tile * KEYS < group.first || tile * KEYS + KEYS > group.end)) {
        const i32 first = group.first - tile * KEYS, end = group.end - tile * KEYS;
        if (P::SCALED && thread < KEYS && (thread < first || thread >= end)) share(keys + P::Codes::SCALES + thread * 16, Four{});
        clear_unseen<P::CODED ? P::PAIRS : P::VALUE_TILES>(keys, first, end, name);
      }
      soften<Cfg>(args, peaks, name, keys, s, sums);
      if constexpr (P::SCALED) leave_scaled_weights<Cfg>(weights, keys, sums.unit, s);
      else leave_weights<Cfg>(weights, s);
      fence_proxy_async();
      named_wait(name, WARPGROUP);  // all of this group have left theirs
      // Where its last tile was, a warpgroup leaves its sums, or the second those of both
      const bool keeps = (mine > 0 || item.parts > 1) && tile + P::GROUPS >= item.end;
      const u32 empty = base + P::EMPTY + stage * P::PIECES * 8;
      if constexpr (P::CODED) multiply_coded_latents<Cfg>(keys, weights, empty, keeps, sums);
      else multiply_latents<Cfg>(keys, weights, empty, keeps, sums);
    }
    arrive_once_a_warp(base + P::Q_EMPTY + queries.stage * 8);
    queries.next();
    over_group<Cfg>(sums.total, false, peaks, name);
    over_group<Cfg>(sums.top, true, peaks, name);
#pragma unroll
    for (int other = 1; other < P::GROUPS; other++) {
      if (item.end - item.first <= other) continue;
      if (mine == other) hand_over<Cfg>(base, other - 1, last, handed[other - 1], sums);
      if (mine == 0) add_others<Cfg>(base, other - 1, name, handed[other - 1], sums);
    }
    if (mine > 0) continue;
    write_rows<Cfg>(args, item, group, block_number() % args.team, base + last * P::STAGE_BYTES, name, sums);
    if (item.parts == 1) continue;
#pragma unroll
    for (int piece = 0; piece < P::PIECES; piece++) arrive_once_a_warp(base + P::EMPTY + (last * P::PIECES + piece) * 8);
  }
}

template <class Cfg>
__device__ void decode_narrow(const Decoding& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    begin_block<Cfg>(args, base);
    for (int i = 0; i < P::STAGES * P::PIECES; i++) {
      // Where keys are chosen, by all who fetch, and at first by a lane of each warp that says which keys there are; of codes by a lane of two warps
      barrier_init(base + P::FULL + i * 8, !CHOOSES<Cfg> ? 1 : P::Codes::WHOLE ? 2 : i % P::PIECES == 0 ? WARPGROUP + 4 : WARPGROUP);
      barrier_init(base + P::EMPTY + i * 8, 4);
    }
    for (int i = 0; i < 2; i++) {
      barrier_init(base + P::Q_FULL + i * 8, 1);
      barrier_init(base + P::Q_EMPTY + i * 8, 4 * P::GROUPS);
      barrier_init(base + P::Q_READY + i * 8, P::Codes::WHOLE ? 4 : 3);
    }
    for (int i = 0; i < P::GROUPS - 1; i++) {
      barrier_init(base + P::HANDED + i * 8, 4);
      barrier_init(base + P::TAKEN + i * 8, 4);
    }
    fence_barrier_init();
  }
  clear_rows(base + P::Q, P::Q_STAGES * P::Q_BYTES);
  __syncthreads();
  const int team = blockIdx.x / args.team;
  const int member = blockIdx.x % args.team;
  const auto bring = [&] {
    if constexpr (P::Codes::WHOLE) bring_chosen_codes<Cfg>(args, base, team, member);
    else if constexpr (CHOOSES<Cfg>) bring_chosen<Cfg>(args, base, team, member);
    else if (threadIdx.x < WARP) bring_tiles<Cfg>(args, base, team, member);
    else if constexpr (P::CODED) split_all_queries<Cfg>(args, base, team);
  };
  as_warpgroups<P::BRINGS, P::ATTENDS>(bring, [&](u32 mine) { attend_tiles<Cfg>(args, base, mine); });
  join_items<Cfg, 1>(args);
}
