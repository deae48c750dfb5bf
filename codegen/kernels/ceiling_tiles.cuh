// How fast the copy engine brings tiles of 64 rows of 64 bf16 to shared memory: a block has `STAGES` of them under way.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"

constexpr u32 TILE = 64;
constexpr u32 TILE_BYTES = TILE * TILE * 2;

struct Tiles {
  TensorMap from;  // [rows, columns] of bf16
  u32* sums;       // one of each block: of its last tile
  u32 across;      // tiles along a row
  u32 tiles;
  u32 reads;  // tiles that a block reads, at least `STAGES`
  u32 unused[11];
};

template <class Cfg>
__device__ void read_tiles(const Tiles& args) {
  constexpr u32 STAGES = Cfg::STAGES;
  alignas(1024) extern __shared__ u8 ring[];
  __shared__ alignas(8) u64 arrived[STAGES];
  const u32 to = shared_address(ring);
  const u32 barriers = shared_address(arrived);
  if (threadIdx.x == 0) {
    prefetch_map(args.from);
    for (u32 stage = 0; stage < STAGES; stage++) barrier_init(barriers + stage * 8, 1);
    fence_barrier_init();
    // Blocks read different tiles at any time
    u32 tile = blockIdx.x % args.tiles;
    u32 stage = 0;
    u32 parity = 0;
    for (u32 read = 0; read < args.reads + STAGES; read++) {
      const u32 barrier = barriers + stage * 8;
      if (read >= STAGES) barrier_wait(barrier, parity ^ 1);
      if (read < args.reads) {
        barrier_expect(barrier, TILE_BYTES);
        copy_tile(to + stage * TILE_BYTES, args.from, barrier, tile % args.across * TILE, tile / args.across * TILE);
        tile = (tile + gridDim.x) % args.tiles;
      }
      stage++;
      if (stage == STAGES) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
  __syncthreads();
  const u32* last = reinterpret_cast<const u32*>(ring + (args.reads - 1) % STAGES * TILE_BYTES);
  u32 sum = 0;
  for (u32 i = threadIdx.x; i < TILE_BYTES / 4; i += THREADS) sum ^= last[i];
  __shared__ u32 sums[THREADS];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = 0;
  for (int i = 0; i < THREADS; i++) sum ^= sums[i];
  args.sums[blockIdx.x] = sum;
}
