// Absorbed attention over a cache of latents, 64 rows of queries at a time: what docs/kernels/decode.md draws.
//
// Three warpgroups. The first holds the queries in registers: it makes logits and probabilities, which it leaves where the rotated part of the
// keys was. The second and third each multiply them with one half of the latents. A thread of the third has the copy engine fill a stage of the ring
// again once all of them are done with it.

#include "wide_codes.cuh"
#include "wide_weights.cuh"

// This warpgroup is done with a stage. Once both are, it is filled again: by the second with what is in memory, by both with what they convert.
template <class Cfg, int SIDE>
__device__ inline void refill(const Decoding& args, u32 base, Turn<Cfg>& turn, int member) {
  using P = Place<Cfg>;
  if constexpr (Entry<Cfg>::CODED) {
    convert_next<Cfg, SIDE>(args, base, turn.number() + P::STAGES);
  } else {
    arrive_once_a_warp(base + P::EMPTY + turn.stage * 8);
    if (SIDE == 1 && threadIdx.x % WARPGROUP == 0) {
      barrier_wait(base + P::EMPTY + turn.stage * 8, turn.parity);
      fill<Cfg>(args, base, turn.stage, member);
    }
  }
  turn.next();
}

// Fills all stages for the first time.
template <class Cfg, int SIDE>
__device__ inline void fill_first(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  const bool leads = SIDE == 1 && threadIdx.x % WARPGROUP == 0;
  if (leads) {
    share(base + P::COURIER, Four{args.starts[team], args.starts[team + 1], 0, 0});
    share(base + P::COURIER + 16, 0);
    share(base + P::COURIER + 40, 1);
  }
  if constexpr (Entry<Cfg>::CODED) {
    convert_first<Cfg, SIDE>(args, base);
  } else if (leads) {
#pragma unroll 1
    for (u32 stage = 0; stage < P::STAGES; stage++) fill<Cfg>(args, base, stage, member);
  }
}

// ---- The second and third warpgroup: one half of the output each, probabilities times latents ----

// Adds a tile's products to a half of the output. `stage` and `shrink`: where they are in shared memory. `meanwhile` is called when a band of columns
// is done with, while others are multiplied.
template <class Cfg, int SIDE, class Meanwhile>
__device__ inline void multiply_weights(u32 stage, u32 shrink, f32 (&o)[Place<Cfg>::BANDS][Place<Cfg>::BAND / 2], Meanwhile meanwhile) {
  using P = Place<Cfg>;
  const u32 row = shrink + accumulator_row(own_number(), 0) * 4;
  const f32 less[2] = {shared_f32(row), shared_f32(row + 32)};
  if (__any_sync(ALL_LANES, less[0] != 1 || less[1] != 1)) {
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / 4; k++) o[k / (P::BAND / 2)][k % (P::BAND / 2)] *= less[k / 2 % 2];
  }
#pragma unroll
  for (int band = 0; band < P::BANDS; band++) settle(o[band]);
  wgmma_fence();
  const u32 left = place_of(stage + P::VALUE_TILES * TILE_BYTES);
  const u32 right = place_of(stage + SIDE * (P::VALUE_TILES / 2) * TILE_BYTES);
#pragma unroll
  for (int band = 0; band < P::BANDS; band++) {
#pragma unroll
    for (int k = 0; k < 4; k++)
      multiply<Cfg, 1>(o[band], rows_at(left + k * 2), columns_at(right + band * (P::BAND / TILE) * (TILE_BYTES / 16) + k * 128), true);
    wgmma_commit();
  }
  if constexpr (P::BANDS == 2) {
    wgmma_wait<1>();
    meanwhile(0);
  }
  wgmma_wait<0>();
#pragma unroll
  for (int band = 0; band < P::BANDS; band++) settle(o[band]);
  meanwhile(P::BANDS - 1);
}

// Writes a half of an item's output, or of a part of it.
template <class Cfg, int SIDE>
__device__ inline void write_half(const Decoding& args, i32 number, int member, const f32 (&o)[Place<Cfg>::BANDS][Place<Cfg>::BAND / 2]) {
  constexpr int PER = Place<Cfg>::BAND / 2;
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
        *reinterpret_cast<u32*>(args.narrow + to + block * 8) = pack_bf16(o[k / PER][k % PER], o[k / PER][k % PER + 1]);
      }
    } else {
      f32* out = item.parts == 1 ? args.out : args.part_out;
#pragma unroll
      for (int block = 0; block < OWN / 8; block++) {
        const int k = (block * 2 + half) * 2;
        *reinterpret_cast<float2*>(out + to + block * 8) = float2{o[k / PER][k % PER], o[k / PER][k % PER + 1]};
      }
    }
  }
  if (item.parts > 1) part_written(args, item, member, 2 + SIDE);
}

// All items of a team. A thread of the third warpgroup has stages filled besides.
template <class Cfg, int SIDE>
__device__ inline void add_values(const Decoding& args, u32 base, int team, int member) {
  using P = Place<Cfg>;
  fill_first<Cfg, SIDE>(args, base, team, member);
  Turn<Cfg> turn;
  f32 o[P::BANDS][P::BAND / 2];
  for (;;) {
    if constexpr (P::CODED) look_ahead<Cfg, SIDE>(args, base, turn.number());
    barrier_wait(base + P::WEIGHED + turn.stage * 8, turn.parity);
    if (shared_pair(base + P::LOADS + turn.stage * 16).y == NOTHING) break;
    refill<Cfg, SIDE>(args, base, turn, member);
#pragma unroll
    for (int k = 0; k < Cfg::LATENT / 4; k++) o[k / (P::BAND / 2)][k % (P::BAND / 2)] = 0;
    i32 marks;
    do {
      u32 at = base;
      asm volatile("" : "+r"(at));  // as in `weigh`
      const u32 stage = at + turn.stage * P::STAGE_BYTES;
      if constexpr (P::CODED) look_ahead<Cfg, SIDE>(args, at, turn.number());
      barrier_wait(at + P::WEIGHED + turn.stage * 8, turn.parity);
      const Four load = shared_four(at + P::LOADS + turn.stage * 16);
      marks = load.x;
      if (!P::CODED && (load.z > 0 || load.w < KEYS))
        clear_unseen<P::VALUE_TILES / 2>(stage + SIDE * (P::VALUE_TILES / 2) * TILE_BYTES, load.z, load.w, 2 + SIDE);
      const u32 shrink = at + P::SHRINK + turn.stage * ROWS * 4;
      if constexpr (P::CODED) {
        multiply_weights<Cfg, SIDE>(stage, shrink, o, [&](int band) { convert_latents<Cfg, SIDE>(args, at, turn.number() + P::STAGES, band); });
        finish_stage<Cfg, SIDE>(args, at, turn.number() + P::STAGES);
        turn.next();
      } else {
        multiply_weights<Cfg, SIDE>(stage, shrink, o, [](int) {});
        refill<Cfg, SIDE>(args, at, turn, member);
      }
    } while (marks < LAST);
    if constexpr (P::HALVES) {
      const u32 row = base + P::FINAL + (marks & 1) * ROWS * 4 + accumulator_row(own_number(), 0) * 4;
      const f32 by[2] = {shared_f32(row), shared_f32(row + 32)};
#pragma unroll
      for (int k = 0; k < Cfg::LATENT / 4; k++) o[k / (P::BAND / 2)][k % (P::BAND / 2)] *= by[k / 2 % 2];
    }
    write_half<Cfg, SIDE>(args, marks & (EDGE - 1), blockIdx.x % args.team, o);
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
      barrier_init(base + P::FULL + stage * 8, P::CODED ? 8 : 1);
      barrier_init(base + P::WEIGHED + stage * 8, 4);
      barrier_init(base + P::EMPTY + stage * 8, 8);
    }
    barrier_init(base + P::Q_FREE, 4);
    for (int i = 0; i < 5 && P::CODED; i++) barrier_init(base + P::CODES_FULL + i * 8, 1);  // and `REST_FULL`
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
