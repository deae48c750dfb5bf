// What a thread does with the two rows, eight apart, that it has of 64: logits become exponentials, and sums the output. Two warpgroups of a block, the
// second and the third, have 64 rows each, and take turns at the tensor cores.

#include "steps.cuh"
#include "written.cuh"

// What a thread knows of its rows.
struct Sums {
  f32 shift[2];  // what exponents count from
  f32 total[2];  // of exponentials, of this thread's keys
};

// Which 64 of a block's rows are this warpgroup's.
__device__ inline u32 own_rows() { return thread_number() / WARPGROUP - 1; }

// A barrier of this warpgroup's.
__device__ inline u32 own_name() { return 3 + own_rows(); }

// Waits until it is this warpgroup's turn, or says that it is the other's.
__device__ inline void wait_for_turn() { named_wait(1 + own_rows(), 2 * WARPGROUP); }
__device__ inline void pass_turn() { named_arrive(2 - own_rows(), 2 * WARPGROUP); }

// What exponents count from follows the largest logits, once they are far beyond it. `tops`: with `MOST`, where those stand; `less`: by what earlier sums are
// multiplied.
template <bool MOST, int N>
__device__ inline void follow(u32 tops, f32 scale, const f32 (&s)[N], Sums& sums, f32 (&less)[2]) {
  f32 m[2];
  bool behind = false;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    m[half] = peak(s[2 * half], s[2 * half + 1]);
#pragma unroll
    for (int block = 1; block < N / 4; block++) m[half] = peak(m[half], peak(s[(block * 2 + half) * 2], s[(block * 2 + half) * 2 + 1]));
    behind |= !(m[half] * scale - sums.shift[half] <= SLACK);
    less[half] = 1;
  }
  if constexpr (MOST) {
    const Two top = shared_two(tops);
    share(tops, Two{peak(m[0], top.x), peak(m[1], top.y)});
  }
  // A row's four threads need to know its largest logit only where one of them has seen one that is much larger
  if (!__any_sync(ALL_LANES, behind)) return;
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) m[half] = peak(m[half], __shfl_xor_sync(ALL_LANES, m[half], lanes));
    if (m[half] * scale - sums.shift[half] <= SLACK) continue;
    less[half] = exp2_fast(sums.shift[half] - m[half] * scale);
    sums.shift[half] = m[half] * scale;
    sums.total[half] *= less[half];
  }
}

// Logits become exponentials.
template <int N>
__device__ inline void soften(f32 scale, f32 (&s)[N], Sums& sums) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int block = 0; block < N / 4; block++) {
      const int i = (block * 2 + half) * 2;
      s[i] = exp2_fast(s[i] * scale - sums.shift[half]);
      s[i + 1] = exp2_fast(s[i + 1] * scale - sums.shift[half]);
      sums.total[half] += s[i] + s[i + 1];
    }
  }
}

// What earlier tiles have added is worth less.
template <int N>
__device__ inline void shrink(const f32 (&less)[2], f32 (&o)[N]) {
  if (!__any_sync(ALL_LANES, less[0] != 1 || less[1] != 1)) return;
#pragma unroll
  for (int k = 0; k < N; k++) o[k] *= less[k / 2 % 2];
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
