// Caches whose entries are bytes: what stands in them, and how codes become numbers that are multiplied.
//
// A latent is one code. Flat entries have one scale for the whole cache, and codes for the rotated part too. Those of `DS_MLA` have a scale of four
// bytes for each 128 latents, behind all of them, and then the rotated part in bf16.

#include "decode_steps.cuh"

// What `Cfg::STORE` says of a cache of bytes: flat codes, of which 1 is e4m3, or those with scales. Where it says nothing, entries are bf16.
enum Store { PLAIN = 0, E5M2 = 2, DS_MLA = 3 };

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

// Four codes as twice two of f16, exactly.
template <int STORE>
__device__ inline void widen_four(u32 four, u32& low, u32& high) {
  if (STORE == E5M2) widen_e5m2(four, low, high);
  else widen_e4m3(four, low, high);
}

// Where a lane's rows of blocks are, which instructions that load four blocks want, and which of a product's rows and columns are its own.
struct Lanes {
  u32 self = own_number();
  u32 block = self % WARP / 8, row = self % 8;
  u32 quad = self % 4, line = self % WARP / 4;
  u32 own = self / WARP;  // the warp's number in its warpgroup
};

// Where codes of a tile's keys lie in a stage. The copy engine leaves boxes of keys: 128 codes of each in a tile, whose chunks of 16 bytes are exchanged,
// then the next; then the rotated part, then scales. Where keys are chosen, entries come as they are, an odd number of chunks apart: the same chunk of eight
// keys is at eight different banks.
template <class Cfg>
struct CodesPlace {
  static constexpr bool SCALED = Entry<Cfg>::SCALED;
  static constexpr bool WHOLE = Entry<Cfg>::CODED && CHOOSES<Cfg>;
  static constexpr u32 ROPE_BYTES = Cfg::ROPE * (SCALED ? 2 : 1);  // of a key, in bf16 or in codes
  static constexpr u32 ENTRY = Cfg::LATENT + (SCALED ? 16 : 0) + ROPE_BYTES;
  static constexpr u32 APART = (ENTRY / 16 | 1) * 16;
  static constexpr u32 ROPE_LINE = Cfg::ROPE == 0 ? 0 : SCALED ? 128 : 64;  // of a key, where boxes lie
  static constexpr u32 ROPE = WHOLE ? ENTRY - ROPE_BYTES : Cfg::LATENT / 128 * TILE_BYTES;
  static constexpr u32 SCALES = WHOLE ? Cfg::LATENT : ROPE + KEYS * ROPE_LINE;
  static constexpr u32 SCALES_APART = WHOLE ? APART : 16;
  static constexpr u32 BYTES = WHOLE ? KEYS * APART : SCALES + (SCALED ? KEYS * 16 : 0);

  // Sixteen codes of a key's latents.
  __device__ static u32 latents(u32 stage, u32 key, u32 chunk) {
    if (WHOLE) return stage + key * APART + chunk * 16;
    return stage + chunk / 8 * TILE_BYTES + key * 128 + (chunk % 8 ^ key % 8) * 16;
  }
  // Sixteen bytes of its rotated part.
  __device__ static u32 rope(u32 stage, u32 key, u32 chunk) {
    if (WHOLE) return stage + ROPE + key * APART + chunk * 16;
    return stage + ROPE + (SCALED ? key * 128 + (chunk ^ key % 8) * 16 : swizzled_64(key * 64 + chunk * 16));
  }
};

// Codes as warps load them, as the left operand of a product. Of keys: a lane's four codes of a block are columns that lie side by side, not those that a
// product has there, so queries' columns are taken in the same order.
template <int STORE>
__device__ inline void widen_keys(const u32 (&codes)[4], int half, u32 (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 2; i++) widen_four<STORE>(codes[2 * half + i], a[i], a[i + 2]);
}

// Of latents, turned: of two keys, those of an even column and of the next.
template <int STORE>
__device__ inline void widen_latents(u32 codes, u32& even, u32& odd) {
  widen_four<STORE>(__byte_perm(codes, 0, 0x3120), even, odd);  // two of a column, two of the next
}

// Latents are multiplied by scales times this over a unit that is larger than them: codes are up to 448, products below 2^15.
constexpr f32 UNIT = 64;

// Leaves two of a key's four scales in f16, over a unit, for those who multiply latents by them: a thread has two keys' halves, and a lane's eight pairs of
// keys of a group of columns lie side by side. `to`: [4, 4, 8, 2].
__device__ inline void leave_scales(u32 to, const f32 (&scales)[2], f32 unit) {
  const u32 self = own_number();
  const u32 key = self / 2;
  const u32 both = pack_f16(scales[0] * (UNIT / unit), scales[1] * (UNIT / unit));
  const u32 at = to + (self % 2 * 2 * 4 + key % 8 / 2) * 32 + key / 8 * 4 + key % 2 * 2;
  share_halves<128>(at, both);
}
