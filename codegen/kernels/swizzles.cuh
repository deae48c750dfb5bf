// What `tile.cuh` computes, written down: a test compares it with its mirror.

#include "prelude.cuh"
#include "tile.cuh"

struct Swizzles {
  u32* swizzled_128;  // of bytes 0 .. 8192
  u32* swizzled_64;
  u32* swizzled_32;
  u64* descriptors;
  i32* places;  // [128 threads, 16 pairs, 2]: row and column; then of [128 threads, 4 parts, 2]
};

template <class Cfg>
__device__ void swizzles(const Swizzles& args) {
  for (u32 byte = threadIdx.x; byte < 8192; byte += THREADS) {
    args.swizzled_128[byte] = swizzled_128(byte);
    args.swizzled_64[byte] = swizzled_64(byte);
    args.swizzled_32[byte] = swizzled_32(byte);
    args.descriptors[byte] = descriptor(16 * byte, 32 * byte, 1024, byte % 2 ? LAYOUT_128 : LAYOUT_64);
  }
  const int thread = threadIdx.x;
  i32* places = args.places + thread * 32;
  for (int pair = 0; pair < 16; pair++) {
    places[2 * pair] = accumulator_row(thread, pair);
    places[2 * pair + 1] = accumulator_column(thread, pair);
  }
  places = args.places + THREADS * 32 + thread * 8;
  for (int part = 0; part < 4; part++) {
    places[2 * part] = left_row(thread, part);
    places[2 * part + 1] = left_column(thread, part);
  }
}
