// The gradients of softmax attention over rows of keys and values, a block of keys of a head at a time: what docs/kernels/backward.md draws.
//
// Three warpgroups. Threads of the first have keys, values and tiles of queries copied to shared memory. The second and third add up: each the gradients of
// a half of 128 keys and of their values, or, where there are no registers for that, one of 64 keys and one of their values.

#include "flash_halves.cuh"
#include "flash_sides.cuh"

template <class Cfg>
__device__ void flash_backward(const FlashBackward& args) {
  using P = Place<Cfg>;
  alignas(1024) extern __shared__ u8 shared[];
  const u32 base = shared_address(shared);
  if (threadIdx.x == 0) {
    if (base % 1024 != 0) __trap();
    prefetch_map(args.q);
    prefetch_map(args.k);
    prefetch_map(args.v);
    prefetch_map(args.d_out);
    init_barriers<Cfg>(base);
  }
  __syncthreads();
  if (threadIdx.x < WARPGROUP) {
    with_registers<P::BRINGS>([&] {
      if (threadIdx.x == 0) bring_tiles<Cfg>(args, base);
      if (threadIdx.x == WARP) bring_keys<Cfg>(args, base);
      if (Cfg::DETERMINISTIC && threadIdx.x % WARP == 0 && threadIdx.x >= 2 * WARP) take_turns<Cfg>(args, base, threadIdx.x / WARP - 2);
      __syncwarp();  // registers are a warp's
    });
  } else if constexpr (P::KEYS == 128) {
    with_registers<P::ADDS>([&] { add_halves<Cfg>(args, base); });
  } else if (threadIdx.x < 2 * WARPGROUP) {
    with_registers<P::ADDS>([&] { add_keys<Cfg>(args, base); });
  } else {
    with_registers<P::ADDS>([&] { add_values<Cfg>(args, base); });
  }
}
