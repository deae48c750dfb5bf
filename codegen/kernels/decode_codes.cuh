// Caches whose entries are bytes: what stands in them, and how codes become numbers that are multiplied.
//
// A latent is one code. Flat entries have one scale for the whole cache, and codes for the rotated part too. Those of `DS_MLA` have a scale of four
// bytes for each 128 latents, behind all of them, and then the rotated part in bf16.

#include "decode_steps.cuh"

// What `Cfg::STORE` says of a cache of bytes: flat codes, of which 1 is e4m3, or those with scales. Where it says nothing, entries are bf16.
enum Store { PLAIN = 0, E5M2 = 2, DS_MLA = 3 };

template <class>
using Nothing = void;
template <class Cfg, class = void>
struct StoreOf {
  static constexpr int IS = PLAIN;
};
template <class Cfg>
struct StoreOf<Cfg, Nothing<decltype(Cfg::STORE)>> {
  static constexpr int IS = Cfg::STORE;
};

// What an entry is like.
template <class Cfg>
struct Entry {
  static constexpr int STORE = StoreOf<Cfg>::IS;
  static constexpr bool CODED = STORE != PLAIN;
  static constexpr bool SCALED = STORE == DS_MLA;
  static_assert(!SCALED || Cfg::LATENT == 512, "entries of other widths don't begin at multiples of 16 bytes");
};

// The power of two that a row of queries in f16 counts in, so that its largest is at least 1 and below 2, and its inverse. It is 2^-63 or more: products
// of it with a scale are not 0.
struct RowUnit {
  f32 unit, inverse;
  __device__ explicit RowUnit(f32 largest) {
    const u32 exponent = min(max(bits_of(largest) >> 23, 64u), 253u);
    unit = f32_of(exponent << 23);
    inverse = f32_of((254 - exponent) << 23);
  }
};

// Two codes as two of f16, exactly; the lower becomes the lower half.
template <int STORE>
__device__ inline u32 widen_pair(u16 pair) {
  u32 halves;
  if constexpr (STORE == E5M2) asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"(pair));
  else asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  return halves;
}

__device__ inline u32 pack_f16(f32 low, f32 high) {
  u32 x;
  asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(x) : "f"(low), "f"(high));
  return x;
}
// Two codes times their scale as two of bf16.
template <int STORE>
__device__ inline u32 widen_scaled(u16 pair, f32 scale) {
  f32 low, high;
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}" : "=f"(low), "=f"(high) : "r"(widen_pair<STORE>(pair)));
  return pack_bf16(low * scale, high * scale);
}

// Leaves 16 codes of a key in its line of a tile, from the `chunk`th piece of 16 columns on, which may be the next tile's. `to`: the first tile. They
// become f16, or bf16 where they have a scale of their own.
template <int STORE>
__device__ inline void leave_codes(u32 to, u32 key, u32 chunk, const Quad& codes, f32 scale) {
  // Lanes of odd tiles begin with the second half: the first halves of both tiles have the same banks
  const bool odd = chunk / 4 % 2 != 0;
  const u32 line = to + chunk / 4 * TILE_BYTES;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const bool second = (i == 1) != odd;
    u32 x[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const u16 pair = u16((second ? codes.words[2 + k / 2] : codes.words[k / 2]) >> k % 2 * 16);
      x[k] = STORE == DS_MLA ? widen_scaled<STORE>(pair, scale) : widen_pair<STORE>(pair);
    }
    share(line + swizzled_128(key * 128 + chunk % 4 * 32 + (second ? 16 : 0)), Four{i32(x[0]), i32(x[1]), i32(x[2]), i32(x[3])});
  }
}

// Leaves a chunk of the rotated part.
template <class Cfg>
__device__ inline void leave_rope(u32 to, u32 key, u32 chunk, const Quad& x) {
  if constexpr (Entry<Cfg>::SCALED)
    share(to + swizzled_128(key * 128 + chunk * 16), Four{i32(x.words[0]), i32(x.words[1]), i32(x.words[2]), i32(x.words[3])});
  else leave_codes<Entry<Cfg>::STORE>(to, key, chunk, x, 1);
}
