// Loops over single values. All compute in the accumulation type and round once.

#include "prelude.cuh"

struct Side {
  Window<const Elem> left;
  Window<const Elem> right;
  Elem* out;  // [rows, left.width + right.width]
};

// The rows of two windows side by side.
template <class Cfg>
__device__ void concat(const Side& args) {
  const i64 width = args.left.width + args.right.width;
  for (i64 i = thread_of_grid(); i < args.left.rows * width; i += threads_of_grid()) {
    const i64 row = i / width;
    const i64 column = i % width;
    args.out[i] = column < args.left.width ? args.left.at(row, 0)[column] : args.right.at(row, 0)[column - args.left.width];
  }
}

struct Widening {
  Window<const Elem> x;
  Accum* out;
};

template <class Cfg>
__device__ void widened(const Widening& args) {
  for (i64 i = thread_of_grid(); i < args.x.len(); i += threads_of_grid()) args.out[i] = load(nth(args.x, i));
}

struct Rounding {
  const Accum* x;
  Elem* out;
  i64 len;
};

template <class Cfg>
__device__ void narrowed(const Rounding& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) store(args.out + i, args.x[i]);
}

struct Placing {
  const Accum* x;
  Window<Elem> out;
};

// Rounds values to where a window has them.
template <class Cfg>
__device__ void placed(const Placing& args) {
  for (i64 i = thread_of_grid(); i < args.out.len(); i += threads_of_grid()) store(nth(args.out, i), args.x[i]);
}

struct Scaling {
  Elem* x;
  i64 len;
  f64 by;
};

template <class Cfg>
__device__ void scale(const Scaling& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) {
    store(args.x + i, load(args.x + i) * Accum(args.by));
  }
}

struct AccumScaling {
  Accum* x;
  i64 len;
  f64 by;
};

template <class Cfg>
__device__ void scale_accum(const AccumScaling& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) args.x[i] *= Accum(args.by);
}

struct Parts {
  Elem* x;
  const Accum* factors;  // one to `width` values
  i64 len;
  i64 width;
};

template <class Cfg>
__device__ void scale_parts(const Parts& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) {
    store(args.x + i, load(args.x + i) * args.factors[i / args.width]);
  }
}

// x ← x · σ(gate), a gate to `width` values
template <class Cfg>
__device__ void gate_parts(const Parts& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) {
    store(args.x + i, load(args.x + i) * logistic(args.factors[i / args.width]));
  }
}

struct Gating {
  Elem* x;
  Window<const Elem> gates;
};

// x ← x · σ(gate), a gate to each value
template <class Cfg>
__device__ void gate(const Gating& args) {
  for (i64 i = thread_of_grid(); i < args.gates.len(); i += threads_of_grid()) {
    store(args.x + i, load(args.x + i) * logistic(load(nth(args.gates, i))));
  }
}

// x ← x · σ(x)
template <class Cfg>
__device__ void silu(const Scaling& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) {
    const Accum x = load(args.x + i);
    store(args.x + i, x * logistic(x));
  }
}

struct Adding {
  Window<const Elem> x;
  Elem* into;
  i64 stride;
  i64 offset;
  i64 head_stride;
};

// into[row · stride + offset + head · head_stride ..] += x[row, head, :]
template <class Cfg>
__device__ void add_window(const Adding& args) {
  for (i64 i = thread_of_grid(); i < args.x.len(); i += threads_of_grid()) {
    const i64 line = i / args.x.width;
    const i64 row = line / args.x.heads;
    const i64 head = line % args.x.heads;
    Elem* to = args.into + row * args.stride + args.offset + head * args.head_stride + i % args.x.width;
    store(to, load(to) + load(nth(args.x, i)));
  }
}

struct Splitting {
  const Accum* x;
  Elem* out;  // [3, len]
  i64 len;
};

// Numbers as sums of three elements: of 24 bits an element of bf16 takes 8, so that nothing is lost.
template <class Cfg>
__device__ void split_in_three(const Splitting& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) {
    Accum rest = args.x[i];
#pragma unroll
    for (int part = 0; part < 3; part++) {
      Elem* to = args.out + part * args.len + i;
      store(to, rest);
      rest -= load(to);
    }
  }
}

struct Joining {
  const Accum* x;  // [rows, 3, width]
  Accum* out;      // [rows, width]
  i64 rows;
  i64 width;
};

// Adds what came of three parts, the smallest first.
template <class Cfg>
__device__ void join_three(const Joining& args) {
  for (i64 i = thread_of_grid(); i < args.rows * args.width; i += threads_of_grid()) {
    const Accum* x = args.x + i / args.width * 3 * args.width + i % args.width;
    args.out[i] = x[0] + (x[args.width] + x[2 * args.width]);
  }
}

struct Ending {
  const i32* lists;   // [queries, width]
  const i32* counts;  // [queries]: entries that count
  i32* out;           // [queries, width]: these, and nothing behind them
  i64 queries;
  i64 width;
};

template <class Cfg>
__device__ void end_lists(const Ending& args) {
  for (i64 i = thread_of_grid(); i < args.queries * args.width; i += threads_of_grid()) {
    args.out[i] = i % args.width < args.counts[i / args.width] ? args.lists[i] : -1;
  }
}
