// What a thread of `flash_forward.cuh` has of its rows: from logits to the output.

#include "flash_tiles.cuh"
#include "two_rows.cuh"

// A thread has two rows, eight apart.
template <class Cfg>
struct Rows {
  f32 o[Cfg::V / 2];
  Sums sums;
};

// Knows nothing of a task's rows yet. Those that the work doesn't have never will, and give nothing.
template <class Cfg>
__device__ inline void begin_rows(const Work& work, u32 tops, Sums& sums) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const i32 row = own_rows() * 64 + accumulator_row(own_number(), half);
    sums.shift[half] = row < work.rows ? LOW : -LOW;
    sums.total[half] = 0;
  }
  if (Cfg::MOST) share(tops, Two{minus_infinity(), minus_infinity()});
}

// Whether a row of this warp has seen no key yet.
__device__ inline bool waits_for_keys(const Sums& sums) { return __any_sync(ALL_LANES, sums.shift[0] == LOW || sums.shift[1] == LOW); }

// Hides keys from rows that don't see them. `key`: the first that logits are of.
template <int N>
__device__ inline void hide_unseen(const FlashForward& args, const Work& work, i32 key, f32 (&s)[N]) {
  const u32 self = own_number();
  key += accumulator_column(self, 0);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const i32 row = own_rows() * 64 + accumulator_row(self, half);
    const Limit seen = row < work.rows ? args.limits[work.row + row] : Limit{0, 0};
    const i32 from = seen.from - key, to = seen.to - key;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      const int at = i / 2 * 8 + i % 2;
      if (at < from || at >= to) s[i / 2 * 4 + half * 2 + i % 2] = minus_infinity();
    }
  }
}

// Makes zeros of values that no row sees: they may be anything, and probabilities of 0 would not undo a NaN.
template <class Cfg>
__device__ inline void clear_unseen(u32 values, i32 first, i32 end) {
  using P = Place<Cfg>;
#pragma unroll 1
  for (int at = own_number(); at < P::KEYS * 8 * P::V_TILES; at += WARPGROUP) {
    const int key = at / 8 % P::KEYS;
    if (key < first || key >= end) share(values + at * 16, Four{});
  }
  fence_proxy_async();
  named_wait(own_name(), WARPGROUP);
}

// Bends logits so that none is beyond the cap: cap · tanh(s · scale / cap), by tanh x = 1 − 2 / (e^2x + 1).
template <int N>
__device__ inline void bend(f32 by, f32 (&s)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) s[i] = 1 - 2 * reciprocal_fast(exp2_fast(s[i] * by) + 1);
}

// Writes what a work's rows give. `trusting`: exponents counted from the first tile's logits; where others were too far beyond those, the task is noted
// down, to be done again.
template <class Cfg>
__device__ inline void write_rows(const FlashForward& args, const Pair& task, bool trusting, u32 at_tops, const Rows<Cfg>& rows) {
  const Work& work = args.works[task.x];
  const u32 self = own_number();
  Two tops{};
  if (Cfg::MOST) tops = shared_two(at_tops);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    f32 total = rows.sums.total[half];
    f32 top = half == 0 ? tops.x : tops.y;
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      total += __shfl_xor_sync(ALL_LANES, total, lanes);
      if (Cfg::MOST) top = peak(top, __shfl_xor_sync(ALL_LANES, top, lanes));
    }
    const i32 r = own_rows() * 64 + accumulator_row(self, half);
    const bool there = r < work.rows;
    if (trusting && there && !(total < TOO_LARGE)) note_down(args, task);
    const bool saw = total != 0;
    f32 shift = rows.sums.shift[half];
    f32 by = 1;
    if constexpr (Cfg::SINKS) {
      // A row that saw nothing gives the sink nothing either
      const f32 sink = args.sinks[task.y] * LOG2_E;
      const f32 most = peak(shift, sink);
      by = exp2_fast(shift - most);
      total = saw ? total * by + exp2_fast(sink - most) : 0;
      shift = most;
    }
    by = saw ? by / total : 0;
    const i64 row = work.row + r;
    if (there && self % 4 == 0) {
      args.lse[row * args.heads + task.y] = saw ? (shift + log2_fast(total)) / LOG2_E : minus_infinity();
      if (Cfg::MOST) args.max_logit[row * args.heads + task.y] = top * args.scale;
    }
    const i64 to = row * args.row_stride + task.y * args.head_stride;
    if (args.narrow) write_narrow<Cfg::V>(args.narrow + to, there, half, by, rows.o);
    else write_wide<Cfg::V>(args.wide + to, there, half, by, rows.o);
  }
}
