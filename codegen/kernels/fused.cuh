// Sums of a product that are rounded once, said so that a compiler has no choice: the same bits in whatever kernel they stand.

#include "prelude.cuh"

// x · y + z
__device__ inline f32 fused(f32 x, f32 y, f32 z) { return fmaf(x, y, z); }
__device__ inline f64 fused(f64 x, f64 y, f64 z) { return fma(x, y, z); }
