// Absorbed attention over a cache of latents of up to 256 columns, 128 rows of queries at a time: what docs/kernels/decode.md draws.
//
// Three warpgroups. A warp of the first copies keys to a ring of stages. The second and third have 64 rows each, meet the same keys, and take turns
// at the tensor cores: while one of them has its products there, the other makes probabilities.

#include "tall_tiles.cuh"
#include "wgmma.cuh"

#ifndef TURNS
#define TURNS 1
#endif

// What a thread knows of its two rows, eight apart.
template <class Cfg>
struct Rows {
  f32 o[Cfg::LATENT / 2];
  f32 shift[2];  // what exponents count from
  f32 total[2];  // of exponentials, of this thread's keys
};

// Which 64 of the rows are this warpgroup's.
__device__ inline u32 own_rows() {
  u32 x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));  // asked for anew, as `own_number`
  return x / WARPGROUP - 1;
}

// Names of barriers: a warpgroup's turn, and its own.
__device__ inline u32 turn_of(u32 mine) { return 1 + mine; }
__device__ inline u32 own_name() { return 3 + own_rows(); }

// Where the largest logits of a thread's rows and keys stand.
template <class Cfg>
__device__ inline u32 own_tops(u32 base) {
  return base + Place<Cfg>::TOPS + (own_rows() * WARPGROUP + own_number()) * 8;
}

// Takes an item's queries out of a stage, and says in shared memory what there is to do: `{item, end of its keys, first key that all see, end of them}`,
// and what rows see of the item's keys. Returns its first key.
template <class Cfg>
__device__ inline i32 take_item(const Decoding& args, u32 base, i32 number, u32 stage, u32 (&q)[Place<Cfg>::HELD][4], Rows<Cfg>& rows) {
  using P = Place<Cfg>;
  const u32 self = own_number();
  const u32 mine = own_rows();
  const Item& item = args.items[number];
  const Group& group = args.groups[item.group];
  const i32 end = item.end * KEYS;
  if (self == 0) share(base + P::WORK + mine * 16, Four{number, end, group.all_first, min(group.all_end, end)});
  share(own_tops<Cfg>(base), Two{LOW, LOW});
  bool there[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = mine * 64 + accumulator_row(self, half);
    const Row row = row_of<Cfg>(args, group, own_block() % args.team, r);
    // A row that is not there is 0, sees all and gets probabilities of 0: it costs no time, and little power
    there[half] = row.there;
    Limit seen = {0, 0x7fffffff};
    if (row.there) seen = args.limits[row.query];
    if (self % 4 == 0) share(base + P::LIMITS + r * 8, Pair{seen.from, min(seen.to, end)});
    rows.shift[half] = row.there ? LOW : -LOW;
    rows.total[half] = 0;
  }
  const u32 line = mine * 64 + self / 32 * 16 + self % 16;
#pragma unroll
  for (int k = 0; k < P::HELD; k++) {
    load_blocks(q[k], stage + k / 4 * P::Q_TILE_BYTES + swizzled_128(line * 128 + k % 4 * 32 + self % 32 / 16 * 16));
#pragma unroll
    for (int part = 0; part < 4; part++) q[k][part] = there[part % 2] ? q[k][part] : 0;
  }
#pragma unroll
  for (int k = 0; k < Cfg::LATENT / 2; k++) rows.o[k] = 0;
  return item.first * KEYS;
}

// Begins logits.
template <class Cfg>
__device__ inline void multiply_queries(u32 base, u32 keys, const u32 (&q)[Place<Cfg>::HELD][4], f32 (&s)[Place<Cfg>::STEP / 2]) {
  using P = Place<Cfg>;
  constexpr int HELD_STEPS = P::HELD_TILES * 4;
  const u32 left = place_of(base + P::Q + own_rows() * 64 * 128);
  const u32 right = place_of(keys);
  settle(s);
  wgmma_fence();
#pragma unroll
  for (int k = HELD_STEPS; k < P::STEPS; k++)
    wgmma_bf16<0, 0>(s, rows_at(left + ((k - HELD_STEPS) / 4 * P::Q_TILE_BYTES + k % 4 * 32) / 16),
                     rows_at(right + (k / 4 * P::SLOT_BYTES + k % 4 * 32) / 16), k > HELD_STEPS);
#pragma unroll
  for (int k = 0; k < (P::HOLDS_ROPE ? 0 : P::ROPE_STEPS); k++)
    wgmma_bf16<0, 0>(s, rows_at(left + ((P::VALUE_TILES - P::HELD_TILES) * P::Q_TILE_BYTES + k * 32) / 16),
                     rows_at(right + (P::VALUE_TILES * P::SLOT_BYTES + k * 32) / 16), P::STEPS > HELD_STEPS || k > 0);
#pragma unroll
  for (int k = 0; k < P::HELD; k++) {
    const int slot = k < HELD_STEPS ? k / 4 : P::VALUE_TILES;
    wgmma_bf16<0>(s, q[k], rows_at(right + (slot * P::SLOT_BYTES + k % 4 * 32) / 16), P::KEPT_TILES > 0 || k > 0);
  }
  wgmma_commit();
}

// Begins what a step adds to the output.
template <class Cfg>
__device__ inline void multiply_weights(u32 keys, const u32 (&p)[Place<Cfg>::STEP / 16][4], f32 (&o)[Cfg::LATENT / 2]) {
  using P = Place<Cfg>;
  const u32 right = place_of(keys);
  settle(o);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::STEP / 16; k++) wgmma_bf16<1>(o, p[k], columns_at(right + k * 128, P::SLOT_BYTES), true);
  wgmma_commit();
}

// Hides keys from rows that don't see them. `limits`: where they stand in shared memory; `first`: the step's first key.
template <int N>
__device__ inline void hide_unseen(u32 limits, i32 first, u32 self, f32 (&s)[N]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Pair limit = shared_pair(limits + accumulator_row(self, half) * 8);
    const i32 from = limit.x - first - accumulator_column(self, 0), end = limit.y - first - accumulator_column(self, 0);
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      const int key = i / 2 * 8 + i % 2;  // counted from the thread's first
      if (key < from || key >= end) s[i / 2 * 4 + half * 2 + i % 2] = minus_infinity();
    }
  }
}

// The same at a step that not all rows see all of, and zeros over latents that none sees. `of`: as `take_item` says.
template <class Cfg, int N>
__device__ inline void hide_and_clear(const Decoding& args, u32 base, u32 keys, const Four& of, i32 key, f32 (&s)[N]) {
  using P = Place<Cfg>;
  hide_unseen(base + P::LIMITS + own_rows() * 64 * 8, key, own_number(), s);
  const Group& group = args.groups[args.items[of.x].group];
  const i32 first = group.first - key, end = min(group.end, of.y) - key;
  if (first > 0 || end < P::STEP) clear_unseen<P::VALUE_TILES, P::STEP>(keys, first, end, own_name());
}

// Logits become exponentials. `less`: by what earlier sums are multiplied.
template <class Cfg, int N>
__device__ inline void soften(u32 tops, f32 scale, f32 (&s)[N], Rows<Cfg>& rows, f32 (&less)[2]) {
  constexpr f32 SLACK = 8;  // the maximum may lag behind by this much, in powers of two: most steps then change no sum
  f32 m[2];
  bool behind = false;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    m[half] = peak(s[2 * half], s[2 * half + 1]);
#pragma unroll
    for (int block = 1; block < N / 4; block++) m[half] = peak(m[half], peak(s[(block * 2 + half) * 2], s[(block * 2 + half) * 2 + 1]));
    behind |= !(m[half] * scale - rows.shift[half] <= SLACK);
    less[half] = 1;
  }
  const Two top = shared_two(tops);
  share(tops, Two{peak(m[0], top.x), peak(m[1], top.y)});
  if (__any_sync(ALL_LANES, behind)) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int lanes = 1; lanes < 4; lanes *= 2) m[half] = peak(m[half], __shfl_xor_sync(ALL_LANES, m[half], lanes));
      if (!(m[half] * scale - rows.shift[half] <= SLACK)) {
        less[half] = exp2_fast(rows.shift[half] - m[half] * scale);
        rows.shift[half] = m[half] * scale;
        rows.total[half] *= less[half];
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int block = 0; block < N / 4; block++) {
      const int i = (block * 2 + half) * 2;
      s[i] = exp2_fast(s[i] * scale - rows.shift[half]);
      s[i + 1] = exp2_fast(s[i + 1] * scale - rows.shift[half]);
      rows.total[half] += s[i] + s[i + 1];
    }
  }
}

template <class Cfg>
__device__ inline void shrink(const f32 (&less)[2], Rows<Cfg>& rows) {
  if (!__any_sync(ALL_LANES, less[0] != 1 || less[1] != 1)) return;
#pragma unroll
  for (int k = 0; k < Cfg::LATENT / 2; k++) rows.o[k] *= less[k / 2 % 2];
}

// Exponentials as the left operand of products.
template <int STEPS, int N>
__device__ inline void pack_weights(const f32 (&s)[N], u32 (&p)[STEPS][4]) {
#pragma unroll
  for (int k = 0; k < STEPS; k++) {
#pragma unroll
    for (int part = 0; part < 4; part++) p[k][part] = pack_bf16(s[2 * (4 * k + part)], s[2 * (4 * k + part) + 1]);
  }
}

// Writes what an item, or a part of it, gives.
template <class Cfg>
__device__ inline void write_rows(const Decoding& args, u32 base, i32 number, Rows<Cfg>& rows) {
  const u32 self = own_number();
  const u32 mine = own_rows();
  const int member = own_block() % args.team;
  const Item item = args.items[number];
  const Group group = args.groups[item.group];
  const Two tops = shared_two(own_tops<Cfg>(base));
#pragma unroll
  for (int half = 0; half < 2; half++) {
    f32 total = rows.total[half], top = half == 0 ? tops.x : tops.y;
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      total += __shfl_xor_sync(ALL_LANES, total, lanes);
      top = peak(top, __shfl_xor_sync(ALL_LANES, top, lanes));
    }
    const int r = mine * 64 + accumulator_row(self, half);
    const Row row = row_of<Cfg>(args, group, member, r);
    if (!row.there) continue;
    const f32 inverse = total == 0 ? 0.0f : 1.0f / total;
    if (self % 4 == 0) write_row_sums<Cfg>(args, item, member, r, row, total != 0 ? rows.shift[half] + log2_fast(total) : LOW, top);
    const i64 to = line_of<Cfg>(args, item, member, r, row) * Cfg::LATENT + self % 4 * 2;
    if (item.parts == 1 && args.narrow) {
#pragma unroll
      for (int block = 0; block < Cfg::LATENT / 8; block++) {
        const int k = (block * 2 + half) * 2;
        *reinterpret_cast<u32*>(args.narrow + to + block * 8) = pack_bf16(rows.o[k] * inverse, rows.o[k + 1] * inverse);
      }
    } else {
      f32* out = item.parts == 1 ? args.out : args.part_out;
#pragma unroll
      for (int block = 0; block < Cfg::LATENT / 8; block++) {
        const int k = (block * 2 + half) * 2;
        *reinterpret_cast<float2*>(out + to + block * 8) = float2{rows.o[k] * inverse, rows.o[k + 1] * inverse};
      }
    }
  }
  if (item.parts > 1) part_written(args, item, member, own_name());
}

// All items of a team, for 64 rows.
template <class Cfg>
__device__ inline void attend_tiles(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  constexpr int N = P::STEP / 2;
  constexpr u32 BOTH = 2 * WARPGROUP;
  Turn<Cfg> turn;
  Rows<Cfg> rows;
  u32 q[P::HELD][4];
  u32 p[P::STEP / 16][4];
  f32 s[N];
  f32 less[2];
  if (TURNS && own_rows() == 1) named_arrive(turn_of(0), BOTH);
#pragma unroll 1
  for (i32 i = args.starts[own_block() / args.team]; i < args.starts[own_block() / args.team + 1]; i++) {
    barrier_wait(base + P::FULL + turn.stage * 8, turn.parity);
    named_wait(own_name(), WARPGROUP);  // nobody reads what was said of the last item any more
    i32 key = take_item<Cfg>(args, base, i, base + turn.stage * P::STAGE_BYTES, q, rows);
    arrive_once_a_warp(base + P::EMPTY + turn.stage * 8);
    named_wait(own_name(), WARPGROUP);
    turn.next();
    // What becomes of a step's logits; whether it is the last
    const auto weigh = [&](u32 at, u32 keys) {
      const Four of = shared_four(at + P::WORK + own_rows() * 16);
      if (key < of.z || key + P::STEP > of.w) hide_and_clear<Cfg>(args, at, keys, of, key, s);
      soften<Cfg>(own_tops<Cfg>(at), args.scale_log2, s, rows, less);
      key += P::STEP;
      return key >= of.y;
    };
    bool last;
    {
      const u32 keys = base + turn.stage * P::STAGE_BYTES;
      barrier_wait(base + P::FULL + turn.stage * 8, turn.parity);
      if (TURNS) named_wait(turn_of(own_rows()), BOTH);
      multiply_queries<Cfg>(base, keys, q, s);
      if (TURNS) named_arrive(turn_of(1 - own_rows()), BOTH);
      wgmma_wait<0>();
      settle(s);
      last = weigh(base, keys);
      pack_weights(s, p);
    }
    u32 before = turn.stage;
    turn.next();
#pragma unroll 1
    while (!last) {
      u32 at = base;
      asm volatile("" : "+r"(at));  // descriptors are made anew for each step: there are no registers for all of them
      const u32 keys = at + turn.stage * P::STAGE_BYTES;
      barrier_wait(at + P::FULL + turn.stage * 8, turn.parity);
      if (TURNS) named_wait(turn_of(own_rows()), BOTH);
      multiply_queries<Cfg>(at, keys, q, s);
      multiply_weights<Cfg>(at + before * P::STAGE_BYTES, p, rows.o);
      if (TURNS) named_arrive(turn_of(1 - own_rows()), BOTH);
      wgmma_wait<1>();
      settle(s);
      last = weigh(at, keys);
      wgmma_wait<0>();
      settle(rows.o);
      arrive_once_a_warp(at + P::EMPTY + before * 8);
      shrink<Cfg>(less, rows);
      pack_weights(s, p);
      before = turn.stage;
      turn.next();
    }
    if (P::KEPT_TILES > 0) arrive_once_a_warp(base + P::Q_FREE);
    multiply_weights<Cfg>(base + before * P::STAGE_BYTES, p, rows.o);
    wgmma_wait<0>();
    settle(rows.o);
    arrive_once_a_warp(base + P::EMPTY + before * 8);
    i = shared_i32(base + P::WORK + own_rows() * 16);
    write_rows<Cfg>(args, base, i, rows);
  }
  if (TURNS && own_rows() == 0) named_wait(turn_of(0), BOTH);  // the other's last word
}

template <class Cfg>
__device__ void decode_tall(const Decoding& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    if (base % 1024 != 0) __trap();
    for (int stage = 0; stage < P::STAGES; stage++) {
      barrier_init(base + P::FULL + stage * 8, 1);
      barrier_init(base + P::EMPTY + stage * 8, 8);
    }
    barrier_init(base + P::Q_FREE, 8);
    fence_barrier_init();
  }
  // Rows of queries that no copy fills are 0
  for (u32 at = threadIdx.x * 16; at < P::KEPT_TILES * P::Q_TILE_BYTES; at += blockDim.x * 16) share(base + P::Q + at, Four{});
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x < WARPGROUP) {
    registers_down<P::BRINGS>();
    if (threadIdx.x < WARP) bring_tiles<Cfg>(args, base);
    registers_up<P::ALL_HAVE>();
  } else {
    registers_up<P::ATTENDS>();
    attend_tiles<Cfg>(args, base);
    registers_down<P::ALL_HAVE>();  // what follows is for all
  }
  join_items<Cfg, 2>(args, own_block() / args.team, own_block() % args.team, reinterpret_cast<f32*>(shared));
}
