// Which keys an indexer's queries may choose, as the host lays it out.

#include "prelude.cuh"

// What a query sees. Keys are counted from the first of its sight.
struct Query {
  i64 begin;  // keys with scores
  i64 end;
  i64 seen_begin;  // and, around them, those that are chosen whatever their scores
  i64 seen_end;
  i64 keep;   // best scores that are chosen
  i64 given;  // where its line of the mask begins; negative: it has none
};

// Neighbouring queries of one sight.
struct Group {
  i64 row;  // of the first one
  i64 count;
  i64 begin;  // keys that any of them scores
  i64 end;
  i64 keys;            // the row of the first key, or where the list of its blocks begins
  i64 first_position;  // of the first key in its sequence
  i64 first_index;     // of the first query in its sequence
};

struct Sights {
  const Query* queries;  // one to a row
  const Group* groups;
  const u32* blocks;  // lists of blocks; null: keys are rows
  const u8* given;    // lines of a mask, by key
  const i32* chosen;  // `[rows, chosen_width]` positions, negative: none; null: no key is left out
  i64 page;
  i64 key_rows;
  i64 chosen_width;

  // The row that a key is.
  __device__ i64 row_of(const Group& group, i64 key) const {
    return blocks ? i64(blocks[group.keys + key / page]) * page + key % page : group.keys + key;
  }

  // Whether a query sees a key, in a range that it sees.
  __device__ bool allows(const Query& query, i64 key) const { return query.given < 0 || given[query.given + key] != 0; }

  // The key of a column of scores: `first_key` is that of the first column, unless the query of row `row` chose; negative where there is none.
  __device__ i64 key_of(const Group& group, i64 row, i64 first_key, i64 column) const {
    if (!chosen) return first_key + column;
    const i64 position = chosen[row * chosen_width + column];
    return position < 0 ? -1 : position - group.first_position;
  }

  // Whether the query of row `row` sees a key; negative: no key.
  __device__ bool sees(i64 row, i64 key) const {
    const Query query = queries[row];
    return key >= query.begin && key < query.end && allows(query, key);
  }

  // The columns that a query's scores are among.
  __device__ i64 first_column(const Group& group, const Query& query) const { return chosen ? 0 : query.begin - group.begin; }
  __device__ i64 end_column(const Group& group, const Query& query) const { return chosen ? chosen_width : query.end - group.begin; }
};

static_assert(sizeof(Query) == 48 && sizeof(Group) == 56 && sizeof(Sights) == 64, "the host lays them out alike");
