// Instructions that turn numbers into others, a function for each.

// Two of e4m3 as two of f16, exactly; the lower byte becomes the lower half.
__device__ inline u32 widen_e4m3(u16 pair) {
  u32 halves;
  asm volatile("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  return halves;
}

// 2^x within two units in the last place; results below the smallest normal number are 0.
__device__ inline f32 power_of_two(f32 x) {
  f32 power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
