// Entries of `LATENT` and then `ROPE` e4m3, and behind both a power of two per 32.

#include "coding.cuh"

struct Mxfp8 {
  static constexpr int GROUP = 32;

  // Writes an entry, by a block.
  template <int LATENT, int ROPE>
  static __device__ void write(const Elem* latent, const Elem* rope, const Spot& spot) {
    u8* scales = spot.data + LATENT + ROPE;
    encode_powers<GROUP>(latent, LATENT, spot.data, scales);
    encode_powers<GROUP>(rope, ROPE, spot.data + LATENT, scales + LATENT / GROUP);
  }
};

template <class Cfg>
__device__ void encode_mxfp8(const Encode& args) {
  const i64 row = blockIdx.x;
  const Spot spot = args.places.of(args.bytes, row);
  if (!spot.data) return;
  Mxfp8::write<Cfg::LATENT, Cfg::ROPE>(args.latent.at(row, 0), args.rope.at(row, 0), spot);
}

template <class Cfg>
__device__ void decode_mxfp8(const Decode& args) {
  constexpr int GROUP = Mxfp8::GROUP;
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  const u8* codes = args.bytes + args.places.data_of(slot);
  const u8* scales = codes + Cfg::LATENT + Cfg::ROPE;
  decode_powers<GROUP>(codes, scales, Cfg::LATENT, args.latent + row * Cfg::LATENT);
  decode_powers<GROUP>(codes + Cfg::LATENT, scales + Cfg::LATENT / GROUP, Cfg::ROPE, args.rope + row * Cfg::ROPE);
}
