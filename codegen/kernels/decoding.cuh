// What the kernels of absorbed attention over a cache of latents have in common: who attends to what, who does which part of it, and how parts
// become one.
//
// A block of queries is up to 64 rows: heads of one query, or all heads of some. Blocks of one segment that run side by side, so that they read
// the same keys from the L2, are a group. A scheduler cuts groups into items of whole tiles of 64 keys; a team of blocks, one for each member of
// a group, works through the items between two of `starts`.

// Keys that a query sees, counted from its segment's first.
struct Limit {
  i32 from, to;
};

struct Group {
  i32 query;    // the segment's first
  i32 queries;  // that the segment has
  i32 table;    // where its pages begin in the table; of keys that have none, their first row
  i32 first;    // key that any of them sees
  i32 end;      // one past the last
  i32 block;    // the first of its members, of the segment's blocks
  i32 all_first, all_end;  // keys that all of the segment's queries see
};

struct Item {
  i32 group;
  i32 first, end;  // tiles
  i32 part, parts;
  i32 slot;  // the first part's team's first
  i32 unused[2];
};

struct Decoding {
  TensorMap q, q_rope, k, k_rope;
  const Limit* limits;  // of each query
  const Group* groups;
  const Item* items;
  const i32* starts;  // the first item of each team, and one past the last team's
  const u32* table;
  Elem* narrow;  // [queries, H, LATENT]: the output, where it is wanted in `Elem`
  f32* out;      // [queries, H, LATENT], where not
  f32* lse;        // [queries, H], natural
  f32* max_logit;  // [queries, H]
  f32* part_out;     // [2 * teams, team, ROWS, LATENT]
  f32* part_weight;  // [2 * teams, team, ROWS]: log2 of the sum of exponentials
  f32* part_most;    // [2 * teams, team, ROWS]
  Quad* spare;   // [blocks, 128]: what there are no registers for
  u32* arrived;  // [groups, team]: warpgroups that have written their share of a part
  f32 scale;     // of logits
  f32 scale_log2;  // the same, for powers of two
  i32 team;      // blocks that work side by side
  i32 page;      // keys of a page; 0: they lie in order
  i32 box;       // keys that are copied at once, a power of two up to 64 that divides `page`
  i32 at_once;   // queries of a block, where it has all heads
  i32 unused[14];
};

constexpr int KEYS = 64;       // of a tile
constexpr int TILE = 64;       // columns of a tile
constexpr u32 TILE_BYTES = 8192;
constexpr int WARPGROUP = 128;
constexpr f32 LOG2_E = 1.4426950408889634f;
constexpr f32 LOW = -1e30f;     // below every logit
constexpr f32 HIDDEN = -1e33f;  // what a key gets that is not seen: an exponential of 0, even beside LOW

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

// A row of a block of queries.
struct Row {
  i32 query, head;
  bool there;
};

template <class Cfg>
__device__ inline Row row_of(const Decoding& args, const Group& group, int member, int row) {
  constexpr int H = Cfg::H;
  const int block = group.block + member;
  if constexpr (H >= Cfg::ROWS) {
    constexpr int BLOCKS = (H + Cfg::ROWS - 1) / Cfg::ROWS;
    const int head = block % BLOCKS * Cfg::ROWS + row;
    return {group.query + block / BLOCKS, head, head < H && block / BLOCKS < group.queries};
  } else {
    const int query = block * args.at_once + row / H;
    return {group.query + query, row % H, row / H < args.at_once && query < group.queries};
  }
}

// Where a part's row lies among those of all. A team has two slots: of a group that others began, and of one that others go on with.
template <class Cfg>
__device__ inline i64 part_row(const Decoding& args, const Item& item, int part, int member, int row) {
  const int slot = item.slot + 2 * part + (part == 0 ? 1 : 0);
  return (i64(slot) * args.team + member) * Cfg::ROWS + row;
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
  if (threadIdx.x == 0) {
    u32* arrived = args.arrived + item.group * args.team + member;
    while (load_acquire(arrived) < u32(parts * WRITERS)) {
    }
    // The last that comes here makes it ready for the next layer
    if (atomicAdd(arrived, 1u) == u32(parts * (WRITERS + 1) - 1)) *arrived = 0;
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
    constexpr int AHEAD = 16;
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
}
