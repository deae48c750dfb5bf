// The first warpgroup of `decode_wide.cuh`: logits and probabilities.

#include "wide_chosen_codes.cuh"
#include "wgmma.cuh"

// A piece of the queries that registers don't hold waits in memory, which means in the L1.
__device__ inline void put_aside(const Decoding& args, int thread, const u32 (&x)[4]) {
  Quad* at = args.spare + blockIdx.x * (2 * WARPGROUP) + thread;
  store_quad(at, x);
}
__device__ inline void take_aside(const Decoding& args, int thread, u32 (&x)[4]) {
  const Quad* at = args.spare + blockIdx.x * (2 * WARPGROUP) + thread;
  load_quad(at, x);
}

// ---- The first warpgroup: logits and probabilities. A thread has two rows, eight apart, and in each 16 keys of a tile ----

// What a thread knows of its rows.
struct Sums {
  f32 shift[2];  // what exponents count from
  f32 total[2];  // of exponentials, of this thread's keys
};

// What is known of an item's rows before its queries are there.
struct ItemRows {
  Sums sums;
  bool there[2];
};

// Leaves what an item's rows see.
template <class Cfg>
__device__ inline ItemRows take_rows(const Decoding& args, u32 base, i32 number) {
  using P = Place<Cfg>;
  const u32 self = own_number();
  const Group group = args.groups[args.items[number].group];
  ItemRows rows;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int r = accumulator_row(self, half);
    const Row row = row_of<Cfg>(args, group, block_number() % args.team, r);
    // A row that is not there is 0, sees all and gets probabilities of 0: it costs no time, and little power
    rows.there[half] = row.there;
    if constexpr (!CHOOSES<Cfg>) {
      Limit seen = {0, 0x7fffffff};
      if (row.there) seen = args.limits[row.query];
      share(base + P::LIMITS + r * 8, Pair{seen.from, seen.to});
    }
    share(base + P::TOP + r * 4, LOW);
    rows.sums.shift[half] = row.there ? LOW : -LOW;
    rows.sums.total[half] = 0;
  }
  return rows;
}

// Takes an item's queries out of a stage.
template <class Cfg>
__device__ inline void take_queries(const Decoding& args, u32 queries, const bool (&there)[2], u32 (&q)[Place<Cfg>::HELD][4]) {
  using P = Place<Cfg>;
  const u32 self = own_number();
  const u32 line = self / 32 * 16 + self % 16;
#pragma unroll
  for (int k = 0; k < P::STEPS; k++) {
    u32 piece[4];
    load_blocks(piece, queries + k / 4 * TILE_BYTES + swizzled_128(line * 128 + k % 4 * 32 + self % 32 / 16 * 16));
#pragma unroll
    for (int part = 0; part < 4; part++) piece[part] = there[part % 2] ? piece[part] : 0;
    if (k >= P::HELD) put_aside(args, (k - P::HELD) * WARPGROUP + self, piece);
#pragma unroll
    for (int part = 0; part < 4 && k < P::HELD; part++) q[k][part] = piece[part];
  }
}

// Makes an item's queries f16 where they lie, each row times the power of two by which its largest is at least 1 and below 2; the rotated part stays bf16. A warp has the rows that it
// takes then.
template <class Cfg>
__device__ inline void halve_queries(u32 base, u32 queries, const bool (&there)[2]) {
  using P = Place<Cfg>;
  constexpr int PIECES = P::STEPS + P::ROPE_STEPS;
  const u32 self = own_number();
  const u32 line = self / 32 * 16 + self % 16;
  const auto low = [](u32 pair) { return f32_of(pair << 16); };
  const auto high = [](u32 pair) { return f32_of(pair & 0xffff0000u); };
  const auto place = [&](int k) {
    const u32 from = k < P::STEPS ? queries + k / 4 * TILE_BYTES : base + P::Q_ROPE;
    return from + swizzled_128(line * 128 + k % 4 * 32 + self % 32 / 16 * 16);
  };
  f32 most[2] = {0, 0};
#pragma unroll 4
  for (int k = 0; k < PIECES; k++) {
    u32 piece[4];
    load_blocks(piece, place(k));
#pragma unroll
    for (int part = 0; part < 4; part++) most[part % 2] = fmaxf(most[part % 2], fmaxf(fabsf(low(piece[part])), fabsf(high(piece[part]))));
  }
  f32 inverse[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    most[half] = there[half] ? most[half] : 0;
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) most[half] = fmaxf(most[half], __shfl_xor_sync(ALL_LANES, most[half], lanes));
    const RowUnit row_unit(most[half]);
    inverse[half] = row_unit.inverse;
    if (self % 4 == 0) share(base + P::ROW_UNITS + accumulator_row(self, half) * 4, row_unit.unit);
  }
#pragma unroll 4
  for (int k = 0; k < PIECES; k++) {
    u32 piece[4];
    load_blocks(piece, place(k));
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const f32 x = low(piece[part]) * inverse[part % 2], y = high(piece[part]) * inverse[part % 2];
      piece[part] = !there[part % 2] ? 0 : k < P::STEPS ? pack_f16(x, y) : pack_bf16(x, y);
    }
    store_blocks(place(k), piece);
  }
  fence_proxy_async();
  named_wait(1, WARPGROUP);
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
    wgmma_bf16<0, 0>(s, rows_at(left + k * 2), rows_at(right + (P::ROPE + k * 32) / 16), k > 0);
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

// The same of keys in f16, whose columns come in two halves: of each side the first 128, and the others with the rotated part. `when`: the barrier that says so, and its parity.
template <class Cfg, class PassOn>
__device__ inline void multiply_widened(const Decoding& args, u32 queries, u32 keys, u32 self, u32 when, u32 parity, const u32 (&q)[Place<Cfg>::HELD][4],
                                        u32 (&rest)[4], f32 (&s)[32], PassOn pass_on) {
  using P = Place<Cfg>;
  constexpr int QUARTER = P::STEPS / 4;
  constexpr int LATE = 5;  // products that run when the tile before is passed on
  static_assert(P::HELD > 3 * QUARTER + LATE && P::STEPS == P::HELD + 2, "two pieces wait in memory");
  const u32 left = place_of(queries);
  const u32 right = place_of(keys);
  const auto piece = [&](const u32 (&a)[4], int k, bool add) { wgmma_f16<0>(s, a, rows_at(right + (k / 4 * TILE_BYTES + k % 4 * 32) / 16), add); };
  const auto pieces = [&](int first, int end) {
#pragma unroll
    for (int k = first; k < end; k++) piece(q[k], k, k > 0);
  };
  settle(s);
  wgmma_fence();
  pieces(0, QUARTER);
  pieces(2 * QUARTER, 3 * QUARTER);
  wgmma_commit();
  barrier_wait(when, parity);
  fence_proxy_async();
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::ROPE_STEPS; k++) wgmma_bf16<0, 0>(s, rows_at(left + k * 2), rows_at(right + (P::ROPE + k * 32) / 16), true);
  piece(rest, P::HELD, true);
  wgmma_commit();
  pieces(QUARTER, 2 * QUARTER);
  wgmma_commit();
  wgmma_wait<1>();
  __syncwarp();  // the second piece comes into the same registers: no sooner
  take_aside(args, WARPGROUP + self, rest);
  wgmma_fence();
  piece(rest, P::HELD + 1, true);
  pieces(3 * QUARTER, P::HELD - LATE);
  wgmma_commit();
  pieces(P::HELD - LATE, P::HELD);
  wgmma_commit();
  wgmma_wait<1>();
  pass_on();
  wgmma_wait<0>();
  settle(s);
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
// row are multiplied. `less_unit`: by what they are anyway.
__device__ inline void soften(const Decoding& args, u32 shrink, u32 self, bool is_last, const f32 (&m)[2], f32 (&s)[32], Sums& sums, f32 less_unit = 1) {
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
    if (self % 4 == 0) share(shrink + accumulator_row(self, half) * 4, less * less_unit);
  }
}

// Leaves probabilities as the left operand of products.
template <class Cfg>
__device__ inline void leave_weights(u32 to, u32 self, const f32 (&s)[32]) {
  const u32 row = self / 32 * 16 + self % 16;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    u32 p[4];
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const int i = 2 * (4 * k + part);
      p[part] = Entry<Cfg>::HALVES ? pack_f16(s[i], s[i + 1]) : pack_bf16(s[i], s[i + 1]);
    }
    store_blocks(to + swizzled_128(row * 128 + k * 32 + self % 32 / 16 * 16), p);
  }
  fence_proxy_async();
}

// Writes what is known of an item's rows beside their output.
template <class Cfg>
__device__ inline void write_sums(const Decoding& args, u32 base, i32 number, const Sums& sums) {
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
    write_row_sums<Cfg>(args, item, member, r, row, weight, shared_f32(base + Place<Cfg>::TOP + r * 4));
  }
  if (item.parts > 1) part_written(args, item, member, 1);
}

// All items of a team.
template <class Cfg>
__device__ inline void weigh(const Decoding& args, u32 base) {
  using P = Place<Cfg>;
  Turn<Cfg> turn;
  u32 q[P::HELD][4];
  for (i32 number = args.starts[block_number() / args.team]; number < args.starts[block_number() / args.team + 1]; number++) {
    // While the queries are on their way
    ItemRows rows = take_rows<Cfg>(args, base, number);
    Sums& sums = rows.sums;
    barrier_wait(base + P::FULL + turn.stage * 8, turn.parity);
    if constexpr (P::WIDENED) {
      barrier_wait(base + P::REST + turn.stage * 8, turn.parity);
      halve_queries<Cfg>(base, base + turn.stage * P::STAGE_BYTES, rows.there);
    }
    take_queries<Cfg>(args, base + turn.stage * P::STAGE_BYTES, rows.there, q);
    arrive_once_a_warp(base + P::WEIGHED + turn.stage * 8);
    turn.next();
    i32 marks;
    bool waits = false;  // the tile before has not been passed on
    [[maybe_unused]] f32 unit = LEAST_UNIT;  // of latents with scales: a power of two that no key's unit was larger than; the output counts in it
    do {
      u32 at = base;
      asm volatile("" : "+r"(at));  // descriptors are made anew for each tile: there are no registers for all of them
      const u32 self = own_number();
      const u32 keys = at + turn.stage * P::STAGE_BYTES;
      const u32 weights = keys + P::WEIGHTS;
      u32 rest[4];
      if (P::HELD < P::STEPS) take_aside(args, self, rest);
      barrier_wait(at + P::FULL + turn.stage * 8, turn.parity);
      if constexpr (CHOOSES<Cfg>) fence_proxy_async();  // threads have fetched what is multiplied
      f32 s[32];
      // Only with this tile's logits may the one before be multiplied: its products run beside this tile's softmax
      const auto pass_on = [&]() {
        if (waits) arrive_once_a_warp(at + P::WEIGHED + turn.before() * 8);
        waits = true;
      };
      if constexpr (P::WIDENED) multiply_widened<Cfg>(args, at + P::Q_ROPE, keys, self, at + P::REST + turn.stage * 8, turn.parity, q, rest, s, pass_on);
      const Pair load = shared_pair(at + P::LOADS + turn.stage * 16);
      marks = load.x;
      const bool is_last = marks >= LAST;
      if constexpr (!P::WIDENED) multiply_queries<Cfg>(args, at + P::Q_ROPE, keys, self, q, rest, s, pass_on);
      named_wait(1, WARPGROUP);  // all of this group have read the rotated keys, over which probabilities go
      if (is_last && Cfg::ROPE > 0) arrive_once_a_warp(at + P::Q_FREE);
      f32 less_unit = 1;
      const u32 key_units = at + P::KEY_UNITS + turn.stage * (KEYS * 4);
      if constexpr (P::WIDENED) {
        const f32 now = larger(unit, count_in_ones(key_units, at + P::ROW_UNITS, self, s));
        less_unit = unit * inverse_of_unit(now);
        unit = now;
      }
      if constexpr (CHOOSES<Cfg>) hide_missing(at + P::SEEN + turn.stage * 16, self, s);
      else if (marks & EDGE) hide_unseen(at + P::LIMITS, load.y * KEYS, self, s);
      f32 m[2];
      largest(s, m);
      soften(args, at + P::SHRINK + turn.stage * ROWS * 4, self, is_last, m, s, sums, less_unit);
      if constexpr (P::WIDENED) {
        count_in_units(key_units, self, unit, s);
        if (is_last && self == 0) share(at + P::OUT_UNITS + turn.stage * 4, unit * (1 / UNIT));
      }
      leave_weights<Cfg>(weights, self, s);
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
    number = marks & (EDGE - 1);  // that is where it was kept
    write_sums<Cfg>(args, base, number, sums);
    __syncwarp();  // the next item's rows are left where this one's largest logits were read
  }
  barrier_wait(base + P::FULL + turn.stage * 8, turn.parity);
  arrive_once_a_warp(base + P::WEIGHED + turn.stage * 8);
}
