// Warpgroups that hand values on to each other, and what goes with them: registers that move between them, and the order of kernels. A test of
// `ptx.cuh` and `turns.cuh`.

#include "prelude.cuh"
#include "ptx.cuh"

constexpr int GROUP = 128;

struct Handing {
  const u32* from;  // [128]
  u32* to;          // [2, 2, 128]: what each consumer saw of each turn
};

// The first warpgroup writes twice; the other two read what came by a barrier in shared memory, then what came by a named one.
template <class Cfg>
__device__ void hand_on(const Handing& args) {
  __shared__ u32 values[2][GROUP];
  __shared__ alignas(8) u64 arrived;
  const u32 barrier = shared_address(&arrived);
  const int thread = threadIdx.x % GROUP;
  wait_for_kernel_before();
  start_kernel_after();
  if (threadIdx.x == 0) barrier_init(barrier, GROUP);
  __syncthreads();
  if (threadIdx.x < GROUP) {
    registers_down<24>();
    values[0][thread] = args.from[thread];
    barrier_arrive(barrier);
    values[1][thread] = ~args.from[thread];
    named_arrive(1, 3 * GROUP);
  } else {
    registers_up<240>();
    u32* to = args.to + (threadIdx.x / GROUP - 1) * 2 * GROUP;
    barrier_wait(barrier, 0);
    to[thread] = values[0][GROUP - 1 - thread];
    named_wait(1, 3 * GROUP);
    to[GROUP + thread] = values[1][GROUP - 1 - thread];
  }
}
