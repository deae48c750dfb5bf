// Entries of `LATENT` e4m3, a 4-byte scale per 128 of them, and `ROPE` bf16, or 64 zeros where there are none.

#include "coding.cuh"

struct Fp8DsMla {
  static constexpr int GROUP = 128;
  static constexpr int EMPTY_ROPE = 64;

  // Writes an entry, by a block.
  template <int LATENT, int ROPE, bool POWER_OF_TWO>
  static __device__ void write(const Elem* latent, const Elem* rope, const Spot& spot) {
    u8* scales = spot.data + LATENT;
    u8* tail = scales + LATENT / GROUP * 4;
    for (int group = warp(); group < LATENT / GROUP; group += WARPS) {
      const Elem* values = latent + group * GROUP;
      const f32 scale =
          POWER_OF_TWO ? E8m0::decode(power_scale(values, GROUP)) : fmaxf(largest(values, GROUP) / E4m3::MAX, f32_of(0x800000u));
      encode_e4m3(values, GROUP, scale, spot.data + group * GROUP);
      if (lane() == 0) put_scale(scales + group * 4, scale);
    }
    encode_bf16(rope, ROPE, tail);
    if (ROPE == 0) {
      for (int i = threadIdx.x; i < 2 * EMPTY_ROPE; i += THREADS) tail[i] = 0;
    }
  }
};

template <class Cfg>
__device__ void encode_fp8_ds_mla(const Encode& args) {
  const i64 row = blockIdx.x;
  const Spot spot = args.places.of(args.bytes, row);
  if (!spot.data) return;
  Fp8DsMla::write<Cfg::LATENT, Cfg::ROPE, Cfg::POWER_OF_TWO>(args.latent.at(row, 0), args.rope.at(row, 0), spot);
}

template <class Cfg>
__device__ void decode_fp8_ds_mla(const Decode& args) {
  constexpr int GROUP = Fp8DsMla::GROUP;
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  const u8* codes = args.bytes + args.places.data_of(slot);
  const u8* scales = codes + Cfg::LATENT;
  Elem* latent = args.latent + row * Cfg::LATENT;
  for (int group = warp(); group < Cfg::LATENT / GROUP; group += WARPS) {
    decode_e4m3(codes + group * GROUP, GROUP, scale_at(scales + group * 4), latent + group * GROUP);
  }
  decode_bf16(scales + Cfg::LATENT / GROUP * 4, Cfg::ROPE, args.rope + row * Cfg::ROPE);
}
