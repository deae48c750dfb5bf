// Numbers of 8 and 4 bits, and powers of two in a byte, made of integers and floats: the same codes as the CPU's on every
// machine. Encoding rounds to nearest, ties to even, and never leaves the finite values.

#include "prelude.cuh"

// `LARGEST` is the code of the largest finite value, `INFINITE` of infinity (the sign's bit where there is none), `MISSING` of NaN;
// all without the sign.
template <int MANTISSA, int BIAS, u32 LARGEST, u32 INFINITE, u32 MISSING, u32 SIGN>
struct Minifloat {
  __device__ static u8 encode(f32 x) {
    const u32 sign = bits_of(x) >> 31 ? SIGN : 0;
    if (x != x) return u8(sign | MISSING);
    const u32 bits = bits_of(x) & 0x7fffffff;
    constexpr u32 smallest_normal = u32(128 - BIAS) << 23;
    if (bits < smallest_normal) {
      // Codes below the first normal one count steps of the smallest value
      const f32 step = f32_of(u32(128 - BIAS - MANTISSA) << 23);
      return u8(sign | u32(rintf(f32_of(bits) / step)));
    }
    constexpr int dropped = 23 - MANTISSA;
    const u32 rounded = (bits + ((1u << (dropped - 1)) - 1) + (bits >> dropped & 1)) >> dropped;
    const u32 code = rounded - (u32(127 - BIAS) << MANTISSA);
    return u8(sign | (code < LARGEST ? code : LARGEST));
  }

  __device__ static f32 decode(u32 code) {
    const u32 sign = code & SIGN ? 0x80000000u : 0u;
    const u32 rest = code & (SIGN - 1);
    if (rest == INFINITE) return f32_of(sign | 0x7f800000u);
    if (rest > LARGEST) return f32_of(0x7fc00000u);
    const u32 exponent = rest >> MANTISSA;
    const u32 mantissa = rest & ((1u << MANTISSA) - 1);
    const u32 power = exponent == 0 ? 1 : exponent;
    const f32 significand = f32(exponent == 0 ? mantissa : mantissa | 1u << MANTISSA);
    const f32 value = significand * f32_of((127 - BIAS - MANTISSA + power) << 23);
    return f32_of(sign | bits_of(value));
  }
};

// 4 bits of exponent and 3 of mantissa, without infinities: ±448.
struct E4m3 : Minifloat<3, 7, 0x7e, 0x80, 0x7f, 0x80> {
  static constexpr f32 MAX = 448.0f;
};
// 5 bits of exponent and 2 of mantissa, with infinities: ±57344.
using E5m2 = Minifloat<2, 15, 0x7b, 0x7c, 0x7f, 0x80>;
// 2 bits of exponent and 1 of mantissa, in the low bits of a byte: ±6. It has no NaN.
struct E2m1 : Minifloat<1, 1, 7, 8, 7, 8> {
  static constexpr f32 MAX = 6.0f;
};

// 2^(code - 127); 255 is NaN.
struct E8m0 {
  // The smallest power of two that is not below `x`, which is neither negative nor a NaN.
  __device__ static u8 at_least(f32 x) {
    const u32 exponent = bits_of(x) >> 23;
    const u32 mantissa = bits_of(x) & 0x7fffff;
    // Below 2^-126 numbers are steps of 2^-149: half of the range fits 2^-127
    const u32 code = exponent + (mantissa > (exponent == 0 ? 0x400000u : 0u));
    return u8(code < 254 ? code : 254);
  }

  __device__ static f32 decode(u8 code) {
    if (code == 0) return f32_of(0x400000u);
    return f32_of(code == 255 ? 0x7fc00000u : u32(code) << 23);
  }
};

__device__ inline f32 single(f32 x) { return x; }

// Rounds. A GPU's conversion would lose a NaN's sign and the rest of its bits, which entries keep.
__device__ inline f32 single(f64 x) {
  if (x == x) return f32(x);
  u64 bits;
  memcpy(&bits, &x, 8);
  return f32_of((bits >> 63 ? 0xffc00000u : 0x7fc00000u) | (u32(bits >> 29) & 0x7fffffu));
}

// x / scale, whose sign counts when it is a NaN: one that was in `x` keeps its own, and one that the division makes is
// negative, as the CPU has it.
__device__ inline f32 scaled_down(f32 x, f32 scale) {
  const f32 y = x / scale;
  if (y == y) return y;
  if (x != x) return x;
  return f32_of(scale != scale ? bits_of(scale) : 0xffc00000u);
}
