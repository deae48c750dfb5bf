// What rows of queries see, as the host lays it out.

#include "prelude.cuh"

// A row of the query tensor, and what it sees: keys counted from its segment's first.
struct QueryRow {
  i64 seen_from;
  i64 seen_to;
  i64 first_key_row;  // row of the segment's first key
  i64 first_key;      // its index in the sequence
  i64 given;          // key k may be seen if byte `given + k` of the mask is not 0
  i64 segment;
  i64 sequence;
  i64 index;  // of the query in its sequence
};

// Whether a row sees a key. `given` has the masks; null: there are none.
__device__ inline bool sees(const QueryRow& row, const u8* given, i64 key) {
  return key >= row.seen_from && key < row.seen_to && (!given || given[row.given + key]);
}
