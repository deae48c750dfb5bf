// What `decode_deep.cuh` has in shared memory, and how it comes there.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "tile.cuh"
#include "decode_parts.cuh"

constexpr int SIDES = 2;  // warpgroups that attend, each with its share of an entry's columns
constexpr u32 PAIR = SIDES * WARPGROUP;

// Where things lie in shared memory. A piece is 64 columns of a tile. The first side has the rotated part too, before its latents.
template <class Cfg>
struct Place {
  static constexpr int ROWS = Cfg::ROWS;
  static constexpr int OWN_ROWS = ROWS / SIDES;                 // whose softmax a side does
  static constexpr int VALUE_TILES = Cfg::LATENT / TILE / SIDES;  // of a side
  static constexpr int ROPE_STEPS = (Cfg::ROPE + 15) / 16;
  __device__ static constexpr bool rotated(int side, int piece) { return Cfg::ROPE > 0 && side == 0 && piece == 0; }
  __device__ static constexpr int pieces(int side) { return VALUE_TILES + (rotated(side, 0) ? 1 : 0); }
  static constexpr int PIECES = pieces(0) + pieces(1);
  static constexpr u32 Q_TILE_BYTES = ROWS * TILE * 2;
  static constexpr u32 SENT_BYTES = WARPGROUP * OWN_ROWS / 2 * 4;  // parts of logits that a side sends to the other
  static constexpr int SLOTS = (232448 - PIECES * Q_TILE_BYTES - Q_TILE_BYTES - SIDES * SENT_BYTES - 2048) / TILE_BYTES;
  // Each side has a ring of slots of its own: a barrier's parity tells one lap from the next only to who sees every lap
  __device__ static constexpr int ring(int side) { return side == 0 ? (SLOTS + 1) / 2 : SLOTS / 2; }
  static_assert(ring(0) >= pieces(0) && ring(1) >= pieces(1), "a tile is held as keys and as latents");
  static constexpr u32 Q = SLOTS * TILE_BYTES;                  // [PIECES]: queries
  static constexpr u32 WEIGHTS = Q + PIECES * Q_TILE_BYTES;     // [ROWS, KEYS]: probabilities
  static constexpr u32 SENT = WEIGHTS + Q_TILE_BYTES;           // [SIDES]
  static constexpr u32 PEAKS = SENT + SIDES * SENT_BYTES;       // [SIDES, 4, OWN_ROWS]: largest logits of a warp
  static constexpr u32 LIMITS = PEAKS + 4 * ROWS * 4;           // [ROWS]: keys that a row sees
  static constexpr u32 LESS = LIMITS + ROWS * 8;                // [ROWS]: what earlier sums are worth now
  static constexpr u32 FINAL = LESS + ROWS * 4;                 // [ROWS]: what the output is multiplied by at last
  static constexpr u32 FULL = FINAL + ROWS * 4;                 // barriers [SLOTS]: a piece is there
  static constexpr u32 EMPTY = FULL + SLOTS * 8;                // [SLOTS]: it may be overwritten
  static constexpr u32 Q_FULL = EMPTY + SLOTS * 8;              // [SIDES]
  static constexpr u32 Q_EMPTY = Q_FULL + SIDES * 8;            // [SIDES]
  static constexpr u32 END = Q_EMPTY + SIDES * 8;
  static_assert(END <= 232448, "shared memory");
  // Registers of a thread: of who attends to tiles, of who brings them
  static constexpr int ATTENDS = 224;
  static constexpr int BRINGS = 56;
  // Where a side's queries begin, and the tile of latents' columns that a piece is.
  __device__ static constexpr u32 queries(int side) { return Q + (side == 0 ? 0 : pieces(0)) * Q_TILE_BYTES; }
  __device__ static constexpr int tile(int side, int piece) { return side * VALUE_TILES + piece - (pieces(side) - VALUE_TILES); }
};

// A side's place in its ring, and the parity of the barriers there.
template <class Cfg, int SIDE>
struct Turn : Ring<Place<Cfg>::ring(SIDE)> {
  __device__ u32 slot() const { return this->stage + (SIDE == 0 ? 0 : Place<Cfg>::ring(0)); }
};

// Copies an item's queries, a side's columns of them. One thread.
template <class Cfg, int SIDE>
__device__ inline void bring_queries(const Decoding& args, u32 base, const Row& first) {
  using P = Place<Cfg>;
  const u32 barrier = base + P::Q_FULL + SIDE * 8;
  const u32 to = base + P::queries(SIDE);
  barrier_expect(barrier, bytes_of_queries<Cfg>(args) * P::pieces(SIDE));
  if (P::rotated(SIDE, 0)) copy_queries<Cfg, 1>(args, args.q_rope, to, barrier, first);
  copy_queries<Cfg, P::VALUE_TILES, SIDE * P::VALUE_TILES>(args, args.q, to + (P::pieces(SIDE) - P::VALUE_TILES) * P::Q_TILE_BYTES, barrier, first);
}

// Copies what a side reads, piece by piece. One warp: its lanes know where the next 32 boxes of keys lie, and copy them.
template <class Cfg, int SIDE>
__device__ inline void bring_pieces(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  Turn<Cfg, SIDE> turn;
  u32 queries_parity = 1;
  const int boxes = KEYS / args.box;
  const int run = min(boxes, WARP);  // boxes of a tile that lanes know at a time
  const int end_item = args.starts[team + 1];
  for (int i = args.starts[team]; i < end_item; i++) {
    const Item item = args.items[i];
    const Group group = args.groups[item.group];
    barrier_wait(base + P::Q_EMPTY + SIDE * 8, queries_parity);
    queries_parity ^= 1;
    if (lane() == 0) bring_queries<Cfg, SIDE>(args, base, row_of<Cfg>(args, group, member, 0));
    __syncwarp();
    const int all = (group.end + args.box - 1) / args.box;
    int from = 0;
    for (int tile = item.first; tile < item.end; tile++) {
      const int there = max(0, min(boxes, all - tile * boxes));
      Turn<Cfg, SIDE> walk;
      for (int first = 0; first < boxes; first += run) {
        const int ahead = ((tile - item.first) * boxes + first) % WARP;
        if (ahead == 0) {
          const int key = (tile * boxes + first + lane()) * args.box;
          from = key < group.end ? row_of_key(args, group.table, key) : 0;
        }
        const int box = first + lane() - ahead;  // of the tile: the one that this lane knows
        const bool copies = box >= first && box < min(first + run, there);
        walk = turn;
#pragma unroll 1
        for (int piece = 0; piece < P::pieces(SIDE); piece++) {
          const u32 barrier = base + P::FULL + walk.slot() * 8;
          if (first == 0) {
            barrier_wait(base + P::EMPTY + walk.slot() * 8, walk.parity ^ 1);
            if (lane() == 0) barrier_expect(barrier, there * args.box * TILE * 2);
            __syncwarp();
          }
          if (copies) {
            const u32 to = base + walk.slot() * TILE_BYTES + box * args.box * TILE * 2;
            if (P::rotated(SIDE, piece)) copy_tile(to, args.k_rope, barrier, 0, from);
            else copy_tile_3d(to, args.k, barrier, 0, from, P::tile(SIDE, piece));
          }
          __syncwarp();
          walk.next();
        }
      }
      turn = walk;
    }
  }
}
