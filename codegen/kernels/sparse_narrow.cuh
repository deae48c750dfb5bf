// `decode_narrow.cuh` over keys that are chosen for each query, whose heads are 16 or 32 rows.

#include "decode_narrow.cuh"

template <class Cfg>
__device__ void sparse_narrow(const Decoding& args) {
  decode_narrow<Cfg>(args);
}
