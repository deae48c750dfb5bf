// How codes of keys that are chosen come to the stages of `decode_narrow.cuh`, in f16, and in what its warpgroups count then.
//
// Two warpgroups bring them, each half of the columns, and its warps each a quarter of the keys. Each thread fetches codes to where it alone reads them, and as soon as some columns of a
// stage are free, leaves there in f16 what has come, and has the next tile's come to the same place.
//
// Scales are not for them: logits of each 128 columns are summed up apart, and multiplied by scales as they are added, and probabilities are multiplied by the scales of each.

#include "narrow_chosen.cuh"
#include "chosen_codes.cuh"
#include "exchanged_rows.cuh"

// What a list names, and what is to be known about where that stands.
struct Named {
  i32 position = -1;  // negative: nothing
  i32 table = 0, first = 0, from = 0, to = 0;
};

// The tiles of a team's items, one after the other, with the list that names their keys.
struct Ahead {
  i32 item, end_item;
  i32 tile = 0, end = 0;
  List list = {};
  bool there = true;

  // What the next tile's list names as this lane's key of it.
  template <class Cfg>
  __device__ Named next(const Decoding& args, int member) {
    if (++tile >= end && there) {
      there = item < end_item;
      if (there) {
        const Item its = args.items[item++];
        list = list_of<Cfg>(args, its, member);
        tile = its.first;
        end = its.end;
      }
    }
    return {there ? chosen_position(list, tile) : -1, list.table, list.first, list.from, list.to};
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

// A side's tile on its way. Each warp has 16 keys, and a thread 16 codes of every fourth in each of two lines, eight of its rotated part, which is the second side's, and all scales of
// one key, which are the first side's. All come to where this thread alone reads them.
template <class Cfg, int SIDE>
struct Coming {
  using P = Place<Cfg>;
  static constexpr int LINES = Cfg::LATENT / 256;
  static constexpr bool ROTATED = SIDE == 1 && Cfg::ROPE > 0;
  static constexpr u32 ROUND = 2 * WARPGROUP * 16;  // from a thread's first 16 bytes to its next
  const u8* from[4];
  u32 there = 0;  // a bit for each: whether it is
  u32 row;      // of the key that it has scales of

  __device__ Coming(const Decoding& args, u32 own) : row(own) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const u32 its = __shfl_sync(ALL_LANES, own, i * 4 + own_of_four());
      there |= u32(its < u32(args.rows)) << i;
      from[i] = args.entries + i64(i32(its)) * args.entry_bytes + SIDE * (Cfg::LATENT / 2) + own_chunk() * 16;
    }
  }
  __device__ static u32 codes(u32 base, int line) { return base + P::RAW + line * 4 * ROUND + (SIDE * WARPGROUP + own_number()) * 16; }
  __device__ static u32 rotated(u32 base) { return base + P::RAW_ROPE + own_number() * 16; }
  __device__ static u32 scales(u32 base) { return base + P::RAW_SCALES + own_number() * 16; }

  // Has a line of it come, and with the first one what there is besides.
  __device__ void fetch(const Decoding& args, u32 base, int line) const {
#pragma unroll
    for (int i = 0; i < 4; i++) copy_quad(codes(base, line) + i * ROUND, from[i] + line * 128, there >> i & 1);
    if (line == 0 && SIDE == 0) copy_quad(scales(base), args.entries + i64(i32(row)) * args.entry_bytes + Cfg::LATENT, row < u32(args.rows));
    const i64 apart = args.rotated - args.entries + i32(own_rotated_chunk() - own_chunk()) * 16 - SIDE * (Cfg::LATENT / 2);  // of the same entry
#pragma unroll
    for (int i = 0; ROTATED && line == 0 && i < 4; i++) {
      if (own_rotated_chunk() < Cfg::ROPE / 8) copy_quad(rotated(base) + i * (WARPGROUP * 16), from[i] + apart, there >> i & 1);
    }
    copies_commit();
  }
};

// Leaves a side's part of a tile in a stage as its columns are free, and has the next one come. `row`: of the key that this lane has scales of.
template <class Cfg, int SIDE>
__device__ inline void pass_tile(const Decoding& args, u32 base, u32 stage, u32 parity, u32 row, const Coming<Cfg, SIDE>& next) {
  using P = Place<Cfg>;
  using C = Coming<Cfg, SIDE>;
  const u32 own_warp = own_number() / WARP;
  const u32 keys = base + stage * P::STAGE_BYTES + own_warp * (OWN_KEYS * 128);
  const u32 at = keys + SIDE * (C::LINES * 2 * TILE_BYTES) + own_chunk() / 4 * TILE_BYTES + swizzled_128(own_of_four() * 128 + own_chunk() % 4 * 32);
  const auto quad = [](u32 at) {
    const Four x = shared_four(at);
    return Quad{u32(x.x), u32(x.y), u32(x.z), u32(x.w)};
  };
#pragma unroll
  for (int line = 0; line < C::LINES; line++) {
    const u32 place = (stage * P::PAIRS + SIDE * C::LINES + line) * 8;
    copies_wait<C::LINES - 1>();
    barrier_wait(base + P::EMPTY + place, parity);
    if (line == 0 && SIDE == 0) {
      leave_seen(args, base + P::SEEN + stage * 16, row);
      if (own_lane() < OWN_KEYS) share(base + P::KEY_SCALES + (stage * KEYS + own_warp * OWN_KEYS + own_lane()) * 16, shared_four(C::scales(base)));
    }
    if constexpr (C::ROTATED) {
      const u32 to = keys + P::ROPE + swizzled_128(own_of_four() * 128 + own_rotated_chunk() * 16);
#pragma unroll
      for (int i = 0; i < 4 && line == 0; i++) {
        if (own_rotated_chunk() < Cfg::ROPE / 8) share((to ^ i % 2 * 64) + i * 512, shared_four(C::rotated(base) + i * (WARPGROUP * 16)));
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) leave_widened((at ^ i % 2 * 64) + i * 512 + line * (2 * TILE_BYTES), quad(C::codes(base, line) + i * C::ROUND));
    arrive_once_a_warp(base + P::FULL + place);
    next.fetch(args, base, line);
  }
}

// Makes queries f16 where they lie, each row times the power of two by which its largest is at least 1 and below 2; the rotated part stays bf16. Eight threads have a row.
template <class Cfg>
__device__ inline void halve_queries(u32 base) {
  using P = Place<Cfg>;
  const auto low = [](i32 pair) { return f32_of(u32(pair) << 16); };
  const auto high = [](i32 pair) { return f32_of(u32(pair) & 0xffff0000u); };
#pragma unroll 1
  for (u32 row = own_number() / 8; row < P::ROWS; row += WARPGROUP / 8) {
    const u32 at = base + P::Q + row * 128 + own_number() % 8 * 16;
    f32 most = 0;
#pragma unroll 3
    for (int t = 0; t < P::SLOTS; t++) {
      const Four x = shared_four(at + t * P::Q_TILE_BYTES);
      for (const i32 pair : {x.x, x.y, x.z, x.w}) most = fmaxf(most, fmaxf(fabsf(low(pair)), fabsf(high(pair))));
    }
#pragma unroll
    for (int lanes = 1; lanes < 8; lanes *= 2) most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, lanes));
    const RowUnit row_unit(most);
#pragma unroll 3
    for (int t = 0; t < P::SLOTS; t++) {
      const Four x = shared_four(at + t * P::Q_TILE_BYTES);
      const auto scaled = [&](i32 pair) {
        const f32 a = low(pair) * row_unit.inverse, b = high(pair) * row_unit.inverse;
        return i32(t < P::VALUE_TILES ? pack_f16(a, b) : pack_bf16(a, b));
      };
      share(at + t * P::Q_TILE_BYTES, Four{scaled(x.x), scaled(x.y), scaled(x.z), scaled(x.w)});
    }
    if (own_number() % 8 == 0) share(base + P::Q_SCALES + row * 4, row_unit.unit);
  }
  fence_proxy_async();
}

// Brings a side's part of all items of a team. A warpgroup comes here.
template <class Cfg, int SIDE>
__device__ inline void bring_codes(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  using C = Coming<Cfg, SIDE>;
  static_assert(P::PAIRS == 2 * C::LINES && P::Q_STAGES == 1, "a line becomes two slots");
  const int team = block_number() / args.team, member = block_number() % args.team;
  Turn<Cfg> turns[P::GROUPS];
  u32 queries = 0;  // the parity of their barriers
  const int end_item = args.starts[team + 1];
  Ahead ahead = {args.starts[team], end_item};
  u32 row = Whereabouts(args, ahead.next<Cfg>(args, member)).row(args);
  {
    const C first(args, row);
#pragma unroll
    for (int line = 0; line < C::LINES; line++) first.fetch(args, base, line);
  }
  Whereabouts next(args, ahead.next<Cfg>(args, member));
  Named named = ahead.next<Cfg>(args, member);
  for (int i = args.starts[team]; i < end_item; i++) {
    const Item item = args.items[i];
    if (SIDE == 0 && own_number() < WARP) {
      barrier_wait(base + P::Q_EMPTY, queries ^ 1);
      if (lane() == 0) bring_queries<Cfg>(args, base, 0, row_of<Cfg>(args, args.groups[item.group], member, 0));
      __syncwarp();
    }
    for (int number = item.first; number < item.end; number++) {
      u32 stage = 0, parity = 0;
      take_slot<Cfg>(turns, (number - item.first) % P::GROUPS, stage, parity);
      const C coming(args, next.row(args));
      pass_tile<Cfg, SIDE>(args, base, stage, parity, row, coming);
      row = coming.row;
      next = Whereabouts(args, named);
      named = ahead.next<Cfg>(args, member);
      if (SIDE == 1 && number == item.first) {
        barrier_wait(base + P::Q_FULL, queries);
        halve_queries<Cfg>(base);
        arrive_once_a_warp(base + P::Q_READY);
      }
    }
    queries ^= 1;
  }
  copies_wait_all();  // nothing comes any more to where parts are added up
}

// ---- What warpgroups count in ----

// What logits of a thread's rows count in.
template <class Cfg>
struct RowUnits {
  f32 of[Held<Cfg::ROWS>::R];
  __device__ void take(u32 units) {
#pragma unroll
    for (int r = 0; r < Held<Cfg::ROWS>::R; r++) of[r] = shared_f32(units + Held<Cfg::ROWS>::row(r) * 4);
  }
};

// Scales of a thread's two keys of a tile, eight apart.
struct OwnScales {
  f32 of[2][4];
  __device__ explicit OwnScales(u32 scales) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const Four x = shared_four(scales + (own_number() / WARP * 16 + own_lane() / 4 + i * 8) * 16);
      of[i][0] = f32_of(x.x), of[i][1] = f32_of(x.y), of[i][2] = f32_of(x.z), of[i][3] = f32_of(x.w);
    }
  }
};

// Logits are sums of parts, each of columns that have a scale in common, and of what the rotated part adds.
template <class Cfg>
__device__ inline void add_parts(u32 scales, const RowUnits<Cfg>& rows, const f32 (&parts)[Place<Cfg>::PAIRS][Cfg::ROWS / 2], f32 (&s)[Cfg::ROWS / 2]) {
  const OwnScales own(scales);
#pragma unroll
  for (int k = 0; k < Cfg::ROWS / 2; k++) {
#pragma unroll
    for (int line = 0; line < Place<Cfg>::PAIRS; line++) s[k] += parts[line][k] * own.of[k / 2 % 2][line];
    s[k] *= rows.of[Held<Cfg::ROWS>::of(k)];
  }
}

// Probabilities are left once for each line, times its keys' scales over the unit of the output.
template <class Cfg>
__device__ inline void leave_scaled_weights(u32 to, u32 scales, f32 unit, const f32 (&s)[Cfg::ROWS / 2]) {
  const OwnScales own(scales);
  const f32 inverse = UNIT / unit;
#pragma unroll
  for (int line = 0; line < Place<Cfg>::PAIRS; line++) {
    const f32 by[2] = {own.of[0][line] * inverse, own.of[1][line] * inverse};
    f32 its[Cfg::ROWS / 2];
#pragma unroll
    for (int k = 0; k < Cfg::ROWS / 2; k++) its[k] = s[k] * by[k / 2 % 2];
    leave_weights<Cfg>(to + line * Place<Cfg>::Q_TILE_BYTES, its);
  }
}
