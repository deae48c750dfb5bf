// Caches whose entries are bytes: what stands in them, and how codes become numbers that are multiplied.
//
// A latent is one code. Flat entries have one scale for the whole cache, and codes for the rotated part too. Those of `DS_MLA` have a scale of four
// bytes for each 128 latents, behind all of them, and then the rotated part in bf16.
//
// Codes stay codes in shared memory, and become f16 in registers; but where keys are chosen they become f16 on their way there.

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
  static constexpr bool HALVES = STORE != PLAIN;               // what is multiplied is f16, not bf16
  static constexpr bool WIDENED = HALVES && CHOOSES<Cfg>;      // codes become that on their way to shared memory
  static constexpr bool CODED = HALVES && !WIDENED;            // they stay codes there
  static constexpr bool COUNTS = STORE == DS_MLA;              // latents have scales, and the output counts in a unit
  static constexpr bool SCALED = CODED && COUNTS;              // scales come to shared memory
  static_assert(!COUNTS || Cfg::LATENT == 512, "entries of other widths don't begin at multiples of 16 bytes");
  static_assert(!WIDENED || COUNTS, "codes of keys that are chosen have scales");
};

// Two codes as two of f16, exactly; the lower becomes the lower half.
template <int STORE>
__device__ inline u32 widen_pair(u16 pair) {
  return STORE == E5M2 ? widen_e5m2(pair) : widen_e4m3(pair);
}

// Where a lane's rows of blocks are, which instructions that load four blocks want, and which of a product's rows and columns are its own.
struct Lanes {
  u32 self = own_number();
  u32 block = self % WARP / 8, row = self % 8;
  u32 quad = self % 4, line = self % WARP / 4;
  u32 own = self / WARP;  // the warp's number in its warpgroup
};

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
