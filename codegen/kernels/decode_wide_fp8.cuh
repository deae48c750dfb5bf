// `decode_wide.cuh` over a cache of codes.

#include "decode_wide.cuh"

template <class Cfg>
__device__ void decode_wide_fp8(const Decoding& args) {
  decode_wide<Cfg>(args);
}
