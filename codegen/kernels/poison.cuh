// Leaves a pattern in the shared memory of every multiprocessor, where a kernel that reads what it never wrote finds it.

#include "prelude.cuh"

struct Poison {
  u32* sink;  // one value
  u64 pattern;
};

template <class Cfg>
__device__ void poison(const Poison& args) {
  constexpr int WORDS = 12 << 10;
  __shared__ u32 junk[WORDS];
  for (int i = threadIdx.x; i < WORDS; i += THREADS) junk[i] = u32(args.pattern);
  __syncthreads();
  // Nothing that the pattern is: the compiler may not leave the stores out
  if (junk[(threadIdx.x * 97 + 1) % WORDS] != u32(args.pattern)) args.sink[0] = 1;
}
