// What `ptx.cuh` has, on the host.

using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;
using f32 = float;

namespace simt {

// Of a block's shared memory, what `size` bytes from an address on are.
inline void* shared_at(u32 address, size_t size, size_t aligned) {
  if (address % aligned != 0 || address + size > self.shared_bytes)
    mistaken("%zu bytes of shared memory at %#x, of %zu bytes", size, address, self.shared_bytes);
  return self.shared + address;
}
template <class T>
T& at(u32 address) {
  return *static_cast<T*>(shared_at(address, sizeof(T), sizeof(T)));
}

// A barrier that has been made.
inline Phases& phases_at(u32 barrier) {
  Phases& phases = at<Phases>(barrier);
  if (phases.arrivals == 0 || phases.arrivals > MOST_THREADS) mistaken("there is no barrier at %#x", barrier);
  return phases;
}

inline void end_phase_if_complete(Phases& phases) {
  if (phases.missing > 0 || phases.bytes != 0) return;
  phases.odd ^= 1;
  phases.missing = phases.arrivals;
}

inline void arrive(u32 barrier) {
  Phases& phases = phases_at(barrier);
  if (phases.missing == 0) mistaken("arrives at the barrier at %#x, where all %u have", barrier, unsigned(phases.arrivals));
  phases.missing--;
  end_phase_if_complete(phases);
}

// Bytes have come.
inline void complete(u32 barrier, u32 bytes) {
  Phases& phases = phases_at(barrier);
  phases.bytes -= bytes;
  end_phase_if_complete(phases);
}

}  // namespace simt

inline u32 shared_address(const void* at) { return u32(static_cast<const unsigned char*>(at) - simt::self.shared); }

inline u32 thread_number() { return threadIdx.x; }
inline u32 block_number() { return blockIdx.x; }

inline void fence_proxy_async() {}

// ---- Barriers in shared memory ----

inline void barrier_init(u32 barrier, u32 arrivals) { simt::at<simt::Phases>(barrier) = {0, arrivals, arrivals, 0}; }
inline void fence_barrier_init() {}
inline void barrier_expect(u32 barrier, u32 bytes) {
  simt::phases_at(barrier).bytes += bytes;
  simt::arrive(barrier);
  simt::pause();
}
inline void barrier_arrive(u32 barrier) {
  simt::arrive(barrier);
  simt::pause();
}

// Others run before it says that a phase has not ended.
inline bool barrier_passed(u32 barrier, u32 parity) {
  const simt::Phases& phases = simt::phases_at(barrier);
  if (!phases.passed(parity)) simt::poll(reinterpret_cast<const u32*>(&phases));
  return phases.passed(parity);
}
inline void barrier_wait(u32 barrier, u32 parity) {
  const simt::Phases& phases = simt::phases_at(barrier);
  if (phases.passed(parity)) return;
  simt::running().phases = &phases;
  simt::running().parity = parity;
  simt::leave(simt::State::AwaitsPhase);
}

// ---- Named barriers ----

inline simt::Meeting& meeting_named(u32 name) {
  if (name >= simt::NAMES) simt::mistaken("there is no barrier %u", name);
  return simt::self.block->named[name];
}
inline void named_wait(u32 name, u32 threads) { simt::meet(meeting_named(name), "bar", int(threads)); }
inline void named_arrive(u32 name, u32 threads) {
  if (simt::come(meeting_named(name), "bar", int(threads))) simt::release(meeting_named(name));
  simt::pause();
}
template <int THREADS>
bool any_of(bool x, u32 name) {
  meeting_named(name).any |= x;
  simt::meet(meeting_named(name), "bar.red", THREADS);
  return simt::running().answer;
}

// ---- Other blocks ----

inline u32 load_acquire(const u32* at) {
  simt::poll(at);
  return *at;
}

inline void count_release(u32* at) { ++*at; }

// ---- What tells the hardware how to be fast ----

template <int LEFT>
void registers_down() {}
template <int WANTED>
void registers_up() {}
