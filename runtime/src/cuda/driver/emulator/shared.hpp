// What `shared.cuh` has, on the host.

struct Pair {
  i32 x, y;
};
struct Four {
  i32 x, y, z, w;
};
struct Two {
  f32 x, y;
};

namespace simt {

// Several numbers that are read or written at once lie at a multiple of what they are together.
template <class T>
T read(u32 address) {
  T x;
  memcpy(&x, shared_at(address, sizeof(T), sizeof(T)), sizeof(T));
  return x;
}
template <class T>
void write(u32 address, const T& x) {
  memcpy(shared_at(address, sizeof(T), sizeof(T)), &x, sizeof(T));
}

}  // namespace simt

inline f32 shared_f32(u32 at) { return simt::read<f32>(at); }
inline i32 shared_i32(u32 at) { return simt::read<i32>(at); }
inline u16 shared_u16(u32 at) { return simt::read<u16>(at); }
inline Pair shared_pair(u32 at) { return simt::read<Pair>(at); }
inline Four shared_four(u32 at) { return simt::read<Four>(at); }
inline Two shared_two(u32 at) { return simt::read<Two>(at); }

inline void share(u32 at, f32 x) { simt::write(at, x); }
inline void share(u32 at, i32 x) { simt::write(at, x); }
inline void share(u32 at, Pair x) { simt::write(at, x); }
inline void share(u32 at, Four x) { simt::write(at, x); }
inline void share(u32 at, Two x) { simt::write(at, x); }
template <int APART>
void share_halves(u32 at, u32 both) {
  simt::write(at, u16(both));
  simt::write(at + APART, u16(both >> 16));
}
