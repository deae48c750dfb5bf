// How `flash_backward.cuh` cuts its work, which what comes before it and after it knows too.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "tile.cuh"
#include "steps.cuh"
#include "written.cuh"

template <class Cfg>
struct Cut {
  static constexpr int QUERIES = Cfg::QUERIES;  // rows of a tile: 64 or 128
  static constexpr int D = Cfg::A + Cfg::R;     // columns of keys and queries
  // What each of two warpgroups multiplies of a tile's gradient of queries: a half of the columns of 64 rows, or all of them of a half of 128 rows
  static constexpr int HALF = (D + 31) / 32 * 16;
  static constexpr int N = QUERIES == 64 ? HALF : D;
  // Registers of a thread that the gradients of 128 keys and their values take, a half of them each, beside what a tile does
  static constexpr int HELD = (D + Cfg::V) / 2 + (N / 2 > QUERIES * 3 / 4 ? N / 2 : QUERIES * 3 / 4);
  static constexpr int KEYS = HELD <= 208 ? 128 : 64;  // of a block
};
