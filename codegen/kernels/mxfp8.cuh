// Entries of `LATENT` and then `ROPE` e4m3, and behind both a power of two per 32.

#include "coding.cuh"

constexpr int GROUP = 32;

template <class Cfg>
__device__ void encode_mxfp8(const Encode& args) {
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  u8* codes = args.bytes + args.places.data_of(slot);
  u8* scales = codes + Cfg::LATENT + Cfg::ROPE;
  encode_powers<GROUP>(args.latent.at(row, 0), Cfg::LATENT, codes, scales);
  encode_powers<GROUP>(args.rope.at(row, 0), Cfg::ROPE, codes + Cfg::LATENT, scales + Cfg::LATENT / GROUP);
}

template <class Cfg>
__device__ void decode_mxfp8(const Decode& args) {
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  const u8* codes = args.bytes + args.places.data_of(slot);
  const u8* scales = codes + Cfg::LATENT + Cfg::ROPE;
  decode_powers<GROUP>(codes, scales, Cfg::LATENT, args.latent + row * Cfg::LATENT);
  decode_powers<GROUP>(codes + Cfg::LATENT, scales + Cfg::LATENT / GROUP, Cfg::ROPE, args.rope + row * Cfg::ROPE);
}
