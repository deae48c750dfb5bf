// How codes of keys that are chosen come to the stages of `decode_wide.cuh`, in f16, and in what its first warpgroup counts then.
//
// Each thread of the warpgroups that add values fetches codes to where it alone reads them, 16 at a time, and when its side is done with its columns of a stage, leaves there in f16
// what has come, and has more come to the same place. A warp has a quarter of a tile's keys, and its side's half of their columns, in two lines of 128. The
// rotated part goes where probabilities were, when both sides are done with them, and each side has every other eight keys of it.
//
// What a warp does next stands in shared memory, since registers are few: `{the next item, the end of the team's, the next tile of the item before, the end of its
// tiles}`, the same of the tile whose keys it looks up next, the list that names them, and which keys there are of the tile that is on its way.

#include "wide_chosen.cuh"
#include "chosen_codes.cuh"

// `arrive_once_a_warp`, which lane it is asked anew.
__device__ inline void arrive_by_a_lane(u32 barrier) {
  __syncwarp();
  if (own_lane() == 0) barrier_arrive(barrier);
}

// Where they stand.
template <class Cfg, int SIDE>
__device__ inline u32 own_errand(u32 base) {
  return base + Place<Cfg>::WARPS + (SIDE * 4 + own_number() / WARP) * 64;
}
constexpr int WIDENED_AT_ONCE = 1, FETCHED_AT_ONCE = 1;  // of a thread's four keys: as many as there are registers for
constexpr u32 LOOKUP = 16, LIST = 32, COMING = 60;  // in an errand

// Where rows of the tile stand that a warp fetches next.
template <class Cfg, int SIDE>
__device__ inline u32 own_rows(u32 base) {
  return base + Place<Cfg>::WARP_ROWS + (SIDE * 4 + own_number() / WARP) * 64;
}

// A list, and not what stands behind it.
__device__ inline void share_list(u32 at, const List& list) {
  const u64 keys = u64(list.keys);
  share(at, Four{i32(keys), i32(keys >> 32), list.end, list.table});
  share(at + 16, Pair{list.first, list.from});
  share(at + 24, list.to);
}

// And what a list names as this lane's key of that after it.
template <class Cfg, int SIDE>
__device__ inline u32 own_position(u32 base) {
  return base + Place<Cfg>::POSITIONS + (SIDE * WARPGROUP + own_number()) * 4;
}

// Goes on to the next tile that a list names keys of, of this item or the next one, and asks for them; where there is none, for nothing.
template <class Cfg, int SIDE>
__device__ inline void look_up_next(const Decoding& args, u32 base) {
  const u32 errand = own_errand<Cfg, SIDE>(base);
  Four next = shared_four(errand + LOOKUP);
  bool there = ++next.z < next.w;
  if (!there && next.x < next.y) {
    const Item item = args.items[next.x++];
    next.z = item.first;
    next.w = item.end;
    there = true;
    const List list = list_of<Cfg>(args, item, block_number() % args.team);
    __syncwarp();
    if (own_lane() == 0) share_list(errand + LIST, list);
  }
  __syncwarp();
  if (own_lane() == 0) share(errand + LOOKUP, next);
  __syncwarp();
  const List list = shared_list(errand + LIST);
  const i32 at = next.z * KEYS + own_number() / WARP * OWN_KEYS + own_lane() % OWN_KEYS;
  const u32 to = own_position<Cfg, SIDE>(base);
  if (there && at < list.end) copy_word(to, list.keys + at);
  else share(to, -1);
}

// Leaves where this lane's key of that tile stands, once what the list names has come.
template <class Cfg, int SIDE>
__device__ inline void leave_looked_up(const Decoding& args, u32 base) {
  const i32 position = shared_i32(own_position<Cfg, SIDE>(base));
  leave_row(own_rows<Cfg, SIDE>(base), chosen_row(args, shared_list(own_errand<Cfg, SIDE>(base) + LIST), position));
  __syncwarp();
}

// Where a thread's first 16 bytes of what is on its way come to.
template <int SIDE>
__device__ inline u32 own_place() {
  return (SIDE * WARPGROUP + own_number()) * 16;
}
constexpr u32 ROUND = 2 * WARPGROUP * 16;  // from its first to its next

// Has a tile come: of each line 16 codes of every fourth key, eight of the rotated part of two keys, and scales of one key, of which it is left whether it is there.
template <class Cfg, int SIDE>
__device__ inline void fetch_tile(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  const u32 rows = own_rows<Cfg, SIDE>(base) + own_of_four() * 16;
  const u32 to = base + P::RAW + own_place<SIDE>();
#pragma unroll FETCHED_AT_ONCE
  for (u32 i = 0; i < 4; i++) {
    const u32 row = shared_i32(rows + i * 4);
    const bool there = row < u32(args.rows);
    const u8* from = args.entries + i64(i32(row)) * args.entry_bytes + SIDE * (Cfg::LATENT / 2) + own_chunk() * 16;
    copy_quad(to + i * ROUND, from, there);
    copy_quad(to + (4 + i) * ROUND, from + 128, there);
    if (i / 2 == SIDE && own_rotated_chunk() < Cfg::ROPE / 8)
      copy_quad(base + P::RAW_ROPE + own_place<SIDE>() + i % 2 * ROUND, args.rotated + i64(i32(row)) * args.rotated_bytes + own_rotated_chunk() * 16, there);
  }
  const u32 row = row_left(own_rows<Cfg, SIDE>(base));
  copy_quad(base + P::RAW_SCALES + own_place<SIDE>(), args.entries + i64(i32(row)) * args.entry_bytes + Cfg::LATENT, row < u32(args.rows));
  const u32 there = __ballot_sync(ALL_LANES, row < u32(args.rows)) & 0xffff;
  if (own_lane() == 0) share(own_errand<Cfg, SIDE>(base) + COMING, i32(there));
  __syncwarp();
}

// A lane's key's scales become what codes of both lines and the rotated part are multiplied by, for all of its warp, where they came to. The first side leaves what keys of the tile count in, and
// which there are.
template <class Cfg, int SIDE>
__device__ inline void leave_factors(u32 base, u32 stage) {
  const u32 at = base + Place<Cfg>::RAW_SCALES + own_place<SIDE>();
  const Four scales = shared_four(at);
  const KeyUnit key({u32(scales.x), u32(scales.y), u32(scales.z), u32(scales.w)});
  const f32 first = f32_of(SIDE == 0 ? scales.x : scales.z), second = f32_of(SIDE == 0 ? scales.y : scales.w);
  share(at, Four{i32(twice_f16(first * key.inverse)), i32(twice_f16(second * key.inverse)), i32(twice_bf16(key.inverse)), 0});
  if (SIDE == 0) {
    const u32 own = own_number() / WARP * OWN_KEYS + own_lane();
    if (own_lane() < OWN_KEYS) share(base + Place<Cfg>::KEY_UNITS + (stage * KEYS + own) * 4, key.unit);
    if (own_lane() == 0) share(base + Place<Cfg>::SEEN + stage * 16 + own_number() / WARP * 4, shared_i32(own_errand<Cfg, 0>(base) + COMING));
  }
  __syncwarp();
}

// Where they are of the first of every four keys that a lane has.
template <class Cfg, int SIDE>
__device__ inline u32 own_factors(u32 base) {
  return base + Place<Cfg>::RAW_SCALES + (SIDE * WARPGROUP + own_number() / WARP * WARP + own_of_four()) * 16;
}

// Leaves codes of a line in a stage.
template <class Cfg, int SIDE, int LINE>
__device__ inline void leave_line(u32 base, u32 stage) {
  const u32 keys = base + stage * Place<Cfg>::STAGE_BYTES + own_number() / WARP * (OWN_KEYS * 128) + (SIDE * (Cfg::LATENT / 128) + LINE * 2) * TILE_BYTES;
  const u32 to = keys + own_chunk() / 4 * TILE_BYTES + swizzled_128(own_of_four() * 128 + own_chunk() % 4 * 32);
  const u32 from = base + Place<Cfg>::RAW + LINE * 4 * ROUND + own_place<SIDE>();
  const u32 factors = own_factors<Cfg, SIDE>(base) + LINE * 4;
#pragma unroll WIDENED_AT_ONCE
  for (u32 i = 0; i < 4; i++) {
    const u32 by = shared_i32(factors + i * 64);
    const Four x = shared_four(from + i * ROUND);
    leave_widened((to ^ i % 2 * 64) + i * 512, {u32(x.x), u32(x.y), u32(x.z), u32(x.w)}, by);
  }
}

// Leaves the rotated part of two keys.
template <class Cfg, int SIDE>
__device__ inline void leave_rotated_part(u32 base, u32 stage) {
  const u32 to = base + stage * Place<Cfg>::STAGE_BYTES + Place<Cfg>::ROPE + own_number() / WARP * (OWN_KEYS * 128) + swizzled_128(own_of_four() * 128 + own_rotated_chunk() * 16);
  if (own_rotated_chunk() >= Cfg::ROPE / 8) return;
#pragma unroll
  for (u32 i = 0; i < 2; i++) {
    const u32 by = shared_i32(own_factors<Cfg, SIDE>(base) + 8 + (SIDE * 2 + i) * 64);
    const Four x = shared_four(base + Place<Cfg>::RAW_ROPE + own_place<SIDE>() + i * ROUND);
    leave_rotated((to ^ i * 64) + (SIDE * 2 + i) * 512, {u32(x.x), u32(x.y), u32(x.z), u32(x.w)}, by);
  }
}

// Leaves a side's part of a tile in a stage, and has the next one come. The first side says which it is.
template <class Cfg, int SIDE, class Free>
__device__ inline void fill_with_codes(const Decoding& args, u32 base, u32 stage, Free wait_until_free) {
  using P = Place<Cfg>;
  static_assert(Cfg::LATENT == 512, "two lines of each side");
  copies_wait_all();
  leave_factors<Cfg, SIDE>(base, stage);
  leave_line<Cfg, SIDE, 0>(base, stage);
  arrive_by_a_lane(base + P::FULL + stage * 8);
  leave_line<Cfg, SIDE, 1>(base, stage);
  wait_until_free();
  if constexpr (Cfg::ROPE > 0) leave_rotated_part<Cfg, SIDE>(base, stage);
  if (SIDE == 0 && own_number() == 0) {
    const Four next = shared_four(own_errand<Cfg, SIDE>(base));
    share(base + P::LOADS + stage * 16, Four{next.x - 1 + (next.z + 1 == next.w ? LAST : 0), next.z, 0, KEYS});
  }
  arrive_by_a_lane(base + P::REST + stage * 8);
  fetch_tile<Cfg, SIDE>(args, base);
  leave_looked_up<Cfg, SIDE>(args, base);
  look_up_next<Cfg, SIDE>(args, base);
}

// Has the queries of the next item brought to a stage, or says that there are none.
template <class Cfg, int SIDE>
__device__ inline void fill_with_halves(const Decoding& args, u32 base, u32 stage, const Four& next) {
  using P = Place<Cfg>;
  const bool more = next.x < next.y;
  if (own_lane() != 0) return;
  barrier_arrive(base + P::FULL + stage * 8);
  const u32 barrier = base + P::REST + stage * 8;
  if (SIDE == 1 || own_number() != 0) return barrier_arrive(barrier);
  share(base + P::LOADS + stage * 16, Four{next.x, more ? QUERIES : NOTHING, 0, 0});
  if (more) bring_queries<Cfg>(args, base, base + stage * P::STAGE_BYTES, barrier, next.x, block_number() % args.team);
  else barrier_arrive(barrier);
}

// Fills a side's part of a stage with what comes next.
template <class Cfg, int SIDE, class Free>
__device__ inline void fill_widened(const Decoding& args, u32 base, u32 stage, Free wait_until_free) {
  const u32 errand = own_errand<Cfg, SIDE>(base);
  Four next = shared_four(errand);
  if (next.z < next.w) {
    fill_with_codes<Cfg, SIDE>(args, base, stage, wait_until_free);
    next = shared_four(errand);
    next.z++;
  } else {
    wait_until_free();
    fill_with_halves<Cfg, SIDE>(args, base, stage, next);
    if (next.x < next.y) {
      const Item item = args.items[next.x++];
      next.z = item.first;
      next.w = item.end;
    }
  }
  __syncwarp();
  if (own_lane() == 0) share(errand, next);
  __syncwarp();
}

// This warpgroup is done with a stage, and fills it again.
template <class Cfg, int SIDE>
__device__ inline void refill_widened(const Decoding& args, u32 base, Turn<Cfg>& turn) {
  const u32 free = base + Place<Cfg>::EMPTY + turn.stage * 8;
  arrive_by_a_lane(free);
  named_wait(2 + SIDE, WARPGROUP);  // none of its warps reads its columns any more
  fill_widened<Cfg, SIDE>(args, base, turn.stage, [&] { barrier_wait(base + Place<Cfg>::EMPTY + turn.stage * 8, turn.parity); });
  turn.next();
}

// Fills all stages for the first time, and before it has the first tile come.
template <class Cfg, int SIDE>
__device__ inline void fill_first_widened(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  const int team = block_number() / args.team;
  const u32 errand = own_errand<Cfg, SIDE>(base);
  if (own_lane() == 0) {
    share(errand, Four{args.starts[team], args.starts[team + 1], 0, 0});
    share(errand + LOOKUP, Four{args.starts[team], args.starts[team + 1], 0, 0});
    share_list(errand + LIST, List{});
  }
  if (SIDE == 0 && own_number() == 0) share(base + P::COURIER + 40, 1);
  __syncwarp();
  look_up_next<Cfg, SIDE>(args, base);
  copies_wait_all();
  leave_looked_up<Cfg, SIDE>(args, base);
  fetch_tile<Cfg, SIDE>(args, base);
  look_up_next<Cfg, SIDE>(args, base);
  copies_wait_all();
  leave_looked_up<Cfg, SIDE>(args, base);
  look_up_next<Cfg, SIDE>(args, base);
#pragma unroll 1
  for (u32 stage = 0; stage < P::STAGES; stage++) fill_widened<Cfg, SIDE>(args, base, stage, [] {});
}

// ---- What the first warpgroup counts in ----

constexpr f32 LEAST_UNIT = 0x1p-63f;  // of keys

// Logits become such that count in ones. The largest unit of a tile's keys.
__device__ inline f32 count_in_ones(u32 key_units, u32 row_units, u32 self, f32 (&s)[32]) {
  const f32 rows[2] = {shared_f32(row_units + accumulator_row(self, 0) * 4), shared_f32(row_units + accumulator_row(self, 1) * 4)};
  f32 most = 0;
#pragma unroll
  for (int block = 0; block < 8; block++) {
    const Two unit = shared_two(key_units + accumulator_column(self, block * 2) * 4);
    most = larger(most, larger(unit.x, unit.y));
#pragma unroll
    for (int half = 0; half < 2; half++) {
      f32* two = s + (block * 2 + half) * 2;
      two[0] *= unit.x * rows[half];
      two[1] *= unit.y * rows[half];
    }
  }
#pragma unroll
  for (int lanes = 1; lanes < 4; lanes *= 2) most = larger(most, __shfl_xor_sync(ALL_LANES, most, lanes));
  return most;
}

// Probabilities are multiplied by what their keys count in, over the unit of the output.
__device__ inline void count_in_units(u32 key_units, u32 self, f32 unit, f32 (&s)[32]) {
  const f32 inverse = UNIT * inverse_of_unit(unit);
#pragma unroll
  for (int block = 0; block < 8; block++) {
    const Two own = shared_two(key_units + accumulator_column(self, block * 2) * 4);
    const f32 x = own.x * inverse, y = own.y * inverse;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      f32* two = s + (block * 2 + half) * 2;
      two[0] *= x;
      two[1] *= y;
    }
  }
}
