// Keys of pools of neighbouring tokens: an average for each channel, weighed by a softmax over the pool.

#include "prelude.cuh"

struct Pooling {
  Window<const Elem> k;
  Window<const Elem> gates;
  const Elem* positions;   // [size, width]
  const i64* first_rows;   // of each pool
  Elem* out;               // [pools, width]
  i64 pools;
  i64 size;
};

template <class Cfg>
__device__ void pool_keys(const Pooling& args) {
  const i64 width = args.k.width;
  for (i64 i = thread_of_grid(); i < args.pools * width; i += threads_of_grid()) {
    const i64 first = args.first_rows[i / width];
    const i64 channel = i % width;
    Accum largest = minus_infinity();
    Accum weights = 0;
    Accum sum = 0;
    if (!IN_RANGE(first, args.k.rows) || !IN_RANGE(first + args.size - 1, args.k.rows)) continue;
    for (i64 t = 0; t < args.size; t++) {
      largest = larger(largest, load(args.gates.at(first + t, 0) + channel) + load(args.positions + t * width + channel));
    }
    for (i64 t = 0; t < args.size; t++) {
      const Accum logit = load(args.gates.at(first + t, 0) + channel) + load(args.positions + t * width + channel);
      const Accum weight = exponential(logit - largest);
      weights += weight;
      sum += weight * load(args.k.at(first + t, 0) + channel);
    }
    store(args.out + i, sum / weights);
  }
}
