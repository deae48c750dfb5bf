// Parts of a group of queries that several teams attend to: how a team leaves what it has, and how all of them add it up.
//
// A part's output is f16, in tiles of 64 columns that lie in memory as they lay in shared memory. Rows count in powers of two: of each half of the
// latents, each 16 columns of all its tiles have one in common, which is what a warp has where operands are exchanged.

#include "decode_codes.cuh"

constexpr int UNITS = 8;  // of a row: [2, 4]

// Where a part's first row lies among those of all. A team has two slots: of a group that others began, and of one that others go on with.
template <class Cfg>
__device__ inline i64 part_row(const Decoding& args, const Item& item, int part, int member) {
  const int slot = item.slot + 2 * part + (part == 0 ? 1 : 0);
  return (i64(slot) * args.team + member) * Cfg::ROWS;
}

// ---- Leaving a part ----

// Says that a warpgroup has written what it has of a part. All its threads come here; `name` is a barrier of their own.
__device__ inline void part_written(const Decoding& args, const Item& item, int member, u32 name) {
  named_wait(name, WARPGROUP);
  if (threadIdx.x % WARPGROUP == 0) {
    __threadfence();
    atomicAdd(args.arrived + item.group * args.team + member, 1u);
  }
}

// Writes the log-sum-exp and the largest logit of a row, or what a part has of them. `weight`: log2 of its exponentials' sum; LOW: it saw nothing.
template <class Cfg>
__device__ inline void write_row_sums(const Decoding& args, const Item& item, int member, int r, const Row& row, f32 weight, f32 top) {
  if (item.parts > 1) {
    args.part_sums[part_row<Cfg>(args, item, item.part, member) + r] = {weight, top};
    return;
  }
  const i64 line = i64(row.query) * Cfg::H + row.head;
  const bool saw = weight > LOW;
  args.lse[line] = saw ? weight / LOG2_E : minus_infinity();
  args.max_logit[line] = saw ? top * args.scale : minus_infinity();
}

// Writes what some columns of a row's part count in: `count` of `UNITS` from `first` on.
template <class Cfg>
__device__ inline void write_units(const Decoding& args, const Item& item, int member, int r, int first, int count, f32 unit) {
  f32* to = args.part_units + (part_row<Cfg>(args, item, item.part, member) + r) * UNITS + first;
  for (int i = 0; i < count; i++) to[i] = unit;
}

// Leaves results of 64 rows and 64 columns, times `by` for each of a thread's two rows, as a tile in shared memory.
__device__ inline void leave_rows(u32 to, u32 self, const f32* x, const f32 (&by)[2]) {
  const u32 row = self / 32 * 16 + self % 16;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    u32 p[4];
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const f32* two = x + 2 * (4 * k + part);
      p[part] = pack_f16(two[0] * by[part % 2], two[1] * by[part % 2]);
    }
    store_blocks(to + swizzled_128(row * 128 + k * 32 + self % 32 / 16 * 16), p);
  }
}

// The same where operands were exchanged: results of 64 columns for `N` * 4 rows, times `by` for each of a thread's rows.
template <int N>
__device__ inline void leave_columns(u32 to, u32 self, const f32* x, const f32 (&by)[N]) {
#pragma unroll
  for (int block = 0; block < N / 2; block += 2) {
    u32 p[4];
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const int k = (block + part / 2) * 4 + part % 2 * 2, r = (block + part / 2) * 2;
      p[part] = pack_f16(x[k] * by[r], x[k + 1] * by[r + 1]);
    }
    const u32 row = (block + self % 32 / 16) * 8 + self % 8;
    store_blocks_turned(to + swizzled_128(row * 128 + (self / 32 * 16 + self % 32 / 8 % 2 * 8) * 2), p);
  }
}

// Sends what a warpgroup has left in shared memory to where a part's output lies: `bytes` from `tile` and its `row` on. All its threads come here; `name` is a
// barrier of their own. What was sent is there, for who reads it after this thread's next word.
template <class Cfg>
__device__ inline void send_part(const Decoding& args, const Item& item, int member, u32 from, int tile, int row, u32 bytes, u32 name) {
  fence_proxy_async();
  named_wait(name, WARPGROUP);
  if (threadIdx.x % WARPGROUP == 0) {
    const i64 first = part_row<Cfg>(args, item, item.part, member) * Cfg::LATENT;
    copy_out(args.part_out + first + (tile * Cfg::ROWS + row) * TILE, from, bytes);
  }
}

// ---- Adding up ----

__device__ inline u32 load_acquire(const u32* at) {
  u32 x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(at) : "memory");
  return x;
}

// What a thread block has to do for one group: its share of units, which are tiles of one row.
template <class Cfg>
struct Share {
  static constexpr int TILES = Cfg::LATENT / TILE;
  const Decoding& args;
  const Item item;
  const Group group;
  int member;
  int own;  // units

  __device__ Share(const Decoding& args, const Item& item, int member) : args(args), item(item), group(args.groups[item.group]), member(member) {
    const int units = (Cfg::H < Cfg::ROWS ? Cfg::H * args.at_once : Cfg::ROWS) * TILES;
    own = item.part < units ? (units - item.part - 1) / item.parts + 1 : 0;
  }
  __device__ int row(int unit) const { return (item.part + unit * item.parts) / TILES; }
  __device__ int tile(int unit) const { return (item.part + unit * item.parts) % TILES; }
  __device__ i64 line(int unit, int part) const { return part_row<Cfg>(args, item, part, member) + row(unit); }

  // Where eight columns of a unit are that a part has.
  __device__ const void* columns(int unit, int part, int chunk) const {
    const i64 tiles = part_row<Cfg>(args, item, part, member) * Cfg::LATENT;
    return reinterpret_cast<const Quad*>(args.part_out + tiles + tile(unit) * (Cfg::ROWS * TILE)) + swizzled_128(row(unit) * 128 + chunk * 16) / 16;
  }

  // Writes eight columns of a unit, the `chunk`th of its tile. All lanes come here that have one unit's chunks.
  __device__ void store(int unit, int chunk, bool writes, f32 (&sum)[8]) const {
    if constexpr (Entry<Cfg>::CODED) {  // a pair of lanes has even and odd columns
      const bool odd = chunk % 2 != 0;
      f32 mixed[8];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const f32 other = __shfl_xor_sync(ALL_LANES, odd ? sum[k] : sum[k + 4], 1);
        mixed[2 * k] = odd ? other : sum[k];
        mixed[2 * k + 1] = odd ? sum[k + 4] : other;
      }
#pragma unroll
      for (int k = 0; k < 8; k++) sum[k] = mixed[k];
    }
    const Row to = row_of<Cfg>(args, group, member, row(unit));
    if (!writes || !to.there) return;
    const i64 at = (i64(to.query) * Cfg::H + to.head) * Cfg::LATENT + tile(unit) * TILE + chunk * 8;
    if (args.narrow) {
      *reinterpret_cast<Quad*>(args.narrow + at) = {pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]), pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7])};
    } else {
      *reinterpret_cast<float4*>(args.out + at) = float4{sum[0], sum[1], sum[2], sum[3]};
      *reinterpret_cast<float4*>(args.out + at + 4) = float4{sum[4], sum[5], sum[6], sum[7]};
    }
  }
};

// What parts are worth for each unit, `weights` [own, parts, 4]: of each 16 columns. `sums`: [own, parts].
template <class Cfg>
__device__ inline void weigh_parts(const Share<Cfg>& share, float4* weights, float2* sums) {
  const Decoding& args = share.args;
  const int parts = share.item.parts;
  for (int i = threadIdx.x; i < share.own * parts; i += blockDim.x) {
    const i64 line = share.line(i / parts, i % parts);
    const int half = share.tile(i / parts) / (Share<Cfg>::TILES / 2);
    sums[i] = __ldcg(reinterpret_cast<const float2*>(args.part_sums + line));
    weights[i] = __ldcg(reinterpret_cast<const float4*>(args.part_units + line * UNITS) + half);
  }
  __syncthreads();
  for (int unit = warp(); unit < share.own; unit += blockDim.x / WARP) {
    f32 most = LOW, top = LOW;
    for (int part = lane(); part < parts; part += WARP) {
      const float2 its = sums[unit * parts + part];
      most = fmaxf(most, its.x);
      top = fmaxf(top, its.y);
    }
    most = warp_max(most);
    top = warp_max(top);
    f32 all = 0;
    for (int part = lane(); part < parts; part += WARP) all += exp2_fast(sums[unit * parts + part].x - most);
    all = warp_sum(all);
    const bool saw = most > LOW;
    const f32 inverse = saw ? 1.0f / all : 0.0f;
    for (int part = lane(); part < parts; part += WARP) {
      const f32 weight = exp2_fast(sums[unit * parts + part].x - most) * inverse;
      float4& of = weights[unit * parts + part];
      of = {of.x * weight, of.y * weight, of.z * weight, of.w * weight};
    }
    const Row row = row_of<Cfg>(args, share.group, share.member, share.row(unit));
    if (lane() == 0 && row.there && share.tile(unit) == 0) {
      const i64 line = i64(row.query) * Cfg::H + row.head;
      args.lse[line] = saw ? (most + log2_fast(all)) / LOG2_E : minus_infinity();
      args.max_logit[line] = saw ? top * args.scale : minus_infinity();
    }
  }
}

// Two of f16.
__device__ inline float2 unpack_f16(u32 two) {
  float2 x;
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}" : "=f"(x.x), "=f"(x.y) : "r"(two));
  return x;
}

// Adds up what teams have of one group, once all of it is there. Every team takes its share of units. Eight lanes have a unit's columns, four such in a
// warp different parts of it, and where units are few, so have several warps. All threads of a block come here. `room`: shared memory, that of a kernel.
template <class Cfg, int WRITERS>
__device__ inline void join_parts(const Decoding& args, const Item& item, int member, u8* room) {
  const int helpers = blockDim.x / WARP;
  const int parts = item.parts;
  u32* arrived = args.arrived + item.group * args.team + member;
  if (threadIdx.x == 0) {
    while (load_acquire(arrived) < u32(parts * WRITERS)) {
    }
  }
  __syncthreads();
  const Share<Cfg> share(args, item, member);
  const int lines = share.own * parts;
  float4* weights = reinterpret_cast<float4*>(room + lines * 128);     // [own, parts]
  float4* sums = weights + lines;                                      // [helpers, 8, 2]
  float2* of_parts = reinterpret_cast<float2*>(sums + helpers * 16);  // [own, parts]
  const int chunk = lane() % 8;
  for (int i = threadIdx.x / 8; i < lines; i += blockDim.x / 8)
    copy_quad(shared_address(room) + i * 128 + chunk * 16, share.columns(i / parts, i % parts, chunk), true);
  copies_commit();
  weigh_parts<Cfg>(share, weights, of_parts);
  copies_wait<0>();
  __syncthreads();
  const int per = share.own >= helpers ? 1 : helpers / max(share.own, 1);  // warps of a unit
  for (int unit = warp() / per; unit < share.own; unit += helpers / per) {
    f32 sum[8] = {};
    for (int part = warp() % per * 4 + lane() / 8; part < parts; part += per * 4) {
      const int line = unit * parts + part;
      const Quad x = reinterpret_cast<const Quad*>(room)[line * 8 + chunk];
      const f32 weight = reinterpret_cast<const f32*>(weights + line)[chunk / 2];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float2 two = unpack_f16(x.words[k]);
        sum[2 * k] += weight * two.x;
        sum[2 * k + 1] += weight * two.y;
      }
    }
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 8; k++) {
      sum[k] += __shfl_xor_sync(ALL_LANES, sum[k], 8);
      sum[k] += __shfl_xor_sync(ALL_LANES, sum[k], 16);
    }
    if (per == 1) {
      share.store(unit, chunk, lane() < 8, sum);
    } else if (lane() < 8) {
      sums[(warp() * 8 + chunk) * 2] = {sum[0], sum[1], sum[2], sum[3]};
      sums[(warp() * 8 + chunk) * 2 + 1] = {sum[4], sum[5], sum[6], sum[7]};
    }
  }
  __syncthreads();
  if (per > 1 && warp() * 4 < share.own) {
    const int unit = threadIdx.x / 8;
    f32 sum[8] = {};
    for (int i = 0; i < per && unit < share.own; i++) {
      const float4 low = sums[((unit * per + i) * 8 + chunk) * 2], high = sums[((unit * per + i) * 8 + chunk) * 2 + 1];
      sum[0] += low.x, sum[1] += low.y, sum[2] += low.z, sum[3] += low.w;
      sum[4] += high.x, sum[5] += high.y, sum[6] += high.z, sum[7] += high.w;
    }
    __syncwarp();
    share.store(min(unit, share.own - 1), chunk, unit < share.own, sum);
  }
  __syncthreads();
  // The last that comes here makes it ready for the next layer
  if (threadIdx.x == 0 && atomicAdd(arrived, 1u) == u32(parts * (WRITERS + 1) - 1)) *arrived = 0;
}

// Joins all of a team's items that have parts elsewhere. All threads come here when they are done with their tiles.
template <class Cfg, int WRITERS>
__device__ inline void join_items(const Decoding& args, int team, int member, u8* room) {
  __syncthreads();  // nobody reads the last tiles any more
  for (int i = args.starts[team]; i < args.starts[team + 1]; i++) {
    const Item item = args.items[i];
    if (item.parts > 1) join_parts<Cfg, WRITERS>(args, item, member, room);
  }
}
