// `decode_wide_fp8.cuh` over keys that are chosen for each query: 64 of its heads at a time.

#include "decode_wide_fp8.cuh"

template <class Cfg>
__device__ void sparse_wide_fp8(const Decoding& args) {
  decode_wide_fp8<Cfg>(args);
}
