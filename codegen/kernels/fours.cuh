// Rows that a thread moves four neighbours of at a time, where they lie so.

#include "prelude.cuh"

template <class T>
struct alignas(4 * sizeof(T)) Four {
  T values[4];
};

// Whether the four from `at` on can be moved at once.
template <class T>
__device__ inline bool lie_as_four(const T* at) {
  return reinterpret_cast<u64>(at) % sizeof(Four<T>) == 0;
}

// The four values from the `first` of a row of `WIDTH`; zeros behind its end.
template <int WIDTH, class T>
__device__ inline void load_four(const T* row, int first, Accum (&x)[4]) {
  if (first + 4 <= WIDTH && lie_as_four(row + first)) {
    const Four<T> four = *reinterpret_cast<const Four<T>*>(row + first);
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = load(four.values + i);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = first + i < WIDTH ? load(row + first + i) : Accum(0);
  }
}

// Writes them; what is behind the row's end is left out.
template <int WIDTH, class T>
__device__ inline void store_four(T* row, int first, const Accum (&x)[4]) {
  if (first + 4 <= WIDTH && lie_as_four(row + first)) {
    Four<T> four;
#pragma unroll
    for (int i = 0; i < 4; i++) store(four.values + i, x[i]);
    *reinterpret_cast<Four<T>*>(row + first) = four;
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (first + i < WIDTH) store(row + first + i, x[i]);
    }
  }
}

// Copies a row of `WIDTH` values, by a block, converted where the types differ.
template <int WIDTH, class From, class To>
__device__ inline void copy_row(const From* from, To* to) {
  for (int first = 4 * threadIdx.x; first < WIDTH; first += 4 * THREADS) {
    Accum x[4];
    load_four<WIDTH>(from, first, x);
    store_four<WIDTH>(to, first, x);
  }
}
