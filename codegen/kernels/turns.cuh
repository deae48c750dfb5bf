// The order of kernels: since Hopper, one that is queued early begins while the one before ends. Older GPUs and the host have no instructions for it and need none:
// there, each begins when the one before has ended.

// Waits until what the kernel before has written is there, where this one was started early. Otherwise it is there already.
__device__ inline void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The kernel after may start, where it was queued to start early.
__device__ inline void start_kernel_after() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// What all kernels begin with but those that read weights ahead. In this order: a kernel behind then knows that all before this one have ended.
__device__ inline void begin_in_turn() {
  wait_for_kernel_before();
  start_kernel_after();
}
