// Random values that depend on nothing but a key and an index: the bits of the runtime's `weights::generator`.

#include "prelude.cuh"

struct Drawing {
  Elem* out;
  i64 len;
  u64 key;
  f64 base;
  f64 amplitude;
};

// SplitMix64 over a counter.
__device__ inline u64 drawn(u64 key, i64 index) {
  constexpr u64 GOLDEN = 0x9e3779b97f4a7c15ull;
  u64 bits = key + u64(index) * GOLDEN + GOLDEN;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ull;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebull;
  return bits ^ (bits >> 31);
}

// Uniform in `base ± amplitude`, rounded to bf16 whatever the element's type.
template <class Cfg>
__device__ void uniform(const Drawing& args) {
  for (i64 i = thread_of_grid(); i < args.len; i += threads_of_grid()) {
    const f64 unit = f64(drawn(args.key, i) >> 40) * (1.0 / 8388608.0) - 1.0;
    // Rounded before it is added: no fused multiply-add may take both steps at once
    const f64 away = __dmul_rn(args.amplitude, unit);
    store(args.out + i, widen(narrow_bf16(f32(args.base + away))));
  }
}
