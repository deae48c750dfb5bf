// What kernels of absorbed attention over a cache of latents are told: who attends to what, and who does which part of it.
//
// A block of queries is up to 128 rows: heads of one query, or all heads of some. Blocks of one segment that run side by side, so that they read
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
// Where keys are chosen, a group is one query's, keys are the entries of its list, and `all_first` is where in its sequence the first key stands that
// it could have chosen. Where entries are counted on the device, the scheduler says at `end` how many there are, `all_end` at most.

struct Item {
  i32 group;
  i32 first, end;  // tiles
  i32 part, parts;
  i32 slot;  // the first part's team's first
  i32 unused[2];
};

// What a part knows of a row.
struct PartSums {
  f32 weight;  // log2 of the sum of exponentials
  f32 most;    // the largest logit
};

struct Decoding {
  TensorMap q, q_rope, k, k_rope, k_scales;  // scales of keys: of a cache of codes that has them
  const Limit* limits;  // of each query
  const Group* groups;
  const Item* items;
  const i32* starts;  // the first item of each team, and one past the last team's
  const u32* table;
  Elem* narrow;  // [queries, H, LATENT]: the output, where it is wanted in `Elem`
  f32* out;      // [queries, H, LATENT], where not
  f32* lse;        // [queries, H], natural
  f32* max_logit;  // [queries, H]
  u16* part_out;        // [2 * teams, team, LATENT / 64, ROWS, 64]: in f16, lines of 64 as they lay in shared memory
  PartSums* part_sums;  // [2 * teams, team, ROWS]
  f32* part_units;      // [2 * teams, team, 2, ROWS, 4]: what columns count in
  Quad* spare;   // [blocks, 2, 128]: what there are no registers for
  u32* arrived;  // [groups, team]: warpgroups that have written their share of a part
  f32 scale;     // of logits
  f32 scale_log2;  // the same, for powers of two
  i32 team;      // blocks that work side by side
  i32 page;      // keys of a page; 0: they lie in order
  i32 box;       // keys that are copied at once, a power of two up to 64 that divides `page`
  i32 at_once;   // queries of a block, where it has all heads
  f32 k_scale;   // of all entries of a cache of codes
  // Where keys are chosen:
  i32 width;            // of a list
  const i32* chosen;    // [queries, width]: keys in their sequence, negative: none
  const u8* entries;    // what keys are, and
  const u8* rotated;    // their rotated part,
  i32 entry_bytes;      // so many bytes from one to the next
  i32 rotated_bytes;
  i32 rows;             // how many there are
  i32 unused[3];
};

constexpr int KEYS = 64;  // of a tile

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
