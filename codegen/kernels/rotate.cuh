// Rotary embedding in place: `2 · PAIRS` values of each head, from value `START` on.

#include "runs.cuh"
#include "pairs.cuh"

struct Turning {
  Elem* x;           // [rows, heads, WIDTH]
  const Accum* cos;  // [rows, PAIRS]
  const Accum* sin;
  i64 lines;  // rows · heads
  i64 heads;
  i64 backward;
};

// Threads that turn a line, four pairs each, where a warp's can be shared out so; else 0.
template <class Cfg>
constexpr int LANES_OF_LINE = Cfg::PAIRS % 4 == 0 && WARP * 4 % Cfg::PAIRS == 0 ? Cfg::PAIRS / 4 : 0;

// The eight values of four pairs, and back: a run of neighbours, or two that are `PAIRS` apart.
template <class Cfg, int HALF>
__device__ inline void load_pairs(const Elem* line, int pair, RotaryPair (&pairs)[4]) {
  constexpr int VALUES = 2 * Cfg::PAIRS;
  if constexpr (HALF) {
    Accum a[4], b[4];
    load_run<VALUES>(line, pair, a);
    load_run<VALUES>(line, pair + Cfg::PAIRS, b);
#pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] = {a[i], b[i]};
  } else {
    Accum x[8];
    load_run<VALUES>(line, 2 * pair, x);
#pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] = {x[2 * i], x[2 * i + 1]};
  }
}
template <class Cfg, int HALF>
__device__ inline void store_pairs(Elem* line, int pair, const RotaryPair (&pairs)[4]) {
  constexpr int VALUES = 2 * Cfg::PAIRS;
  if constexpr (HALF) {
    const Accum a[4] = {pairs[0].a, pairs[1].a, pairs[2].a, pairs[3].a};
    const Accum b[4] = {pairs[0].b, pairs[1].b, pairs[2].b, pairs[3].b};
    store_run<VALUES>(line, pair, a);
    store_run<VALUES>(line, pair + Cfg::PAIRS, b);
  } else {
    const Accum x[8] = {pairs[0].a, pairs[0].b, pairs[1].a, pairs[1].b, pairs[2].a, pairs[2].b, pairs[3].a, pairs[3].b};
    store_run<VALUES>(line, 2 * pair, x);
  }
}

// Some lanes of a warp for each line, four pairs each. They read before any of them writes: pairs may be written where others stood. Lanes behind the last
// line read it too, and write nothing: so all loads are under way at once. (Parts of four lines for each thread are no faster.)
template <class Cfg>
__device__ inline void rotate_runs(const Turning& args) {
  constexpr int LANES = LANES_OF_LINE<Cfg>;
  const i64 own = i64(blockIdx.x) * (THREADS / LANES) + threadIdx.x / LANES;
  const bool there = own < args.lines;
  const i64 line = there ? own : args.lines - 1;
  // Fewer lines than 2^32 fill any device's memory
  const i64 angles = i64(u32(line) / u32(args.heads)) * Cfg::PAIRS;
  const int pair = threadIdx.x % LANES * 4;
  Elem* x = args.x + line * Cfg::WIDTH + Cfg::START;
  Accum cos[4], sin[4];
  RotaryPair pairs[4];
  load_pairs<Cfg, Cfg::HALF_IN>(x, pair, pairs);
  load_run<Cfg::PAIRS>(args.cos + angles, pair, cos);
  load_run<Cfg::PAIRS>(args.sin + angles, pair, sin);
#pragma unroll
  for (int i = 0; i < 4; i++) pairs[i] = pairs[i].turned(cos[i], args.backward ? -sin[i] : sin[i]);
  if (Cfg::HALF_IN != Cfg::HALF_OUT) __syncwarp();
  if (there) store_pairs<Cfg, Cfg::HALF_OUT>(x, pair, pairs);
}

// A block for each line.
template <class Cfg>
__device__ inline void rotate_lines(const Turning& args) {
  __shared__ Elem turned[2 * Cfg::PAIRS];
  const i64 row = blockIdx.x / args.heads;
  Elem* x = args.x + i64(blockIdx.x) * Cfg::WIDTH + Cfg::START;
  for (int pair = threadIdx.x; pair < Cfg::PAIRS; pair += THREADS) {
    const Accum sin = args.sin[row * Cfg::PAIRS + pair];
    const RotaryPair read = {load(x + first_of(Cfg::HALF_IN, pair)), load(x + second_of(Cfg::HALF_IN, pair, Cfg::PAIRS))};
    const RotaryPair now = read.turned(args.cos[row * Cfg::PAIRS + pair], args.backward ? -sin : sin);
    store(turned + first_of(Cfg::HALF_OUT, pair), now.a);
    store(turned + second_of(Cfg::HALF_OUT, pair, Cfg::PAIRS), now.b);
  }
  // Pairs may be written where other pairs are still to be read
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * Cfg::PAIRS; i += THREADS) x[i] = turned[i];
}

// `-θ` if backward.
template <class Cfg>
__device__ void rotate(const Turning& args) {
  if constexpr (LANES_OF_LINE<Cfg> > 0) rotate_runs<Cfg>(args);
  else rotate_lines<Cfg>(args);
}
