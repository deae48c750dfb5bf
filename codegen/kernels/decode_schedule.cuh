// Cuts the groups of a step into items for teams of blocks, once for all layers. One block.
//
// Groups lie on a line, each as long as its tiles and what it costs to begin one. Teams get equal lengths of it, but a cut near a group's end
// moves there. Where it is hardly longer for anyone, no team gets parts of two groups, or all get whole ones.

#include "prelude.cuh"
#include "ptx.cuh"
#include "copies.cuh"
#include "decoding.cuh"

struct Scheduling {
  Group* groups;
  Item* items;    // [groups + teams]
  i32* starts;    // [teams + 1]
  u32* arrived;   // [groups, team]
  i32* before;    // [groups + 1]: where each begins on the line
  const i32* counts;  // [queries]: entries of each query's list that count; null: all of them
  i32 count;      // groups
  i32 teams;
  i32 team;
  i32 unused;
};

constexpr i32 BEGIN = 5;        // tiles that could be attended to while a block begins with a group and ends with it
constexpr int MOST_TEAMS = 256;
constexpr int CHOICES = 32;     // lengths that are tried

struct Cut {
  i32 group, tile;
};

__device__ inline i32 tiles_of(const Group& group) {
  const i32 tiles = (group.end + KEYS - 1) / KEYS - group.first / KEYS;
  return group.end > group.first ? tiles : 1;
}

// Ends each list where its entries cease to count. The step may run again with other counts.
__device__ inline void end_lists(const Scheduling& args) {
  for (i32 i = threadIdx.x; i < args.count; i += THREADS) {
    Group& group = args.groups[i];
    group.end = min(max(args.counts[group.query], 0), group.all_end);
  }
  __syncthreads();
}

// The sum of what threads before this one have.
__device__ inline i32 sum_before(i32 x, i32& all) {
  __shared__ i32 of_warp[WARPS];
  i32 sum = x;
  for (int offset = 1; offset < WARP; offset *= 2) {
    const i32 other = __shfl_up_sync(ALL_LANES, sum, offset);
    if (lane() >= offset) sum += other;
  }
  __syncthreads();
  if (lane() == WARP - 1) of_warp[warp()] = sum;
  __syncthreads();
  i32 before = sum - x;
  all = 0;
  for (int i = 0; i < WARPS; i++) {
    if (i < warp()) before += of_warp[i];
    all += of_warp[i];
  }
  return before;
}

// Where the line is cut at `x`.
__device__ inline Cut cut_at(const Scheduling& args, i64 x) {
  i32 low = 0, high = args.count;
  while (low < high) {
    const i32 middle = (low + high) / 2;
    if (args.before[middle + 1] <= x) low = middle + 1;
    else high = middle;
  }
  if (low == args.count) return {low, 0};
  const i32 tiles = tiles_of(args.groups[low]);
  const i32 tile = i32(x - args.before[low]) - BEGIN / 2;
  if (tile < BEGIN) return {low, 0};
  if (tiles - tile < BEGIN) return {low + 1, 0};
  return {low, tile};
}

template <class Cfg>
__device__ void decode_schedule(const Scheduling& args) {
  __shared__ Cut cuts[MOST_TEAMS + 1];
  __shared__ i32 length;
  __shared__ i32 alone;  // no team has parts of two groups
  __shared__ i32 longest, shortest;
  if (threadIdx.x == 0) {
    longest = 0;
    shortest = 0x7fffffff;
    length = 0x7fffffff;
  }
  if (args.counts) end_lists(args);
  for (i32 i = threadIdx.x; i < args.count * args.team; i += THREADS) args.arrived[i] = 0;
  i32 all = 0;
  for (i32 from = 0; from < args.count; from += THREADS) {
    const i32 i = from + i32(threadIdx.x);
    const i32 own = i < args.count ? tiles_of(args.groups[i]) + BEGIN : 0;
    i32 here;
    const i32 before = sum_before(own, here);
    if (i < args.count) {
      args.before[i] = all + before;
      atomicMax(&longest, own);
      atomicMin(&shortest, own);
    }
    all += here;
  }
  if (threadIdx.x == 0) args.before[args.count] = all;
  __syncthreads();
  const i32 least = (all + args.teams - 1) / args.teams;
  const i32 tiles = all - args.count * BEGIN;
  if (args.count <= args.teams) {
    // The fewest tiles of a part for which teams suffice where each has one group
    const i32 fewest = (tiles + args.teams - 1) / args.teams;
    for (int choice = warp(); choice < CHOICES; choice += WARPS) {
      const i32 tried = fewest + choice * max(1, least / (16 * CHOICES));
      i32 teams = 0;
      for (i32 i = lane(); i < args.count; i += WARP) teams += (args.before[i + 1] - args.before[i] - BEGIN + tried - 1) / tried;
      for (int offset = WARP / 2; offset > 0; offset /= 2) teams += __shfl_xor_sync(ALL_LANES, teams, offset);
      if (lane() == 0 && teams <= args.teams) atomicMin(&length, tried);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const i32 most = least + max(least / 16, 1);
    alone = length <= most;
    const i32 whole = (args.count + args.teams - 1) / args.teams * longest;
    if (!alone) length = longest == shortest && whole <= most ? whole : least;
  }
  __syncthreads();
  if (alone) {
    // A group's teams get equal shares of its tiles
    i32 team = 0;
    for (i32 from = 0; from < args.count; from += THREADS) {
      const i32 i = from + i32(threadIdx.x);
      const i32 own = i < args.count ? (tiles_of(args.groups[i]) + length - 1) / length : 0;
      i32 here;
      const i32 first = team + sum_before(own, here);
      const i32 tiles = i < args.count ? tiles_of(args.groups[i]) : 0;
      for (i32 k = 0; k < own; k++) cuts[first + k] = {i, i32(i64(tiles) * k / own)};
      team += here;
    }
    for (i32 i = team + i32(threadIdx.x); i <= args.teams; i += THREADS) cuts[i] = {args.count, 0};
  } else {
    for (i32 i = threadIdx.x; i <= args.teams; i += THREADS) cuts[i] = i == args.teams ? Cut{args.count, 0} : cut_at(args, i64(i) * length);
  }
  __syncthreads();
  i32 items = 0;
  for (i32 from = 0; from < args.teams; from += THREADS) {
    const i32 team = from + i32(threadIdx.x);
    const Cut begin = team < args.teams ? cuts[team] : Cut{0, 0};
    const Cut end = team < args.teams ? cuts[team + 1] : Cut{0, 0};
    const i32 own = end.group - begin.group + (end.tile > 0 ? 1 : 0);
    i32 here;
    i32 at = items + sum_before(own, here);
    items += here;
    if (team >= args.teams) continue;
    args.starts[team] = at;
    for (i32 i = begin.group; i < begin.group + own; i++) {
      // Cuts inside the group
      i32 first_cut = i == begin.group && begin.tile > 0 ? team : team + 1;
      while (first_cut > 0 && cuts[first_cut - 1].group == i && cuts[first_cut - 1].tile > 0) first_cut--;
      i32 end_cut = first_cut;
      while (end_cut < args.teams && cuts[end_cut].group == i && cuts[end_cut].tile > 0) end_cut++;
      const i32 first_tile = args.groups[i].first / KEYS;
      Item item = {i, first_tile, first_tile + tiles_of(args.groups[i]), 0, 1, 0, {}};
      if (end_cut > first_cut) {
        item.part = team + 1 - first_cut;
        item.parts = end_cut - first_cut + 1;
        item.slot = 2 * (first_cut - 1);
        if (i == end.group) item.end = first_tile + end.tile;
        if (i == begin.group) item.first = first_tile + begin.tile;
      }
      args.items[at++] = item;
    }
  }
  if (threadIdx.x == 0) args.starts[args.teams] = items;
}
