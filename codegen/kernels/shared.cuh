// Shared memory by its own addresses, which take one register: a function for each instruction that reads or writes numbers there.

#ifndef MLA_EMULATED  // the host has its own

// Numbers that lie side by side, which are read and written at once.
struct Pair {
  i32 x, y;
};
struct Four {
  i32 x, y, z, w;
};
struct Two {
  f32 x, y;
};

// ---- Reads ----

__device__ inline f32 shared_f32(u32 at) {
  f32 x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(at) : "memory");
  return x;
}
__device__ inline i32 shared_i32(u32 at) {
  i32 x;
  asm volatile("ld.shared.s32 %0, [%1];" : "=r"(x) : "r"(at) : "memory");
  return x;
}
__device__ inline u16 shared_u16(u32 at) {
  u16 x;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(x) : "r"(at) : "memory");
  return x;
}
__device__ inline Pair shared_pair(u32 at) {
  Pair p;
  asm volatile("ld.shared.v2.s32 {%0, %1}, [%2];" : "=r"(p.x), "=r"(p.y) : "r"(at) : "memory");
  return p;
}
__device__ inline Four shared_four(u32 at) {
  Four p;
  asm volatile("ld.shared.v4.s32 {%0, %1, %2, %3}, [%4];" : "=r"(p.x), "=r"(p.y), "=r"(p.z), "=r"(p.w) : "r"(at) : "memory");
  return p;
}
__device__ inline Two shared_two(u32 at) {
  Two x;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(at) : "memory");
  return x;
}

// ---- Writes ----

__device__ inline void share(u32 at, f32 x) { asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(x) : "memory"); }
__device__ inline void share(u32 at, i32 x) { asm volatile("st.shared.s32 [%0], %1;" ::"r"(at), "r"(x) : "memory"); }
__device__ inline void share(u32 at, Pair p) { asm volatile("st.shared.v2.s32 [%0], {%1, %2};" ::"r"(at), "r"(p.x), "r"(p.y) : "memory"); }
__device__ inline void share(u32 at, Four p) {
  asm volatile("st.shared.v4.s32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(p.x), "r"(p.y), "r"(p.z), "r"(p.w) : "memory");
}
__device__ inline void share(u32 at, Two x) { asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(x.x), "f"(x.y) : "memory"); }

// The lower half of a register, and the upper one `APART` bytes further.
template <int APART>
__device__ inline void share_halves(u32 at, u32 both) {
  asm volatile("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %1;\nst.shared.b16 [%0], l;\nst.shared.b16 [%0 + %2], h;\n}" ::"r"(at), "r"(both), "n"(APART)
               : "memory");
}

#endif
