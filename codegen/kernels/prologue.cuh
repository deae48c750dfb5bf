// What stands between the down projections and attention, in one pass over rows: the norm of the queries' latent; the norm of the
// key-value latent and the rotation of the shared key, which a cache keeps; the norm and the rotation of an indexer's key, which it keeps too.
//
// A block for each row and each of the three. Every step rounds as the kernel that does it alone.

#include "row_norm.cuh"
#include "pairs.cuh"
#include "hadamard_row.cuh"
#include "stores.cuh"

struct Normed {
  Window<const Elem> x;
  const Elem* gamma;
  const Elem* beta;  // null: an RMSNorm
  f64 eps;
};

struct Prologue {
  Normed queries;
  Normed latent;
  Normed key;
  Window<const Elem> rope;
  Turn rope_turn;
  Turn key_turn;
  Store entries;
  Store keys;
  Elem* queries_out;
  Elem* latent_out;  // null: nobody reads it but the cache
  Elem* rope_out;
  i64 transformed;  // whether an indexer's keys are times the Hadamard matrix
};

template <int WIDTH>
__device__ inline void norm_row(const Normed& norm, i64 row, Elem* y) {
  const Elem* x = norm.x.at(row, 0);
  if (norm.beta) layer_norm_row<WIDTH>(x, norm.gamma, norm.beta, Accum(norm.eps), y);
  else rms_norm_row<WIDTH>(x, norm.gamma, Accum(norm.eps), y);
}

// Turns a thread's pair, of which there are no more than threads; `from` and `to` may be the same.
__device__ inline void turn_row(const Turn& turn, i64 row, const Elem* from, Elem* to) {
  const int pair = threadIdx.x;
  RotaryPair now = {};
  if (pair < turn.pairs) now = turn.of(from, pair, turn.angle(row, pair));
  __syncthreads();
  if (pair < turn.pairs) turn.put(to, pair, now);
}

// [ĉ; k_r] of a row, which its slot of the cache holds then.
template <class Cfg>
__device__ inline void prepare_entry(const Prologue& args) {
  __shared__ alignas(16) Elem latent[Cfg::LATENT];
  __shared__ alignas(16) Elem rope[Cfg::ROPE];
  const i64 row = blockIdx.x;
  norm_row<Cfg::LATENT>(args.latent, row, latent);
  turn_row(args.rope_turn, row, args.rope.at(row, 0), rope);
  __syncthreads();
  write_entry<Cfg::STORE, Cfg::LATENT, Cfg::ROPE>(latent, rope, args.entries, row);
  if (args.latent_out) {
    copy_row<Cfg::LATENT>(latent, args.latent_out + row * Cfg::LATENT);
    copy_row<Cfg::ROPE>(rope, args.rope_out + row * Cfg::ROPE);
  }
}

// An indexer's key of a row.
template <class Cfg>
__device__ inline void prepare_key(const Prologue& args) {
  __shared__ alignas(16) Elem key[Cfg::KEY];
  const i64 row = blockIdx.x;
  norm_row<Cfg::KEY>(args.key, row, key);
  __syncthreads();
  Elem* turned = key + args.key_turn.start;
  turn_row(args.key_turn, row, turned, turned);
  __syncthreads();
  if constexpr ((Cfg::KEY & (Cfg::KEY - 1)) == 0) {
    if (args.transformed) {
      hadamard_row<Cfg::KEY>(key);
      __syncthreads();
    }
  }
  write_entry<Cfg::KEY_STORE, Cfg::KEY, 0>(key, key, args.keys, row);
}

template <class Cfg>
__device__ void prologue(const Prologue& args) {
  static_assert(Cfg::KEY > 0 || Cfg::KEY_STORE == NUMBERS, "no keys are kept in no particular way");
  if (blockIdx.y == 0) {
    prepare_entry<Cfg>(args);
  } else if (Cfg::QUERIES > 0 && blockIdx.y == 1) {
    if constexpr (Cfg::QUERIES > 0) {
      const i64 row = blockIdx.x;
      norm_row<Cfg::QUERIES>(args.queries, row, args.queries_out + row * Cfg::QUERIES);
    }
  } else if constexpr (Cfg::KEY > 0) {
    prepare_key<Cfg>(args);
  }
}
