// Codes of keys that a list names, which become f16 on their way to shared memory. A key counts in a unit, a power of two above all its scales: a latent is its code times
// its scale over that, at most 448, and the rotated part, which stays bf16, is divided by it, too. So what is in shared memory does not depend on other keys. Logits
// are multiplied by the unit before the softmax, and probabilities after it, over one that is larger than all units so far.

#include "chosen_keys.cuh"

// What a key counts in.
struct KeyUnit {
  f32 unit, inverse;
  __device__ explicit KeyUnit(const Quad& scales) {
    f32 most = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) most = peak(most, fabsf(f32_of(scales.words[i])));
    // So that neither it nor its double, nor what they are divided by, is 0 or infinite
    const u32 exponent = min(max((bits_of(most) >> 23) + 1, 64u), 252u);
    unit = f32_of(exponent << 23);
    inverse = f32_of((254 - exponent) << 23);
  }
};

// One over a power of two that is neither very large nor very small.
__device__ inline f32 inverse_of_unit(f32 unit) { return f32_of((254u << 23) - bits_of(unit)); }

// A number twice, as a pair of f16 and of bf16.
__device__ inline u32 twice_f16(f32 x) { return pack_f16(x, x); }
__device__ inline u32 twice_bf16(f32 x) { return pack_bf16(x, x); }

// Which of every four keys a lane fetches codes of, and which 16 of a line. Eight lanes that write together have two keys' lines: what they write is at 32 different banks.
__device__ inline u32 own_of_four() { return own_lane() / 16 * 2 + own_lane() / 4 % 2; }
__device__ inline u32 own_chunk() { return own_lane() / 8 % 2 * 4 + own_lane() % 4; }
__device__ inline u32 own_rotated_chunk() { return (own_lane() / 8 ^ own_lane() / 4) % 2 * 4 + own_lane() % 4; }

// Eight codes as f16.
__device__ inline Four widened(u32 low, u32 high) {
  u32 x[4];
  widen_e4m3(low, x[0], x[1]);
  widen_e4m3(high, x[2], x[3]);
  return {i32(x[0]), i32(x[1]), i32(x[2]), i32(x[3])};
}

// Sixteen codes become f16: the first eight to `to`, the others to where its address's fifth bit is the other.
__device__ inline void leave_widened(u32 to, const Quad& codes) {
  share(to, widened(codes.words[0], codes.words[1]));
  share(to ^ 16, widened(codes.words[2], codes.words[3]));
}

// The same, times a pair that is a scale twice.
__device__ inline void leave_widened(u32 to, const Quad& codes, u32 by) {
  const auto eight = [&](u32 low, u32 high) {
    const Four x = widened(low, high);
    return Four{i32(times_f16(x.x, by)), i32(times_f16(x.y, by)), i32(times_f16(x.z, by)), i32(times_f16(x.w, by))};
  };
  share(to, eight(codes.words[0], codes.words[1]));
  share(to ^ 16, eight(codes.words[2], codes.words[3]));
}

// Eight of the rotated part, times a pair that is one over the key's unit twice.
__device__ inline void leave_rotated(u32 to, const Quad& eight, u32 by) {
  const auto two = [&](int i) { return i32(times_bf16(eight.words[i], by)); };
  share(to, Four{two(0), two(1), two(2), two(3)});
}
