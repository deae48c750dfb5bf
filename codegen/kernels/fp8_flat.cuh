// Entries of a code per value, and one scale for the cache.

#include "coding.cuh"

template <class Code>
struct Fp8Flat {
  // Writes an entry, by a block.
  template <int LATENT, int ROPE>
  static __device__ void write(const Elem* latent, const Elem* rope, f32 scale, const Spot& spot) {
    for (int i = threadIdx.x; i < LATENT + ROPE; i += THREADS) {
      const Elem* from = i < LATENT ? latent + i : rope + (i - LATENT);
      spot.data[i] = Code::encode(scaled_down(value_at(from), scale));
    }
  }
};

template <class Code, class Cfg>
__device__ inline void encode_flat(const Encode& args) {
  const i64 row = blockIdx.x;
  const Spot spot = args.places.of(args.bytes, row);
  if (!spot.data) return;
  Fp8Flat<Code>::template write<Cfg::LATENT, Cfg::ROPE>(args.latent.at(row, 0), args.rope.at(row, 0), f32(args.scale), spot);
}

template <class Code, class Cfg>
__device__ inline void decode_flat(const Decode& args) {
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  const u8* codes = args.bytes + args.places.data_of(slot);
  for (int i = threadIdx.x; i < Cfg::LATENT + Cfg::ROPE; i += THREADS) {
    Elem* to = i < Cfg::LATENT ? args.latent + row * Cfg::LATENT + i : args.rope + row * Cfg::ROPE + (i - Cfg::LATENT);
    store(to, Code::decode(codes[i]) * f32(args.scale));
  }
}

template <class Cfg>
__device__ void encode_fp8_e4m3(const Encode& args) {
  encode_flat<E4m3, Cfg>(args);
}

template <class Cfg>
__device__ void decode_fp8_e4m3(const Decode& args) {
  decode_flat<E4m3, Cfg>(args);
}

template <class Cfg>
__device__ void encode_fp8_e5m2(const Encode& args) {
  encode_flat<E5m2, Cfg>(args);
}

template <class Cfg>
__device__ void decode_fp8_e5m2(const Decode& args) {
  decode_flat<E5m2, Cfg>(args);
}
