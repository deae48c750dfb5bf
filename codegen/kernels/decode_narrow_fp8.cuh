// `decode_narrow.cuh` over a cache of codes: 16 rows of queries.

#include "decode_narrow.cuh"

template <class Cfg>
__device__ void decode_narrow_fp8(const Decoding& args) {
  decode_narrow<Cfg>(args);
}
