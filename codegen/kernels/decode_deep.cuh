// Absorbed attention over a cache of latents that are too wide for one warpgroup's registers, for 16 or 32 rows of queries, with operands exchanged:
// what docs/kernels/decode.md draws.
//
// Keys and latents are the left operands of all products, and rows of queries their columns. Three warpgroups. Two warps of the first copy tiles of 64
// keys, 64 columns at a time, to two rings of slots; the second and third, the two sides, work on the same tile, each with its half of the columns:
// as keys, of which sums of logits are exchanged, and as latents, of which each has its own output.

#include "deep_sums.cuh"
#include "wgmma.cuh"

// A side's share of a tile's logits, as its pieces come.
template <class Cfg, int SIDE>
__device__ inline void multiply_keys(u32 base, Turn<Cfg, SIDE> turn, f32 (&s)[Cfg::ROWS / 2]) {
  using P = Place<Cfg>;
  const u32 left = place_of(base);
  const u32 right = place_of(base + P::queries(SIDE));
  settle(s);
#pragma unroll
  for (int piece = 0; piece < P::pieces(SIDE); piece++) {
    barrier_wait(base + P::FULL + turn.slot() * 8, turn.parity);
    wgmma_fence();
    const u32 slot = left + turn.slot() * (TILE_BYTES / 16);
#pragma unroll
    for (int k = 0; k < (P::rotated(SIDE, piece) ? P::ROPE_STEPS : TILE / 16); k++)
      wgmma_bf16<0, 0>(s, rows_at(slot + k * 2), rows_at(right + piece * (P::Q_TILE_BYTES / 16) + k * 2), piece + k > 0);
    turn.next();
  }
  wgmma_commit();
  wgmma_wait<0>();
  settle(s);
}

// Frees a side's pieces of latents as their products are done, of which so many are under way. It may `keep` the last one.
template <class Cfg, int SIDE, int UNDER_WAY>
__device__ inline void free_in_turn(u32 base, bool keeps, Turn<Cfg, SIDE>& turn) {
  if constexpr (UNDER_WAY > 0) {
    wgmma_wait<UNDER_WAY - 1>();
    if (UNDER_WAY > 1 || !keeps) {
      arrive_once_a_warp(base + Place<Cfg>::EMPTY + turn.slot() * 8);
      turn.next();
    }
    free_in_turn<Cfg, SIDE, UNDER_WAY - 1>(base, keeps, turn);
  }
}

// Adds a tile's products to a side's output. `turn`: where its latents begin; afterwards, where the next tile does, or the last piece if that is kept.
template <class Cfg, int SIDE>
__device__ inline void multiply_latents(u32 base, bool keeps, Turn<Cfg, SIDE>& turn, Sums<Cfg>& sums) {
  using P = Place<Cfg>;
  const u32 left = place_of(base);
  const u32 right = place_of(base + P::WEIGHTS);
  Turn<Cfg, SIDE> walk = turn;
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) settle(sums.o[t]);
  wgmma_fence();
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) {
    const u32 slot = left + walk.slot() * (TILE_BYTES / 16);
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) wgmma_bf16<1, 0>(sums.o[t], columns_at(slot + k * 128), rows_at(right + k * 2), true);
    wgmma_commit();
    walk.next();
  }
  free_in_turn<Cfg, SIDE, P::VALUE_TILES>(base, keeps, turn);
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) settle(sums.o[t]);
}

// Makes zeros of a side's latents that no query of the group sees.
template <class Cfg, int SIDE>
__device__ inline void clear_pieces(u32 base, Turn<Cfg, SIDE> turn, i32 first, i32 end) {
#pragma unroll 1
  for (int t = 0; t < Place<Cfg>::VALUE_TILES; t++, turn.next()) clear_unseen<1>(base + turn.slot() * TILE_BYTES, first, end, 1 + SIDE);
}

// Has ready what a side's rows see of an item's keys.
template <class Cfg, int SIDE>
__device__ inline void leave_limits(const Decoding& args, const Group& group, u32 limits, int member) {
  using P = Place<Cfg>;
  const int thread = threadIdx.x % WARPGROUP;
  named_wait(1 + SIDE, WARPGROUP);  // nobody reads the last item's any more
  if (thread < P::OWN_ROWS) {
    const Row row = row_of<Cfg>(args, group, member, SIDE * P::OWN_ROWS + thread);
    Limit seen = {0, 0x7fffffff};
    if (row.there) seen = args.limits[row.query];
    share(limits + thread * 8, Pair{seen.from, seen.to});
  }
  named_wait(1 + SIDE, WARPGROUP);
}

// All items of a team: one side of them.
template <class Cfg, int SIDE>
__device__ inline void attend_side(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  const u32 limits = base + P::LIMITS + SIDE * P::OWN_ROWS * 8;
  const int end_item = args.starts[team + 1];
  Turn<Cfg, SIDE> turn;
  u32 queries_parity = 0;
  Sums<Cfg> sums;
  for (int i = args.starts[team]; i < end_item; i++) {
    const Item item = args.items[i];
    const Group group = args.groups[item.group];
    leave_limits<Cfg, SIDE>(args, group, limits, member);
    sums.clear();
    barrier_wait(base + P::Q_FULL + SIDE * 8, queries_parity);
    queries_parity ^= 1;
    for (int tile = item.first; tile < item.end; tile++) {
      f32 parts[Cfg::ROWS / 2];
      multiply_keys<Cfg, SIDE>(base, turn, parts);
      if (tile + 1 == item.end) arrive_once_a_warp(base + P::Q_EMPTY + SIDE * 8);
      if (P::rotated(SIDE, 0)) {
        arrive_once_a_warp(base + P::EMPTY + turn.slot() * 8);
        turn.next();
      }
      f32 s[Cfg::ROWS / 2 / SIDES];
      exchange_logits<Cfg, SIDE>(base, parts, s);
      if (tile * KEYS < group.all_first || tile * KEYS + KEYS > group.all_end) hide_unseen<Half<Cfg>>(limits, tile, s);
      const i32 first = group.first - tile * KEYS, end = group.end - tile * KEYS;
      if (first > 0 || end < KEYS) clear_pieces<Cfg, SIDE>(base, turn, first, end);
      soften<Cfg, SIDE>(args, base, s, sums);
      multiply_latents<Cfg, SIDE>(base, item.parts > 1 && tile + 1 == item.end, turn, sums);
    }
    write_half<Cfg, SIDE>(args, base, base + turn.slot() * TILE_BYTES, item, group, member, sums);
    if (item.parts == 1) continue;
    arrive_once_a_warp(base + P::EMPTY + turn.slot() * 8);
    turn.next();
  }
}

template <class Cfg>
__device__ void decode_deep(const Decoding& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    begin_block<Cfg>(args, base);
    for (int i = 0; i < P::SLOTS; i++) {
      barrier_init(base + P::FULL + i * 8, 1);
      barrier_init(base + P::EMPTY + i * 8, 4);
    }
    for (int side = 0; side < SIDES; side++) {
      barrier_init(base + P::Q_FULL + side * 8, 1);
      barrier_init(base + P::Q_EMPTY + side * 8, 4);
    }
    fence_barrier_init();
  }
  clear_rows(base + P::Q, P::PIECES * P::Q_TILE_BYTES);
  __syncthreads();
  const int team = blockIdx.x / args.team;
  const int member = blockIdx.x % args.team;
  const auto bring = [&] {
    if (threadIdx.x < WARP) bring_pieces<Cfg, 0>(args, base, team, member);
    else if (threadIdx.x < 2 * WARP) bring_pieces<Cfg, 1>(args, base, team, member);
  };
  as_warpgroups<P::BRINGS, P::ATTENDS>(bring, [&] { attend_side<Cfg, 0>(args, base, team, member); }, [&] { attend_side<Cfg, 1>(args, base, team, member); });
  join_items<Cfg, 2>(args);
}
