// What `decode_narrow.cuh` has in shared memory, and how it comes there.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "tile.cuh"
#include "chosen_keys.cuh"
#include "decode_parts.cuh"

// Where things lie in shared memory.
template <class Cfg>
struct Place {
  static constexpr int ROWS = Cfg::ROWS;
  static constexpr int VALUE_TILES = Cfg::LATENT / TILE;
  static constexpr int ROPE_TILES = Cfg::ROPE > 0 ? 1 : 0;
  static constexpr int ROPE_STEPS = (Cfg::ROPE + 15) / 16;
  static constexpr int SLOTS = VALUE_TILES + ROPE_TILES;  // of a stage; the last has the rotated part
  static constexpr bool CODED = Entry<Cfg>::CODED, SCALED = Entry<Cfg>::SCALED;
  using Codes = CodesPlace<Cfg>;
  static constexpr int PAIRS = VALUE_TILES / 2;           // slots are filled and freed by two, the rotated part with the first
  static constexpr int PIECES = Codes::WHOLE ? 1 : PAIRS;  // of a stage, that are filled and freed apart
  static constexpr u32 ROPE = CODED ? Codes::ROPE : VALUE_TILES * TILE_BYTES;  // of a stage: the rotated part
  static constexpr u32 STAGE_BYTES = CODED ? Codes::BYTES : ROPE + ROPE_TILES * KEYS * 128;
  static constexpr u32 Q_TILE_BYTES = ROWS * TILE * 2;
  static constexpr int Q_SLOTS = SLOTS + (CODED && !SCALED ? ROPE_TILES : 0);  // rows as codes are twice as many
  static constexpr u32 Q_BYTES = Q_SLOTS * Q_TILE_BYTES;
  static constexpr int GROUPS = 2;  // warpgroups that take tiles in turn
  static constexpr int Q_STAGES = 2;
  static constexpr int SETS = SCALED ? PAIRS : 1;  // of probabilities: one for each scale that a key has
  static constexpr u32 AUX = GROUPS * SETS * Q_TILE_BYTES + 3072;  // those of all, and what is small
  static constexpr int FIT = (232448 - Q_STAGES * Q_BYTES - AUX) / STAGE_BYTES;
  static constexpr int STAGES = FIT < 6 ? FIT : 6;
  static_assert(STAGES >= GROUPS, "a stage for each warpgroup");
  static constexpr u32 Q = STAGES * STAGE_BYTES;           // [Q_STAGES]: of this item and the next
  static constexpr u32 WEIGHTS = Q + Q_STAGES * Q_BYTES;   // [GROUPS, SETS, ROWS, KEYS]: probabilities
  static constexpr u32 PEAKS = WEIGHTS + GROUPS * SETS * Q_TILE_BYTES;  // [GROUPS, 4, ROWS]: largest logits of a warp
  static constexpr u32 LIMITS = PEAKS + GROUPS * 4 * ROWS * 4;   // [GROUPS, ROWS]: keys that a row sees
  static constexpr u32 SEEN = LIMITS;                            // or, where keys are chosen [STAGES, 4]: which of a warp's there are
  static_assert(STAGES * 16 <= GROUPS * ROWS * 8, "room for them");
  // Of all but the second warpgroup [GROUPS - 1, ROWS, 4]: what their sums count from, largest logits, totals, units of the output
  static constexpr u32 SUMS = LIMITS + GROUPS * ROWS * 8;
  static constexpr u32 LAST_AT = SUMS + (GROUPS - 1) * ROWS * 16;  // [GROUPS - 1]: and the stages of their last tiles
  static constexpr u32 FULL = LAST_AT + 16;                        // barriers [STAGES, PIECES]: keys are there
  static constexpr u32 EMPTY = FULL + STAGES * PIECES * 8;         // [STAGES, PIECES]: they may be overwritten
  static constexpr u32 Q_FULL = EMPTY + STAGES * PIECES * 8;       // [2]
  static constexpr u32 Q_EMPTY = Q_FULL + 16;                      // [2]
  static constexpr u32 Q_READY = Q_EMPTY + 16;                     // [2]: of codes, queries are f16
  static constexpr u32 HANDED = Q_READY + 16;                      // [GROUPS - 1]: the others' sums are there
  static constexpr u32 TAKEN = HANDED + 16;                        // [GROUPS - 1]: and have been added
  static constexpr u32 Q_SCALES = TAKEN + 16;                      // [2, ROWS]: what logits of f16 count in
  static constexpr u32 END = Q_SCALES + (CODED ? 2 * ROWS * 4 : 0);
  static_assert(END <= 232448, "shared memory");
  // Registers of a thread: of who attends to tiles, of who brings them
  static constexpr int ATTENDS = 224;
  static constexpr int BRINGS = 56;
  // Rounds in which a warpgroup's sums go through a stage
  static constexpr int HAND_TILES = VALUE_TILES * ROWS / 2 * 512 <= STAGE_BYTES ? VALUE_TILES : VALUE_TILES / 2;
  static_assert(HAND_TILES * ROWS / 2 * 512 <= STAGE_BYTES);
};

// A warpgroup's tiles as they come round: which stage of its ring, and the parity of its barriers. Each has a ring of its own: a parity tells one lap from
// the next only to who sees every lap.
template <class Cfg>
struct Turn {
  using P = Place<Cfg>;
  u32 at = 0;
  u32 parity = 0;
  __device__ static constexpr u32 ring(u32 mine) { return (P::STAGES - mine + P::GROUPS - 1) / P::GROUPS; }
  __device__ u32 stage(u32 mine) const { return mine + at * P::GROUPS; }
  __device__ void next(u32 mine) {
    if (++at < ring(mine)) return;
    at = 0;
    parity ^= 1;
  }
};

// Places of queries.
template <class Cfg>
using QueriesTurn = Ring<Place<Cfg>::Q_STAGES>;

// Where the next tile of the `mine`th warpgroup goes, and the parity of the barriers that say that it may.
template <class Cfg>
__device__ inline void take_slot(Turn<Cfg> (&turns)[Place<Cfg>::GROUPS], u32 mine, u32& stage, u32& parity) {
#pragma unroll
  for (u32 g = 0; g < Place<Cfg>::GROUPS; g++) {
    if (g != mine) continue;
    stage = turns[g].stage(g);
    parity = turns[g].parity ^ 1;
    turns[g].next(g);
  }
}

// Has a block's queries brought to one of their places. One thread.
template <class Cfg>
__device__ inline void bring_queries(const Decoding& args, u32 base, u32 stage, const Row& first) {
  using P = Place<Cfg>;
  const u32 barrier = base + P::Q_FULL + stage * 8;
  const u32 to = base + P::Q + stage * P::Q_BYTES;
  barrier_expect(barrier, bytes_of_queries<Cfg>(args) * P::SLOTS);
  copy_queries<Cfg, P::VALUE_TILES>(args, args.q, to, barrier, first);
  if (Cfg::ROPE > 0) copy_queries<Cfg, 1>(args, args.q_rope, to + P::VALUE_TILES * P::Q_TILE_BYTES, barrier, first);
}

// Copies some columns of a box of keys to where they lie in a stage: two slots of bf16, or one of codes.
template <class Cfg>
__device__ inline void copy_columns(const Decoding& args, u32 to, u32 barrier, int box, int pair, i32 from) {
  using P = Place<Cfg>;
  using Codes = typename P::Codes;
  const u32 first = box * args.box;
  if (Cfg::ROPE > 0 && pair == 0) copy_tile(to + P::ROPE + first * (P::CODED ? Codes::ROPE_LINE : 128), args.k_rope, barrier, 0, from);
  if (P::SCALED && pair == 0) copy_tile(to + Codes::SCALES + first * 16, args.k_scales, barrier, 0, from);
  if (P::CODED) return copy_tile_3d(to + pair * TILE_BYTES + first * 128, args.k, barrier, 0, from, pair);
  copy_tile_3d(to + 2 * pair * TILE_BYTES + first * 128, args.k, barrier, 0, from, 2 * pair);
  if (args.box < KEYS) copy_tile_3d(to + (2 * pair + 1) * TILE_BYTES + first * 128, args.k, barrier, 0, from, 2 * pair + 1);
}

// Bytes of a key that they are.
template <class Cfg>
__device__ inline u32 bytes_of_columns(int pair) {
  using P = Place<Cfg>;
  const u32 rope = P::ROPE_TILES * (P::CODED ? P::Codes::ROPE_LINE : 128);
  return (P::CODED ? 128 : 256) + (pair == 0 ? rope + (P::SCALED ? 16 : 0) : 0);
}

// Copies what the others read. One warp: its lanes know where the next 32 boxes of keys lie.
template <class Cfg>
__device__ inline void bring_tiles(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  Turn<Cfg> turns[P::GROUPS];
  QueriesTurn<Cfg> queries;
  const int boxes = KEYS / args.box;
  const int end_item = args.starts[team + 1];
  for (int i = args.starts[team]; i < end_item; i++) {
    const Item item = args.items[i];
    const Group group = args.groups[item.group];
    const Row first = row_of<Cfg>(args, group, member, 0);
    barrier_wait(base + P::Q_EMPTY + queries.stage * 8, queries.parity ^ 1);
    if (lane() == 0) bring_queries<Cfg>(args, base, queries.stage, first);
    __syncwarp();
    queries.next();
    const int all = (group.end + args.box - 1) / args.box;
    int row = 0;
    for (int tile = item.first; tile < item.end; tile++) {
      const u32 mine = (tile - item.first) % P::GROUPS;
      u32 stage = 0, parity = 0;
      take_slot<Cfg>(turns, mine, stage, parity);
      const u32 to = base + stage * P::STAGE_BYTES;
      const int there = max(0, min(boxes, all - tile * boxes));
      for (int b = 0; b < boxes; b++) {
        const int ahead = ((tile - item.first) * boxes + b) % WARP;
        if (ahead == 0) {
          const int key = (tile * boxes + b + lane()) * args.box;
          row = key < group.end ? row_of_key(args, group.table, key) : 0;
        }
        const int from = __shfl_sync(ALL_LANES, row, ahead);
        for (int pair = 0; pair < P::PIECES; pair++) {
          const u32 barrier = base + P::FULL + (stage * P::PIECES + pair) * 8;
          if (b == 0) {
            barrier_wait(base + P::EMPTY + (stage * P::PIECES + pair) * 8, parity);
            if (lane() == 0) barrier_expect(barrier, there * args.box * bytes_of_columns<Cfg>(pair));
          }
          if (b < there && lane() == 0) copy_columns<Cfg>(args, to, barrier, b, pair, from);
          __syncwarp();
        }
      }
    }
  }
}
