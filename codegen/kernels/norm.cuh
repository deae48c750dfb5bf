// Norms over `Cfg::WIDTH` values, a block for each row and head.

#include "prelude.cuh"

struct Norm {
  Window<const Elem> x;
  const Elem* gamma;  // null: all 1
  const Elem* beta;
  Elem* y;  // contiguous
  f64 eps;
};

// y = γ · x / sqrt(mean(x²) + ε)
template <class Cfg>
__device__ void rms_norm(const Norm& args) {
  const i64 line = blockIdx.x;
  const Elem* x = args.x.at(line / args.x.heads, line % args.x.heads);
  Accum squares = 0;
  for (int i = threadIdx.x; i < Cfg::WIDTH; i += THREADS) squares += load(x + i) * load(x + i);
  const Accum scale = Accum(1) / root(block_sum(squares) / Cfg::WIDTH + Accum(args.eps));
  Elem* y = args.y + line * Cfg::WIDTH;
  for (int i = threadIdx.x; i < Cfg::WIDTH; i += THREADS) {
    const Accum gamma = args.gamma ? load(args.gamma + i) : Accum(1);
    store(y + i, load(x + i) * scale * gamma);
  }
}

// y = γ · (x − mean) / sqrt(var + ε) + β, var the biased variance
template <class Cfg>
__device__ void layer_norm(const Norm& args) {
  const i64 line = blockIdx.x;
  const Elem* x = args.x.at(line / args.x.heads, line % args.x.heads);
  Accum sum = 0;
  for (int i = threadIdx.x; i < Cfg::WIDTH; i += THREADS) sum += load(x + i);
  const Accum mean = block_sum(sum) / Cfg::WIDTH;
  Accum squares = 0;
  for (int i = threadIdx.x; i < Cfg::WIDTH; i += THREADS) {
    const Accum off = load(x + i) - mean;
    squares += off * off;
  }
  const Accum scale = Accum(1) / root(block_sum(squares) / Cfg::WIDTH + Accum(args.eps));
  Elem* y = args.y + line * Cfg::WIDTH;
  for (int i = threadIdx.x; i < Cfg::WIDTH; i += THREADS) {
    store(y + i, (load(x + i) - mean) * scale * load(args.gamma + i) + load(args.beta + i));
  }
}
