// Runs of neighbours that a thread moves at once, where they lie so.

#include "prelude.cuh"
#include "convert.cuh"

template <class T, int N>
struct alignas(N * sizeof(T)) Run {
  T values[N];
};

// Whether a run can be moved from `at`, or to it.
template <int N, class T>
__device__ inline bool lies_as_run(const T* at) {
  return reinterpret_cast<u64>(at) % sizeof(Run<T, N>) == 0;
}

template <class T, int N>
__device__ inline void narrow_run(const Accum (&x)[N], Run<T, N>& run) {
#pragma unroll
  for (int i = 0; i < N; i++) store(run.values + i, x[i]);
}

// Two at once, by the instruction that there is for it.
template <int N>
__device__ inline void narrow_run(const Accum (&x)[N], Run<bf16, N>& run) {
#pragma unroll
  for (int i = 0; i < N; i += 2) {
    const u32 two = pack_bf16(f32(x[i]), f32(x[i + 1]));
    run.values[i].bits = u16(two);
    run.values[i + 1].bits = u16(two >> 16);
  }
}

// The values from the `first` of a row of `WIDTH`; zeros behind its end.
template <int WIDTH, class T, int N>
__device__ inline void load_run(const T* row, int first, Accum (&x)[N]) {
  if (first + N <= WIDTH && lies_as_run<N>(row + first)) {
    const Run<T, N> run = *reinterpret_cast<const Run<T, N>*>(row + first);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = load(run.values + i);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = first + i < WIDTH ? load(row + first + i) : Accum(0);
  }
}

// Writes them; what is behind the row's end is left out.
template <int WIDTH, class T, int N>
__device__ inline void store_run(T* row, int first, const Accum (&x)[N]) {
  Run<T, N> run;
  narrow_run(x, run);
  if (first + N <= WIDTH && lies_as_run<N>(row + first)) {
    *reinterpret_cast<Run<T, N>*>(row + first) = run;
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (first + i < WIDTH) row[first + i] = run.values[i];
    }
  }
}

// Copies a row of `WIDTH` values, by a block, converted where the types differ.
template <int WIDTH, class From, class To>
__device__ inline void copy_row(const From* from, To* to) {
  for (int first = 4 * threadIdx.x; first < WIDTH; first += 4 * THREADS) {
    Accum x[4];
    load_run<WIDTH>(from, first, x);
    store_run<WIDTH>(to, first, x);
  }
}
