// Absorbed attention over a cache of latents, 64 rows of queries at a time: what docs/kernels/decode.md draws.
//
// Three warpgroups. The first holds the queries in registers: it makes logits and probabilities, which it leaves where the rotated part of the
// keys was. The second and third each multiply them with one half of the latents. A thread of the third has the copy engine fill a stage of the ring
// again once all of them are done with it.

#include "wide_weights.cuh"

// ---- The second and third warpgroup: one half of the output each, probabilities times latents ----

// Adds a product to it, in what latents are.
template <class Cfg, int N>
__device__ inline void multiply_by_type(f32 (&o)[N], u64 weights, u64 latents) {
  if constexpr (Entry<Cfg>::HALVES) wgmma_f16<0, 1>(o, weights, latents, true);
  else wgmma_bf16<0, 1>(o, weights, latents, true);
}

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
  const u32 left = place_of(stage + P::WEIGHTS);
  const u32 right = place_of(stage + SIDE * (P::VALUE_TILES / 2) * TILE_BYTES);
#pragma unroll
  for (int k = 0; k < 4; k++) multiply_by_type<Cfg>(o, rows_at(left + k * 2), columns_at(right + k * 128));
  wgmma_commit();
  wgmma_wait<0>();
  settle(o);
}

// Writes a half of an item's output.
template <class Cfg, int SIDE>
__device__ inline void write_half(const Decoding& args, const Item& item, int member, const f32 (&o)[Cfg::LATENT / 4]) {
  constexpr int OWN = Cfg::LATENT / 2;  // columns
  const u32 self = own_number();
  const Group group = args.groups[item.group];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Row row = row_of<Cfg>(args, group, member, accumulator_row(self, half));
    if (!row.there) continue;
    const i64 to = (i64(row.query) * Cfg::H + row.head) * Cfg::LATENT + SIDE * OWN + self % 4 * 2;
#pragma unroll
    for (int block = 0; block < OWN / 8; block++) {
      const int k = (block * 2 + half) * 2;
      if (args.narrow) *reinterpret_cast<u32*>(args.narrow + to + block * 8) = pack_bf16(o[k], o[k + 1]);
      else *reinterpret_cast<float2*>(args.out + to + block * 8) = float2{o[k], o[k + 1]};
    }
  }
}

// Sends a half of a part's output, by way of the stage that its last tile was in.
template <class Cfg, int SIDE>
__device__ inline void send_half(const Decoding& args, u32 stage, const Item& item, int member, const f32 (&o)[Cfg::LATENT / 4]) {
  constexpr int TILES = Cfg::LATENT / 2 / TILE;
  named_wait(4, 2 * WARPGROUP);  // neither half reads probabilities of the tile any more
  send_rows<Cfg, SIDE * TILES, TILES, TILES>(args, item, member, {0, ROWS}, stage + SIDE * TILES * TILE_BYTES,
                                             stage + Place<Cfg>::WEIGHTS + SIDE * (ROWS * UNITS * 4), 2 + SIDE, {1, 1}, o);
}

// All items of a team. A thread of the third warpgroup has stages filled besides.
template <class Cfg, int SIDE>
__device__ inline void add_values(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  fill_first<Cfg, SIDE>(args, base, team, member);
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
      if (marks < LAST) refill<Cfg, SIDE>(args, at, turn, member);
    } while (marks < LAST);
    const Item item = args.items[marks & (EDGE - 1)];
    if (item.parts > 1) send_half<Cfg, SIDE>(args, base + turn.stage * P::STAGE_BYTES, item, member, o);
    refill<Cfg, SIDE>(args, base, turn, member);
    if (item.parts == 1) write_half<Cfg, SIDE>(args, item, member, o);
  }
}

// The same over keys that are chosen: of whatever a stage holds, it is filled again at one place.
template <class Cfg, int SIDE>
__device__ inline void add_chosen(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  i32 position = -1;
  fill_first_chosen<Cfg, SIDE>(args, base, position);
  Turn<Cfg> turn;
  f32 o[Cfg::LATENT / 4];
  for (;;) {
    barrier_wait(base + P::WEIGHED + turn.stage * 8, turn.parity);
    if (shared_pair(base + P::LOADS + turn.stage * 16).y == NOTHING) break;
    refill_chosen<Cfg, SIDE>(args, base, turn, position);
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / 4; k++) o[k] = 0;
    i32 marks;
    do {
      u32 at = base;
      asm volatile("" : "+r"(at));  // as in `weigh`
      const u32 stage = at + turn.stage * P::STAGE_BYTES;
      barrier_wait(at + P::WEIGHED + turn.stage * 8, turn.parity);
      marks = shared_pair(at + P::LOADS + turn.stage * 16).x;
      multiply_weights<Cfg, SIDE>(stage, at + P::SHRINK + turn.stage * ROWS * 4, o);
      if (marks >= LAST && args.items[marks & (EDGE - 1)].parts > 1)
        send_half<Cfg, SIDE>(args, stage, args.items[marks & (EDGE - 1)], block_number() % args.team, o);
      refill_chosen<Cfg, SIDE>(args, at, turn, position);
    } while (marks < LAST);
    const Item item = args.items[marks & (EDGE - 1)];
    if (item.parts == 1) write_half<Cfg, SIDE>(args, item, block_number() % args.team, o);
  }
}

// The same over codes of keys that are chosen.
template <class Cfg, int SIDE>
__device__ inline void add_widened(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  fill_first_widened<Cfg, SIDE>(args, base);
  Turn<Cfg> turn;
  f32 o[Cfg::LATENT / 4];
  for (;;) {
    barrier_wait(base + P::WEIGHED + turn.stage * 8, turn.parity);
    if (shared_pair(base + P::LOADS + turn.stage * 16).y == NOTHING) break;
    refill_widened<Cfg, SIDE>(args, base, turn);
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / 4; k++) o[k] = 0;
    i32 marks;
    do {
      u32 at = base;
      asm volatile("" : "+r"(at));  // as in `weigh`
      const u32 stage = at + turn.stage * P::STAGE_BYTES;
      barrier_wait(at + P::WEIGHED + turn.stage * 8, turn.parity);
      marks = shared_pair(at + P::LOADS + turn.stage * 16).x;
      multiply_weights<Cfg, SIDE>(stage, at + P::SHRINK + turn.stage * ROWS * 4, o);
      if (marks >= LAST) {
        const f32 unit = shared_f32(at + P::OUT_UNITS + turn.stage * 4);
#pragma unroll
        for (int k = 0; k < Cfg::LATENT / 4; k++) o[k] *= unit;
        if (args.items[marks & (EDGE - 1)].parts > 1) send_half<Cfg, SIDE>(args, stage, args.items[marks & (EDGE - 1)], block_number() % args.team, o);
      }
      refill_widened<Cfg, SIDE>(args, at, turn);
    } while (marks < LAST);
    const Item item = args.items[marks & (EDGE - 1)];
    if (item.parts == 1) write_half<Cfg, SIDE>(args, item, block_number() % args.team, o);
  }
  copies_wait_all();  // nothing comes any more to where parts are added up
}

template <class Cfg>
__device__ void decode_wide(const Decoding& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    begin_block<Cfg>(args, base);
    init_barriers<Cfg>(base);
  }
  __syncthreads();
  const int team = blockIdx.x / args.team;
  const int member = blockIdx.x % args.team;
  if constexpr (P::WIDENED) {
    as_warpgroups<P::WEIGHS, P::ADDS>([=, &args] { weigh<Cfg>(args, base); }, [=, &args] { add_widened<Cfg, 0>(args, base); },
                                      [=, &args] { add_widened<Cfg, 1>(args, base); });
  } else if constexpr (CHOOSES<Cfg>) {
    as_warpgroups<P::WEIGHS, P::ADDS>([=, &args] { weigh<Cfg>(args, base); }, [=, &args] { add_chosen<Cfg, 0>(args, base); },
                                      [=, &args] { add_chosen<Cfg, 1>(args, base); });
  } else {
    as_warpgroups<P::WEIGHS, P::ADDS>([=, &args] { weigh<Cfg>(args, base); }, [=, &args] { add_values<Cfg, 0>(args, base, team, member); },
                                      [=, &args] { add_values<Cfg, 1>(args, base, team, member); });
  }
  join_items<Cfg, 3>(args);
}
