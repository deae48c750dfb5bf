// The Walsh-Hadamard transform of runs of `WIDTH` values, a power of two.

#include "hadamard_row.cuh"

struct Transform {
  Elem* x;
};

// A block for each run.
template <class Cfg>
__device__ void hadamard(const Transform& args) {
  hadamard_row<Cfg::WIDTH>(args.x + i64(blockIdx.x) * Cfg::WIDTH);
}
