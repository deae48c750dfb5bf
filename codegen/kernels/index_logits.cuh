// An indexer's logits by Hopper's tensor cores: `scale · k_scale · Σ_j w_j · relu(q_j · k)`, j the `HI` heads of a query, `D` wide: what
// docs/kernels/sparse.md draws.
//
// Keys are a product's rows, and heads of queries its columns: a thread weighs what it has of two keys, and four threads add up. The first
// warpgroup has queries and keys brought. The others multiply, each its own tiles of keys by all queries of a work, `COLUMNS` columns at a time, and weigh
// what comes of it while others multiply.

#include "index_tiles.cuh"
#include "wgmma.cuh"

// Codes have no infinities: x + |x| is twice what is wanted, by an instruction that takes half the time.
template <class Cfg>
__device__ inline f32 above_zero(f32 x) {
  return Cfg::OPERANDS == CODES ? x + fabsf(x) : peak(x, 0.0f);
}
template <class Cfg>
__device__ constexpr f32 counted() {
  return Cfg::OPERANDS == CODES ? 0.5f : 1.0f;
}

// Columns that a thread has of a unit, and what it weighs them by.
template <class Cfg>
using Weights = f32[Cfg::COLUMNS / 4];
template <class Cfg>
using Sums = f32[Cfg::COLUMNS / 2];

// The weights of a unit's queries; 0 of those that there are not.
template <class Cfg>
__device__ inline void load_weights(const Logits& args, const Work& work, int unit, Weights<Cfg>& w) {
  using P = Place<Cfg>;
#pragma unroll
  for (int j = 0; j < Cfg::COLUMNS / 8; j++) {
    const int query = unit * P::OF_UNIT + j * 8 / Cfg::HI;
    const int head = j * 8 % Cfg::HI + own_number() % 4 * 2;
    float2 two = {0, 0};
    if (query < work.count) two = *reinterpret_cast<const float2*>(args.weights + i64(work.row + query) * Cfg::HI + head);
    w[2 * j] = two.x;
    w[2 * j + 1] = two.y;
  }
}

template <int LINE>
__device__ inline u64 line_at(u32 place) {
  return rows_at<LINE / 2>(place);
}

// Begins the products of a tile of keys by a unit.
template <class Cfg>
__device__ inline void multiply(u32 keys, u32 queries, Sums<Cfg>& s) {
  using P = Place<Cfg>;
  const u32 left = place_of(keys), right = place_of(queries);
  settle(s);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::STEPS; k++) {
    const u64 a = line_at<P::K_LINE>(left + (k * 32 / P::K_LINE * P::K_LINE_BYTES + k * 32 % P::K_LINE) / 16);
    const u64 b = line_at<P::Q_LINE>(right + (k * 32 / P::Q_LINE * P::Q_LINE_BYTES + k * 32 % P::Q_LINE) / 16);
    if constexpr (Cfg::OPERANDS == CODES) wgmma_e4m3(s, a, b, k > 0);
    else wgmma_bf16<0, 0>(s, a, b, k > 0);
  }
  wgmma_commit();
}

// Two codes of a key as two of bf16.
__device__ inline u32 widened(u32 at) {
  const float2 two = unpack_f16(widen_e4m3(shared_u16(at)));
  return pack_bf16(two.x, two.y);
}

// The same, of keys in codes, which are widened on the way.
template <class Cfg>
__device__ inline void multiply_mixed(u32 keys, u32 queries, Sums<Cfg>& s) {
  using P = Place<Cfg>;
  const u32 right = place_of(queries), self = own_number();
  u32 a[P::STEPS][4];
#pragma unroll
  for (int k = 0; k < P::STEPS; k++) {
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const u32 at = left_row(self, part) * P::K_LINE + k * 16 + left_column(self, part);
      a[k][part] = widened(keys + (P::K_LINE == 128 ? swizzled_128(at) : swizzled_64(at)));
    }
  }
  settle(s);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < P::STEPS; k++)
    wgmma_bf16<0>(s, a[k], line_at<P::Q_LINE>(right + (k * 32 / P::Q_LINE * P::Q_LINE_BYTES + k * 32 % P::Q_LINE) / 16), k > 0);
  wgmma_commit();
}

template <class Cfg>
__device__ inline void begin_unit(u32 base, u32 stage, u32 q_stage, int unit, Sums<Cfg>& s) {
  using P = Place<Cfg>;
  const u32 keys = base + P::K + stage * P::K_STAGE;
  const u32 queries = base + P::Q + q_stage * P::Q_STAGE + unit * Cfg::COLUMNS * P::Q_LINE;
  if constexpr (Cfg::OPERANDS == MIXED) multiply_mixed<Cfg>(keys, queries, s);
  else multiply<Cfg>(keys, queries, s);
}

// What a thread writes of a tile: the key, what its sums are multiplied by, whether all queries want all keys.
struct Own {
  i32 key;
  f32 factor;
  bool all;
};

// Each of four threads has two keys' sums over some heads; two of them write one key, two the other.
__device__ inline bool has_second() { return thread_number() & 2; }

template <class Cfg>
__device__ inline Own own_key(const Logits& args, u32 base, const Work& work, i32 key, u32 stage) {
  using P = Place<Cfg>;
  const i32 row = i32(accumulator_row(own_number(), has_second()));
  f32 factor = args.scale * counted<Cfg>();
  if (P::SCALED) {
    const i32 copy = row >> args.box_log2;
    factor *= shared_f32(base + P::SCALES + stage * SCALE_BYTES + copy * scales_apart(args.box_log2) + (row - (copy << args.box_log2)) * 4);
  }
  return {key + row, factor, key >= work.all_from && key + KEYS <= work.all_to};
}

// Adds what four threads have of two keys, and gives each of them what it writes of one query.
__device__ inline f32 joined(const f32 (&sums)[2]) {
  const f32 keeps = has_second() ? sums[1] : sums[0];
  const f32 gives = has_second() ? sums[0] : sums[1];
  return keeps + __shfl_xor_sync(ALL_LANES, gives, 2);
}

template <class Cfg>
__device__ inline void write(const Logits& args, const Work& work, const Own& own, int query, f32 sum) {
  const bool wanted = [&] {
    if (own.all) return true;
    if (query >= work.count) return false;
    const Limit limit = args.limits[work.row + query];
    return own.key >= limit.from && own.key < limit.to;
  }();
  if (wanted) args.out[i64(work.out_row + query) * args.width + (own.key - work.column)] = sum * own.factor;
}

// Weighs a unit's products and writes what they come to.
template <class Cfg>
__device__ inline void weigh(const Logits& args, const Work& work, const Own& own, int unit, const Sums<Cfg>& s, const Weights<Cfg>& w) {
  using P = Place<Cfg>;
  f32 sums[P::OF_UNIT][2] = {};
#pragma unroll
  for (int j = 0; j < Cfg::COLUMNS / 8; j++) {
    f32(&of)[2] = sums[j * 8 / Cfg::HI];
#pragma unroll
    for (int i = 0; i < 4; i++) of[i / 2] += w[2 * j + i % 2] * above_zero<Cfg>(s[4 * j + i]);
  }
  const bool odd = thread_number() & 1;
  if constexpr (P::OF_UNIT == 1) {
    f32 sum = joined(sums[0]);
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    if (!odd) write<Cfg>(args, work, own, unit, sum);
  } else {
#pragma unroll
    for (int query = 0; query < P::OF_UNIT; query += 2) {
      const f32 one = joined(sums[query]), other = joined(sums[query + 1]);
      const f32 sum = (odd ? other : one) + __shfl_xor_sync(ALL_LANES, odd ? one : other, 1);
      write<Cfg>(args, work, own, unit * P::OF_UNIT + query + odd, sum);
    }
  }
}

// A tile by all queries of a work, one unit after the other.
template <class Cfg>
__device__ inline void take_tile(const Logits& args, u32 base, const Work& work, i32 key, u32 q_stage, Tiles<Cfg>& tiles,
                                 const Weights<Cfg> (&w)[Cfg::UNITS]) {
  barrier_wait(tiles.full(base), tiles.turn.parity);
  const Own own = own_key<Cfg>(args, base, work, key, tiles.turn.stage);
#pragma unroll
  for (int unit = 0; unit < Cfg::UNITS; unit++) {
    Sums<Cfg> s;
    begin_unit<Cfg>(base, tiles.turn.stage, q_stage, unit, s);
    wgmma_wait<0>();
    settle(s);
    if (unit == Cfg::UNITS - 1) arrive_once_a_warp(tiles.free(base));
    weigh<Cfg>(args, work, own, unit, s, w[unit]);
  }
  tiles.next();
}

// All works of a block, by a consumer.
template <class Cfg>
__device__ inline void score_works(const Logits& args, u32 base) {
  using P = Place<Cfg>;
  Ring<P::Q_STAGES> q;
  Tiles<Cfg> tiles(threadIdx.x / WARPGROUP - 1);
#pragma unroll 1
  for (i32 i = args.begins[blockIdx.x]; i < args.begins[blockIdx.x + 1]; i++) {
    const Work work = args.works[i];
    Weights<Cfg> w[Cfg::UNITS];
#pragma unroll
    for (int unit = 0; unit < Cfg::UNITS; unit++) load_weights<Cfg>(args, work, unit, w[unit]);
    barrier_wait(base + P::Q_FULL + q.stage * 8, q.parity);
#pragma unroll 1
    for (i32 key = tiles.first_key(work); key < work.end; key += CONSUMERS * KEYS) take_tile<Cfg>(args, base, work, key, q.stage, tiles, w);
    tiles.end(work);
    arrive_once_a_warp(base + P::Q_FREE + q.stage * 8);
    q.next();
  }
}

template <class Cfg>
__device__ void index_logits(const Logits& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    if (base % 1024 != 0) __trap();
    prefetch_map(args.q);
    prefetch_map(args.k);
    if (P::SCALED) prefetch_map(args.k_scales);
    init_barriers<Cfg>(base);
  }
  __syncthreads();
  if (threadIdx.x < WARPGROUP) {
    registers_down<P::BRINGS>();
    bring_works<Cfg>(args, base);
  } else {
    registers_up<P::SCORES>();
    score_works<Cfg>(args, base);
  }
}
