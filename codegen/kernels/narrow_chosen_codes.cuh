// How entries of bytes that are chosen come to the stages of `decode_narrow.cuh`: whole. Asking takes a warp longer than the copy engine
// takes: so each warpgroup that attends has two warps that bring its tiles, half of a tile's keys each.

#include "narrow_chosen.cuh"
#include "narrow_codes.cuh"

[[maybe_unused]] constexpr int KEYS_OF_WARP = 32;  // of a tile: one to a lane

// What a list names, and what is to be known about where that stands.
struct Named {
  i32 position = -1;  // negative: nothing
  i32 table = 0, first = 0, from = 0, to = 0;
};

// The tiles of a team's items that a warpgroup attends to, one after the other, with the list that names their keys.
struct Ahead {
  u32 mine;  // which warpgroup
  i32 item, end_item;
  i32 tile = 0, end = 0;
  List list = {};

  // What the next tile's list names as this lane's key of it.
  template <class Cfg>
  __device__ Named next(const Decoding& args, int member) {
    constexpr int GROUPS = Place<Cfg>::GROUPS;
    tile += GROUPS;
    while (tile >= end && item < end_item) {
      const Item its = args.items[item++];
      list = list_of<Cfg>(args, its, member);
      tile = its.first + mine;
      end = its.end;
    }
    const i32 at = tile * KEYS + own_number() / WARP % 2 * KEYS_OF_WARP + own_lane();
    // The load's result is moved to another register at once, which waits for it: so it has come to the L1 before
    if (at + 2 * GROUPS * KEYS < list.end) expect_soon(list.keys + at + 2 * GROUPS * KEYS);
    return {tile < end && at < list.end ? list.keys[at] : -1, list.table, list.first, list.from, list.to};
  }
};

// What is known of where this lane's key of a tile stands: what the table says, or that there is nothing to be asked for.
struct Whereabouts {
  i32 key = -1;  // negative: there is none
  i32 table = 0;
  u32 page = 0;

  __device__ Whereabouts(const Decoding& args, const Named& named) : key(named.position - named.first), table(named.table) {
    if (named.position < 0 || key < named.from || key >= named.to) key = -1;
    if (key >= 0 && args.page != 0) page = args.table[table + u32(key) / u32(args.page)];
  }
  __device__ u32 row(const Decoding& args) const {
    if (key < 0) return ~0u;
    return args.page == 0 ? table + key : page * args.page + u32(key) % u32(args.page);
  }
};

// Has a warp's keys of a tile brought to a stage. `row`: of this lane's key.
template <class Cfg>
__device__ inline void bring_half(const Decoding& args, u32 base, u32 stage, u32 parity, u32 row) {
  using P = Place<Cfg>;
  const u32 half = own_number() / WARP % 2;
  const u32 all = __ballot_sync(ALL_LANES, row < u32(args.rows));
  barrier_wait(base + P::EMPTY + stage * 8, parity);
  if (own_lane() == 0) share(base + P::SEEN + stage * 16 + half * 8, Pair{i32(all & 0xffff), i32(all >> 16)});
  const u32 to = base + stage * P::STAGE_BYTES + (half * KEYS_OF_WARP + own_lane()) * P::Codes::APART;
  bring_entries<Cfg, KEYS_OF_WARP>(args, to, row, base + P::FULL + stage * 8);
}

// Brings tiles of all items of a team, and makes their queries codes. A warpgroup comes here. Where keys stand is asked for two tiles before they are.
template <class Cfg>
__device__ inline void bring_chosen_codes(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  const u32 mine = own_number() / WARP / 2;
  Turn<Cfg> turn;
  QueriesTurn<Cfg> queries;
  const int end_item = args.starts[team + 1];
  Ahead ahead = {mine, args.starts[team], end_item};
  u32 row = Whereabouts(args, ahead.next<Cfg>(args, member)).row(args);
  Whereabouts next(args, ahead.next<Cfg>(args, member));
  Named named = ahead.next<Cfg>(args, member);
  for (int i = args.starts[team]; i < end_item; i++, queries.next()) {
    const Item item = args.items[i];
    if (own_number() < WARP) {
      barrier_wait(base + P::Q_EMPTY + queries.stage * 8, queries.parity ^ 1);
      if (own_lane() == 0) bring_queries<Cfg>(args, base, queries.stage, row_of<Cfg>(args, args.groups[item.group], member, 0));
      __syncwarp();
    }
    const auto split = [&] {
      barrier_wait(base + P::Q_FULL + queries.stage * 8, queries.parity);
      split_queries<Cfg, 4>(base, queries.stage, own_number() / WARP);
      arrive_once_a_warp(base + P::Q_READY + queries.stage * 8);
    };
    const i32 first = item.first + mine;
    if (first >= item.end) split();
    for (int tile = first; tile < item.end; tile += P::GROUPS) {
      bring_half<Cfg>(args, base, turn.stage(mine), turn.parity ^ 1, row);
      turn.next(mine);
      row = next.row(args);
      next = Whereabouts(args, named);
      named = ahead.next<Cfg>(args, member);
      if (tile == first) split();
    }
  }
}
