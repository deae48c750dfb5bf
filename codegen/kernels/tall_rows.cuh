// What a thread of `decode_tall.cuh` has of its rows: from an item's queries to its output.

#include "tall_tiles.cuh"
#include "written.cuh"

// A thread has two rows, eight apart.
template <class Cfg>
struct Rows {
  f32 o[Cfg::LATENT / 2];
  f32 shift[2];  // what exponents count from
  f32 total[2];  // of exponentials, of this thread's keys
};

// Which 64 of a block's rows are this warpgroup's.
__device__ inline u32 own_rows() { return thread_number() / WARPGROUP - 1; }

constexpr u32 BOTH = 5;  // a barrier of both warpgroups; before it are those of turns, and of each

// A barrier of this warpgroup's.
__device__ inline u32 own_name() { return 3 + own_rows(); }

// Where the largest logits of a thread's rows and keys stand.
template <class Cfg>
__device__ inline u32 own_tops(u32 base) {
  return base + Place<Cfg>::TOPS + (own_rows() * WARPGROUP + own_number()) * 8;
}

// Says in shared memory what there is to do, `{item, end of its keys, first key that all see, end of them}`, and what rows see of the item's keys. Then
// takes its queries out of a stage when they are there: `full` and its parity. Returns the first key.
template <class Cfg>
__device__ inline i32 take_item(const Decoding& args, u32 base, i32 number, u32 stage, u32 full, u32 parity, u32 (&q)[Place<Cfg>::HELD][4],
                                Rows<Cfg>& rows) {
  using P = Place<Cfg>;
  const u32 self = own_number();
  const u32 mine = own_rows();
  const Item& item = args.items[number];
  const Group& group = args.groups[item.group];
  const i32 first = item.first * KEYS;
  const i32 end = item.end * KEYS;
  named_wait(own_name(), WARPGROUP);  // nobody reads what was said of the last item any more
  if (self == 0) share(base + P::WORK + mine * 16, Four{number, end, group.all_first, min(group.all_end, end)});
  share(own_tops<Cfg>(base), Two{LOW, LOW});
  bool there[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = mine * 64 + accumulator_row(self, half);
    const Row row = row_of<Cfg>(args, group, block_number() % args.team, r);
    // Of a row that is not there what registers hold is 0; it sees all and gets probabilities of 0: it costs no time, and little power
    there[half] = row.there;
    Limit seen = {0, 0x7fffffff};
    if (row.there) seen = args.limits[row.query];
    if (self % 4 == 0) share(base + P::LIMITS + r * 8, Pair{seen.from, min(seen.to, end)});
    rows.shift[half] = row.there ? LOW : -LOW;
    rows.total[half] = 0;
  }
  named_wait(own_name(), WARPGROUP);
  barrier_wait(full, parity);
  const u32 line = mine * 64 + self / 32 * 16 + self % 16;
#pragma unroll
  for (int k = 0; k < P::HELD; k++) {
    load_blocks(q[k], stage + k / 4 * P::Q_TILE_BYTES + swizzled_128(line * 128 + k % 4 * 32 + self % 32 / 16 * 16));
#pragma unroll
    for (int part = 0; part < 4; part++) q[k][part] = there[part % 2] ? q[k][part] : 0;
  }
#pragma unroll
  for (int k = 0; k < Cfg::LATENT / 2; k++) rows.o[k] = 0;
  return first;
}

// At a step that not all rows see all of: hides keys from those that don't see them, and makes zeros of latents that none sees. `of`: as `take_item`
// says; `key`: the step's first.
template <class Cfg, int N>
__device__ inline void hide_and_clear(const Decoding& args, u32 base, u32 keys, const Four& of, i32 key, f32 (&s)[N]) {
  using P = Place<Cfg>;
  hide_unseen(base + P::LIMITS + own_rows() * 64 * 8, key, own_number(), s);
  const Group& group = args.groups[args.items[of.x].group];
  const i32 first = group.first - key, end = min(group.end, of.y) - key;
  if (first > 0 || end < P::STEP) clear_unseen<P::VALUE_TILES, P::STEP>(keys, first, end, own_name());
}

// Logits become exponentials. `tops`: where the largest logits stand; `less`: by what earlier sums are multiplied.
template <class Cfg, int N>
__device__ inline void soften(u32 tops, f32 scale, f32 (&s)[N], Rows<Cfg>& rows, f32 (&less)[2]) {
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
  // A row's four threads need to know its largest logit only where one of them has seen one that is much larger
  if (__any_sync(ALL_LANES, behind)) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int lanes = 1; lanes < 4; lanes *= 2) m[half] = peak(m[half], __shfl_xor_sync(ALL_LANES, m[half], lanes));
      if (m[half] * scale - rows.shift[half] <= SLACK) continue;
      less[half] = exp2_fast(rows.shift[half] - m[half] * scale);
      rows.shift[half] = m[half] * scale;
      rows.total[half] *= less[half];
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

// Writes what an item gives, or sends what a part of it does by way of a stage that both warpgroups are done with.
template <class Cfg>
__device__ inline void write_rows(const Decoding& args, u32 base, u32 stage, const Item& item, const Group& group, const Rows<Cfg>& rows) {
  constexpr int TILES = Cfg::LATENT / TILE;
  constexpr u32 UNIT_BYTES = 2 * 64 * UNITS * 4;  // of a warpgroup
  constexpr int AT_ONCE = 2 * (2 * TILE_BYTES + UNIT_BYTES) <= Place<Cfg>::STAGE_BYTES ? 2 : 1;
  const u32 self = own_number();
  const int member = block_number() % args.team;
  const Two tops = shared_two(own_tops<Cfg>(base));
  f32 total[2] = {rows.total[0], rows.total[1]};
  f32 top[2] = {tops.x, tops.y};
  f32 inverse[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      total[half] += __shfl_xor_sync(ALL_LANES, total[half], lanes);
      top[half] = peak(top[half], __shfl_xor_sync(ALL_LANES, top[half], lanes));
    }
    inverse[half] = total[half] == 0 ? 0.0f : 1.0f / total[half];
    const int r = own_rows() * 64 + accumulator_row(self, half);
    const Row row = row_of<Cfg>(args, group, member, r);
    if (row.there && self % 4 == 0)
      write_row_sums<Cfg>(args, item, member, r, row, total[half] != 0 ? rows.shift[half] + log2_fast(total[half]) : LOW, top[half]);
    if (item.parts > 1) continue;
    const i64 to = (i64(row.query) * Cfg::H + row.head) * Cfg::LATENT;
    if (args.narrow) write_narrow<Cfg::LATENT>(args.narrow + to, row.there, half, inverse[half], rows.o);
    else write_wide<Cfg::LATENT>(args.out + to, row.there, half, inverse[half], rows.o);
  }
  if (item.parts == 1) return;
  named_wait(BOTH, 2 * WARPGROUP);  // both are done with the stage
  const u32 mine = own_rows();
  const u32 room = stage + mine * AT_ONCE * TILE_BYTES;
  const u32 units = stage + 2 * AT_ONCE * TILE_BYTES + mine * UNIT_BYTES;
  send_rows<Cfg, 0, TILES, AT_ONCE>(args, item, member, {int(mine) * 64, 64}, room, units, own_name(), inverse, rows.o);
}
