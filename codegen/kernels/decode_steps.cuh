// Steps that kernels of absorbed attention have in common.

#include "decoding.cuh"

constexpr int TILE = 64;  // columns of a tile
constexpr u32 TILE_BYTES = 8192;
constexpr int WARPGROUP = 128;
constexpr f32 LOG2_E = 1.4426950408889634f;
constexpr f32 LOW = -1e30f;  // below every logit, and far above what a key gets that is not seen, minus infinity: an exponential of 0 whatever its scale

__device__ inline f32 exp2_fast(f32 x) {
  f32 y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline f32 log2_fast(f32 x) {
  f32 y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline u32 pack_bf16(f32 low, f32 high) {
  u32 x;
  asm("cvt.rn.bf16x2.f32 %0, %2, %1;" : "=r"(x) : "f"(low), "f"(high));
  return x;
}
// The larger one of two numbers; a NaN where one is.
__device__ inline f32 peak(f32 x, f32 y) {
  f32 z;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}

// A thread's number in its warpgroup, asked for anew: what is computed from it is computed again, not kept in registers, of which there are few.
__device__ inline u32 own_number() {
  u32 x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x % WARPGROUP;
}

// ---- Shared memory by its own addresses, which take one register ----

__device__ inline f32 shared_f32(u32 at) {
  f32 x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(at) : "memory");
  return x;
}
struct Pair {
  i32 x, y;
};
struct Four {
  i32 x, y, z, w;
};
__device__ inline Pair shared_pair(u32 at) {
  Pair p;
  asm volatile("ld.shared.v2.s32 {%0, %1}, [%2];" : "=r"(p.x), "=r"(p.y) : "r"(at) : "memory");
  return p;
}
__device__ inline Four shared_four(u32 at) {
  Four p;
  asm volatile("ld.shared.v4.s32 {%0, %1, %2, %3}, [%4];" : "=r"(p.x), "=r"(p.y), "=r"(p.z), "=r"(p.w) : "r"(at) : "memory");
  return p;
}
__device__ inline void share(u32 at, f32 x) { asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(x) : "memory"); }
__device__ inline i32 shared_i32(u32 at) {
  i32 x;
  asm volatile("ld.shared.s32 %0, [%1];" : "=r"(x) : "r"(at) : "memory");
  return x;
}
__device__ inline void share(u32 at, i32 x) { asm volatile("st.shared.s32 [%0], %1;" ::"r"(at), "r"(x) : "memory"); }
__device__ inline void share(u32 at, Pair p) { asm volatile("st.shared.v2.s32 [%0], {%1, %2};" ::"r"(at), "r"(p.x), "r"(p.y) : "memory"); }
__device__ inline void share(u32 at, Four p) {
  asm volatile("st.shared.v4.s32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(p.x), "r"(p.y), "r"(p.z), "r"(p.w) : "memory");
}

// ---- Descriptors of operands in tiles of 64 columns: the lower half names a place, the upper half is the same for all of a kind ----

__device__ inline u32 place_of(u32 address) { return __shfl_sync(ALL_LANES, address >> 4, 0); }
__device__ inline u64 rows_at(u32 place) { return u64(1024 >> 4 | u32(LAYOUT_128) << 30) << 32 | place | 1 << 16; }
// `tile`: bytes from 64 columns to the next.
__device__ inline u64 columns_at(u32 place, u32 tile = TILE_BYTES) { return u64(1024 >> 4 | u32(LAYOUT_128) << 30) << 32 | place | (tile >> 4) << 16; }

__device__ inline void arrive_once_a_warp(u32 barrier) {
  __syncwarp();
  if (lane() == 0) barrier_arrive(barrier);
}

// Where a part's row lies among those of all. A team has two slots: of a group that others began, and of one that others go on with.
template <class Cfg>
__device__ inline i64 part_row(const Decoding& args, const Item& item, int part, int member, int row) {
  const int slot = item.slot + 2 * part + (part == 0 ? 1 : 0);
  return (i64(slot) * args.team + member) * Cfg::ROWS + row;
}

// Where a row of an item lies: in the output, or among those of parts.
template <class Cfg>
__device__ inline i64 line_of(const Decoding& args, const Item& item, int member, int r, const Row& row) {
  return item.parts == 1 ? i64(row.query) * Cfg::H + row.head : part_row<Cfg>(args, item, item.part, member, r);
}

// Says that a warpgroup has written what it has of a part. All its threads come here; `name` is a barrier of their own.
__device__ inline void part_written(const Decoding& args, const Item& item, int member, u32 name) {
  named_wait(name, WARPGROUP);
  if (threadIdx.x % WARPGROUP == 0) {
    __threadfence();
    atomicAdd(args.arrived + item.group * args.team + member, 1u);
  }
}

__device__ inline u32 load_acquire(const u32* at) {
  u32 x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(at) : "memory");
  return x;
}

// Writes the log-sum-exp and the largest logit of a row, or what a part has of them. `weight`: log2 of its exponentials' sum; LOW: it saw nothing.
template <class Cfg>
__device__ inline void write_row_sums(const Decoding& args, const Item& item, int member, int r, const Row& row, f32 weight, f32 top) {
  if (item.parts > 1) {
    const i64 line = part_row<Cfg>(args, item, item.part, member, r);
    args.part_weight[line] = weight;
    args.part_most[line] = top;
    return;
  }
  const i64 line = i64(row.query) * Cfg::H + row.head;
  const bool saw = weight > LOW;
  args.lse[line] = saw ? weight / LOG2_E : minus_infinity();
  args.max_logit[line] = saw ? top * args.scale : minus_infinity();
}

// Writes four columns of a row's output.
template <class Cfg>
__device__ inline void store_sums(const Decoding& args, const Row& row, int column, const f32 (&sum)[4]) {
  if (!row.there) return;
  const i64 at = (i64(row.query) * Cfg::H + row.head) * Cfg::LATENT + column;
  if (args.narrow) {
    *reinterpret_cast<uint2*>(args.narrow + at) = uint2{pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3])};
  } else {
    *reinterpret_cast<float4*>(args.out + at) = float4{sum[0], sum[1], sum[2], sum[3]};
  }
}

// Adds up what teams have of one group, once all of it is there. Rows are cut into units of some columns, of which every team takes its share; as
// many of a block's warps as there is work for read the parts of a unit. All threads of a block come here. `room`: shared memory.
template <class Cfg, int WRITERS>
__device__ inline void join_parts(const Decoding& args, const Item& item, int member, f32* room) {
  constexpr int COLUMNS = WARP * 4;  // of a unit
  constexpr int CHUNKS = Cfg::LATENT / COLUMNS;
  const int helpers = blockDim.x / WARP;
  const int parts = item.parts;
  u32* arrived = args.arrived + item.group * args.team + member;
  if (threadIdx.x == 0) {
    while (load_acquire(arrived) < u32(parts * WRITERS)) {
    }
  }
  __syncthreads();
  const Group group = args.groups[item.group];
  const int rows = Cfg::H < Cfg::ROWS ? Cfg::H * args.at_once : Cfg::ROWS;
  const int units = rows * CHUNKS;
  const int own = item.part < units ? (units - item.part - 1) / parts + 1 : 0;
  f32* weights = room;               // [own, parts]
  f32* tops = weights + own * parts;  // [own, parts]
  for (int i = threadIdx.x; i < own * parts; i += blockDim.x) {
    const i64 from = part_row<Cfg>(args, item, i % parts, member, (item.part + i / parts * parts) / CHUNKS);
    weights[i] = __ldcg(args.part_weight + from);
    tops[i] = __ldcg(args.part_most + from);
  }
  __syncthreads();
  for (int unit = warp(); unit < own; unit += helpers) {
    f32 most = LOW;
    f32 top = LOW;
    for (int part = lane(); part < parts; part += WARP) {
      most = fmaxf(most, weights[unit * parts + part]);
      top = fmaxf(top, tops[unit * parts + part]);
    }
    most = warp_max(most);
    top = warp_max(top);
    f32 all = 0;
    for (int part = lane(); part < parts; part += WARP) all += exp2_fast(weights[unit * parts + part] - most);
    all = warp_sum(all);
    const bool saw = most > LOW;
    const f32 inverse = saw ? 1.0f / all : 0.0f;
    for (int part = lane(); part < parts; part += WARP) weights[unit * parts + part] = exp2_fast(weights[unit * parts + part] - most) * inverse;
    const Row row = row_of<Cfg>(args, group, member, (item.part + unit * parts) / CHUNKS);
    if (lane() == 0 && row.there && (item.part + unit * parts) % CHUNKS == 0) {
      const i64 line = i64(row.query) * Cfg::H + row.head;
      args.lse[line] = saw ? (most + log2_fast(all)) / LOG2_E : minus_infinity();
      args.max_logit[line] = saw ? top * args.scale : minus_infinity();
    }
  }
  __syncthreads();
  // Warps of a unit; their sums meet in shared memory
  const int per = own == 0 || own >= helpers ? 1 : helpers / own;
  f32* sums = tops;
  if (warp() < helpers / per * per) {
    // One line of loads for all units of a warp, many of them under way at a time
    constexpr int AHEAD = 24;
    const int first = warp() % per;
    const int step = helpers / per;
    const int of_unit = (parts - first + per - 1) / per;
    const int of_warp = own > warp() / per ? ((own - warp() / per - 1) / step + 1) * of_unit : 0;
    int unit = warp() / per, part = first;      // of the next load
    int at_unit = unit, at_part = first;        // of the next addition
    f32 sum[4] = {};
    for (int from = 0; from < of_warp; from += AHEAD) {
      float4 x[AHEAD];
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        if (from + i >= of_warp) break;
        const int column = (item.part + unit * parts) % CHUNKS * COLUMNS + lane() * 4;
        x[i] = __ldcg(reinterpret_cast<const float4*>(
            args.part_out + part_row<Cfg>(args, item, part, member, (item.part + unit * parts) / CHUNKS) * Cfg::LATENT + column));
        part += per;
        if (part >= parts) {
          part = first;
          unit += step;
        }
      }
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        if (from + i >= of_warp) break;
        const f32 weight = weights[at_unit * parts + at_part];
        sum[0] += weight * x[i].x;
        sum[1] += weight * x[i].y;
        sum[2] += weight * x[i].z;
        sum[3] += weight * x[i].w;
        at_part += per;
        if (at_part < parts) continue;
        const int now = item.part + at_unit * parts;
        const int column = now % CHUNKS * COLUMNS + lane() * 4;
        if (per > 1) {
#pragma unroll
          for (int k = 0; k < 4; k++) sums[warp() * COLUMNS + lane() * 4 + k] = sum[k];
        } else {
          store_sums<Cfg>(args, row_of<Cfg>(args, group, member, now / CHUNKS), column, sum);
        }
        sum[0] = sum[1] = sum[2] = sum[3] = 0;
        at_part = first;
        at_unit += step;
      }
    }
  }
  if (per > 1) {
    __syncthreads();
    if (warp() < own) {
      f32 sum[4] = {};
      for (int i = 0; i < per && i < parts; i++) {
#pragma unroll
        for (int k = 0; k < 4; k++) sum[k] += sums[(warp() * per + i) * COLUMNS + lane() * 4 + k];
      }
      const int unit = item.part + warp() * parts;
      store_sums<Cfg>(args, row_of<Cfg>(args, group, member, unit / CHUNKS), unit % CHUNKS * COLUMNS + lane() * 4, sum);
    }
  }
  __syncthreads();
  // The last that comes here makes it ready for the next layer
  if (threadIdx.x == 0 && atomicAdd(arrived, 1u) == u32(parts * (WRITERS + 1) - 1)) *arrived = 0;
}

// Joins all of a team's items that have parts elsewhere. All threads come here when they are done with their tiles.
template <class Cfg, int WRITERS>
__device__ inline void join_items(const Decoding& args, int team, int member, f32* room) {
  __syncthreads();  // nobody reads the last tiles any more
  for (int i = args.starts[team]; i < args.starts[team + 1]; i++) {
    const Item item = args.items[i];
    if (item.parts > 1) join_parts<Cfg, WRITERS>(args, item, member, room);
  }
}

// The row of `k` that a key stands in.
__device__ inline i32 row_of_key(const Decoding& args, i32 table, i32 key) {
  if (args.page == 0) return table + key;
  return i32(args.table[table + u32(key) / u32(args.page)]) * args.page + u32(key) % u32(args.page);
}

// Makes zeros of what no query of the group sees: it may be anything, and probabilities of 0 would not undo a NaN.
template <int TILES, int OF_TILE = KEYS>
__device__ inline void clear_unseen(u32 values, i32 first, i32 end, u32 name) {
#pragma unroll 1
  for (int at = threadIdx.x % WARPGROUP; at < OF_TILE * 8 * TILES; at += WARPGROUP) {
    const int key = at / 8 % OF_TILE;
    if (key < first || key >= end) share(values + at * 16, Four{});
  }
  fence_proxy_async();
  named_wait(name, WARPGROUP);
}

// Hides keys from rows that don't see them. `limits`: where they stand in shared memory; `first`: the key that logits begin with; `self`: the thread's
// number among those of 64 rows.
template <int N>
__device__ inline void hide_unseen(u32 limits, i32 first, u32 self, f32 (&s)[N]) {
  first += accumulator_column(self, 0);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Pair limit = shared_pair(limits + accumulator_row(self, half) * 8);
    const i32 from = limit.x - first, end = limit.y - first;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      const int key = i / 2 * 8 + i % 2;
      if (key < from || key >= end) s[i / 2 * 4 + half * 2 + i % 2] = minus_infinity();
    }
  }
}
