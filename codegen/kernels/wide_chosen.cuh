// How keys that are chosen come to the stages of `decode_wide.cuh`: both warpgroups that add values fetch what they multiply as soon as they are done with
// what was there, a warp a quarter of a tile's keys. The first one also finds out for both where keys stand, long before they are fetched; the second fetches
// the rotated part, once both are done with the probabilities that stand there, and says what a stage holds.
//
// What a warp brings next stands in shared memory, since registers are few: `{the next item, the end of the team's, the next tile of the item before, the end of
// its tiles}`, and of the first warpgroup that item's list.

#include "wide_tiles.cuh"

// Where what this warp brings next stands.
template <class Cfg, int SIDE>
__device__ inline u32 errand_of(u32 base) {
  return base + (SIDE == 0 ? Place<Cfg>::ERRANDS : Place<Cfg>::OTHER_ERRANDS) + own_number() / WARP * (SIDE == 0 ? 48 : 16);
}

__device__ inline void share(u32 at, const List& list) {
  const u64 keys = u64(list.keys);
  share(at, Four{i32(keys), i32(keys >> 32), list.end, list.table});
  share(at + 16, Four{list.first, list.from, list.to, 0});
}
__device__ inline List shared_list(u32 at) {
  const Four some = shared_four(at), rest = shared_four(at + 16);
  return {reinterpret_cast<const i32*>(u64(u32(some.y)) << 32 | u32(some.x)), some.z, some.w, rest.x, rest.y, rest.z};
}

// Where rows of a warp's keys stand that come to a stage next.
template <class Cfg>
__device__ inline u32 rows_for(u32 base, u32 stage) {
  return base + Place<Cfg>::FOUND + stage * 256 + own_number() / WARP * 64;
}

// Fills a side's part of a stage with a tile. The second side says which it is.
template <class Cfg, int SIDE>
__device__ inline void fill_with_keys(const Decoding& args, u32 base, u32 stage, const Four& next) {
  using P = Place<Cfg>;
  constexpr int OWN_LINES = Cfg::LATENT / 128;  // of a key
  constexpr int AT_ONCE = 4;
  const u32 lines = base + stage * P::STAGE_BYTES + own_number() / WARP * (OWN_KEYS * 128);
  const RowsLeft rows{rows_for<Cfg>(base, stage)};
  fetch_lines<AT_ONCE, OWN_LINES>(args, args.entries + SIDE * OWN_LINES * 128, args.entry_bytes, rows, lines + SIDE * OWN_LINES * TILE_BYTES);
  if (SIDE == 1) {
    if constexpr (Cfg::ROPE > 0) fetch_lines<2, 1, Cfg::ROPE / 8>(args, args.rotated, args.rotated_bytes, rows, lines + P::ROPE);
    leave_seen(args, base + P::SEEN + stage * 16, row_left(rows.at));
    if (own_number() == 0) share(base + P::LOADS + stage * 16, Four{next.x - 1 + (next.z + 1 == next.w ? LAST : 0), next.z, 0, KEYS});
  }
  copies_arrive(base + P::FULL + stage * 8);
}

// The same of entries of bytes, which come whole: of a warp's 16 keys each side asks for eight.
template <class Cfg, int SIDE>
__device__ inline void fill_with_entries(const Decoding& args, u32 base, u32 stage, const Four& next) {
  using P = Place<Cfg>;
  constexpr int OWN = OWN_KEYS / 2;
  const u32 rows = rows_for<Cfg>(base, stage);
  const u32 number = SIDE * OWN + own_lane() % OWN;
  if (SIDE == 1) {
    leave_seen(args, base + P::SEEN + stage * 16, row_left(rows));
    if (own_number() == 0) share(base + P::LOADS + stage * 16, Four{next.x - 1 + (next.z + 1 == next.w ? LAST : 0), next.z, 0, KEYS});
  }
  const u32 to = base + stage * P::STAGE_BYTES + (own_number() / WARP * OWN_KEYS + number) * P::Codes::APART;
  bring_entries<Cfg, OWN>(args, to, shared_i32(rows + (number % 4 * 4 + number / 4) * 4), base + P::FULL + stage * 8);
}

// Has the queries of the next item brought to a stage, or says that there are none. All arrive, as they do with keys.
template <class Cfg, int SIDE>
__device__ inline void fill_with_queries(const Decoding& args, u32 base, u32 stage, const Four& next) {
  using P = Place<Cfg>;
  const u32 barrier = base + P::FULL + stage * 8;
  const bool more = next.x < next.y, arrives = !P::Codes::WHOLE || own_lane() == 0;
  if (SIDE == 0 || own_number() != 0) {
    if (arrives) barrier_arrive(barrier);
    return;
  }
  share(base + P::LOADS + stage * 16, Four{next.x, more ? QUERIES : NOTHING, 0, 0});
  if (more) bring_queries<Cfg>(args, base, P::CODED ? base + P::Q : base + stage * P::STAGE_BYTES, barrier, next.x, block_number() % args.team);
  else barrier_arrive(barrier);
}

// Finds out where a warp's keys of the next tile stand, and asks what the list names for the tile after it. `begins`: the list has not been asked yet.
template <class Cfg>
__device__ inline void look_ahead(const Decoding& args, u32 base, u32 stage, const Four& next, bool begins, i32& position) {
  if (next.z >= next.w) return;
  const List list = shared_list(errand_of<Cfg, 0>(base) + 16);
  if (begins) position = chosen_position(list, next.z);
  leave_row(rows_for<Cfg>(base, stage + 1 < Place<Cfg>::STAGES ? stage + 1 : 0), chosen_row(args, list, position));
  if (next.z + 1 < next.w) position = chosen_position(list, next.z + 1);
}

// Fills a side's part of a stage with what comes next. `position`: what the list names as this lane's key of the tile after it, where that is of the same item.
template <class Cfg, int SIDE, class Wait>
__device__ inline void fill_chosen(const Decoding& args, u32 base, u32 stage, i32& position, Wait wait_for_other) {
  constexpr bool WHOLE = CodesPlace<Cfg>::WHOLE;
  const u32 errand = errand_of<Cfg, SIDE>(base);
  Four next = shared_four(errand);
  bool begins = false;
  if (next.z < next.w) {
    if constexpr (WHOLE) fill_with_entries<Cfg, SIDE>(args, base, stage, next);
    else fill_with_keys<Cfg, SIDE>(args, base, stage, next);
    next.z++;
  } else {
    fill_with_queries<Cfg, SIDE>(args, base, stage, next);
    begins = next.x < next.y;
    if (begins) {
      const Item item = args.items[next.x++];
      next.z = item.first;
      next.w = item.end;
      if (SIDE == 0) {
        const List list = list_of<Cfg>(args, item, block_number() % args.team);
        if (own_lane() == 0) share(errand + 16, list);
      }
    }
  }
  __syncwarp();
  if (own_lane() == 0) {
    share(errand, next);
    if (SIDE == 1 && !WHOLE) barrier_arrive(base + Place<Cfg>::FULL + stage * 8);  // what it holds has been said
  }
  __syncwarp();
  if (SIDE == 1) return;
  wait_for_other();  // it has taken the rows that stood where the next ones are left
  look_ahead<Cfg>(args, base, stage, next, begins, position);
}

// This warpgroup is done with a stage, and fills it again: the second once both are, since it fills what both have read, with keys that the first has found.
// Entries are filled by both once both are.
template <class Cfg, int SIDE>
__device__ inline void refill_chosen(const Decoding& args, u32 base, Turn<Cfg>& turn, i32& position) {
  const u32 free = base + Place<Cfg>::EMPTY + turn.stage * 8;
  arrive_once_a_warp(free);
  if (SIDE == 1 || CodesPlace<Cfg>::WHOLE) barrier_wait(free, turn.parity);
  fill_chosen<Cfg, SIDE>(args, base, turn.stage, position, [&] { barrier_wait(free, turn.parity); });
  turn.next();
}

// Fills all stages for the first time. For each, the first side has found the rows before the second fetches them.
template <class Cfg, int SIDE>
__device__ inline void fill_first_chosen(const Decoding& args, u32 base, i32& position) {
  using P = Place<Cfg>;
  const int team = block_number() / args.team;
  if (own_lane() == 0) share(errand_of<Cfg, SIDE>(base), Four{args.starts[team], args.starts[team + 1], 0, 0});
  if (SIDE == 1 && own_number() == 0) share(base + P::COURIER + 40, 1);
  __syncwarp();
#pragma unroll 1
  for (u32 stage = 0; stage < P::STAGES; stage++) {
    fill_chosen<Cfg, SIDE>(args, base, stage, position, [] {});
    named_wait(4, 2 * WARPGROUP);
  }
}

// Hides keys that are not there from all rows. `seen`: where it stands which are.
__device__ inline void hide_missing(u32 seen, u32 self, f32 (&s)[32]) {
  const Four there = shared_four(seen);
  if ((there.x & there.y & there.z & there.w) == 0xffff) return;
  const i32 words[4] = {there.x, there.y, there.z, there.w};
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const int key = i / 2 * 8 + self % 4 * 2 + i % 2;
    const bool is = words[i / 4] >> key % OWN_KEYS & 1;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (!is) s[i / 2 * 4 + half * 2 + i % 2] = minus_infinity();
    }
  }
}
