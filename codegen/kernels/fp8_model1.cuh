// Entries of `LATENT` e4m3 and `ROPE` bf16; apart from them a power of two per 64 e4m3, padded with zeros.

#include "coding.cuh"

constexpr int GROUP = 64;

template <class Cfg>
__device__ void encode_fp8_model1(const Encode& args) {
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  u8* codes = args.bytes + args.places.data_of(slot);
  u8* scales = args.bytes + args.places.scales_of(slot);
  encode_powers<GROUP>(args.latent.at(row, 0), Cfg::LATENT, codes, scales);
  encode_bf16(args.rope.at(row, 0), Cfg::ROPE, codes + Cfg::LATENT);
  for (i64 i = Cfg::LATENT / GROUP + threadIdx.x; i < args.places.scales; i += THREADS) scales[i] = 0;
}

template <class Cfg>
__device__ void decode_fp8_model1(const Decode& args) {
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  const u8* codes = args.bytes + args.places.data_of(slot);
  const u8* scales = args.bytes + args.places.scales_of(slot);
  decode_powers<GROUP>(codes, scales, Cfg::LATENT, args.latent + row * Cfg::LATENT);
  decode_bf16(codes + Cfg::LATENT, Cfg::ROPE, args.rope + row * Cfg::ROPE);
}
