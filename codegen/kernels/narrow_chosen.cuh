// How keys that are chosen come to the stages of `decode_narrow.cuh`: four warps fetch them, each a quarter of a tile's keys.

#include "narrow_tiles.cuh"

// Fetches a warp's keys of a tile to a stage, two lines at a time as they are free.
template <class Cfg>
__device__ inline void bring_keys(const Decoding& args, u32 base, u32 stage, u32 parity, u32 row) {
  using P = Place<Cfg>;
  const u32 to = base + stage * P::STAGE_BYTES + own_number() / WARP * (OWN_KEYS * 128);
  const RowsFound rows(row);
#pragma unroll
  for (int pair = 0; pair < P::PAIRS; pair++) {
    const u32 place = (stage * P::PIECES + pair) * 8;
    barrier_wait(base + P::EMPTY + place, parity);
    fetch_lines<4, 2>(args, args.entries + pair * 256, args.entry_bytes, rows, to + pair * (2 * TILE_BYTES));
    if (pair == 0) {
      if constexpr (Cfg::ROPE > 0) fetch_lines<4, 1, Cfg::ROPE / 8>(args, args.rotated, args.rotated_bytes, rows, to + P::ROPE);
      leave_seen(args, base + P::SEEN + stage * 16, row);
      if (lane() == 0) barrier_arrive(base + P::FULL + place);
      __syncwarp();
    }
    copies_arrive(base + P::FULL + place);
  }
}

// Brings all items of a team. A warpgroup comes here.
template <class Cfg>
__device__ inline void bring_chosen(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  static_assert(!P::CODED, "entries are elements");
  Turn<Cfg> turns[P::GROUPS];
  QueriesTurn<Cfg> queries;
  const int end_item = args.starts[team + 1];
  for (int i = args.starts[team]; i < end_item; i++) {
    const Item item = args.items[i];
    const List list = list_of<Cfg>(args, item, member);
    i32 position = chosen_position(list, item.first);
    if (threadIdx.x < WARP) {
      barrier_wait(base + P::Q_EMPTY + queries.stage * 8, queries.parity ^ 1);
      if (lane() == 0) bring_queries<Cfg>(args, base, queries.stage, row_of<Cfg>(args, args.groups[item.group], member, 0));
      __syncwarp();
    }
    queries.next();
    for (int tile = item.first; tile < item.end; tile++) {
      u32 stage = 0, parity = 0;
      take_slot<Cfg>(turns, (tile - item.first) % P::GROUPS, stage, parity);
      const u32 row = chosen_row(args, list, position);
      if (tile + 1 < item.end) position = chosen_position(list, tile + 1);
      bring_keys<Cfg>(args, base, stage, parity, row);
    }
  }
}
