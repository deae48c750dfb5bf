// Loops over parameters, which are flat.

#include "prelude.cuh"

struct Exact {
  const Elem* from;
  Accum* to;
  i64 len;
};

// to ← from
template <class Cfg>
__device__ void widen_parameters(const Exact& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) args.to[i] = load(args.from + i);
}

struct Sum {
  Accum* x;
  const Accum* y;
  i64 len;
};

// x ← x + y
template <class Cfg>
__device__ void add_parameters(const Sum& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) args.x[i] += args.y[i];
}

struct RowScaling {
  Accum* x;
  const Accum* factors;  // one to `width` values
  i64 len;
  i64 width;
};

template <class Cfg>
__device__ void scale_rows(const RowScaling& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) args.x[i] *= args.factors[i / args.width];
}

struct Squares {
  const Accum* x;
  f64* sums;  // one per block
  i64 len;
};

// Σ x² over every value that a block's threads come by.
template <class Cfg>
__device__ void square_sums(const Squares& args) {
  __shared__ f64 sums[THREADS];
  f64 sum = 0;
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) sum += f64(args.x[i]) * f64(args.x[i]);
  sums[threadIdx.x] = sum;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) args.sums[blockIdx.x] = sums[0];
}

struct Finding {
  const Accum* x;
  i32* found;  // one per block
  i64 len;
};

// Whether a block's threads come by an infinity or a NaN.
template <class Cfg>
__device__ void find_not_finite(const Finding& args) {
  int found = 0;
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) {
    if (!(magnitude(args.x[i]) < -minus_infinity())) found = 1;
  }
  found = __syncthreads_or(found);
  if (threadIdx.x == 0) args.found[blockIdx.x] = found;
}
