// An indexer's keys of `KEY` e4m3; apart from them a 4-byte scale per 128, the last of which may be fewer.

#include "coding.cuh"
#include "runs.cuh"
#include "pairs.cuh"
#include "hadamard_row.cuh"

struct IndexFp8 {
  static constexpr int GROUP = 128;

  // The scale of values whose largest magnitude is `most`.
  template <bool POWER_OF_TWO>
  static __device__ f32 scale_of(f32 most) {
    return POWER_OF_TWO ? E8m0::decode(E8m0::at_least(fmaxf(most, 1e-10f) / E4m3::MAX)) : fmaxf(most, 1e-4f) / E4m3::MAX;
  }

  // Writes a key, by a block.
  template <int KEY, bool POWER_OF_TWO>
  static __device__ void write(const Elem* key, const Spot& spot) {
    for (int first = warp() * GROUP; first < KEY; first += WARPS * GROUP) {
      const int count = KEY - first < GROUP ? KEY - first : GROUP;
      const f32 scale = scale_of<POWER_OF_TWO>(largest(key + first, count));
      encode_e4m3(key + first, count, scale, spot.data + first);
      if (lane() == 0) put_scale(spot.scales + first / GROUP * 4, scale);
    }
  }
};

template <class Cfg>
__device__ void encode_index_fp8(const Encode& args) {
  const i64 row = blockIdx.x;
  const Spot spot = args.places.of(args.bytes, row);
  if (!spot.data) return;
  IndexFp8::write<Cfg::KEY, Cfg::POWER_OF_TWO>(args.latent.at(row, 0), spot);
}

template <class Cfg>
__device__ void decode_index_fp8(const Decode& args) {
  constexpr int GROUP = IndexFp8::GROUP;
  const i64 row = blockIdx.x;
  const i64 slot = args.places.slot(row);
  if (slot < 0) return;
  const u8* codes = args.bytes + args.places.data_of(slot);
  const u8* scales = args.bytes + args.places.scales_of(slot);
  for (int first = warp() * GROUP; first < Cfg::KEY; first += WARPS * GROUP) {
    const int count = Cfg::KEY - first < GROUP ? Cfg::KEY - first : GROUP;
    decode_e4m3(codes + first, count, scale_at(scales + first / GROUP * 4), args.latent + row * Cfg::KEY + first);
  }
}

struct EncodeQueries {
  Window<const Elem> q;  // [rows, heads, KEY]
  Turn turn;             // done first; of no pairs: nothing is turned
  const f32* weights;    // [rows, heads]
  u8* codes;             // [rows, heads, KEY]
  f32* scaled;           // [rows, heads]: weights times the scales of codes
  i64 transformed;       // whether queries are times the Hadamard matrix, then
};

// Four of a head's values to each lane.
template <int KEY>
struct QueryLanes {
  static constexpr int N = 4;
  static constexpr int PAIRS = (KEY + 2 * WARP - 1) / (2 * WARP);  // that a lane turns, at most
  Accum x[N];

  // Rounds to what a kernel of its own would have written.
  __device__ void round() {
#pragma unroll
    for (int i = 0; i < N; i++) {
      Elem rounded;
      store(&rounded, x[i]);
      x[i] = load(&rounded);
    }
  }

  // Turns them, by way of room of the warp's own.
  __device__ void turn(const Turn& turn, const RotaryPair (&angles)[PAIRS], Elem* room) {
    store_run<KEY>(room, N * lane(), x);
    __syncwarp();
    RotaryPair now[PAIRS];
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      if (lane() + i * WARP < turn.pairs) now[i] = turn.of(room + turn.start, lane() + i * WARP, angles[i]);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      if (lane() + i * WARP < turn.pairs) turn.put(room + turn.start, lane() + i * WARP, now[i]);
    }
    __syncwarp();
    load_run<KEY>(room, N * lane(), x);
  }

  __device__ f32 largest() const {
    f32 most = 0;
#pragma unroll
    for (int i = 0; i < N; i++) most = fmaxf(most, fabsf(single(x[i])));
    for (int offset = WARP / 2; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, offset));
    return most;
  }

  // By a power of two, a product with its inverse is the quotient, and takes a fraction of the time. GPUs' own conversion gives the same codes of numbers.
  template <bool POWER_OF_TWO>
  __device__ void encode(f32 scale, u8* to) const {
    const f32 inverse = 1.0f / scale;
    f32 scaled[N];
    bool are_numbers = true;
#pragma unroll
    for (int i = 0; i < N; i++) {
      scaled[i] = POWER_OF_TWO ? single(x[i]) * inverse : single(x[i]) / scale;
      are_numbers &= scaled[i] == scaled[i];
    }
    if constexpr (has_e4m3()) {
      if (are_numbers) return put(packed(scaled), to);
    }
    Run<u8, N> codes;
#pragma unroll
    for (int i = 0; i < N; i++) codes.values[i] = E4m3::encode(scaled_down(single(x[i]), scale));
    put(codes, to);
  }

  static __device__ Run<u8, N> packed(const f32 (&scaled)[N]) {
    Run<u8, N> codes;
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const u16 two = pack_e4m3(scaled[i], scaled[i + 1]);
      codes.values[i] = u8(two);
      codes.values[i + 1] = u8(two >> 8);
    }
    return codes;
  }

  static __device__ void put(const Run<u8, N>& codes, u8* to) {
    if (KEY % N == 0 && N * lane() < KEY) {
      *reinterpret_cast<Run<u8, N>*>(to + N * lane()) = codes;
    } else {
      for (int i = 0; i < N; i++) {
        if (N * lane() + i < KEY) to[N * lane() + i] = codes.values[i];
      }
    }
  }
};

// Turns queries, transforms them, and rounds them as keys are rounded, a head by each warp. One scale is all that a head's weight can take in.
template <class Cfg>
__device__ void encode_index_queries(const EncodeQueries& args) {
  if constexpr (Cfg::KEY <= IndexFp8::GROUP) {
    __shared__ alignas(16) Elem rooms[WARPS][(Cfg::KEY + 7) / 8 * 8];
    // Fewer than a grid has threads, so that 32 bits count them: they are divided in a fraction of the time
    const u32 line = blockIdx.x * WARPS + warp(), heads = args.q.heads;
    if (line >= args.q.rows * heads) return;
    const u32 row = line / heads;
    using Lanes = QueryLanes<Cfg::KEY>;
    Lanes q;
    // Whatever is read is asked for at once
    const f32 weight = lane() == 0 ? args.weights[line] : 0.0f;
    RotaryPair angles[Lanes::PAIRS];
#pragma unroll
    for (int i = 0; i < Lanes::PAIRS; i++) {
      if (lane() + i * WARP < args.turn.pairs) angles[i] = args.turn.angle(row, lane() + i * WARP);
    }
    load_run<Cfg::KEY>(args.q.at(row, line % heads), Lanes::N * lane(), q.x);
    if (args.turn.pairs > 0) q.turn(args.turn, angles, rooms[warp()]);
    if constexpr (Cfg::KEY >= Lanes::N && (Cfg::KEY & (Cfg::KEY - 1)) == 0) {
      if (args.transformed) {
        hadamard_lanes<Cfg::KEY>(q.x);
        q.round();
      }
    }
    const f32 scale = IndexFp8::scale_of<Cfg::POWER_OF_TWO>(q.largest());
    q.template encode<Cfg::POWER_OF_TWO>(scale, args.codes + i64(line) * Cfg::KEY);
    if (lane() == 0) args.scaled[line] = weight * scale;
  }
}
