// Entries of a code per value, and one scale for the cache. A thread works on each value.

#include "coding.cuh"

template <class Code, class Cfg>
__device__ inline void encode_flat(const Encode& args) {
  constexpr i64 width = Cfg::LATENT + Cfg::ROPE;
  for (i64 i = thread_of_grid(); i < args.latent.rows * width; i += threads_of_grid()) {
    const i64 row = i / width;
    const i64 column = i % width;
    const i64 slot = args.places.slot(row);
    if (slot < 0) continue;
    const Elem* from =
        column < Cfg::LATENT ? args.latent.at(row, 0) + column : args.rope.at(row, 0) + (column - Cfg::LATENT);
    args.bytes[args.places.data_of(slot) + column] = Code::encode(scaled_down(value_at(from), f32(args.scale)));
  }
}

template <class Code, class Cfg>
__device__ inline void decode_flat(const Decode& args) {
  constexpr i64 width = Cfg::LATENT + Cfg::ROPE;
  for (i64 i = thread_of_grid(); i < args.rows * width; i += threads_of_grid()) {
    const i64 row = i / width;
    const i64 column = i % width;
    const i64 slot = args.places.slot(row);
    if (slot < 0) continue;
    const f32 value = Code::decode(args.bytes[args.places.data_of(slot) + column]) * f32(args.scale);
    store(column < Cfg::LATENT ? args.latent + row * Cfg::LATENT + column : args.rope + row * Cfg::ROPE + (column - Cfg::LATENT),
          value);
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
