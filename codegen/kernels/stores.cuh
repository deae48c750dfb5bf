// Every way in which a cache keeps a row: as numbers of type `MLA_KEY`, or as codes.

#include "runs.cuh"
#include "fp8_ds_mla.cuh"
#include "fp8_flat.cuh"
#include "fp8_model1.cuh"
#include "index_fp8.cuh"
#include "index_mxfp4.cuh"
#include "mxfp8.cuh"

using Stored = MLA_KEY;

// The runtime and the compiler count them alike.
enum StoreKind {
  NUMBERS,
  FLAT_E4M3,
  FLAT_E5M2,
  DS_MLA,
  DS_MLA_POWERS,
  MODEL1,
  MXFP8,
  INDEX_FP8,
  INDEX_FP8_POWERS,
  INDEX_MXFP4,
};

struct Store {
  u8* memory;
  Places places;
  f64 scale;  // of formats that have one for the whole cache
};

// Writes a row's entry, by a block: a latent, or an indexer's key, and a rotated part behind it.
template <int STORE, int LATENT, int ROPE>
__device__ inline void write_entry(const Elem* latent, const Elem* rope, const Store& store, i64 row) {
  const Spot spot = store.places.of(store.memory, row);
  if (!spot.data) return;
  if constexpr (STORE == NUMBERS) {
    Stored* entry = reinterpret_cast<Stored*>(spot.data);
    copy_row<LATENT>(latent, entry);
    copy_row<ROPE>(rope, entry + LATENT);
  } else if constexpr (STORE == FLAT_E4M3) {
    Fp8Flat<E4m3>::write<LATENT, ROPE>(latent, rope, f32(store.scale), spot);
  } else if constexpr (STORE == FLAT_E5M2) {
    Fp8Flat<E5m2>::write<LATENT, ROPE>(latent, rope, f32(store.scale), spot);
  } else if constexpr (STORE == DS_MLA || STORE == DS_MLA_POWERS) {
    Fp8DsMla::write<LATENT, ROPE, STORE == DS_MLA_POWERS>(latent, rope, spot);
  } else if constexpr (STORE == MODEL1) {
    Fp8Model1::write<LATENT, ROPE>(latent, rope, spot);
  } else if constexpr (STORE == MXFP8) {
    Mxfp8::write<LATENT, ROPE>(latent, rope, spot);
  } else if constexpr (STORE == INDEX_FP8 || STORE == INDEX_FP8_POWERS) {
    IndexFp8::write<LATENT, STORE == INDEX_FP8_POWERS>(latent, spot);
  } else {
    static_assert(STORE == INDEX_MXFP4, "a store without a number");
    IndexMxfp4::write<LATENT>(latent, spot);
  }
}
