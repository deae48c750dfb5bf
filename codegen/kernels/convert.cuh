// Instructions that compute with numbers and turn them into others, a function for each. Of a pair, the first or lower is the lower half of a register.

#ifndef MLA_EMULATED  // the host has its own

// ---- Numbers of f32 ----

// 2^x within two units in the last place; results below the smallest normal number are 0.
__device__ inline f32 exp2_fast(f32 x) {
  f32 power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

// The logarithm to base 2, nearly; of numbers below the smallest normal one that of 0.
__device__ inline f32 log2_fast(f32 x) {
  f32 y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x within one unit in the last place; of infinity, 0.
__device__ inline f32 reciprocal_fast(f32 x) {
  f32 y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The larger one of two numbers; a NaN where one is.
__device__ inline f32 peak(f32 x, f32 y) {
  f32 z;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}

// ---- Pairs of 16 bits ----

// Two numbers rounded to bf16.
__device__ inline u32 pack_bf16(f32 low, f32 high) {
  u32 x;
  asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(x) : "f"(low), "f"(high));
  return x;
}

// Two numbers rounded to f16.
__device__ inline u32 pack_f16(f32 low, f32 high) {
  u32 x;
  asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(x) : "f"(low), "f"(high));
  return x;
}

// Two of f16 as numbers of f32.
__device__ inline float2 unpack_f16(u32 two) {
  float2 x;
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}" : "=f"(x.x), "=f"(x.y) : "r"(two));
  return x;
}

// Products of pairs, in f16 and in bf16.
__device__ inline u32 times_f16(u32 x, u32 y) {
  u32 z;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
  return z;
}
__device__ inline u32 times_bf16(u32 x, u32 y) {
  u32 z;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
  return z;
}

// ---- Codes of 8 bits ----

// Two as two of f16, exactly.
__device__ inline u32 widen_e4m3(u16 pair) {
  u32 halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  return halves;
}
__device__ inline u32 widen_e5m2(u16 pair) {
  u32 halves;
  asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"(pair));
  return halves;
}

// Four as twice two, the lower ones and the upper ones: the instruction takes either half of a register.
__device__ inline void widen_e4m3(u32 four, u32& low, u32& high) {
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.rn.f16x2.e4m3x2 %0, l;\ncvt.rn.f16x2.e4m3x2 %1, h;\n}" : "=r"(low), "=r"(high) : "r"(four));
}
__device__ inline void widen_e5m2(u32 four, u32& low, u32& high) {
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.rn.f16x2.e5m2x2 %0, l;\ncvt.rn.f16x2.e5m2x2 %1, h;\n}" : "=r"(low), "=r"(high) : "r"(four));
}

// Whether a GPU turns numbers into codes: since Ada.
__device__ constexpr bool has_e4m3() {
#if __CUDA_ARCH__ >= 890
  return true;
#else
  return false;
#endif
}

// Two numbers as the nearest of e4m3.
__device__ inline u16 pack_e4m3(f32 low, f32 high) {
  u16 pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}

#endif
