// An indexer's keys of `KEY` e2m1, two to a byte, the even one in the low bits; apart from them a power of two per 32.

#include "coding.cuh"

struct IndexMxfp4 {
  static constexpr int GROUP = 32;  // a value for each lane

  // Writes a key, by a block.
  template <int KEY>
  static __device__ void write(const Elem* key, const Spot& spot) {
    for (int first = warp() * GROUP; first < KEY; first += WARPS * GROUP) {
      const Elem* values = key + first;
      const f32 value = value_at(values + lane());
      // A code can't say that a value is a NaN: the scale does
      const bool missing = __any_sync(ALL_LANES, value != value);
      const f32 most = largest(values, GROUP);
      const u8 scale = missing ? 255 : E8m0::at_least(fmaxf(most, 1e-4f) / E2m1::MAX);
      const u32 code = E2m1::encode(scaled_down(value, E8m0::decode(scale)));
      const u32 next = __shfl_down_sync(ALL_LANES, code, 1);
      if (lane() % 2 == 0) spot.data[(first + lane()) / 2] = u8(code | next << 4);
      if (lane() == 0) spot.scales[first / GROUP] = scale;
    }
  }
};

template <class Cfg>
__device__ void encode_index_mxfp4(const Encode& args) {
  const i64 row = blockIdx.x;
  const Spot spot = args.places.of(args.bytes, row);
  if (!spot.data) return;
  IndexMxfp4::write<Cfg::KEY>(args.latent.at(row, 0), spot);
}

template <class Cfg>
__device__ void decode_index_mxfp4(const Decode& args) {
  constexpr int GROUP = IndexMxfp4::GROUP;
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  const u8* codes = args.bytes + args.places.data_of(slot);
  const u8* scales = args.bytes + args.places.scales_of(slot);
  for (int i = threadIdx.x; i < Cfg::KEY; i += THREADS) {
    const u32 code = codes[i / 2] >> (i % 2 * 4) & 15;
    store(args.latent + row * Cfg::KEY + i, E2m1::decode(code) * E8m0::decode(scales[i / GROUP]));
  }
}
