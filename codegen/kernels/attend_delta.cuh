// What the gradients of attention and of sinks have in common: the products of results and their gradients.

#include "prelude.cuh"

struct Delta {
  Window<const Elem> out;
  Window<const Elem> d_out;
  Accum* delta;  // [rows, heads]
};

// delta = d_out · out, a warp for each row and head.
template <class Cfg>
__device__ void delta(const Delta& args) {
  const i64 line = i64(blockIdx.x) * WARPS + warp();
  if (line >= args.out.rows * args.out.heads) return;
  const Elem* out = args.out.at(line / args.out.heads, line % args.out.heads);
  const Elem* d_out = args.d_out.at(line / args.out.heads, line % args.out.heads);
  Accum sum = 0;
  for (int i = lane(); i < args.out.width; i += WARP) sum += load(out + i) * load(d_out + i);
  sum = warp_sum(sum);
  if (lane() == 0) args.delta[line] = sum;
}

struct SinkBackward {
  const Accum* sinks;  // [heads]
  const Accum* lse;    // [rows, heads]
  const Accum* delta;  // [rows, heads]
  Accum* into;         // [heads]
  i64 rows;
};

// into −= Σ e^(sink − lse) δ over the rows, a block for each head.
template <class Cfg>
__device__ void sink_backward(const SinkBackward& args) {
  const i64 heads = gridDim.x;
  const i64 head = blockIdx.x;
  const Accum sink = args.sinks[head];
  Accum sum = 0;
  for (i64 row = threadIdx.x; row < args.rows; row += THREADS) {
    const Accum lse = args.lse[row * heads + head];
    // A row that saw nothing gave the sink nothing either
    if (lse != minus_infinity()) sum += exponential(sink - lse) * args.delta[row * heads + head];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) args.into[head] -= sum;
}
