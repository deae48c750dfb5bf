// Parts of a group of queries that several teams attend to: how a team leaves what it has, and how all of them add it up.
//
// A part's output is f16, in tiles of 64 columns that lie in memory as they lay in shared memory. Rows count in powers of two, times what their sums are
// to be multiplied by at last: of each half of the latents, each 16 columns of all its tiles have such a unit in common, since that is what a warp has
// where operands are exchanged.

#include "decode_codes.cuh"

constexpr int UNITS = 4;  // of half a row

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

// The same where operands were exchanged: results of 64 columns for `N` * 2 rows, a thread's `r`th times `by(r)`.
template <int N, class By>
__device__ inline void leave_columns(u32 to, u32 self, const f32 (&x)[N], By by) {
#pragma unroll
  for (int block = 0; block < N / 4; block += 2) {
    u32 p[4];
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const int k = (block + part / 2) * 4 + part % 2 * 2, r = (block + part / 2) * 2;
      p[part] = pack_f16(x[k] * by(r), x[k + 1] * by(r + 1));
    }
    const u32 row = (block + self % 32 / 16) * 8 + self % 8;
    store_blocks_turned(to + swizzled_128(row * 128 + (self / 32 * 16 + self % 32 / 8 % 2 * 8) * 2), p);
  }
}

// Some rows of a part, side by side.
struct PartRows {
  int first, count;
};

// Sends what a warpgroup has left in shared memory to where a part's output lies: tiles from `tile` on. One thread, when all have left theirs.
template <class Cfg>
__device__ inline void send_tiles(const Decoding& args, const Item& item, int member, const PartRows& rows, u32 from, int tile, int tiles) {
  u16* to = args.part_out + part_row<Cfg>(args, item, item.part, member) * Cfg::LATENT + tile * (Cfg::ROWS * TILE) + rows.first * TILE;
  const u32 bytes = rows.count * (TILE * 2);
  if (rows.count == Cfg::ROWS) return copy_out(to, from, tiles * bytes);
#pragma unroll 1
  for (int t = 0; t < tiles; t++) copy_out(to + t * (Cfg::ROWS * TILE), from + t * bytes, bytes);
}

// The same of what rows count in, [halves, rows, UNITS].
template <class Cfg>
__device__ inline void send_units(const Decoding& args, const Item& item, int member, const PartRows& rows, u32 from, int half, int halves) {
  f32* to = args.part_units + (part_row<Cfg>(args, item, item.part, member) * 2 + half * Cfg::ROWS + rows.first) * UNITS;
  const u32 bytes = rows.count * (UNITS * 4);
#pragma unroll 1
  for (int i = 0; i < halves; i++) copy_out(to + i * (Cfg::ROWS * UNITS), from + i * bytes, bytes);
}

// Sends a part's output, 64 rows of a warpgroup's columns from the `FIRST` tile on, by way of shared memory: `room` for `AT_ONCE` tiles, `units` for what
// rows count in. A thread has two of the `rows`, which are to be multiplied by `by`.
template <class Cfg, int FIRST, int TILES, int AT_ONCE>
__device__ inline void send_rows(const Decoding& args, const Item& item, int member, const PartRows& rows, u32 room, u32 units, u32 name,
                                 const f32 (&by)[2], const f32 (&o)[TILES * 32]) {
  constexpr int HALVES = TILES == Cfg::LATENT / TILE ? 2 : 1;
  static_assert(TILES % AT_ONCE == 0, "as many each time");
  const u32 self = own_number();
  f32 inverse[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    f32 most = 0;
#pragma unroll
    for (int k = 0; k < TILES * 16; k++) most = peak(most, fabsf(o[k / 2 * 4 + half * 2 + k % 2]));
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2) most = peak(most, __shfl_xor_sync(ALL_LANES, most, lanes));
    const RowUnit row_unit(most);
    inverse[half] = row_unit.inverse;
    const i32 unit = bits_of(row_unit.unit * by[half]);
    const u32 at = units + accumulator_row(self, half) * (UNITS * 4);
    if (self % 4 < HALVES) share(at + self % 4 * (64 * UNITS * 4), Four{unit, unit, unit, unit});
  }
#pragma unroll
  for (int first = 0; first < TILES; first += AT_ONCE) {
    if (first > 0) named_wait(name, WARPGROUP);  // what was there has been sent
#pragma unroll
    for (int t = 0; t < AT_ONCE; t++) leave_rows(room + t * TILE_BYTES, self, o + (first + t) * 32, inverse);
    fence_proxy_async();
    named_wait(name, WARPGROUP);
    if (own_number() != 0) continue;
    if (first == 0) send_units<Cfg>(args, item, member, rows, units, FIRST / TILES, HALVES);
    send_tiles<Cfg>(args, item, member, rows, room, FIRST + first, AT_ONCE);
    copies_out_wait();
  }
  part_written(args, item, member, name);
}

// ---- Adding up ----

// What a thread block has to do for one group: its share of units, which are tiles of one row. They lie side by side, so that it has few rows.
template <class Cfg>
struct Share {
  static constexpr int TILES = Cfg::LATENT / TILE;
  const Decoding& args;
  const Item item;
  const Group group;
  int member;
  int first, own;        // units
  int first_row, rows;

  __device__ Share(const Decoding& args, const Item& item, int member) : args(args), item(item), group(args.groups[item.group]), member(member) {
    const int units = (Cfg::H < Cfg::ROWS ? Cfg::H * args.at_once : Cfg::ROWS) * TILES;
    first = units * item.part / item.parts;
    own = units * (item.part + 1) / item.parts - first;
    first_row = first / TILES;
    rows = own == 0 ? 0 : (first + own - 1) / TILES - first_row + 1;
  }
  __device__ int row(int unit) const { return (first + unit) / TILES; }
  __device__ int tile(int unit) const { return (first + unit) % TILES; }

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

// A sum or the largest of what `lanes` lanes have that lie side by side.
__device__ inline f32 sum_of(f32 x, int lanes) {
  for (int apart = 1; apart < lanes; apart *= 2) x += __shfl_xor_sync(ALL_LANES, x, apart);
  return x;
}
__device__ inline f32 most_of(f32 x, int lanes) {
  for (int apart = 1; apart < lanes; apart *= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, apart));
  return x;
}

// What parts are worth for each row, `weights` [rows, parts, 2]: of each 16 columns of both halves. `sums`: [rows, parts].
template <class Cfg>
__device__ inline void weigh_parts(const Share<Cfg>& share, float4* weights, float2* sums) {
  const Decoding& args = share.args;
  const int parts = share.item.parts;
  for (int i = threadIdx.x; i < share.rows * parts; i += blockDim.x) {
    const i64 first = part_row<Cfg>(args, share.item, i % parts, share.member);
    const int row = share.first_row + i / parts;
    sums[i] = __ldcg(reinterpret_cast<const float2*>(args.part_sums + first) + row);
#pragma unroll
    for (int half = 0; half < 2; half++) weights[i * 2 + half] = __ldcg(reinterpret_cast<const float4*>(args.part_units) + first * 2 + half * Cfg::ROWS + row);
  }
  __syncthreads();
  const int lanes = parts <= 4 ? 4 : parts <= 8 ? 8 : WARP;  // of a row
  const int at = lane() % lanes;
  for (int from = warp() * (WARP / lanes); from < share.rows; from += blockDim.x / lanes) {
    const int line = from + lane() / lanes;
    const int there = line < share.rows ? parts : 0;
    f32 most = LOW, top = LOW;
    for (int part = at; part < there; part += lanes) {
      const float2 its = sums[line * parts + part];
      most = fmaxf(most, its.x);
      top = fmaxf(top, its.y);
    }
    __syncwarp();
    most = most_of(most, lanes);
    top = most_of(top, lanes);
    f32 all = 0;
    for (int part = at; part < there; part += lanes) all += exp2_fast(sums[line * parts + part].x - most);
    __syncwarp();
    all = sum_of(all, lanes);
    const bool saw = most > LOW;
    const f32 inverse = saw ? 1.0f / all : 0.0f;
    for (int part = at; part < there; part += lanes) {
      const f32 weight = exp2_fast(sums[line * parts + part].x - most) * inverse;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float4& of = weights[(line * parts + part) * 2 + half];
        of = {of.x * weight, of.y * weight, of.z * weight, of.w * weight};
      }
    }
    const Row row = row_of<Cfg>(args, share.group, share.member, share.first_row + line);
    // The row's first tile may be another block's
    if (at == 0 && there > 0 && row.there && (line > 0 || share.tile(0) == 0)) {
      const i64 to = i64(row.query) * Cfg::H + row.head;
      args.lse[to] = saw ? (most + log2_fast(all)) / LOG2_E : minus_infinity();
      args.max_logit[to] = saw ? top * args.scale : minus_infinity();
    }
    __syncwarp();
  }
}

// Adds up what teams have of one group, once all of it is there. Every team takes its share of units. Eight lanes have a unit's columns. Where there are many
// parts, four such in a warp have different ones of them, and where units are few, so have several warps. All threads of a block come here. `room`: shared
// memory, that of a kernel.
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
  const int own = share.own;
  float4* weights = reinterpret_cast<float4*>(room + own * parts * 128);  // [rows, parts, 2]
  float4* sums = weights + share.rows * parts * 2;                        // [helpers, 8, 2]
  float2* of_parts = reinterpret_cast<float2*>(sums + helpers * 16);     // [rows, parts]
  const int chunk = lane() % 8;
  for (int i = threadIdx.x / 8; i < own * parts; i += blockDim.x / 8)
    copy_quad(shared_address(room) + i * 128 + chunk * 16, share.columns(i / parts, i % parts, chunk), true);
  copies_commit();
  weigh_parts<Cfg>(share, weights, of_parts);
  copies_wait<0>();
  __syncthreads();
  const int splits = parts > 8 ? 4 : 1;                                                     // of a unit, in a warp
  const int per = splits == 1 || own >= helpers ? 1 : helpers / max(own, 1);               // warps of a unit
  const int units = 4 / splits;                                                             // of a warp at a time
  const int first = splits == 1 ? 0 : warp() % per * 4 + lane() / 8;                        // of this lane's parts
  for (int from = warp() / per * units; from < own; from += helpers / per * units) {
    const int unit = min(from + (splits == 1 ? lane() / 8 : 0), own - 1);
    const bool writes = splits == 1 ? from + lane() / 8 < own : lane() < 8;
    const int half = share.tile(unit) / (Share<Cfg>::TILES / 2);
    const int line = share.row(unit) - share.first_row;
    f32 sum[8] = {};
    for (int part = first; part < parts; part += per * splits) {
      const Quad x = reinterpret_cast<const Quad*>(room)[(unit * parts + part) * 8 + chunk];
      const f32 weight = reinterpret_cast<const f32*>(weights + (line * parts + part) * 2 + half)[chunk / 2];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float2 two = unpack_f16(x.words[k]);
        sum[2 * k] += weight * two.x;
        sum[2 * k + 1] += weight * two.y;
      }
    }
    __syncwarp();
    if (splits > 1) {
#pragma unroll
      for (int k = 0; k < 8; k++) {
        sum[k] += __shfl_xor_sync(ALL_LANES, sum[k], 8);
        sum[k] += __shfl_xor_sync(ALL_LANES, sum[k], 16);
      }
    }
    if (per == 1) {
      share.store(unit, chunk, writes, sum);
    } else if (writes) {
      sums[(warp() * 8 + chunk) * 2] = {sum[0], sum[1], sum[2], sum[3]};
      sums[(warp() * 8 + chunk) * 2 + 1] = {sum[4], sum[5], sum[6], sum[7]};
    }
  }
  __syncthreads();
  if (per > 1 && warp() * 4 < own) {
    const int unit = threadIdx.x / 8;
    f32 sum[8] = {};
    for (int i = 0; i < per && unit < own; i++) {
      const float4 low = sums[((unit * per + i) * 8 + chunk) * 2], high = sums[((unit * per + i) * 8 + chunk) * 2 + 1];
      sum[0] += low.x, sum[1] += low.y, sum[2] += low.z, sum[3] += low.w;
      sum[4] += high.x, sum[5] += high.y, sum[6] += high.z, sum[7] += high.w;
    }
    __syncwarp();
    share.store(min(unit, own - 1), chunk, unit < own, sum);
  }
  __syncthreads();
  // The last that comes here makes it ready for the next layer
  if (threadIdx.x == 0 && atomicAdd(arrived, 1u) == u32(parts * (WRITERS + 1) - 1)) *arrived = 0;
}

// Joins all of a team's items that have parts elsewhere. All threads come here when they are done with their tiles.
template <class Cfg, int WRITERS>
__device__ inline void join_items(const Decoding& args) {
  alignas(1024) extern __shared__ u8 shared[];
  const u32 block = block_number();
  const int team = block / args.team, member = block % args.team;
  __syncthreads();  // nobody reads the last tiles any more
  for (int i = args.starts[team]; i < args.starts[team + 1]; i++) {
    const Item item = args.items[i];
    if (item.parts > 1) join_parts<Cfg, WRITERS>(args, item, member, shared);
  }
}
