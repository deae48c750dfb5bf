// What `convert.cuh` has, on the host, rounded as the hardware does. Powers and logarithms are those of the host's library.

namespace simt {

inline u32 bits(f32 x) {
  u32 of;
  memcpy(&of, &x, 4);
  return of;
}
inline f32 from_bits(u32 of) {
  f32 x;
  memcpy(&x, &of, 4);
  return x;
}

// What the hardware makes of all that are no numbers, in 16 bits.
constexpr u32 NAN_16 = 0x7fff;

// Rounded to the nearest, ties to even.
inline u32 bf16_of(f32 x) {
  const u32 of = bits(x);
  if (x != x) return NAN_16;
  return (of + 0x7fff + (of >> 16 & 1)) >> 16;
}
inline u32 f16_of(f32 x) {
  if (x != x) return NAN_16;
  const u32 sign = bits(x) >> 16 & 0x8000;
  const f32 size = fabsf(x);
  if (size >= 65520) return sign | 0x7c00;  // nearer to what comes behind the largest number than to that
  // A number to which it is added that is so large that the sum is rounded where f16 is: 13 bits above, or where the smallest numbers are
  const u32 exponent = bits(size) >> 23;
  const f32 large = from_bits((exponent < 113 ? 126 : exponent + 13) << 23);
  const f32 rounded = size + large - large;
  const u32 of = bits(rounded);
  if (of >> 23 < 113) return sign | u32(rounded * 16777216.0f);  // in units of 2^-24
  return sign | ((of >> 13) - (112 << 10));
}

inline f32 of_bf16(u32 x) { return from_bits(x << 16); }
inline f32 of_f16(u32 x) {
  const f32 size = from_bits((x & 0x7fff) << 13) * from_bits(0x77800000u);  // times 2^112: exact for those that have fewer bits, too
  const u32 of = (x & 0x7c00) == 0x7c00 ? (x & 0x7fff) << 13 | 0x7f800000u : bits(size);
  return from_bits(of | (x & 0x8000) << 16);
}
inline f32 of_e4m3(u32 x) {
  if ((x & 0x7f) == 0x7f) return from_bits(0x7fc00000u);
  const f32 size = from_bits((x & 0x7f) << 20) * from_bits(0x7b800000u);  // times 2^120
  return from_bits(bits(size) | (x & 0x80) << 24);
}
inline f32 of_e5m2(u32 x) { return of_f16(x << 8); }
// The nearest e4m3, of two the even one; what is too large is the largest, and there is no infinity.
inline u32 e4m3_of(f32 x) {
  const u32 sign = bits(x) >> 24 & 0x80;
  const f32 size = fabsf(x);
  if (size != size) return sign | 0x7f;
  if (size >= 448) return sign | 0x7e;
  const int exponent = size < 0.015625f ? -6 : ilogbf(size);
  return sign | (u32(exponent + 6) * 8 + u32(rintf(ldexpf(size, 3 - exponent))));
}

// Numbers below the smallest normal one are 0.
inline f32 flushed(f32 x) { return fabsf(x) < from_bits(0x00800000u) ? copysignf(0, x) : x; }

}  // namespace simt

inline f32 exp2_fast(f32 x) { return simt::flushed(exp2f(simt::flushed(x))); }
inline f32 log2_fast(f32 x) { return log2f(simt::flushed(x)); }
inline f32 reciprocal_fast(f32 x) { return simt::flushed(1 / simt::flushed(x)); }
inline f32 peak(f32 x, f32 y) { return x != x ? x : y != y ? y : fmaxf(x, y); }

constexpr bool has_e4m3() { return true; }

inline u32 pack_bf16(f32 low, f32 high) { return simt::bf16_of(low) | simt::bf16_of(high) << 16; }
inline u32 pack_f16(f32 low, f32 high) { return simt::f16_of(low) | simt::f16_of(high) << 16; }
inline float2 unpack_f16(u32 two) { return {simt::of_f16(two & 0xffff), simt::of_f16(two >> 16)}; }

// A product of two such numbers has no more bits than f32, and is rounded once
inline u32 times_f16(u32 x, u32 y) {
  const float2 a = unpack_f16(x), b = unpack_f16(y);
  return pack_f16(a.x * b.x, a.y * b.y);
}
inline u32 times_bf16(u32 x, u32 y) {
  return pack_bf16(simt::of_bf16(x & 0xffff) * simt::of_bf16(y & 0xffff), simt::of_bf16(x >> 16) * simt::of_bf16(y >> 16));
}

inline u32 widen_e4m3(u16 pair) { return pack_f16(simt::of_e4m3(pair & 0xff), simt::of_e4m3(pair >> 8)); }
inline u32 widen_e5m2(u16 pair) { return pack_f16(simt::of_e5m2(pair & 0xff), simt::of_e5m2(pair >> 8)); }
inline void widen_e4m3(u32 four, u32& low, u32& high) {
  low = widen_e4m3(u16(four));
  high = widen_e4m3(u16(four >> 16));
}
inline void widen_e5m2(u32 four, u32& low, u32& high) {
  low = widen_e5m2(u16(four));
  high = widen_e5m2(u16(four >> 16));
}
inline u16 pack_e4m3(f32 low, f32 high) { return u16(simt::e4m3_of(low) | simt::e4m3_of(high) << 8); }
