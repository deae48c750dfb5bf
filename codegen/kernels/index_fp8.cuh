// An indexer's keys of `KEY` e4m3; apart from them a 4-byte scale per 128, the last of which may be fewer.

#include "coding.cuh"

struct IndexFp8 {
  static constexpr int GROUP = 128;

  // Writes a key, by a block.
  template <int KEY, bool POWER_OF_TWO>
  static __device__ void write(const Elem* key, const Spot& spot) {
    for (int first = warp() * GROUP; first < KEY; first += WARPS * GROUP) {
      const int count = KEY - first < GROUP ? KEY - first : GROUP;
      const f32 most = largest(key + first, count);
      const f32 scale = POWER_OF_TWO ? E8m0::decode(E8m0::at_least(fmaxf(most, 1e-10f) / E4m3::MAX)) : fmaxf(most, 1e-4f) / E4m3::MAX;
      encode_e4m3(key + first, count, scale, spot.data + first);
      if (lane() == 0) put_scale(spot.scales + first / GROUP * 4, scale);
    }
  }
};

template <class Cfg>
__device__ void encode_index_fp8(const Encode& args) {
  const i64 row = blockIdx.x;
  const Spot spot = args.places.of(args.bytes, row);
  if (!spot.data) return;
  IndexFp8::write<Cfg::KEY, Cfg::POWER_OF_TWO>(args.latent.at(row, 0), spot);
}

template <class Cfg>
__device__ void decode_index_fp8(const Decode& args) {
  constexpr int GROUP = IndexFp8::GROUP;
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  const u8* codes = args.bytes + args.places.data_of(slot);
  const u8* scales = args.bytes + args.places.scales_of(slot);
  for (int first = warp() * GROUP; first < Cfg::KEY; first += WARPS * GROUP) {
    const int count = Cfg::KEY - first < GROUP ? Cfg::KEY - first : GROUP;
    decode_e4m3(codes + first, count, scale_at(scales + first / GROUP * 4), args.latent + row * Cfg::KEY + first);
  }
}
