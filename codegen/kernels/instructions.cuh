// What `ptx.cuh`, `copies.cuh` and `convert.cuh` wrap, done once: a test of them.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "convert.cuh"

// ---- The copy engine ----

constexpr u32 FLAT = 64 * 128;     // bytes of a tile of 64 rows of 64 numbers of 16 bits
constexpr u32 DEEP = 2 * 8 * 128;  // of one of 2 matrices of 8 such rows
constexpr u32 BULK = 4096;

struct Engine {
  TensorMap flat;  // [128, 128]: its second tile of its second row of tiles is copied
  TensorMap deep;  // [4, 16, 128]: the tile that begins at element 64, row 8 and matrix 2
  const u8* bulk;  // [BULK]
  u8* out;         // [FLAT + DEEP + BULK], as they stand in shared memory
  u64 unused[6];
};

template <class Cfg>
__device__ void copy_by_engine(const Engine& args) {
  __shared__ alignas(1024) u8 all[FLAT + DEEP + BULK];
  __shared__ alignas(8) u64 arrived;
  const u32 to = shared_address(all);
  const u32 barrier = shared_address(&arrived);
  if (threadIdx.x == 0) {
    barrier_init(barrier, 1);
    fence_barrier_init();
    barrier_expect(barrier, FLAT + DEEP + BULK);
    copy_tile(to, args.flat, barrier, 64, 64);
    copy_tile_3d(to + FLAT, args.deep, barrier, 64, 8, 2);
    copy_bulk(to + FLAT + DEEP, args.bulk, BULK, barrier);
  }
  __syncthreads();
  barrier_wait(barrier, 0);
  for (u32 i = threadIdx.x; i < FLAT + DEEP + BULK; i += THREADS) args.out[i] = all[i];
}

struct Adding {
  const f32* from;  // [2, THREADS]: what each of two blocks adds
  f32* to;          // [THREADS]
};

template <class Cfg>
__device__ void add_by_engine(const Adding& args) {
  __shared__ alignas(16) f32 all[THREADS];
  all[threadIdx.x] = args.from[blockIdx.x * THREADS + threadIdx.x];
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x > 0) return;
  add_out(args.to, shared_address(all), sizeof(all));
  copies_out_wait();
}

struct Counting {
  const f32* from;  // [blocks, THREADS, 4]
  f32* to;          // [THREADS, 4]
  u32* turn;        // of zero: blocks that have been here
};

// Blocks leave and add numbers one after the other.
template <class Cfg>
__device__ void add_in_turn(const Counting& args) {
  while (load_acquire(args.turn) != blockIdx.x) {
  }
  const f32* from = args.from + (blockIdx.x * THREADS + threadIdx.x) * 4;
  f32* to = args.to + threadIdx.x * 4;
  if (blockIdx.x == 0) store_four(to, from[0], from[1], from[2], from[3]);
  else add_four(to, from[0], from[1], from[2], from[3]);
  __syncthreads();
  if (threadIdx.x == 0) count_release(args.turn);
}

// ---- Copies of threads and of warps ----

struct Parts {
  const Quad* quads;  // [256]: every third is left out, and is zeros; the second half is read past shared memory
  Quad* copied;       // [256]
  const u16* blocks;  // [4, 8, 8]
  u16* stored;        // [4, 8, 8], as they were
  u32* turned;        // [32 lanes, 4]
};

template <class Cfg>
__device__ void copy_by_threads(const Parts& args) {
  __shared__ Quad quads[THREADS];
  __shared__ alignas(16) u16 blocks[2][256];
  const int thread = threadIdx.x;
  copy_quad(shared_address(quads + thread), args.quads + thread, thread % 3 != 0);
  copies_commit();
  for (int i = thread; i < 256; i += THREADS) blocks[0][i] = args.blocks[i];
  copies_wait<0>();
  __syncthreads();
  args.copied[thread] = quads[thread];
  args.copied[THREADS + thread] = load_once(args.quads + THREADS + thread);
  if (warp() == 0) {
    u32 x[4];
    load_blocks(x, shared_address(blocks[0] + lane() * 8));
    store_blocks(shared_address(blocks[1] + lane() * 8), x);
    load_blocks_turned(x, shared_address(blocks[0] + lane() * 8));
    for (int i = 0; i < 4; i++) args.turned[lane() * 4 + i] = x[i];
  }
  __syncthreads();
  for (int i = thread; i < 256; i += THREADS) args.stored[i] = blocks[1][i];
}

// ---- Numbers ----

// Of each 65536.
struct Numbers {
  const f32* x;
  const f32* y;
  u32* e4m3;  // every pair, widened
  u32* e5m2;
  float2* halves;  // pairs of f16, of which the lower is every number and the upper its complement
  f32* powers;
  f32* logarithms;
  f32* inverses;
  f32* peaks;
  u32* bf16_pairs;  // `x` and `y`, rounded
  u32* f16_pairs;
  u32* bf16_products;  // of such pairs and pairs of `y`
  u32* f16_products;
};

template <class Cfg>
__device__ void convert_numbers(const Numbers& args) {
  for (i64 i = thread_of_grid(); i < 65536; i += threads_of_grid()) {
    const f32 x = args.x[i], y = args.y[i];
    args.e4m3[i] = widen_e4m3(u16(i));
    args.e5m2[i] = widen_e5m2(u16(i));
    args.halves[i] = unpack_f16(u32(i) | ~u32(i) << 16);
    args.powers[i] = exp2_fast(x);
    args.logarithms[i] = log2_fast(x);
    args.inverses[i] = reciprocal_fast(x);
    args.peaks[i] = peak(x, y);
    args.bf16_pairs[i] = pack_bf16(x, y);
    args.f16_pairs[i] = pack_f16(x, y);
    args.bf16_products[i] = times_bf16(pack_bf16(x, y), pack_bf16(y, y));
    args.f16_products[i] = times_f16(pack_f16(x, y), pack_f16(y, y));
  }
}
