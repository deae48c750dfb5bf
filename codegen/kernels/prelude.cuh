// What every kernel stands on: number types, windows of tensors, sums over a block.
//
// Kernels are compiled for one element type, `MLA_ELEM`, and where they read a cache for the type of its entries, `MLA_KEY`.
// The same text compiles for a GPU, where the compiler knows threads and shared memory, and for the host, where
// `simt.hpp` stands in for both.

#include "turns.cuh"

using i8 = signed char;
using u8 = unsigned char;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;
using f32 = float;
using f64 = double;

// The upper half of an f32.
struct bf16 {
  u16 bits;
};

// IEEE half precision.
struct f16 {
  u16 bits;
};

// 16 bytes, which a thread moves at once.
struct alignas(16) Quad {
  u32 words[4];
};

using Elem = MLA_ELEM;

template <class T>
struct AccumOf {
  using Type = f32;
};
template <>
struct AccumOf<f64> {
  using Type = f64;
};

// What sums, softmax and log-sum-exp are held in.
using Accum = AccumOf<Elem>::Type;

// Threads of every block.
constexpr int THREADS = 128;
constexpr int WARP = 32;
constexpr int WARPS = THREADS / WARP;

// ---- Number types ----

__device__ inline u32 bits_of(f32 x) {
  u32 bits;
  memcpy(&bits, &x, 4);
  return bits;
}

__device__ inline f32 f32_of(u32 bits) {
  f32 x;
  memcpy(&x, &bits, 4);
  return x;
}

__device__ inline f32 widen(bf16 x) { return f32_of(u32(x.bits) << 16); }

// Shifts the mantissa into place; a subnormal's exponent is mended by a product that is exact.
__device__ inline f32 widen(f16 x) {
  u32 sign = u32(x.bits & 0x8000) << 16;
  u32 rest = u32(x.bits & 0x7fff) << 13;
  f32 magnitude = f32_of(rest) * f32_of(0x77800000u);  // times 2^112
  if ((x.bits & 0x7c00) == 0x7c00) magnitude = f32_of(rest | 0x7f800000u);
  return f32_of(sign | bits_of(magnitude));
}

__device__ inline bf16 narrow_bf16(f32 x) {
  u32 bits = bits_of(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return {u16((bits >> 16) | 0x40)};  // a NaN stays one
  return {u16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};                 // to nearest, ties to even
}

__device__ inline f16 narrow_f16(f32 x) {
  u32 bits = bits_of(x);
  u16 sign = u16((bits >> 16) & 0x8000);
  u32 rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return {u16(sign | 0x7e00)};
  if (rest >= 0x47800000) return {u16(sign | 0x7c00)};  // 65536 and above
  if (rest < 0x38800000) {
    // Below the smallest normal: adding 0.5 leaves the mantissa in the low bits, rounded by the addition
    return {u16(sign | u16(bits_of(f32_of(rest) + 0.5f) - bits_of(0.5f)))};
  }
  u32 rounded = rest + 0xfff + ((rest >> 13) & 1);
  return {u16(sign | u16((rounded - 0x38000000) >> 13))};
}

__device__ inline void store(f64* at, f64 x) { *at = x; }
__device__ inline void store(f32* at, f64 x) { *at = f32(x); }
__device__ inline void store(bf16* at, f64 x) { *at = narrow_bf16(f32(x)); }
__device__ inline void store(f16* at, f64 x) { *at = narrow_f16(f32(x)); }
__device__ inline void store(f64* at, f32 x) { *at = f64(x); }
__device__ inline void store(f32* at, f32 x) { *at = x; }
__device__ inline void store(bf16* at, f32 x) { *at = narrow_bf16(x); }
__device__ inline void store(f16* at, f32 x) { *at = narrow_f16(x); }

// A stored number as an accumulator.
__device__ inline Accum load(const f64* at) { return Accum(*at); }
__device__ inline Accum load(const f32* at) { return Accum(*at); }
__device__ inline Accum load(const bf16* at) { return Accum(widen(*at)); }
__device__ inline Accum load(const f16* at) { return Accum(widen(*at)); }

// `x` rounded to `T` and back.
template <class T>
__device__ inline Accum rounded(Accum x) {
  T stored;
  store(&stored, x);
  return load(&stored);
}

// ---- Functions of accumulators ----

__device__ inline f32 exponential(f32 x) { return expf(x); }
__device__ inline f64 exponential(f64 x) { return exp(x); }
__device__ inline f32 logarithm(f32 x) { return logf(x); }
__device__ inline f64 logarithm(f64 x) { return log(x); }
__device__ inline f32 tangent(f32 x) { return tanhf(x); }
__device__ inline f64 tangent(f64 x) { return tanh(x); }
__device__ inline f32 root(f32 x) { return sqrtf(x); }
__device__ inline f64 root(f64 x) { return sqrt(x); }
__device__ inline f32 larger(f32 x, f32 y) { return fmaxf(x, y); }
__device__ inline f64 larger(f64 x, f64 y) { return fmax(x, y); }
__device__ inline f32 magnitude(f32 x) { return fabsf(x); }
__device__ inline f64 magnitude(f64 x) { return fabs(x); }

// The logistic function, 1 / (1 + e^-x).
__device__ inline Accum logistic(Accum x) { return Accum(1) / (Accum(1) + exponential(-x)); }

__device__ inline Accum minus_infinity() { return Accum(-f32_of(0x7f800000u)); }

__device__ inline bool is_nan(Accum x) { return x != x; }

// ---- Windows ----

// `[rows, heads, width]` values of a tensor; neighbours along `width` lie side by side. Strides count elements.
template <class T>
struct Window {
  T* data;
  i64 rows;
  i64 row_stride;
  i64 head_stride;
  i32 heads;
  i32 width;

  __device__ T* at(i64 row, i64 head) const { return data + row * row_stride + head * head_stride; }
  __device__ i64 len() const { return rows * heads * width; }
};

// Where the `index`th value of a window stands, counted along `width`, then heads, then rows.
template <class T>
__device__ inline T* nth(const Window<T>& window, i64 index) {
  i64 line = index / window.width;
  return window.at(line / window.heads, line % window.heads) + index % window.width;
}

// ---- Threads ----

__device__ inline i64 thread_of_grid() { return i64(blockIdx.x) * THREADS + threadIdx.x; }
__device__ inline i64 threads_of_grid() { return i64(gridDim.x) * THREADS; }
__device__ inline int lane() { return threadIdx.x % WARP; }
__device__ inline int warp() { return threadIdx.x / WARP; }

constexpr u32 ALL_LANES = 0xffffffffu;

__device__ inline Accum warp_sum(Accum x) {
  for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
  return x;
}

__device__ inline Accum warp_max(Accum x) {
  for (int offset = WARP / 2; offset > 0; offset /= 2) x = larger(x, __shfl_xor_sync(ALL_LANES, x, offset));
  return x;
}

// The sum over the block, in the same order in every run. Every thread calls it and gets it.
__device__ inline Accum block_sum(Accum x) {
  __shared__ Accum partial[WARPS];
  x = warp_sum(x);
  __syncthreads();
  if (lane() == 0) partial[warp()] = x;
  __syncthreads();
  Accum sum = 0;
  for (int i = 0; i < WARPS; i++) sum += partial[i];
  return sum;
}

// ---- Checks ----

// A build with `MLA_CHECKED` looks at every index that comes from a table, and remembers the first that is out of range.
// The launch that follows reports it; the access itself is left out.
struct Fault {
  u32 seen;
  u32 line;
  i64 index;
  i64 limit;
};

#ifdef MLA_CHECKED
extern "C" __device__ Fault mla_fault;
__device__ Fault mla_fault;

__device__ inline bool in_range(i64 index, i64 limit, u32 line) {
  if (index >= 0 && index < limit) return true;
  if (atomicCAS(&mla_fault.seen, 0u, 1u) == 0u) {
    mla_fault.line = line;
    mla_fault.index = index;
    mla_fault.limit = limit;
  }
  return false;
}
#define IN_RANGE(index, limit) in_range((index), (limit), __LINE__)
#else
#define IN_RANGE(index, limit) true
#endif
