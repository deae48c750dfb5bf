// Gradients of norms over `Cfg::WIDTH` values. `n` is a normalised line, `i` what it was multiplied by, `g = dy · γ`.

#include "prelude.cuh"

struct NormBackward {
  Window<const Elem> x;
  Window<const Elem> dy;
  const Elem* gamma;  // null: all 1
  Elem* dx;           // contiguous
  Accum* means;       // one per line: what was subtracted from its values
  Accum* factors;     // one per line: i
  f64 eps;
};

// dx = i (g − n · mean(g n)), centred as well: dx = i (g − mean(g) − n · mean(g n)). A block for each line.
template <class Cfg, bool CENTRED>
__device__ void norm_backward(const NormBackward& args) {
  const i64 line = blockIdx.x;
  const Elem* x = args.x.at(line / args.x.heads, line % args.x.heads);
  const Elem* dy = args.dy.at(line / args.dy.heads, line % args.dy.heads);
  Accum mean = 0;
  if (CENTRED) {
    Accum sum = 0;
    for (int i = threadIdx.x; i < Cfg::WIDTH; i += THREADS) sum += load(x + i);
    mean = block_sum(sum) / Cfg::WIDTH;
  }
  Accum squares = 0;
  Accum sum_of_g = 0;
  Accum along = 0;
  for (int i = threadIdx.x; i < Cfg::WIDTH; i += THREADS) {
    const Accum off = load(x + i) - mean;
    const Accum g = load(dy + i) * (args.gamma ? load(args.gamma + i) : Accum(1));
    squares += off * off;
    sum_of_g += g;
    along += g * off;
  }
  const Accum factor = Accum(1) / root(block_sum(squares) / Cfg::WIDTH + Accum(args.eps));
  const Accum mean_of_g = CENTRED ? block_sum(sum_of_g) / Cfg::WIDTH : Accum(0);
  along = block_sum(along) * factor / Cfg::WIDTH;
  Elem* dx = args.dx + line * Cfg::WIDTH;
  for (int i = threadIdx.x; i < Cfg::WIDTH; i += THREADS) {
    const Accum n = (load(x + i) - mean) * factor;
    const Accum g = load(dy + i) * (args.gamma ? load(args.gamma + i) : Accum(1));
    store(dx + i, (g - mean_of_g - n * along) * factor);
  }
  if (threadIdx.x == 0) {
    args.means[line] = mean;
    args.factors[line] = factor;
  }
}

template <class Cfg>
__device__ void rms_norm_backward(const NormBackward& args) {
  norm_backward<Cfg, false>(args);
}

template <class Cfg>
__device__ void layer_norm_backward(const NormBackward& args) {
  norm_backward<Cfg, true>(args);
}

struct NormColumns {
  Window<const Elem> x;
  Window<const Elem> dy;
  const Accum* means;
  const Accum* factors;
  Accum* gammas;  // [blocks along x, WIDTH]
  Accum* betas;   // as many, or null
  i64 lines;      // of a block
};

// Σ dy · n and Σ dy over some lines, a thread for each column.
template <class Cfg>
__device__ void norm_columns(const NormColumns& args) {
  const i64 column = i64(blockIdx.y) * THREADS + threadIdx.x;
  if (column >= Cfg::WIDTH) return;
  const i64 first = blockIdx.x * args.lines;
  const i64 all = args.x.rows * args.x.heads;
  const i64 end = first + args.lines < all ? first + args.lines : all;
  Accum gamma = 0;
  Accum beta = 0;
  for (i64 line = first; line < end; line++) {
    const Accum x = load(args.x.at(line / args.x.heads, line % args.x.heads) + column);
    const Accum dy = load(args.dy.at(line / args.dy.heads, line % args.dy.heads) + column);
    gamma += dy * ((x - args.means[line]) * args.factors[line]);
    beta += dy;
  }
  args.gammas[i64(blockIdx.x) * Cfg::WIDTH + column] = gamma;
  if (args.betas) args.betas[i64(blockIdx.x) * Cfg::WIDTH + column] = beta;
}
