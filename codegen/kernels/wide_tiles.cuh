// What `decode_wide.cuh` has in shared memory, and how it comes there.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "tile.cuh"
#include "decode_codes.cuh"

constexpr int ROWS = 64;

// Where things lie in shared memory.
template <class Cfg>
struct Place {
  static constexpr int VALUE_TILES = Cfg::LATENT / TILE;
  static constexpr int SLOTS = VALUE_TILES + 1;  // of a stage; the last has the rotated part, then the probabilities
  static constexpr bool CODED = Entry<Cfg>::CODED;
  static constexpr bool HALVES = CODED && !Entry<Cfg>::SCALED;  // codes become f16, and what they meet is f16 too
  static constexpr int STAGES = CODED ? 2 : 27 / SLOTS < 8 ? 27 / SLOTS : 8;
  static constexpr u32 STAGE_BYTES = SLOTS * TILE_BYTES;
  static constexpr int ROPE_STEPS = (Cfg::ROPE + 15) / 16;
  // Pieces of 16 columns of the queries' latents, and those of them that registers hold
  static constexpr int STEPS = VALUE_TILES * 4;
  static constexpr int HELD = STEPS < 30 ? STEPS : 30;
  static constexpr u32 Q_ROPE = STAGES * STAGE_BYTES;                       // the queries' rotated part
  static constexpr u32 SHRINK = Q_ROPE + (Cfg::ROPE > 0 ? TILE_BYTES : 0);  // [STAGES, ROWS]: what earlier sums are worth now
  static constexpr u32 LIMITS = SHRINK + STAGES * ROWS * 4;                 // [ROWS]: keys that a row sees
  static constexpr u32 TOP = LIMITS + ROWS * 8;                             // [ROWS]: its largest logit
  static constexpr u32 LOADS = TOP + ROWS * 4;                              // [STAGES]: what a stage holds
  static constexpr u32 COURIER = LOADS + STAGES * 16;                       // how far `fill` is
  static constexpr u32 FULL = COURIER + 48;                                 // barriers [STAGES]: a stage's bytes are there
  static constexpr u32 WEIGHED = FULL + STAGES * 8;                         // its probabilities are
  static constexpr u32 EMPTY = WEIGHED + STAGES * 8;                        // it may be filled again
  static constexpr u32 Q_FREE = EMPTY + STAGES * 8;                         // the queries' rotated part may be
  // A warpgroup that adds values has half of the columns, at once or, where it converts codes, in bands
  static constexpr int BANDS = CODED ? Cfg::LATENT / 2 / 128 : 1;
  static constexpr int BAND = Cfg::LATENT / 2 / (BANDS > 0 ? BANDS : 1);
  static_assert(BANDS > 0, "a half of the latents is converted by bands of 128");
  static constexpr u32 Q_UNITS = Q_FREE + 8;        // [ROWS]: what logits of f16 count in
  static constexpr u32 FINAL = Q_UNITS + ROWS * 4;  // [2, ROWS], of even and odd items: what the output is multiplied by at last
  // Of a cache of codes: what is planned for numbers of stages, and what the copy engine brings
  static constexpr u32 PLANS = (FINAL + 2 * ROWS * 4 + 15) / 16 * 16;
  static constexpr u32 ROPE_LINE = Entry<Cfg>::SCALED ? 128 : 64;  // bytes of a key's rotated part
  static constexpr u32 REST_BYTES = (Cfg::ROPE > 0 ? ROPE_LINE : 0) + (Entry<Cfg>::SCALED ? 16 : 0);
  static constexpr u32 CODES_FULL = PLANS + 4 * 32;         // barriers [2, BANDS]
  static constexpr u32 REST_FULL = CODES_FULL + 4 * 8;      // of the rotated part and scales
  static constexpr u32 CODES = (REST_FULL + 8 + 1023) / 1024 * 1024;  // [2, BANDS, KEYS, 128]
  static constexpr u32 ROPE_CODES = CODES + 2 * BANDS * TILE_BYTES;   // [KEYS, ROPE_LINE]
  static constexpr u32 SCALES = ROPE_CODES + (Cfg::ROPE > 0 ? KEYS * ROPE_LINE : 0);  // [KEYS, 4]
  static constexpr u32 END = CODED ? SCALES + (Entry<Cfg>::SCALED ? KEYS * 16 : 0) : Q_FREE + 8;
  static_assert(END <= 232448, "what a block may have");
};

// A stage of the ring and how often it came round.
template <class Cfg>
struct Turn {
  u32 stage = 0;
  u32 parity = 0;
  __device__ void next() {
    if (Place<Cfg>::CODED) {  // of two stages
      parity ^= stage;
      stage ^= 1;
    } else if (++stage == Place<Cfg>::STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }
  // Of two stages: how many there were before, counted to four.
  __device__ u32 number() const { return parity * 2 + stage; }
  // The stage before.
  __device__ u32 before() const { return (stage == 0 ? Place<Cfg>::STAGES : stage) - 1; }
};

// ---- What a stage holds: `{item and marks, tile, first key seen, end of them}`, keys counted from the tile's first. A tile below 0 is no tile: ----

constexpr i32 QUERIES = -1;  // the queries of an item
constexpr i32 NOTHING = -2;  // there is no more to do
constexpr i32 LAST = 1 << 30;  // beside an item: this is its last tile
constexpr i32 EDGE = 1 << 29;  // beside an item: not all of its queries see all of the tile

// Has a table's entry brought to shared memory, and goes on.
__device__ inline void ask_for_page(const Decoding& args, u32 to, i32 table, i32 key) {
  if (args.page == 0) return;
  const u32* from = args.table + table + u32(key) / u32(args.page);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}
__device__ inline void copies_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Copies a box of keys to where it lies in a stage.
template <class Cfg>
__device__ inline void copy_keys(const Decoding& args, u32 to, u32 barrier, i32 from) {
  using P = Place<Cfg>;
  if (Cfg::ROPE > 0) copy_tile(to + P::VALUE_TILES * TILE_BYTES, args.k_rope, barrier, 0, from);
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) copy_tile(to + t * TILE_BYTES, args.k, barrier, t * TILE, from);
}

// Has an item's queries brought to a stage, and their rotated part to where it stays. One thread.
template <class Cfg>
__device__ inline void bring_queries(const Decoding& args, u32 base, u32 to, u32 barrier, i32 number, int member) {
  using P = Place<Cfg>;
  const Group& group = args.groups[args.items[number].group];
  const i32 parity = shared_i32(base + P::COURIER + 40);
  share(base + P::COURIER + 40, parity ^ 1);
  if (Cfg::ROPE > 0) barrier_wait(base + P::Q_FREE, parity);
  barrier_expect(barrier, (Cfg::H < Cfg::ROWS ? Cfg::H * args.at_once : Cfg::ROWS) * TILE * 2 * (P::VALUE_TILES + (Cfg::ROPE > 0 ? 1 : 0)));
  const Row first = row_of<Cfg>(args, group, member, 0);
  if (Cfg::ROPE > 0) copy_tile_3d(base + P::Q_ROPE, args.q_rope, barrier, 0, first.head, first.query);
#pragma unroll
  for (int t = 0; t < P::VALUE_TILES; t++) copy_tile_3d(to + t * TILE_BYTES, args.q, barrier, t * TILE, first.head, first.query);
}

// Fills a stage that is free with what comes next: the queries of an item, then its tiles. One thread does so. How far it is stands in
// shared memory, since registers are few: `{item, end of the team's items, tile, end of the item's tiles}`, `{page of the tile's first key,
// table, first key seen, end of them}`, `{first key that all see, end of them, parity of the queries}`.
template <class Cfg>
__device__ inline void fill(const Decoding& args, u32 base, u32 stage, int member) {
  using P = Place<Cfg>;
  constexpr int PARTS = P::VALUE_TILES + (Cfg::ROPE > 0 ? 1 : 0);
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
      barrier_expect(barrier, keys > 0 ? TILE_BYTES * PARTS : 0);
      if (keys > 0) copy_keys<Cfg>(args, to, barrier, args.page == 0 ? of.y + first_key : of.x * args.page + u32(first_key) % u32(args.page));
      if (at.z + 1 < at.w) ask_for_page(args, base + P::COURIER + 16, of.y, first_key + KEYS);
    } else {
      const int bytes = args.box * TILE * 2;
      const int boxes = min(KEYS / args.box, (max(keys, 0) + args.box - 1) / args.box);
      barrier_expect(barrier, boxes * bytes * PARTS);
#pragma unroll 1
      for (int b = 0; b < boxes; b++) copy_keys<Cfg>(args, to + b * bytes, barrier, row_of_key(args, of.y, first_key + b * args.box));
    }
    share(base + P::COURIER + 8, at.z + 1);
  } else if (at.x < at.y) {
    const Item& item = args.items[at.x];
    const Group& group = args.groups[item.group];
    share(load, Four{at.x, QUERIES, 0, 0});
    share(base + P::COURIER + 32, Pair{group.all_first, group.all_end});
    bring_queries<Cfg>(args, base, to, barrier, at.x, member);
    share(base + P::COURIER, Four{at.x + 1, at.y, item.first, item.end});
    share(base + P::COURIER + 16, Four{0, group.table, group.first, group.end});
    if (group.end > item.first * KEYS) ask_for_page(args, base + P::COURIER + 16, group.table, item.first * KEYS);
  } else {
    share(load, Four{0, NOTHING, 0, 0});
    barrier_arrive(barrier);
  }
}
