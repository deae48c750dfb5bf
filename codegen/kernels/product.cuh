// Products of matrices with any strides, summed in the accumulation type in the same order in every run.
//
// The right matrix is of type `MLA_KEY`; results go to elements or to accumulators.

#include "prelude.cuh"

using Right = MLA_KEY;

constexpr int TILE = 32;            // rows and columns of a block's result
constexpr int DEPTH = 16;           // terms that are staged at a time
constexpr int OWN = TILE * TILE / THREADS;  // results of a thread: one below the other

template <class T>
struct Matrix {
  T* at;
  i64 row_stride;
  i64 column_stride;
  i64 batch_stride;
};

template <class C>
struct Product {
  Matrix<const Elem> a;  // [m, k]
  Matrix<const Right> b;  // [k, n]
  Matrix<C> c;            // [m, n]
  const C* bias;          // [n], or null
  i64 m;
  i64 n;
  i64 k;
  i64 accumulate;
};

template <class C>
__device__ void multiply(const Product<C>& args) {
  __shared__ Accum left[DEPTH][TILE + 1];
  __shared__ Accum right[DEPTH][TILE + 1];
  const i64 batch = blockIdx.z;
  const Elem* a = args.a.at + batch * args.a.batch_stride;
  const Right* b = args.b.at + batch * args.b.batch_stride;
  // Row tiles lie along x: there may be more of them than a grid has blocks along y
  const i64 first_row = i64(blockIdx.x) * TILE;
  const i64 first_column = i64(blockIdx.y) * TILE;
  const int column = threadIdx.x % TILE;
  const int row = threadIdx.x / TILE * OWN;
  Accum sum[OWN] = {};
  for (i64 first = 0; first < args.k; first += DEPTH) {
    for (int i = threadIdx.x; i < DEPTH * TILE; i += THREADS) {
      // Neighbouring threads read neighbouring values, whichever way the matrix lies
      const int a_term = args.a.column_stride == 1 ? i % DEPTH : i / TILE;
      const int a_row = args.a.column_stride == 1 ? i / DEPTH : i % TILE;
      const bool a_inside = first + a_term < args.k && first_row + a_row < args.m;
      left[a_term][a_row] =
          a_inside ? load(a + (first_row + a_row) * args.a.row_stride + (first + a_term) * args.a.column_stride) : Accum(0);
      const int b_term = args.b.row_stride == 1 ? i % DEPTH : i / TILE;
      const int b_column = args.b.row_stride == 1 ? i / DEPTH : i % TILE;
      const bool b_inside = first + b_term < args.k && first_column + b_column < args.n;
      right[b_term][b_column] =
          b_inside ? load(b + (first + b_term) * args.b.row_stride + (first_column + b_column) * args.b.column_stride) : Accum(0);
    }
    __syncthreads();
    for (int term = 0; term < DEPTH; term++) {
      const Accum y = right[term][column];
      for (int i = 0; i < OWN; i++) sum[i] += left[term][row + i] * y;
    }
    __syncthreads();
  }
  if (first_column + column >= args.n) return;
  const Accum bias = args.bias ? load(args.bias + first_column + column) : Accum(0);
  for (int i = 0; i < OWN; i++) {
    if (first_row + row + i >= args.m) return;
    C* to = args.c.at + batch * args.c.batch_stride + (first_row + row + i) * args.c.row_stride +
            (first_column + column) * args.c.column_stride;
    store(to, (args.accumulate ? load(to) : Accum(0)) + sum[i] + bias);
  }
}

using ElemProduct = Product<Elem>;
using AccumProduct = Product<Accum>;

template <class Cfg>
__device__ void product(const ElemProduct& args) {
  multiply(args);
}

template <class Cfg>
__device__ void accum_product(const AccumProduct& args) {
  multiply(args);
}
