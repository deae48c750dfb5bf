// Copies of windows, of values of any type.

#include "prelude.cuh"

using Value = MLA_KEY;

struct Copying {
  Window<const Value> x;
  Value* out;
};

template <class Cfg>
__device__ void copy(const Copying& args) {
  for (i64 i = thread_of_grid(); i < args.x.len(); i += threads_of_grid()) args.out[i] = *nth(args.x, i);
}
