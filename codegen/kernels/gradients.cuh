// Gradients of gates, activations and biases. `MLA_KEY` is the type of gates, and of what columns are summed of.

#include "prelude.cuh"

using Given = MLA_KEY;

struct Columns {
  Window<const Given> x;
  Accum* sums;  // [blocks along x, width]
  i64 lines;    // of a block
};

// The sums of columns over some lines, a thread for each column.
template <class Cfg>
__device__ void partial_column_sums(const Columns& args) {
  const i64 column = i64(blockIdx.y) * THREADS + threadIdx.x;
  if (column >= args.x.width) return;
  const i64 first = blockIdx.x * args.lines;
  const i64 all = args.x.rows * args.x.heads;
  const i64 end = first + args.lines < all ? first + args.lines : all;
  Accum sum = 0;
  for (i64 line = first; line < end; line++) {
    sum += load(args.x.at(line / args.x.heads, line % args.x.heads) + column);
  }
  args.sums[i64(blockIdx.x) * args.x.width + column] = sum;
}

struct Partials {
  const Accum* partials;  // [count, width]
  Accum* into;
  i64 count;
  i64 width;
};

// into += Σ partials, the first one first.
template <class Cfg>
__device__ void add_partials(const Partials& args) {
  for (i64 i = thread_of_grid(); i < args.width; i += threads_of_grid()) {
    Accum sum = args.into[i];
    for (i64 partial = 0; partial < args.count; partial++) sum += args.partials[partial * args.width + i];
    args.into[i] = sum;
  }
}

// σ(x) and σ'(x), without overflow on either side.
struct Logistic {
  Accum open;
  Accum slope;
};

__device__ inline Logistic logistic_of(Accum x) {
  const Accum e = exponential(-magnitude(x));
  const Accum inverse = Accum(1) / (Accum(1) + e);
  return {x >= Accum(0) ? inverse : e * inverse, e * inverse * inverse};
}

struct GateBackward {
  const Elem* x;
  const Elem* dy;
  Window<const Given> gates;
  Elem* dx;
  Given* d_gates;  // contiguous
  i64 shared;      // values to a gate
};

// Of y = x · σ(g), a gate to each value: dx = dy · σ(g), dg = dy · x · σ'(g)
template <class Cfg>
__device__ void gate_backward(const GateBackward& args) {
  for (i64 i = thread_of_grid(); i < args.gates.len(); i += threads_of_grid()) {
    const Accum dy = load(args.dy + i);
    const Logistic gate = logistic_of(load(nth(args.gates, i)));
    store(args.d_gates + i, dy * load(args.x + i) * gate.slope);
    store(args.dx + i, dy * gate.open);
  }
}

__device__ inline i64 warp_of_grid() { return i64(blockIdx.x) * WARPS + warp(); }
__device__ inline i64 warps_of_grid() { return i64(gridDim.x) * WARPS; }

// Of y = x · σ(g), neighbours sharing a gate: dx = dy · σ(g), dg = σ'(g) Σ dy · x. A warp for each gate.
template <class Cfg>
__device__ void shared_gate_backward(const GateBackward& args) {
  for (i64 gate = warp_of_grid(); gate < args.gates.len(); gate += warps_of_grid()) {
    const Logistic logistic = logistic_of(load(nth(args.gates, gate)));
    Accum sum = 0;
    for (i64 i = gate * args.shared + lane(); i < (gate + 1) * args.shared; i += WARP) {
      const Accum dy = load(args.dy + i);
      sum += dy * load(args.x + i);
      store(args.dx + i, dy * logistic.open);
    }
    sum = warp_sum(sum);
    if (lane() == 0) store(args.d_gates + gate, sum * logistic.slope);
  }
}

struct SiluBackward {
  const Elem* x;
  Elem* dy;
  i64 len;
};

// Of y = x · σ(x): dy ← dy · (σ(x) + x σ'(x))
template <class Cfg>
__device__ void silu_backward(const SiluBackward& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) {
    const Accum x = load(args.x + i);
    const Logistic logistic = logistic_of(x);
    store(args.dy + i, load(args.dy + i) * (x * logistic.slope + logistic.open));
  }
}

struct Dots {
  Window<const Elem> x;
  Window<const Elem> y;
  Accum* out;
};

// Σ x · y, a warp for each row and head.
template <class Cfg>
__device__ void dots(const Dots& args) {
  for (i64 line = warp_of_grid(); line < args.x.rows * args.x.heads; line += warps_of_grid()) {
    const Elem* x = args.x.at(line / args.x.heads, line % args.x.heads);
    const Elem* y = args.y.at(line / args.y.heads, line % args.y.heads);
    Accum sum = 0;
    for (int i = lane(); i < args.x.width; i += WARP) sum += load(x + i) * load(y + i);
    sum = warp_sum(sum);
    if (lane() == 0) args.out[line] = sum;
  }
}
