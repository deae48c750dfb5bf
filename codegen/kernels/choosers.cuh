// Who chose each key: the lists of keys that queries chose, turned around into a list of queries for each key. Work and memory grow with
// what was chosen, not with queries times keys.
//
// A key's queries stand in ascending order, whatever runs first, so that sums over them are the same in every run. Queries are cut into
// chunks of neighbours: how many of a chunk chose a key says where the next chunk's begin, and within a chunk a block takes one query
// after the other. What one query chose are different keys, so its own entries may come in any order.

#include "query_rows.cuh"

struct Turning {
  const QueryRow* rows;
  const u8* given;     // null: no mask
  const i32* indices;  // [queries, chosen]: ascending, -1 behind the last
  i64 queries;
  i64 chosen;
  i64 keys;
  i64 per_chunk;  // queries of a chunk
  i64 chunks;
  i32* places;    // [chunks, keys]: how many of a chunk chose a key, then where in the key's list they go
  i64* first;     // [keys + 1]: how long each key's list is, then where it begins
  i32* choosers;  // the lists, one behind the other
};
static_assert(sizeof(Turning) == 11 * 8);

// The row of the key that an entry of a query's list names; negative where it names none that the query sees.
__device__ inline i64 key_row(const Turning& args, i64 query, i64 entry) {
  const QueryRow& row = args.rows[query];
  const i64 index = args.indices[query * args.chosen + entry];
  const i64 key = index - row.first_key;
  if (index < 0 || !sees(row, args.given, key)) return -1;
  const i64 at = row.first_key_row + key;
  return IN_RANGE(at, args.keys) ? at : -1;
}

// How many queries of each chunk chose each key: a block for each query.
template <class Cfg>
__device__ void count_choosers(const Turning& args) {
  const i64 query = blockIdx.x;
  i32* counts = args.places + query / args.per_chunk * args.keys;
  for (i64 entry = threadIdx.x; entry < args.chosen; entry += THREADS) {
    const i64 key = key_row(args, query, entry);
    if (key >= 0) atomicAdd(&counts[key], 1);
  }
}

// Where each chunk's queries stand in a key's list, and how long that is: a thread for each key.
template <class Cfg>
__device__ void add_chunks(const Turning& args) {
  constexpr int AT_ONCE = 8;  // reads on their way, none of which waits for another
  for (i64 key = thread_of_grid(); key < args.keys; key += threads_of_grid()) {
    i32* of_key = args.places + key;
    i32 before = 0;
    for (i64 chunk = 0; chunk < args.chunks; chunk += AT_ONCE) {
      i32 counts[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) counts[i] = chunk + i < args.chunks ? of_key[(chunk + i) * args.keys] : 0;
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        if (chunk + i < args.chunks) of_key[(chunk + i) * args.keys] = before;
        before += counts[i];
      }
    }
    args.first[key] = before;
  }
}

// Where each key's list begins, from how long they are: a single block.
template <class Cfg>
__device__ void begin_lists(const Turning& args) {
  constexpr int EACH = 8;  // neighbouring keys of a thread
  __shared__ i64 of_warps[WARPS];
  i64 before = 0;
  for (i64 start = 0; start < args.keys; start += THREADS * EACH) {
    const i64 own = start + i64(threadIdx.x) * EACH;
    i64 lens[EACH];
    i64 sum = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      lens[i] = own + i < args.keys ? args.first[own + i] : 0;
      sum += lens[i];
    }
    // Of the lanes up to this one
    i64 up_to = sum;
    for (int offset = 1; offset < WARP; offset *= 2) {
      const i64 other = __shfl_up_sync(ALL_LANES, up_to, offset);
      if (lane() >= offset) up_to += other;
    }
    __syncthreads();
    if (lane() == WARP - 1) of_warps[warp()] = up_to;
    __syncthreads();
    i64 at = before + up_to - sum;
    for (int i = 0; i < WARPS; i++) {
      if (i < warp()) at += of_warps[i];
      before += of_warps[i];
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      if (own + i < args.keys) args.first[own + i] = at;
      at += lens[i];
    }
  }
  if (threadIdx.x == 0) args.first[args.keys] = before;
}

// Writes the lists: a block for each chunk.
template <class Cfg>
__device__ void list_choosers(const Turning& args) {
  i32* places = args.places + i64(blockIdx.x) * args.keys;
  const i64 first = i64(blockIdx.x) * args.per_chunk;
  const i64 end = first + args.per_chunk < args.queries ? first + args.per_chunk : args.queries;
  for (i64 query = first; query < end; query++) {
    for (i64 entry = threadIdx.x; entry < args.chosen; entry += THREADS) {
      const i64 key = key_row(args, query, entry);
      if (key < 0) continue;
      args.choosers[args.first[key] + atomicAdd(&places[key], 1)] = i32(query);
    }
    // The next query stands behind this one
    __syncthreads();
  }
}
