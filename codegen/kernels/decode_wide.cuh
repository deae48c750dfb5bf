// Absorbed attention over a cache of latents, 64 rows of queries at a time: what docs/kernels/decode.md draws.
//
// Three warpgroups. The first holds the queries in registers: it makes logits and probabilities, which it leaves where the rotated part of the
// keys was. The second and third each multiply them with one half of the latents. A thread of the third has the copy engine fill a stage of the ring
// again once all of them are done with it.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "tile.cuh"
#include "wgmma.cuh"
#include "decode_steps.cuh"

// A thread's number in its warpgroup, asked for anew: what is computed from it is computed again, not kept in registers, of which there are few.
__device__ inline u32 own_number() {
  u32 x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x % WARPGROUP;
}

constexpr int ROWS = 64;

// Where things lie in shared memory.
template <class Cfg>
struct Place {
  static constexpr int VALUE_TILES = Cfg::LATENT / TILE;
  static constexpr int SLOTS = VALUE_TILES + 1;  // of a stage; the last has the rotated part, then the probabilities
  static constexpr int STAGES = 27 / SLOTS < 8 ? 27 / SLOTS : 8;
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
  static constexpr u32 END = Q_FREE + 8;
  static_assert(END <= 232448, "what a block may have");
};

// A stage of the ring and how often it came round.
template <class Cfg>
struct Turn {
  u32 stage = 0;
  u32 parity = 0;
  __device__ void next() {
    if (++stage == Place<Cfg>::STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }
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
    const i32 parity = shared_i32(base + P::COURIER + 40);
    share(base + P::COURIER + 40, parity ^ 1);
    share(base + P::COURIER + 32, Pair{group.all_first, group.all_end});
    if (Cfg::ROPE > 0) barrier_wait(base + P::Q_FREE, parity);
    barrier_expect(barrier, (Cfg::H < Cfg::ROWS ? Cfg::H * args.at_once : Cfg::ROWS) * TILE * 2 * PARTS);
    const Row first = row_of<Cfg>(args, group, member, 0);
    if (Cfg::ROPE > 0) copy_tile_3d(base + P::Q_ROPE, args.q_rope, barrier, 0, first.head, first.query);
#pragma unroll
    for (int t = 0; t < P::VALUE_TILES; t++) copy_tile_3d(to + t * TILE_BYTES, args.q, barrier, t * TILE, first.head, first.query);
    share(base + P::COURIER, Four{at.x + 1, at.y, item.first, item.end});
    share(base + P::COURIER + 16, Four{0, group.table, group.first, group.end});
    if (group.end > item.first * KEYS) ask_for_page(args, base + P::COURIER + 16, group.table, item.first * KEYS);
  } else {
    share(load, Four{0, NOTHING, 0, 0});
    barrier_arrive(barrier);
  }
}

// A piece of the queries that registers don't hold waits in memory, which means in the L1.
__device__ inline void put_aside(const Decoding& args, int thread, const u32 (&x)[4]) {
  Quad* at = args.spare + blockIdx.x * (2 * WARPGROUP) + thread;
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]) : "memory");
}
__device__ inline void take_aside(const Decoding& args, int thread, u32 (&x)[4]) {
  const Quad* at = args.spare + blockIdx.x * (2 * WARPGROUP) + thread;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "l"(at) : "memory");
}

// ---- The first warpgroup: logits and probabilities. A thread has two rows, eight apart, and in each 16 keys of a tile ----

// What a thread knows of its rows.
struct Sums {
  f32 shift[2];  // what exponents count from
  f32 total[2];  // of exponentials, of this thread's keys
};

// Takes an item's queries out of a stage, and what their rows see.
template <class Cfg>
__device__ inline Sums take_queries(const Decoding& args, u32 base, u32 stage, u32 (&q)[Place<Cfg>::HELD][4]) {
  using P = Place<Cfg>;
  const u32 self = own_number();
  const i32 item = shared_pair(base + P::LOADS + stage * 16).x;
  Sums sums;
  bool there[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = accumulator_row(self, half);
    const Row row = row_of<Cfg>(args, args.groups[args.items[item].group], blockIdx.x % args.team, r);
    // A row that is not there is 0, sees all and gets probabilities of 0: it costs no time, and little power
    there[half] = row.there;
    Limit seen = {0, 0x7fffffff};
    if (row.there) seen = args.limits[row.query];
    share(base + P::LIMITS + r * 8, Pair{seen.from, seen.to});
    share(base + P::TOP + r * 4, LOW);
    sums.shift[half] = row.there ? LOW : -LOW;
    sums.total[half] = 0;
  }
  const u32 row = self / 32 * 16 + self % 16;
#pragma unroll
  for (int k = 0; k < P::STEPS; k++) {
    u32 piece[4];
    load_blocks(piece, base + stage * P::STAGE_BYTES + k / 4 * TILE_BYTES + swizzled_128(row * 128 + k % 4 * 32 + self % 32 / 16 * 16));
#pragma unroll
    for (int part = 0; part < 4; part++) piece[part] = there[part % 2] ? piece[part] : 0;
    if (k >= P::HELD) put_aside(args, (k - P::HELD) * WARPGROUP + self, piece);
#pragma unroll
    for (int part = 0; part < 4 && k < P::HELD; part++) q[k][part] = piece[part];
  }
  return sums;
}

// Logits of a tile. `rest`: the first piece of the queries that registers don't hold. `pass_on` is called before the last products have run.
template <class Cfg, class PassOn>
__device__ inline void multiply_queries(const Decoding& args, u32 queries, u32 keys, u32 self, const u32 (&q)[Place<Cfg>::HELD][4], u32 (&rest)[4],
                                        f32 (&s)[32], PassOn pass_on) {
  using P = Place<Cfg>;
  constexpr int LATE = P::HELD / 5;  // products that then still run
  const u32 left = place_of(queries);
  const u32 right = place_of(keys);
  const auto piece = [&](const u32 (&a)[4], int k, bool add) { wgmma_bf16<0>(s, a, rows_at(right + (k / 4 * TILE_BYTES + k % 4 * 32) / 16), add); };
  const auto pieces = [&](int first, int end, bool add) {
#pragma unroll
    for (int k = first; k < end; k++) piece(q[k], k, add || k > first);
    wgmma_commit();
  };
  settle(s);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::ROPE_STEPS; k++)
    wgmma_bf16<0, 0>(s, rows_at(left + k * 2), rows_at(right + (P::VALUE_TILES * TILE_BYTES + k * 32) / 16), k > 0);
  if constexpr (P::HELD < P::STEPS) {
    static_assert(P::STEPS == P::HELD + 2, "two pieces wait in memory");
    piece(rest, P::HELD, P::ROPE_STEPS > 0);
    wgmma_commit();
    pieces(0, P::HELD / 2, true);
    wgmma_wait<1>();
    __syncwarp();  // the second piece comes into the same registers: no sooner
    take_aside(args, WARPGROUP + self, rest);
    wgmma_fence();
    piece(rest, P::HELD + 1, true);
    pieces(P::HELD / 2, P::HELD - LATE, true);
  } else {
    pieces(0, P::HELD - LATE, P::ROPE_STEPS > 0);
  }
  pieces(P::HELD - LATE, P::HELD, true);
  wgmma_wait<1>();
  pass_on();
  wgmma_wait<0>();
  settle(s);
}

// Hides keys of a tile from rows that don't see them. `limits`: where they stand in shared memory.
__device__ inline void hide_unseen(u32 limits, i32 tile, u32 self, f32 (&s)[32]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Pair limit = shared_pair(limits + accumulator_row(self, half) * 8);
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const int key = tile * KEYS + accumulator_column(self, i / 2 * 2) + i % 2;
      if (key < limit.x || key >= limit.y) s[i / 2 * 4 + half * 2 + i % 2] = HIDDEN;
    }
  }
}

// The largest logits of a thread's rows.
__device__ inline void largest(const f32 (&s)[32], f32 (&m)[2]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    m[half] = peak(s[2 * half], s[2 * half + 1]);
#pragma unroll
    for (int block = 1; block < 8; block++) m[half] = peak(m[half], peak(s[(block * 2 + half) * 2], s[(block * 2 + half) * 2 + 1]));
  }
#pragma unroll
  for (int lanes = 1; lanes < 4; lanes *= 2) {
#pragma unroll
    for (int half = 0; half < 2; half++) m[half] = peak(m[half], __shfl_xor_sync(ALL_LANES, m[half], lanes));
  }
}

// Logits become exponentials, and the last tile's are divided by the sum of all. `shrink`: where in shared memory stands by what earlier sums of a
// row are multiplied.
__device__ inline void soften(const Decoding& args, u32 shrink, u32 self, bool is_last, const f32 (&m)[2], f32 (&s)[32], Sums& sums) {
  constexpr f32 SLACK = 8;  // the maximum may lag behind by this much, in powers of two: most tiles then change no sum
#pragma unroll
  for (int half = 0; half < 2; half++) {
    f32 less = 1;
    if (!(m[half] * args.scale_log2 - sums.shift[half] <= SLACK)) {
      less = exp2_fast(sums.shift[half] - m[half] * args.scale_log2);
      sums.shift[half] = m[half] * args.scale_log2;
      sums.total[half] *= less;
    }
#pragma unroll
    for (int block = 0; block < 8; block++) {
      const int i = (block * 2 + half) * 2;
      s[i] = exp2_fast(s[i] * args.scale_log2 - sums.shift[half]);
      s[i + 1] = exp2_fast(s[i + 1] * args.scale_log2 - sums.shift[half]);
      sums.total[half] += s[i] + s[i + 1];
    }
    if (is_last) {
      sums.total[half] += __shfl_xor_sync(ALL_LANES, sums.total[half], 1);
      sums.total[half] += __shfl_xor_sync(ALL_LANES, sums.total[half], 2);
      const f32 inverse = sums.total[half] == 0 ? 0.0f : 1.0f / sums.total[half];
      less *= inverse;
#pragma unroll
      for (int block = 0; block < 8; block++) {
        s[(block * 2 + half) * 2] *= inverse;
        s[(block * 2 + half) * 2 + 1] *= inverse;
      }
    }
    if (self % 4 == 0) share(shrink + accumulator_row(self, half) * 4, less);
  }
}

// Leaves probabilities as the left operand of products.
__device__ inline void leave_weights(u32 to, u32 self, const f32 (&s)[32]) {
  const u32 row = self / 32 * 16 + self % 16;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    u32 p[4];
#pragma unroll
    for (int part = 0; part < 4; part++) p[part] = pack_bf16(s[2 * (4 * k + part)], s[2 * (4 * k + part) + 1]);
    store_blocks(to + swizzled_128(row * 128 + k * 32 + self % 32 / 16 * 16), p);
  }
  fence_proxy_async();
}

// Writes what is known of an item's rows beside their output.
template <class Cfg>
__device__ inline void write_sums(const Decoding& args, u32 top, i32 number, const Sums& sums) {
  const u32 self = own_number();
  const int member = blockIdx.x % args.team;
  const Item item = args.items[number];
  const Group group = args.groups[item.group];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = accumulator_row(self, half);
    const Row row = row_of<Cfg>(args, group, member, r);
    if (self % 4 != 0 || !row.there) continue;
    const bool saw = sums.total[half] != 0;
    const f32 weight = saw ? sums.shift[half] + log2_fast(sums.total[half]) : LOW;
    write_row_sums<Cfg>(args, item, member, r, row, weight, shared_f32(top + r * 4));
  }
  if (item.parts > 1) part_written(args, item, member, 1);
}

// All items of a team.
template <class Cfg>
__device__ inline void weigh(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  Turn<Cfg> turn;
  u32 q[P::HELD][4];
  for (;;) {
    barrier_wait(base + P::FULL + turn.stage * 8, turn.parity);
    if (shared_pair(base + P::LOADS + turn.stage * 16).y == NOTHING) break;
    Sums sums = take_queries<Cfg>(args, base, turn.stage, q);
    arrive_once_a_warp(base + P::WEIGHED + turn.stage * 8);
    turn.next();
    i32 marks;
    bool waits = false;  // the tile before has not been passed on
    do {
      u32 at = base;
      asm volatile("" : "+r"(at));  // descriptors are made anew for each tile: there are no registers for all of them
      const u32 self = own_number();
      const u32 keys = at + turn.stage * P::STAGE_BYTES;
      const u32 weights = keys + P::VALUE_TILES * TILE_BYTES;
      u32 rest[4];
      if (P::HELD < P::STEPS) take_aside(args, self, rest);
      barrier_wait(at + P::FULL + turn.stage * 8, turn.parity);
      const Pair load = shared_pair(at + P::LOADS + turn.stage * 16);
      marks = load.x;
      const bool is_last = marks >= LAST;
      f32 s[32];
      // Only with this tile's logits may the one before be multiplied: its products run beside this tile's softmax
      multiply_queries<Cfg>(args, at + P::Q_ROPE, keys, self, q, rest, s, [&]() {
        if (waits) arrive_once_a_warp(at + P::WEIGHED + turn.before() * 8);
        waits = true;
      });
      named_wait(1, WARPGROUP);  // all of this group have read the rotated keys, over which probabilities go
      if (is_last && Cfg::ROPE > 0) arrive_once_a_warp(at + P::Q_FREE);
      if (marks & EDGE) hide_unseen(at + P::LIMITS, load.y, self, s);
      f32 m[2];
      largest(s, m);
      soften(args, at + P::SHRINK + turn.stage * ROWS * 4, self, is_last, m, s, sums);
      leave_weights(weights, self, s);
      if (is_last) arrive_once_a_warp(at + P::WEIGHED + turn.stage * 8);
      if (self % 4 == 0) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const u32 top = at + P::TOP + accumulator_row(self, half) * 4;
          share(top, peak(m[half], shared_f32(top)));
        }
      }
      turn.next();
    } while (marks < LAST);
    write_sums<Cfg>(args, base + P::TOP, marks & (EDGE - 1), sums);
  }
  arrive_once_a_warp(base + P::WEIGHED + turn.stage * 8);
}

// This warpgroup is done with a stage. Once both are, the second has it filled again.
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

// ---- The second and third warpgroup: one half of the output each, probabilities times latents ----

// Adds a tile's products to a half of the output. `stage` and `shrink`: where they are in shared memory.
template <class Cfg, int SIDE>
__device__ inline void multiply_weights(u32 stage, u32 shrink, f32 (&o)[Cfg::LATENT / 4]) {
  using P = Place<Cfg>;
  const u32 row = shrink + accumulator_row(own_number(), 0) * 4;
  const f32 less[2] = {shared_f32(row), shared_f32(row + 32)};
  if (__any_sync(ALL_LANES, less[0] != 1 || less[1] != 1)) {
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / 4; k++) o[k] *= less[k / 2 % 2];
  }
  settle(o);
  wgmma_fence();
  const u32 left = place_of(stage + P::VALUE_TILES * TILE_BYTES);
  const u32 right = place_of(stage + SIDE * (P::VALUE_TILES / 2) * TILE_BYTES);
#pragma unroll
  for (int k = 0; k < 4; k++) wgmma_bf16<0, 1>(o, rows_at(left + k * 2), columns_at(right + k * 128), true);
  wgmma_commit();
  wgmma_wait<0>();
  settle(o);
}

// Writes a half of an item's output, or of a part of it.
template <class Cfg, int SIDE>
__device__ inline void write_half(const Decoding& args, i32 number, int member, const f32 (&o)[Cfg::LATENT / 4]) {
  constexpr int OWN = Cfg::LATENT / 2;  // columns
  const u32 self = own_number();
  const Item item = args.items[number];
  const Group group = args.groups[item.group];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = accumulator_row(self, half);
    const Row row = row_of<Cfg>(args, group, member, r);
    if (!row.there) continue;
    const i64 line = line_of<Cfg>(args, item, member, r, row);
    const i64 to = line * Cfg::LATENT + SIDE * OWN + self % 4 * 2;
    if (item.parts == 1 && args.narrow) {
#pragma unroll
      for (int block = 0; block < OWN / 8; block++) {
        const int k = (block * 2 + half) * 2;
        *reinterpret_cast<u32*>(args.narrow + to + block * 8) = pack_bf16(o[k], o[k + 1]);
      }
    } else {
      f32* out = item.parts == 1 ? args.out : args.part_out;
#pragma unroll
      for (int block = 0; block < OWN / 8; block++) {
        const int k = (block * 2 + half) * 2;
        *reinterpret_cast<float2*>(out + to + block * 8) = float2{o[k], o[k + 1]};
      }
    }
  }
  if (item.parts > 1) part_written(args, item, member, 2 + SIDE);
}

// All items of a team. A thread of the third warpgroup has stages filled besides.
template <class Cfg, int SIDE>
__device__ inline void add_values(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  if (SIDE == 1 && threadIdx.x % WARPGROUP == 0) {
    share(base + P::COURIER, Four{args.starts[team], args.starts[team + 1], 0, 0});
    share(base + P::COURIER + 40, 1);
#pragma unroll 1
    for (u32 stage = 0; stage < P::STAGES; stage++) fill<Cfg>(args, base, stage, member);
  }
  Turn<Cfg> turn;
  f32 o[Cfg::LATENT / 4];
  for (;;) {
    barrier_wait(base + P::WEIGHED + turn.stage * 8, turn.parity);
    if (shared_pair(base + P::LOADS + turn.stage * 16).y == NOTHING) break;
    refill<Cfg, SIDE>(args, base, turn, member);
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / 4; k++) o[k] = 0;
    i32 marks;
    do {
      u32 at = base;
      asm volatile("" : "+r"(at));  // as in `weigh`
      const u32 stage = at + turn.stage * P::STAGE_BYTES;
      barrier_wait(at + P::WEIGHED + turn.stage * 8, turn.parity);
      const Four load = shared_four(at + P::LOADS + turn.stage * 16);
      marks = load.x;
      if (load.z > 0 || load.w < KEYS)
        clear_unseen<P::VALUE_TILES / 2>(stage + SIDE * (P::VALUE_TILES / 2) * TILE_BYTES, load.z, load.w, 2 + SIDE);
      multiply_weights<Cfg, SIDE>(stage, at + P::SHRINK + turn.stage * ROWS * 4, o);
      refill<Cfg, SIDE>(args, at, turn, member);
    } while (marks < LAST);
    write_half<Cfg, SIDE>(args, marks & (EDGE - 1), member, o);
  }
}

template <class Cfg>
__device__ void decode_wide(const Decoding& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    if (base % 1024 != 0) __trap();
    for (int stage = 0; stage < P::STAGES; stage++) {
      barrier_init(base + P::FULL + stage * 8, 1);
      barrier_init(base + P::WEIGHED + stage * 8, 4);
      barrier_init(base + P::EMPTY + stage * 8, 8);
    }
    barrier_init(base + P::Q_FREE, 4);
    fence_barrier_init();
  }
  __syncthreads();
  const int team = blockIdx.x / args.team;
  const int member = blockIdx.x % args.team;
  const int group = threadIdx.x / WARPGROUP;
  if (group == 0) {
    registers_up<184>();
    weigh<Cfg>(args, base);
    registers_down<168>();  // as all had them: what follows is for all
  } else if (group == 1) {
    registers_down<160>();
    add_values<Cfg, 0>(args, base, team, member);
    registers_up<168>();
  } else {
    registers_down<160>();
    add_values<Cfg, 1>(args, base, team, member);
    registers_up<168>();
  }
  join_items<Cfg, 3>(args, team, member, reinterpret_cast<f32*>(shared));
}
