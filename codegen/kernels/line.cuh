// A line of work that blocks share: tiles of a result lie on it one behind the other, each as long as its pieces of what is summed, and blocks have equal
// lengths of it. Where a tile is shared, blocks leave what they have, and the last of them to end adds it all, in order: none waits for another before its work
// is done. Where pieces are few, blocks have whole tiles, and nothing is exchanged.

#include "prelude.cuh"
#include "shared.cuh"
#include "ptx.cuh"

struct Line {
  f32* parts;    // [2 * blocks, numbers of a tile]
  u32* arrived;  // [tiles]: blocks of a tile that have come; the last one leaves 0 behind
  i32 pieces;    // of a tile
  i32 tiles;
  i32 whole;     // whether blocks have whole tiles; then there are neither parts nor counters
  i32 unused;
};

// A place on the line.
struct Spot {
  i32 tile, piece;
  __device__ Spot(i32 unit, i32 pieces) : tile(unit / pieces), piece(unit % pieces) {}
  __device__ void next(i32 pieces) {
    if (++piece < pieces) return;
    piece = 0;
    tile++;
  }
};

// Where on the line a block begins. Numbers of pieces times those of blocks fit in 32 bits: quotients of 64 bits take half a microsecond.
__device__ inline i32 beginning(const Line& line, i32 block) {
  const u32 blocks = gridDim.x;
  if (line.whole) return i32(u32(line.tiles) * u32(block) / blocks) * line.pieces;
  return i32(u32(line.tiles) * u32(line.pieces) * u32(block) / blocks);
}

// The block that has a place. No more blocks share tiles than there are pieces: each of them has some.
__device__ inline i32 block_of(const Line& line, i32 unit) {
  // The last block that begins at `unit` or before: ceil((unit + 1) blocks / units) - 1
  const u32 units = u32(line.tiles) * u32(line.pieces);
  return i32((u32(unit + 1) * gridDim.x + units - 1) / units) - 1;
}

// Where a block leaves what it has of a tile that it shares: of one that goes on from the block before, and of one that the next block goes on with.
__device__ inline f32* part_of(const Line& line, i32 block, bool goes_on, int size) { return line.parts + i64(2 * block + goes_on) * size + threadIdx.x; }

// Leaves it, so many numbers of each of the first `THREADS_HERE` threads.
template <int THREADS_HERE, int COUNT>
__device__ inline void leave(const Line& line, bool goes_on, const f32 (&sums)[COUNT]) {
  f32* to = part_of(line, blockIdx.x, goes_on, THREADS_HERE * COUNT);
#pragma unroll
  for (int i = 0; i < COUNT; i++) to[i * THREADS_HERE] = sums[i];
}

// What all blocks of a tile have left of it, added in order.
template <int THREADS_HERE, int COUNT>
__device__ inline void add_parts(const Line& line, i32 tile, f32 (&sums)[COUNT]) {
  const i32 first = block_of(line, tile * line.pieces), last = block_of(line, (tile + 1) * line.pieces - 1);
  // Some at once, so that nobody waits for each by itself
  constexpr int AT_ONCE = COUNT <= 8 ? 4 : COUNT <= 16 ? 2 : 1;
#pragma unroll
  for (int i = 0; i < COUNT; i++) sums[i] = 0;
  for (i32 next = first; next <= last; next += AT_ONCE) {
    f32 others[AT_ONCE][COUNT];
#pragma unroll
    for (int other = 0; other < AT_ONCE; other++) {
      const i32 block = next + other;
      const f32* from = part_of(line, block, block != first, THREADS_HERE * COUNT);
#pragma unroll
      for (int i = 0; i < COUNT; i++) others[other][i] = block <= last ? __ldcg(from + i * THREADS_HERE) : 0.0f;
    }
#pragma unroll
    for (int other = 0; other < AT_ONCE; other++) {
#pragma unroll
      for (int i = 0; i < COUNT; i++) sums[i] += others[other][i];
    }
  }
}

// The two tiles at most that a block shares, from `begin` to `end` on the line; -1: there is none.
struct SharedTiles {
  i32 first, last;
  __device__ SharedTiles(const Line& line, i32 begin, i32 end) {
    const i32 pieces = line.pieces, of_begin = begin / pieces, of_end = (end - 1) / pieces;
    const bool has_begin = begin % pieces == 0, has_end = end % pieces == 0;
    first = has_begin && (of_begin != of_end || has_end) ? -1 : of_begin;
    last = of_begin == of_end || has_end ? -1 : of_end;
  }
};

// One more block of a tile has left its part. Whether it was the last one.
__device__ inline bool was_last(const Line& line, i32 tile) {
  if (tile < 0) return false;
  const i32 first = block_of(line, tile * line.pieces), last = block_of(line, (tile + 1) * line.pieces - 1);
  if (atomicAdd(line.arrived + tile, 1u) != u32(last - first)) return false;
  line.arrived[tile] = 0;
  return true;
}

// Behind all of a block's work: its parts are left, and tiles whose last block it is are written. `told`: 16 bytes of shared memory; `write` takes a tile and a
// thread's numbers.
template <int THREADS_HERE, int COUNT, class Write>
__device__ inline void finish(const Line& line, u32 told_at, i32 begin, i32 end, Write write) {
  const SharedTiles tiles(line, begin, end);
  if (line.whole || (tiles.first < 0 && tiles.last < 0)) return;
  __threadfence();
  named_wait(1, THREADS_HERE);
  if (threadIdx.x == 0) {
    const bool of_first = was_last(line, tiles.first), of_last = was_last(line, tiles.last);
    __threadfence();
    share(told_at, Pair{of_first, of_last});
  }
  named_wait(1, THREADS_HERE);
  const Pair told = shared_pair(told_at);
  f32 sums[COUNT];
  if (told.x) {
    add_parts<THREADS_HERE>(line, tiles.first, sums);
    write(tiles.first, sums);
  }
  if (told.y) {
    add_parts<THREADS_HERE>(line, tiles.last, sums);
    write(tiles.last, sums);
  }
}

// All of a block's work, from `begin` to `end` on the line: `multiply` makes a thread's numbers of so many pieces of a tile, those that come next.
template <int THREADS_HERE, int COUNT, class Multiply, class Write>
__device__ inline void work_along(const Line& line, u32 told_at, i32 begin, i32 end, Multiply multiply, Write write) {
  const i32 pieces = line.pieces;
  for (i32 unit = begin; unit < end;) {
    const i32 tile = unit / pieces, piece = unit % pieces, count = min(end - unit, pieces - piece);
    f32 sums[COUNT];
    multiply(count, sums);
    unit += count;
    if (count < pieces) leave<THREADS_HERE>(line, piece != 0, sums);
    else write(tile, sums);
  }
  finish<THREADS_HERE, COUNT>(line, told_at, begin, end, write);
}
