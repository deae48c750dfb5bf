// How fast memory is read, and copied: each thread has eight accesses of 16 bytes under way.

#include "prelude.cuh"

constexpr int UNDER_WAY = 8;
constexpr i64 PIECE = i64(UNDER_WAY) * THREADS;  // what a block reads at a time, in accesses

struct Reading {
  const Quad* from;
  u32* sums;  // one of each block
  i64 pieces;
};

struct Moving {
  const Quad* from;
  Quad* to;
  i64 pieces;
};

__device__ inline void load_piece(Quad (&x)[UNDER_WAY], const Quad* from, i64 piece) {
#pragma unroll
  for (int i = 0; i < UNDER_WAY; i++) x[i] = from[piece * PIECE + i * THREADS + threadIdx.x];
}

// Every block's words, combined by exclusive or, which needs no order.
template <class Cfg>
__device__ void read_memory(const Reading& args) {
  u32 sum = 0;
  for (i64 piece = blockIdx.x; piece < args.pieces; piece += gridDim.x) {
    Quad x[UNDER_WAY];
    load_piece(x, args.from, piece);
#pragma unroll
    for (int i = 0; i < UNDER_WAY; i++) sum ^= x[i].words[0] ^ x[i].words[1] ^ x[i].words[2] ^ x[i].words[3];
  }
  __shared__ u32 sums[THREADS];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = 0;
  for (int i = 0; i < THREADS; i++) sum ^= sums[i];
  args.sums[blockIdx.x] = sum;
}

template <class Cfg>
__device__ void copy_memory(const Moving& args) {
  for (i64 piece = blockIdx.x; piece < args.pieces; piece += gridDim.x) {
    Quad x[UNDER_WAY];
    load_piece(x, args.from, piece);
#pragma unroll
    for (int i = 0; i < UNDER_WAY; i++) args.to[piece * PIECE + i * THREADS + threadIdx.x] = x[i];
  }
}
