// Between rows of a tensor and a cache of plain numbers.

#include "prelude.cuh"

using Key = MLA_KEY;

struct Scatter {
  Window<const Elem> x;
  Key* cache;
  const i64* slots;  // one per row; negative: none
  i64 slot_count;
  i64 stride;
  i64 offset;
  i64 head_stride;
};

// Writes row i of `x` to slot `slots[i]`.
template <class Cfg>
__device__ void scatter(const Scatter& args) {
  for (i64 i = thread_of_grid(); i < args.x.len(); i += threads_of_grid()) {
    const i64 line = i / args.x.width;
    const i64 slot = args.slots[line / args.x.heads];
    if (slot < 0 || !IN_RANGE(slot, args.slot_count)) continue;
    Key* to = args.cache + slot * args.stride + args.offset + line % args.x.heads * args.head_stride;
    store(to + i % args.x.width, load(nth(args.x, i)));
  }
}

struct Gather {
  const Key* cache;
  const i64* slots;
  Elem* out;  // [rows, width]
  i64 rows;
  i64 width;
  i64 slot_count;
  i64 stride;
  i64 offset;
  i64 quads;  // whether parts of 16 bytes are all that there is, and nothing to be converted
};

// Row i of `out` is what slot `slots[i]` holds. A warp for a row.
template <class Cfg>
__device__ void gather(const Gather& args) {
  for (i64 row = thread_of_grid() / WARP; row < args.rows; row += threads_of_grid() / WARP) {
    const i64 slot = args.slots[row];
    if (!IN_RANGE(slot, args.slot_count)) continue;
    const Key* from = args.cache + slot * args.stride + args.offset;
    Elem* to = args.out + row * args.width;
    if (args.quads) {
      const i64 quads = args.width * i64(sizeof(Elem)) / i64(sizeof(Quad));
#pragma unroll 4
      for (i64 i = lane(); i < quads; i += WARP) reinterpret_cast<Quad*>(to)[i] = reinterpret_cast<const Quad*>(from)[i];
    } else {
      for (i64 i = lane(); i < args.width; i += WARP) store(to + i, load(from + i));
    }
  }
}
