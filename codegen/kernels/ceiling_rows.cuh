// How fast rows of `ROW` bytes come from places that chance names: eight lanes read a row, so that a warp has four under way.

#include "prelude.cuh"
#include "copies.cuh"

struct Rows {
  const Quad* from;  // [rows, ROW / 16]
  u32* sums;         // one of each thread
  u32 rows;
  u32 reads;  // rows that eight lanes read
};

// A number below `end` that `i` picks, about as chance would.
__device__ inline u32 picked(u32 i, u32 end) {
  u32 x = (i ^ i >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return u32(u64(x ^ x >> 16) * end >> 32);
}

template <class Cfg>
__device__ void read_rows(const Rows& args) {
  constexpr int QUADS = Cfg::ROW / 16;
  const u32 thread = u32(thread_of_grid());
  const u32 reader = thread / 8;
  const u32 part = thread % 8;
  u32 sum = 0;
  for (u32 read = 0; read < args.reads; read++) {
    const Quad* row = args.from + i64(picked(reader * args.reads + read, args.rows)) * QUADS;
#pragma unroll
    for (int quad = 0; quad < QUADS; quad += 8) {
      if (quad + 8 <= QUADS || quad + part < QUADS) {
        const Quad x = load_once(row + quad + part);
        sum ^= x.words[0] ^ x.words[1] ^ x.words[2] ^ x.words[3];
      }
    }
  }
  args.sums[thread] = sum;
}
