// Entries of `LATENT` e4m3 and `ROPE` bf16; apart from them a power of two per 64 e4m3, padded with zeros.

#include "coding.cuh"

struct Fp8Model1 {
  static constexpr int GROUP = 64;

  // Writes an entry, by a block.
  template <int LATENT, int ROPE>
  static __device__ void write(const Elem* latent, const Elem* rope, const Spot& spot) {
    encode_powers<GROUP>(latent, LATENT, spot.data, spot.scales);
    encode_bf16(rope, ROPE, spot.data + LATENT);
    for (i64 i = LATENT / GROUP + threadIdx.x; i < spot.scale_bytes; i += THREADS) spot.scales[i] = 0;
  }
};

template <class Cfg>
__device__ void encode_fp8_model1(const Encode& args) {
  const i64 row = blockIdx.x;
  const Spot spot = args.places.of(args.bytes, row);
  if (!spot.data) return;
  Fp8Model1::write<Cfg::LATENT, Cfg::ROPE>(args.latent.at(row, 0), args.rope.at(row, 0), spot);
}

template <class Cfg>
__device__ void decode_fp8_model1(const Decode& args) {
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  const u8* codes = args.bytes + args.places.data_of(slot);
  const u8* scales = args.bytes + args.places.scales_of(slot);
  decode_powers<Fp8Model1::GROUP>(codes, scales, Cfg::LATENT, args.latent + row * Cfg::LATENT);
  decode_bf16(codes + Cfg::LATENT, Cfg::ROPE, args.rope + row * Cfg::ROPE);
}
