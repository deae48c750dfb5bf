// What encoders and decoders of caches' byte formats share. A block works on a token's entry, a warp on each group of values that
// have a scale in common.

#include "narrow.cuh"

// Where an entry's bytes stand.
struct Spot {
  u8* data;  // null: the row has no entry
  u8* scales;
  i64 scale_bytes;
};

// Where bytes stand: in each block first all tokens' data, then all tokens' scales, then padding.
struct Places {
  const i64* slots;  // one per row; negative: none
  i64 slot_count;
  i64 page;         // tokens of a block
  i64 block_bytes;  // with padding
  i64 data;         // bytes of a token
  i64 scales;       // bytes of a token

  // The slot of a row, or -1 where there is none.
  __device__ i64 slot(i64 row) const {
    const i64 slot = slots[row];
    return slot >= 0 && IN_RANGE(slot, slot_count) ? slot : -1;
  }
  __device__ i64 data_of(i64 slot) const { return slot / page * block_bytes + slot % page * data; }
  __device__ i64 scales_of(i64 slot) const { return slot / page * block_bytes + page * data + slot % page * scales; }
  // Where a row's entry is written.
  __device__ Spot of(u8* bytes, i64 row) const {
    const i64 at = slot(row);
    if (at < 0) return {};
    return {bytes + data_of(at), bytes + scales_of(at), scales};
  }
};

struct Encode {
  Window<const Elem> latent;
  Window<const Elem> rope;
  Places places;
  u8* bytes;
  f64 scale;  // of formats that have one for the whole cache
};

struct Decode {
  Places places;
  const u8* bytes;
  Elem* latent;  // [rows, latent]
  Elem* rope;    // [rows, rope]
  i64 rows;
  f64 scale;
};

__device__ inline f32 value_at(const Elem* at) { return single(load(at)); }

// The largest magnitude of some values, NaNs left out. The lanes of a warp call it together.
__device__ inline f32 largest(const Elem* values, int count) {
  f32 most = 0;
  for (int i = lane(); i < count; i += WARP) most = fmaxf(most, fabsf(value_at(values + i)));
  for (int offset = WARP / 2; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, offset));
  return most;
}

// 2^ceil(log2(max(amax / 448, 10^-4)))
__device__ inline u8 power_scale(const Elem* values, int count) {
  return E8m0::at_least(fmaxf(largest(values, count) / E4m3::MAX, 1e-4f));
}

// e4m3(value / scale), by a warp.
__device__ inline void encode_e4m3(const Elem* values, int count, f32 scale, u8* codes) {
  for (int i = lane(); i < count; i += WARP) codes[i] = E4m3::encode(scaled_down(value_at(values + i), scale));
}

// e4m3 · scale, by a warp.
__device__ inline void decode_e4m3(const u8* codes, int count, f32 scale, Elem* values) {
  for (int i = lane(); i < count; i += WARP) store(values + i, E4m3::decode(codes[i]) * scale);
}

// e4m3 with a power of two per `GROUP` values, by a block.
template <int GROUP>
__device__ inline void encode_powers(const Elem* values, int width, u8* codes, u8* scales) {
  for (int group = warp(); group < width / GROUP; group += WARPS) {
    const u8 scale = power_scale(values + group * GROUP, GROUP);
    encode_e4m3(values + group * GROUP, GROUP, E8m0::decode(scale), codes + group * GROUP);
    if (lane() == 0) scales[group] = scale;
  }
}

template <int GROUP>
__device__ inline void decode_powers(const u8* codes, const u8* scales, int width, Elem* values) {
  for (int group = warp(); group < width / GROUP; group += WARPS) {
    decode_e4m3(codes + group * GROUP, GROUP, E8m0::decode(scales[group]), values + group * GROUP);
  }
}

// bf16, by a block. Nothing says that an entry's bytes stand where numbers may.
__device__ inline void encode_bf16(const Elem* values, int width, u8* bytes) {
  for (int i = threadIdx.x; i < width; i += THREADS) {
    const bf16 value = narrow_bf16(value_at(values + i));
    memcpy(bytes + 2 * i, &value, 2);
  }
}

__device__ inline void decode_bf16(const u8* bytes, int width, Elem* values) {
  for (int i = threadIdx.x; i < width; i += THREADS) {
    bf16 value;
    memcpy(&value, bytes + 2 * i, 2);
    store(values + i, widen(value));
  }
}

// A scale of 4 bytes.
__device__ inline void put_scale(u8* at, f32 scale) { memcpy(at, &scale, 4); }

__device__ inline f32 scale_at(const u8* at) {
  f32 scale;
  memcpy(&scale, at, 4);
  return scale;
}
