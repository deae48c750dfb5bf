// Keys that a list names for each query. They lie anywhere, and the copy engine wants neighbours: so threads fetch them, 16 bytes at a time. A warp has 16
// of a tile's 64 keys. It finds out where they stand one to a lane, and fetches them eight lanes to a line of 128 bytes.

#include "decode_codes.cuh"

[[maybe_unused]] constexpr int OWN_KEYS = 16;  // of a warp, in a tile

// A lane's number, asked for anew as `own_number` is.
__device__ inline u32 own_lane() { return thread_number() % WARP; }

// What there is to know of a query's list.
struct List {
  const i32* keys;
  i32 end;       // of its entries
  i32 table;     // where pages of its keys begin, or their first row
  i32 first;     // where in its sequence the first key stands that the query may see, and
  i32 from, to;  // which it sees, counted from that
};

template <class Cfg>
__device__ inline List list_of(const Decoding& args, const Item& item, int member) {
  const Group group = args.groups[item.group];
  const i32 query = row_of<Cfg>(args, group, member, 0).query;
  const Limit seen = args.limits[query];
  return {args.chosen + i64(query) * args.width, group.end, group.table, group.all_first, seen.from, seen.to};
}

// What a list names as this lane's key of a tile; negative: nothing. Two lanes have the same.
__device__ inline i32 chosen_position(const List& list, i32 tile) {
  const i32 at = tile * KEYS + own_number() / WARP * OWN_KEYS + own_lane() % OWN_KEYS;
  return at < list.end ? list.keys[at] : -1;
}

// The row where that stands; no row where the query does not see it.
__device__ inline u32 chosen_row(const Decoding& args, const List& list, i32 position) {
  const i32 key = position - list.first;
  if (position < 0 || key < list.from || key >= list.to) return ~0u;
  return row_of_key(args, list.table, key);
}

// Leaves which of a warp's keys there are, at `to`: a bit for each. `row`: of this lane's key.
__device__ inline void leave_seen(const Decoding& args, u32 to, u32 row) {
  const u32 there = __ballot_sync(ALL_LANES, row < u32(args.rows)) & 0xffff;
  if (own_lane() == 0) share(to + own_number() / WARP * 4, i32(there));
}

// A lane fetches 16 bytes of each line of every fourth key. The rows of those, out of the rows that lanes have found:
struct RowsFound {
  u32 row[4];
  __device__ explicit RowsFound(u32 own) {
#pragma unroll
    for (int i = 0; i < 4; i++) row[i] = __shfl_sync(ALL_LANES, own, i * 4 + own_lane() / 8);
  }
  __device__ u32 operator()(u32 i) const { return row[i]; }
};

// The same, out of those that lanes have left in shared memory, at `at`.
struct RowsLeft {
  u32 at;
  __device__ u32 operator()(u32 i) const { return u32(shared_i32(at + own_lane() / 8 * 16 + i * 4)); }
};

// Leaves the row of this lane's key, and takes it again: 64 bytes of a warp.
__device__ inline u32 place_of_row(u32 at) { return at + (own_lane() % 4 * 4 + own_lane() % OWN_KEYS / 4) * 4; }
__device__ inline void leave_row(u32 at, u32 row) {
  if (own_lane() < OWN_KEYS) share(place_of_row(at), i32(row));
}
__device__ inline u32 row_left(u32 at) { return u32(shared_i32(place_of_row(at))); }

// Fetches `LINES` times 128 bytes of each of a warp's keys, those of a row from `from + row * stride` on, to lines as tiles have them: a key's first to its
// line of the tile at `to`, the next to that of the next tile, and so on. Zeros of a key that is not there. Of a line, `CHUNKS` times 16 bytes. `AT_ONCE`
// keys of a lane are under way together: as many as there are registers for.
template <int AT_ONCE, int LINES, int CHUNKS = 8, class Rows>
__device__ inline void fetch_lines(const Decoding& args, const u8* from, i32 stride, const Rows& rows, u32 to) {
  const u32 self = own_lane();
  from += self % 8 * 16;
  to += swizzled_128(self / 8 * 128 + self % 8 * 16);
#pragma unroll AT_ONCE
  for (u32 i = 0; i < 4; i++) {
    const u32 row = rows(i);
    const bool there = row < u32(args.rows);
    const u8* line = from + i64(i32(row)) * stride;
    const u32 at = (to ^ i % 2 * 64) + i * 512;  // of eight lines, chunks are exchanged by the line's number
#pragma unroll
    for (u32 t = 0; t < LINES; t++) {
      if (CHUNKS == 8 || self % 8 < CHUNKS) copy_quad(at + t * TILE_BYTES, line + t * 128, there);
    }
  }
}

// Has entries of bytes brought whole, each by one copy of the copy engine, which takes 25 clocks for it, however short it is. The first `COUNT` lanes have a
// key each: `row`, and `to`, where it goes. One that is not there becomes zeros: what lay there before may be no number, and probabilities of 0 would not
// undo that. `barrier` has one arrival more, once all have been asked for.
template <class Cfg, int COUNT>
__device__ inline void bring_entries(const Decoding& args, u32 to, u32 row, u32 barrier) {
  using C = CodesPlace<Cfg>;
  const bool own = own_lane() < COUNT, there = own && row < u32(args.rows);
  const u8* from = args.entries + i64(row) * args.entry_bytes;
  const u32 count = __popc(__ballot_sync(ALL_LANES, there));
  if (count < COUNT) {
#pragma unroll 1
    for (u32 at = own && !there ? 0 : C::ENTRY; at < C::ENTRY; at += 16) share(to + at, Four{});
    fence_proxy_async();
    __syncwarp();
  }
  if (own_lane() == 0) barrier_expect(barrier, count * C::ENTRY);
  __syncwarp();
  if (there) copy_bulk(to, from, C::ENTRY, barrier);
  __syncwarp();
}
