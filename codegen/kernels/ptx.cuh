// Instructions of Hopper's own that order threads and memory, a function for each. Addresses of shared memory are as instructions take them.

#ifndef MLA_EMULATED  // the host has its own

// An address of shared memory as instructions take it.
__device__ inline u32 shared_address(const void* at) { return u32(__cvta_generic_to_shared(at)); }

// A thread's number in its block, and a block's in its grid, asked for anew: what is computed from them is computed again, not kept in registers.
__device__ inline u32 thread_number() {
  u32 x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x;
}
__device__ inline u32 block_number() {
  u32 x;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(x));
  return x;
}

// Ordinary stores to shared memory before it are seen by the tensor cores and the copy engine after the next barrier.
__device__ inline void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- Barriers in shared memory, of 8 bytes: a phase ends when enough threads have arrived and all expected bytes have come ----

// Makes one whose phases end after so many arrivals.
__device__ inline void barrier_init(u32 barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Barriers made before it are seen by the copy engine.
__device__ inline void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Arrives, and says that the phase also waits for so many bytes.
__device__ inline void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Arrives.
__device__ inline void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Whether the phase of this parity has ended; waits a while for it. The first phase has parity 0.
__device__ inline bool barrier_passed(u32 barrier, u32 parity) {
  u32 passed;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
      : "=r"(passed)
      : "r"(barrier), "r"(parity)
      : "memory");
  return passed != 0;
}

// Waits until the phase of this parity has ended.
__device__ inline void barrier_wait(u32 barrier, u32 parity) {
  while (!barrier_passed(barrier, parity)) {
  }
}

// ---- Named barriers, 1 to 15, of some of a block's threads; 0 is `__syncthreads`'s ----

// Waits until `threads` threads, which are whole warps, have come here or to `named_arrive`.
__device__ inline void named_wait(u32 name, u32 threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// Comes, and goes on without waiting.
__device__ inline void named_arrive(u32 name, u32 threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// Waits likewise, and says whether `x` holds for any of the threads.
template <int THREADS>
__device__ inline bool any_of(bool x, u32 name) {
  u32 any;
  asm volatile("{\n.reg .pred p, q;\nsetp.ne.u32 p, %1, 0;\nbarrier.cta.red.or.aligned.pred q, %2, %3, p;\nselp.u32 %0, 1, 0, q;\n}"
               : "=r"(any)
               : "r"(u32(x)), "r"(name), "n"(THREADS)
               : "memory");
  return any != 0;
}

// ---- Other blocks ----

// Reads what other blocks count. What they wrote before they counted is seen after it.
__device__ inline u32 load_acquire(const u32* at) {
  u32 x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(at) : "memory");
  return x;
}

// Counts one more, for blocks that read it so: they then see what this thread wrote before, and what it has seen others of its block write.
__device__ inline void count_release(u32* at) { asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(at) : "memory"); }

// ---- Registers of a warpgroup: each of its warps executes these ----

// Gives back all but `LEFT` registers a thread.
template <int LEFT>
__device__ inline void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(LEFT));
}

// Waits until there are registers enough to have `WANTED` a thread.
template <int WANTED>
__device__ inline void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(WANTED));
}

#endif
