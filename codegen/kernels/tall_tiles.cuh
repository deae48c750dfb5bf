// What `decode_tall.cuh` has in shared memory, and how it comes there.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "tile.cuh"
#include "decode_parts.cuh"

// Where things lie in shared memory.
template <class Cfg>
struct Place {
  static constexpr int ROWS = Cfg::ROWS;
  static constexpr int VALUE_TILES = Cfg::LATENT / TILE;
  static constexpr int ROPE_TILES = Cfg::ROPE > 0 ? 1 : 0;
  static constexpr int SLOTS = VALUE_TILES + ROPE_TILES;  // of a stage; the last has the rotated part
  // Keys that are attended to at a time: where products are small, twice as many wait half as often
  static constexpr int STEP = Cfg::LATENT == 128 ? 2 * KEYS : KEYS;
  static constexpr u32 SLOT_BYTES = STEP * TILE * 2;
  static constexpr u32 STAGE_BYTES = SLOTS * SLOT_BYTES;
  // Pieces of 16 columns of the queries. Registers hold those of the first tiles.
  static constexpr int STEPS = VALUE_TILES * 4;
  static constexpr int ROPE_STEPS = (Cfg::ROPE + 15) / 16;
  static constexpr int HELD_TILES = 2;
  static constexpr int HELD = HELD_TILES * 4;
  static constexpr u32 Q_TILE_BYTES = ROWS * TILE * 2;
  static constexpr int KEPT_TILES = SLOTS - HELD_TILES;  // of queries, in shared memory
  static_assert(HELD_TILES * Q_TILE_BYTES <= STAGE_BYTES, "what registers hold comes through a stage");
  static constexpr u32 SMALL = 4096;
  static constexpr int FIT = (232448 - KEPT_TILES * Q_TILE_BYTES - SMALL) / STAGE_BYTES;
  static constexpr int STAGES = FIT < 8 ? FIT : 8;
  static constexpr u32 Q = STAGES * STAGE_BYTES;                  // [KEPT_TILES]
  static constexpr u32 LIMITS = Q + KEPT_TILES * Q_TILE_BYTES;    // [ROWS]: keys that a row sees
  static constexpr u32 TOPS = LIMITS + ROWS * 8;                  // [2, WARPGROUP]: the largest logits of a thread's rows and keys
  static constexpr u32 WORK = TOPS + 2 * WARPGROUP * 8;           // [2]: what a warpgroup is at
  static constexpr u32 FULL = WORK + 2 * 16;                      // barriers [STAGES]: a stage's bytes are there
  static constexpr u32 EMPTY = FULL + STAGES * 8;                 // it may be filled again
  static constexpr u32 Q_FREE = EMPTY + STAGES * 8;               // queries in shared memory may be overwritten
  static constexpr u32 END = Q_FREE + 8;
  static_assert(END <= 232448, "shared memory");
  // Registers of a thread: of who attends to tiles, of who brings them
  static constexpr int ATTENDS = 240;
  static constexpr int BRINGS = 24;
};

template <class Cfg>
using Turn = Ring<Place<Cfg>::STAGES>;

// Has an item's queries brought: to a stage what registers will hold, the rest to where it stays.
template <class Cfg>
__device__ inline void bring_queries(const Decoding& args, u32 base, u32 stage, u32 barrier, const Row& first) {
  using P = Place<Cfg>;
  constexpr int KEPT = P::VALUE_TILES - P::HELD_TILES;
  barrier_expect(barrier, bytes_of_queries<Cfg>(args) * P::SLOTS);
  copy_queries<Cfg, P::HELD_TILES>(args, args.q, stage, barrier, first);
  if constexpr (KEPT > 0) {
    static_assert(KEPT == P::HELD_TILES, "as many come at a time");
    copy_queries<Cfg, KEPT, P::HELD_TILES>(args, args.q, base + P::Q, barrier, first);
  }
  if (Cfg::ROPE > 0) copy_queries<Cfg, 1>(args, args.q_rope, base + P::Q + KEPT * P::Q_TILE_BYTES, barrier, first);
}

// Copies what the others read. One warp: its lanes know where the next 32 boxes of keys lie.
template <class Cfg>
__device__ inline void bring_tiles(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  Turn<Cfg> turn;
  u32 q_parity = 1;  // the first queries find their place free
#pragma unroll 1
  for (int i = args.starts[block_number() / args.team]; i < args.starts[block_number() / args.team + 1]; i++) {
    barrier_wait(base + P::EMPTY + turn.stage * 8, turn.parity ^ 1);
    if (P::KEPT_TILES > 0) barrier_wait(base + P::Q_FREE, q_parity);
    q_parity ^= 1;
    const Group& group = args.groups[args.items[i].group];
    if (lane() == 0)
      bring_queries<Cfg>(args, base, base + turn.stage * P::STAGE_BYTES, base + P::FULL + turn.stage * 8,
                         row_of<Cfg>(args, group, block_number() % args.team, 0));
    __syncwarp();
    turn.next();
    const i32 table = group.table;
    const i32 end = args.items[i].end * KEYS;
    const i32 end_key = min(group.end, end);
    i32 row = 0;
    u32 ahead = 0;
#pragma unroll 1
    for (i32 key = args.items[i].first * KEYS; key < end;) {
      barrier_wait(base + P::EMPTY + turn.stage * 8, turn.parity ^ 1);
      const u32 barrier = base + P::FULL + turn.stage * 8;
      u32 to = base + turn.stage * P::STAGE_BYTES;
      if (lane() == 0) {
        const int boxes = max(0, min(P::STEP, end_key - key) + args.box - 1) / args.box;
        barrier_expect(barrier, boxes * args.box * TILE * 2 * P::SLOTS);
      }
#pragma unroll 1
      for (const i32 next = key + P::STEP; key < next; key += args.box) {
        if (ahead == 0) {
          const i32 own = key + lane() * args.box;
          row = own < end_key ? row_of_key(args, table, own) : 0;
        }
        const i32 from = __shfl_sync(ALL_LANES, row, ahead);
        ahead = (ahead + 1) % WARP;
        if (lane() == 0 && key < end_key) {
          const int at_once = P::STEP == KEYS && args.box == KEYS ? P::VALUE_TILES : 1;
#pragma unroll 1
          for (int t = 0; t < P::VALUE_TILES; t += at_once) copy_tile_3d(to + t * P::SLOT_BYTES, args.k, barrier, 0, from, t);
          if (Cfg::ROPE > 0) copy_tile(to + P::VALUE_TILES * P::SLOT_BYTES, args.k_rope, barrier, 0, from);
        }
        __syncwarp();
        to += args.box * TILE * 2;
      }
      turn.next();
    }
  }
}
