// `decode_narrow.cuh` over a cache of codes and keys that are chosen for each query, whose heads are 16 rows.

#include "decode_narrow.cuh"

template <class Cfg>
__device__ void sparse_narrow_fp8(const Decoding& args) {
  decode_narrow<Cfg>(args);
}
