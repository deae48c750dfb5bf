// Entries of codes on their way to the ring of `decode_wide.cuh`. The copy engine brings them as they are; the two warpgroups that add values convert
// them, each the half of the columns that it multiplies, 128 columns of a tile at a time, which have a place of their own. What comes there next is
// asked for as soon as they have been read.
//
// Stages have numbers from 0 on: the queries of an item, then its tiles, then those of the next. While values of number `n` are added, `n + 2` is
// converted and `n + 3` asked for; before, it is planned what `n + 4` is.

#include "wide_tiles.cuh"

// What a number of stages will be: `Load` as `LOADS` has it, then `{table of its pages, row of its first key, parity of its codes' barriers}`.
template <class Cfg>
__device__ inline u32 plan_at(u32 base, u32 number) { return base + Place<Cfg>::PLANS + number % 4 * 32; }
template <class Cfg>
__device__ inline bool is_tile(u32 base, u32 number) { return shared_i32(plan_at<Cfg>(base, number) + 4) >= 0; }

// Plans the number that follows. One thread.
template <class Cfg>
__device__ inline void plan_next(const Decoding& args, u32 base, u32 number) {
  using P = Place<Cfg>;
  const u32 to = plan_at<Cfg>(base, number);
  const Four at = shared_four(base + P::COURIER);
  if (at.z < at.w) {
    const Four of = shared_four(base + P::COURIER + 16);
    const Pair all = shared_pair(base + P::COURIER + 32);
    const i32 first_key = at.z * KEYS;
    const i32 marks = (at.z + 1 == at.w ? LAST : 0) + (first_key < all.x || first_key + KEYS > all.y ? EDGE : 0);
    share(to, Four{at.x - 1 + marks, at.z, of.z - first_key, of.w - first_key});
    share(to + 16, Four{of.y, of.w > first_key ? row_of_key(args, of.y, first_key) : 0, of.x, 0});
    share(base + P::COURIER + 8, at.z + 1);
    share(base + P::COURIER + 16, of.x ^ 1);
  } else if (at.x < at.y) {
    const Item& item = args.items[at.x];
    const Group& group = args.groups[item.group];
    share(to, Four{at.x, QUERIES, 0, 0});
    share(base + P::COURIER, Four{at.x + 1, at.y, item.first, item.end});
    share(base + P::COURIER + 20, group.table);
    share(base + P::COURIER + 24, Pair{group.first, group.end});
    share(base + P::COURIER + 32, Pair{group.all_first, group.all_end});
  } else {
    share(to, Four{0, NOTHING, 0, 0});
  }
}

// Asks for some bytes of a number's keys, in boxes: `bring` is told a box's first key of the tile and its row in the cache. `bytes`: of a key.
template <class Cfg, class Bring>
__device__ inline void ask(const Decoding& args, u32 base, u32 number, u32 barrier, u32 bytes, Bring bring) {
  const u32 plan = plan_at<Cfg>(base, number);
  const i32 keys = min(KEYS, max(0, shared_i32(plan + 12)));
  barrier_expect(barrier, (keys + args.box - 1) / args.box * args.box * bytes);
  if (keys > 0) bring(0, shared_i32(plan + 20));
#pragma unroll 1
  for (i32 first = args.box; first < keys; first += args.box)
    bring(first, row_of_key(args, shared_i32(plan + 16), shared_i32(plan + 4) * KEYS + first));
}

template <class Cfg, int SIDE>
__device__ inline void ask_for_latents(const Decoding& args, u32 base, u32 number, int band) {
  using P = Place<Cfg>;
  const int which = SIDE * P::BANDS + band;
  const u32 barrier = base + P::CODES_FULL + which * 8;
  ask<Cfg>(args, base, number, barrier, 128,
           [&](i32 first, i32 row) { copy_tile(base + P::CODES + which * TILE_BYTES + first * 128, args.k, barrier, which * 128, row); });
}
// The rotated part and scales.
template <class Cfg>
__device__ inline void ask_for_rest(const Decoding& args, u32 base, u32 number) {
  using P = Place<Cfg>;
  const u32 barrier = base + P::REST_FULL;
  ask<Cfg>(args, base, number, barrier, P::REST_BYTES, [&](i32 first, i32 row) {
    if (Cfg::ROPE > 0) copy_tile(base + P::ROPE_CODES + first * P::ROPE_LINE, args.k_rope, barrier, 0, row);
    if (Entry<Cfg>::SCALED) copy_tile(base + P::SCALES + first * 16, args.k_scales, barrier, 0, row);
  });
}

enum Barrier { BOTH = 4 };  // of both halves; 5 and 6 are those of each

// Leaves latents of a band of columns of number `number`, and asks for the next number's.
template <class Cfg, int SIDE>
__device__ inline void convert_latents(const Decoding& args, u32 base, u32 number, int band) {
  using P = Place<Cfg>;
  constexpr int STEP = 16;  // keys that are so far apart are a thread's
  constexpr int AT_ONCE = Entry<Cfg>::SCALED ? 1 : 2;
  named_wait(5 + SIDE, WARPGROUP);  // products of all its warps are done with what lies there
  if (is_tile<Cfg>(base, number)) {
    const int which = SIDE * P::BANDS + band;
    const u32 parity = shared_i32(plan_at<Cfg>(base, number) + 24);
    barrier_wait(base + P::CODES_FULL + which * 8, parity);
    if (Entry<Cfg>::SCALED && band == 0) barrier_wait(base + P::REST_FULL, parity);
#pragma unroll 1
    for (int turn = 0; turn < KEYS / STEP; turn += AT_ONCE) {
      const u32 self = own_number();  // what follows is computed anew: there are few registers
      const u32 key = self / 8, chunk = self % 8;
      const u32 from = base + P::CODES + which * TILE_BYTES + turn * STEP * 128 + swizzled_128(key * 128 + chunk * 16);
      const u32 to = base + number % P::STAGES * P::STAGE_BYTES + 2 * which * TILE_BYTES + turn * STEP * 128;
      const Pair seen = shared_pair(plan_at<Cfg>(base, number) + 8);
      Four x[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) x[i] = shared_four(from + i * STEP * 128);
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        const i32 own = (turn + i) * STEP + key;
        const bool is_seen = own >= seen.x && own < seen.y;  // what nobody sees may be anything
        const f32 scale = Entry<Cfg>::SCALED && is_seen ? shared_f32(base + P::SCALES + own * 16 + which * 4) : 1;
        if (!is_seen) x[i] = Four{};
        leave_codes<Entry<Cfg>::STORE>(to + i * STEP * 128, key, chunk, Quad{u32(x[i].x), u32(x[i].y), u32(x[i].z), u32(x[i].w)}, scale);
      }
    }
  }
  named_wait(5 + SIDE, WARPGROUP);
  if (own_number() == 0 && is_tile<Cfg>(base, number + 1)) ask_for_latents<Cfg, SIDE>(args, base, number + 1, band);
}

// Leaves the rotated part of half of the keys.
template <class Cfg, int SIDE>
__device__ inline void convert_rope(u32 base, u32 number) {
  using P = Place<Cfg>;
  if (Cfg::ROPE == 0 || !is_tile<Cfg>(base, number)) return;
  constexpr int CHUNKS = P::ROPE_LINE / 16;
  const u32 self = own_number();
  const Four plan = shared_four(plan_at<Cfg>(base, number));
  const u32 to = base + number % P::STAGES * P::STAGE_BYTES + P::VALUE_TILES * TILE_BYTES;
  barrier_wait(base + P::REST_FULL, shared_i32(plan_at<Cfg>(base, number) + 24));
#pragma unroll
  for (u32 at = 0; at < KEYS / 2 * CHUNKS; at += WARPGROUP) {
    const i32 key = SIDE * (KEYS / 2) + (at + self) / CHUNKS;
    const u32 chunk = self % CHUNKS;
    const u32 byte = key * P::ROPE_LINE + chunk * 16;
    Four x = shared_four(base + P::ROPE_CODES + (Entry<Cfg>::SCALED ? swizzled_128(byte) : swizzled_64(byte)));
    if (key < plan.z || key >= plan.w) x = Four{};
    leave_rope<Cfg>(to, key, chunk, Quad{u32(x.x), u32(x.y), u32(x.z), u32(x.w)});
  }
}

// The rest of what is to be done for `number`, when its latents have been left.
template <class Cfg, int SIDE>
__device__ inline void finish_stage(const Decoding& args, u32 base, u32 number) {
  using P = Place<Cfg>;
  named_wait(BOTH, 2 * WARPGROUP);  // both are done with the probabilities that stand where the rotated part goes
  convert_rope<Cfg, SIDE>(base, number);
  const u32 which = number % P::STAGES;
  const u32 barrier = base + P::FULL + which * 8;
  fence_proxy_async();
  __syncwarp();
  if (SIDE == 1 && own_number() == 0) {
    const Four plan = shared_four(plan_at<Cfg>(base, number));
    share(base + P::LOADS + which * 16, plan);
    if (plan.y == QUERIES) return bring_queries<Cfg>(args, base, base + which * P::STAGE_BYTES, barrier, plan.x, blockIdx.x % args.team);
  }
  if (lane() == 0) barrier_arrive(barrier);
}

// Before values of `number` can be added. Both halves come here, and have left what was to be left before.
template <class Cfg, int SIDE>
__device__ inline void look_ahead(const Decoding& args, u32 base, u32 number) {
  using P = Place<Cfg>;
  named_wait(BOTH, 2 * WARPGROUP);
  if (SIDE == 1 && own_number() == 0) {
    if (P::REST_BYTES > 0 && is_tile<Cfg>(base, number + 2)) ask_for_rest<Cfg>(args, base, number + 2);
    plan_next<Cfg>(args, base, number + 4);
  }
}

// Fills a stage without adding values of what was there.
template <class Cfg, int SIDE>
__device__ inline void convert_next(const Decoding& args, u32 base, u32 number) {
#pragma unroll 1
  for (int band = 0; band < Place<Cfg>::BANDS; band++) convert_latents<Cfg, SIDE>(args, base, number, band);
  finish_stage<Cfg, SIDE>(args, base, number);
}

// Fills all stages for the first time.
template <class Cfg, int SIDE>
__device__ inline void convert_first(const Decoding& args, u32 base) {
  const bool leads = SIDE == 1 && own_number() == 0;
  for (u32 number = 0; leads && number < 4; number++) plan_next<Cfg>(args, base, number);
  named_wait(BOTH, 2 * WARPGROUP);
#pragma unroll 1
  for (u32 number = 0; number < Place<Cfg>::STAGES; number++) {
    if (leads && Place<Cfg>::REST_BYTES > 0 && is_tile<Cfg>(base, number)) ask_for_rest<Cfg>(args, base, number);
    convert_next<Cfg, SIDE>(args, base, number);
  }
}
