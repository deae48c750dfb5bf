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
};

// Row i of `out` is what slot `slots[i]` holds.
template <class Cfg>
__device__ void gather(const Gather& args) {
  for (i64 i = thread_of_grid(); i < args.rows * args.width; i += threads_of_grid()) {
    const i64 slot = args.slots[i / args.width];
    if (!IN_RANGE(slot, args.slot_count)) continue;
    store(args.out + i, load(args.cache + slot * args.stride + args.offset + i % args.width));
  }
}
