// Norms over `Cfg::WIDTH` values, a block for each row and head.

#include "row_norm.cuh"

struct Norm {
  Window<const Elem> x;
  const Elem* gamma;  // null: all 1
  const Elem* beta;
  Elem* y;  // contiguous
  f64 eps;
};

template <class Cfg>
__device__ void rms_norm(const Norm& args) {
  const i64 line = blockIdx.x;
  const Elem* x = args.x.at(line / args.x.heads, line % args.x.heads);
  rms_norm_row<Cfg::WIDTH>(x, args.gamma, Accum(args.eps), args.y + line * Cfg::WIDTH);
}

template <class Cfg>
__device__ void layer_norm(const Norm& args) {
  const i64 line = blockIdx.x;
  const Elem* x = args.x.at(line / args.x.heads, line % args.x.heads);
  layer_norm_row<Cfg::WIDTH>(x, args.gamma, args.beta, Accum(args.eps), args.y + line * Cfg::WIDTH);
}
