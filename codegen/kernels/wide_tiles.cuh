// What `decode_wide.cuh` has in shared memory, and how it comes there.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "tile.cuh"
#include "chosen_keys.cuh"
#include "decode_parts.cuh"

constexpr int ROWS = 64;

// Who arrives where keys are chosen and a stage is filled: all that fetch, and a lane of each warp of the second side, which say what there is; of codes, a
// lane of each warp of both.
template <class Cfg>
constexpr int FETCHERS = CodesPlace<Cfg>::WHOLE ? 8 : 2 * WARPGROUP + 4;

// Where things lie in shared memory. A stage is a tile of keys, in bf16 or in codes, and its probabilities.
template <class Cfg>
struct Place {
  static constexpr int VALUE_TILES = Cfg::LATENT / TILE;
  static constexpr bool CODED = Entry<Cfg>::CODED, SCALED = Entry<Cfg>::SCALED;
  using Codes = CodesPlace<Cfg>;
  static constexpr int SLOTS = CODED ? VALUE_TILES / 2 : VALUE_TILES;  // of latents: 128 bytes of each key
  static constexpr u32 ROPE = CODED ? Codes::ROPE : SLOTS * TILE_BYTES;  // of a stage: the rotated part
  static constexpr u32 ROPE_LINE = CODED ? Codes::ROPE_LINE : Cfg::ROPE == 0 ? 0 : 128;  // bytes of a key there
  static constexpr u32 KEY_BYTES = SLOTS * 128 + ROPE_LINE + (SCALED ? 16 : 0);          // of a key, as boxes of them are copied
  static constexpr u32 HALF_SCALES = CODED ? Codes::BYTES : ROPE + KEYS * ROPE_LINE;  // [4, KEYS]: scales in f16, over a unit
  // Of a stage: probabilities. Those of keys in bf16 come where the rotated part was
  static constexpr u32 WEIGHTS = CODED ? (HALF_SCALES + (SCALED ? KEYS * 8 : 0) + 1023) / 1024 * 1024 : ROPE;
  static constexpr u32 USED_BYTES = WEIGHTS + TILE_BYTES;
  // Over codes, a part's output goes by way of its last tile's stage: a tile of each half at least, and what their rows count in
  static constexpr u32 LEAST_BYTES = CODED ? 2 * (TILE_BYTES + 2048) : 0;
  static constexpr u32 STAGE_BYTES = USED_BYTES < LEAST_BYTES ? LEAST_BYTES : USED_BYTES;
  // Over codes there are no more than three: with four, the one but next item's last tile could be weighed before this one's `FINAL` has been read
  static constexpr int MOST_STAGES = CODED || VALUE_TILES == 8 ? 3 : 8;
  static constexpr u32 SMALL = 1024 + MOST_STAGES * (ROWS * 4 + 40 + (CHOOSES<Cfg> ? 256 : 0)) + (CODED ? 7 * ROWS * 4 + 64 : 0);  // what else there is, at most
  static constexpr int FIT = (232448 - (CODED ? VALUE_TILES : 0) * TILE_BYTES - (Cfg::ROPE > 0 ? TILE_BYTES : 0) - SMALL) / STAGE_BYTES;
  static constexpr int STAGES = FIT < MOST_STAGES ? FIT : MOST_STAGES;
  static constexpr int ROPE_STEPS = (Cfg::ROPE + 15) / 16;
  // Pieces of 16 columns of the queries' latents, and those of them that registers hold
  static constexpr int STEPS = VALUE_TILES * 4;
  static constexpr int HELD = STEPS < 30 ? STEPS : 30;
  static constexpr u32 Q = STAGES * STAGE_BYTES;                            // over codes: the queries
  static constexpr u32 Q_ROPE = Q + (CODED ? VALUE_TILES * TILE_BYTES : 0);  // their rotated part
  static constexpr u32 SHRINK = Q_ROPE + (Cfg::ROPE > 0 ? TILE_BYTES : 0);  // [STAGES, ROWS]: what earlier sums are worth now
  static constexpr u32 LIMITS = SHRINK + STAGES * ROWS * 4;                 // [ROWS]: keys that a row sees
  // Where keys are chosen, what rows see is not looked at. Instead [8, 4]: which of a warp's keys of a stage there are; and [4, 48] and [4, 16]: what a warp brings next
  static constexpr u32 SEEN = LIMITS;
  static constexpr u32 ERRANDS = SEEN + 8 * 16;
  static constexpr u32 OTHER_ERRANDS = ERRANDS + 4 * 48;
  static_assert(OTHER_ERRANDS + 4 * 16 <= LIMITS + ROWS * 8, "room for them");
  static constexpr u32 TOP = LIMITS + ROWS * 8;                             // [ROWS]: its largest logit
  static constexpr u32 LOADS = TOP + ROWS * 4;                              // [STAGES]: what a stage holds
  static constexpr u32 COURIER = LOADS + STAGES * 16;                       // how far `fill` is
  static constexpr u32 FULL = COURIER + 48;                                 // barriers [STAGES]: a stage's bytes are there
  static constexpr u32 WEIGHED = FULL + STAGES * 8;                         // its probabilities are
  static constexpr u32 EMPTY = WEIGHED + STAGES * 8;                        // it may be filled again
  static constexpr u32 Q_FREE = EMPTY + STAGES * 8;                         // the queries' rotated part may be, over codes all of them
  // Over codes:
  static constexpr u32 CHANGED = Q_FREE + 8;                    // [STAGES]: whether any of `SHRINK` is not 1
  static constexpr u32 Q_UNITS = CHANGED + (STAGES + 1) / 2 * 8;  // [ROWS]: what logits of f16 count in
  static constexpr u32 FINAL = Q_UNITS + ROWS * 4;              // [2, ROWS], of even and odd items: what the output is multiplied by at last
  static constexpr u32 PEAKS = FINAL + 2 * ROWS * 4;            // [4, ROWS]: what warps know of rows
  static constexpr u32 ALL_END = CODED ? PEAKS + 4 * ROWS * 4 : Q_FREE + 8;
  static constexpr u32 FOUND = (ALL_END + 15) / 16 * 16;  // where keys are chosen [STAGES, 4, 16]: rows of a warp's keys that come to a stage next
  static constexpr u32 END = CHOOSES<Cfg> ? FOUND + STAGES * 256 : ALL_END;
  static_assert(!SCALED || PEAKS % 16 == 0, "four are read at once");
  static_assert(END - SHRINK <= SMALL && END <= 232448, "what a block may have");
  // Registers of a thread: of who weighs, of who adds values
  static constexpr int WEIGHS = CODED ? 152 : 184;
  static constexpr int ADDS = CODED ? 176 : 160;
};

template <class Cfg>
using Turn = Ring<Place<Cfg>::STAGES>;

// ---- What a stage holds: `{item and marks, tile, first key seen, end of them}`, keys counted from the tile's first. A tile below 0 is no tile: ----

constexpr i32 QUERIES = -1;  // the queries of an item
constexpr i32 NOTHING = -2;  // there is no more to do
constexpr i32 LAST = 1 << 30;  // beside an item: this is its last tile
constexpr i32 EDGE = 1 << 29;  // beside an item: not all of its queries see all of the tile

// Has a table's entry brought to shared memory, and goes on.
__device__ inline void ask_for_page(const Decoding& args, u32 to, i32 table, i32 key) {
  if (args.page == 0) return;
  const u32* from = args.table + table + u32(key) / u32(args.page);
  copy_word(to, from);
}

// Copies a box of keys to where it lies in a stage, from the `first` key of the tile on.
template <class Cfg>
__device__ inline void copy_keys(const Decoding& args, u32 stage, u32 barrier, int first, i32 from) {
  using P = Place<Cfg>;
  if (Cfg::ROPE > 0) copy_tile(stage + P::ROPE + first * P::ROPE_LINE, args.k_rope, barrier, 0, from);
  if (P::SCALED) copy_tile(stage + P::Codes::SCALES + first * 16, args.k_scales, barrier, 0, from);
  if (args.box == KEYS) return copy_tile_3d(stage, args.k, barrier, 0, from, 0);
#pragma unroll 1
  for (int t = 0; t < P::SLOTS; t++) copy_tile_3d(stage + t * TILE_BYTES + first * 128, args.k, barrier, 0, from, t);
}

// Has an item's queries brought to `to`, and their rotated part to where it stays. One thread.
template <class Cfg>
__device__ inline void bring_queries(const Decoding& args, u32 base, u32 to, u32 barrier, i32 number, int member) {
  using P = Place<Cfg>;
  const Group& group = args.groups[args.items[number].group];
  const i32 parity = shared_i32(base + P::COURIER + 40);
  share(base + P::COURIER + 40, parity ^ 1);
  if (P::CODED || Cfg::ROPE > 0) barrier_wait(base + P::Q_FREE, parity);
  barrier_expect(barrier, bytes_of_queries<Cfg>(args) * (P::VALUE_TILES + (Cfg::ROPE > 0 ? 1 : 0)));
  const Row first = row_of<Cfg>(args, group, member, 0);
  copy_queries<Cfg, P::VALUE_TILES>(args, args.q, to, barrier, first);
  if (Cfg::ROPE > 0) copy_queries<Cfg, 1>(args, args.q_rope, base + P::Q_ROPE, barrier, first);
}

// Fills a stage that is free with what comes next: the queries of an item, then its tiles. One thread does so. How far it is stands in
// shared memory, since registers are few: `{item, end of the team's items, tile, end of the item's tiles}`, `{page of the tile's first key,
// table, first key seen, end of them}`, `{first key that all see, end of them, parity of the queries}`.
template <class Cfg>
__device__ inline void fill(const Decoding& args, u32 base, u32 stage, int member) {
  using P = Place<Cfg>;
  Four at = shared_four(base + P::COURIER);
  const u32 to = base + stage * P::STAGE_BYTES;
  const u32 barrier = base + P::FULL + stage * 8;
  const u32 load = base + P::LOADS + stage * 16;
  if (at.z < at.w) {
    copies_wait_all();
    const Four of = shared_four(base + P::COURIER + 16);
    const i32 first_key = at.z * KEYS;
    const i32 keys = of.w - first_key;
    const Pair all = shared_pair(base + P::COURIER + 32);
    const i32 marks = (at.z + 1 == at.w ? LAST : 0) + (first_key < all.x || first_key + KEYS > all.y ? EDGE : 0);
    share(load, Four{at.x - 1 + marks, at.z, of.z - first_key, keys});
    if (args.box == KEYS) {
      barrier_expect(barrier, keys > 0 ? KEYS * P::KEY_BYTES : 0);
      if (keys > 0) copy_keys<Cfg>(args, to, barrier, 0, args.page == 0 ? of.y + first_key : of.x * args.page + u32(first_key) % u32(args.page));
      if (at.z + 1 < at.w) ask_for_page(args, base + P::COURIER + 16, of.y, first_key + KEYS);
    } else {
      const int boxes = min(KEYS / args.box, (max(keys, 0) + args.box - 1) / args.box);
      barrier_expect(barrier, boxes * args.box * P::KEY_BYTES);
#pragma unroll 1
      for (int b = 0; b < boxes; b++) copy_keys<Cfg>(args, to, barrier, b * args.box, row_of_key(args, of.y, first_key + b * args.box));
    }
    share(base + P::COURIER + 8, at.z + 1);
  } else if (at.x < at.y) {
    const Item& item = args.items[at.x];
    const Group& group = args.groups[item.group];
    share(load, Four{at.x, QUERIES, 0, 0});
    share(base + P::COURIER + 32, Pair{group.all_first, group.all_end});
    bring_queries<Cfg>(args, base, P::CODED ? base + P::Q : to, barrier, at.x, member);
    share(base + P::COURIER, Four{at.x + 1, at.y, item.first, item.end});
    share(base + P::COURIER + 16, Four{0, group.table, group.first, group.end});
    if (group.end > item.first * KEYS) ask_for_page(args, base + P::COURIER + 16, group.table, item.first * KEYS);
  } else {
    share(load, Four{0, NOTHING, 0, 0});
    barrier_arrive(barrier);
  }
}

// This warpgroup is done with a stage. Once both are, a thread of the second has it filled again.
template <class Cfg, int SIDE>
__device__ inline void refill(const Decoding& args, u32 base, Turn<Cfg>& turn, int member) {
  using P = Place<Cfg>;
  arrive_once_a_warp(base + P::EMPTY + turn.stage * 8);
  if (SIDE == 1 && threadIdx.x % WARPGROUP == 0) {
    barrier_wait(base + P::EMPTY + turn.stage * 8, turn.parity);
    fill<Cfg>(args, base, turn.stage, member);
  }
  turn.next();
}

// Fills all stages for the first time.
template <class Cfg, int SIDE>
__device__ inline void fill_first(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  if (SIDE == 0 || threadIdx.x % WARPGROUP != 0) return;
  share(base + P::COURIER, Four{args.starts[team], args.starts[team + 1], 0, 0});
  share(base + P::COURIER + 16, 0);
  share(base + P::COURIER + 40, 1);
#pragma unroll 1
  for (u32 stage = 0; stage < P::STAGES; stage++) fill<Cfg>(args, base, stage, member);
}

// Makes the ring's barriers. One thread.
template <class Cfg>
__device__ inline void init_barriers(u32 base) {
  using P = Place<Cfg>;
  for (int stage = 0; stage < P::STAGES; stage++) {
    barrier_init(base + P::FULL + stage * 8, CHOOSES<Cfg> ? FETCHERS<Cfg> : 1);
    barrier_init(base + P::WEIGHED + stage * 8, 4);
    barrier_init(base + P::EMPTY + stage * 8, 8);
  }
  barrier_init(base + P::Q_FREE, 4);
  fence_barrier_init();
}
