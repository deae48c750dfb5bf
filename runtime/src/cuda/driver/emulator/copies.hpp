// What `copies.cuh` has, on the host.

// What `tensor_map` of the emulator says of a tensor. It is as large as the hardware's.
struct alignas(64) TensorMap {
  u64 known;  // by which it is known to be such a map
  u64 at;
  u64 strides[5];  // bytes from one to the next, of each axis
  u32 lens[5];
  u32 tile[5];
  u32 axes;
  u32 element;  // bytes
  u32 swizzle;  // bytes of the rows by which chunks are exchanged; 0: they are not
  u32 unused[5];
};
static_assert(sizeof(TensorMap) == 128);
struct Quad;

namespace simt {

constexpr u64 KNOWN = 0x6d6c612d6d617021;

// Where a byte lies in shared memory: chunks of 16 are exchanged by the number of the row of 128 bytes that they are in. `rows`: bytes of a tile's rows.
inline u32 swizzled(u32 address, u32 rows) { return rows == 0 ? address : address ^ (address >> 7 & (rows / 16 - 1)) << 4; }

inline u32 tile_bytes(const TensorMap& map) {
  u32 bytes = map.element;
  for (u32 axis = 0; axis < map.axes; axis++) bytes *= map.tile[axis];
  return bytes;
}

// Where a tile begins, on each axis.
struct Corner {
  i32 at[5];
};

// Brings a tile. What is beyond the tensor's end is zeros.
inline void bring_tile(u32 to, const TensorMap& map, u32 barrier, const Corner& from) {
  const u32 row = map.tile[0] * map.element, rows = tile_bytes(map) / row;
  for (u32 i = 0; i < rows; i++) {
    const unsigned char* line = reinterpret_cast<const unsigned char*>(map.at);
    bool there = true;
    u32 rest = i;
    for (u32 axis = 1; axis < map.axes; axis++) {
      const i64 at = from.at[axis] + i64(rest % map.tile[axis]);
      rest /= map.tile[axis];
      there = there && at >= 0 && at < map.lens[axis];
      line += at * i64(map.strides[axis]);
    }
    for (u32 byte = 0; byte < row; byte += 16) {
      unsigned char chunk[16] = {};
      for (u32 k = 0; k < 16 && there; k += map.element) {
        const i64 column = from.at[0] + i64((byte + k) / map.element);
        if (column >= 0 && column < map.lens[0]) memcpy(chunk + k, line + column * map.element, map.element);
      }
      memcpy(shared_at(swizzled(to + i * row + byte, map.swizzle), 16, 16), chunk, 16);
    }
  }
  complete(barrier, rows * row);
}

inline void ask_for_tile(u32 to, const TensorMap& map, u32 barrier, u32 axes, const Corner& from) {
  if (map.known != KNOWN) mistaken("copies by a map that there is not");
  if (map.axes != axes) mistaken("copies %u axes of %u", axes, map.axes);
  if (to % 128 != 0) mistaken("copies a tile to %#x", to);
  const u32 row = map.tile[0] * map.element;
  if (map.swizzle != 0 && map.swizzle != row) mistaken("exchanges chunks of rows of %u bytes as of rows of %u: unknown here", row, map.swizzle);
  ask(Kind::Bring, [=] { bring_tile(to, map, barrier, from); });
}

inline void check_bulk(const void* memory, u32 shared, u32 bytes) {
  if (size_t(memory) % 16 != 0 || shared % 16 != 0 || bytes % 16 != 0) mistaken("copies %u bytes between %p and %#x", bytes, memory, shared);
}

}  // namespace simt

inline u64 evict_first() { return 0; }
inline u64 evict_last() { return 0; }
inline void prefetch_map(const TensorMap& map) {
  if (map.known != simt::KNOWN) simt::mistaken("fetches a map that there is not");
}

// ---- The copy engine ----

inline void copy_tile(u32 to, const TensorMap& map, u32 barrier, i32 x, i32 y) { simt::ask_for_tile(to, map, barrier, 2, {{x, y}}); }
inline void copy_tile(u32 to, const TensorMap& map, u32 barrier, i32 x, i32 y, u64) { simt::ask_for_tile(to, map, barrier, 2, {{x, y}}); }
inline void copy_tile_3d(u32 to, const TensorMap& map, u32 barrier, i32 x, i32 y, i32 z) { simt::ask_for_tile(to, map, barrier, 3, {{x, y, z}}); }
inline void copy_tile_4d(u32 to, const TensorMap& map, u32 barrier, i32 x, i32 y, i32 z, i32 w) {
  simt::ask_for_tile(to, map, barrier, 4, {{x, y, z, w}});
}

inline void copy_bulk(u32 to, const void* from, u32 bytes, u32 barrier) {
  simt::check_bulk(from, to, bytes);
  simt::ask(simt::Kind::Bring, [=] {
    memcpy(simt::shared_at(to, bytes, 16), from, bytes);
    simt::complete(barrier, bytes);
  });
}
inline void copy_out(void* to, u32 from, u32 bytes) {
  simt::check_bulk(to, from, bytes);
  simt::ask(simt::Kind::Send, [=] { memcpy(to, simt::shared_at(from, bytes, 16), bytes); });
}
inline void add_out(f32* to, u32 from, u32 bytes) {
  simt::check_bulk(to, from, bytes);
  simt::ask(simt::Kind::Send, [=] {
    for (u32 i = 0; i < bytes / 4; i++) to[i] += simt::at<f32>(from + i * 4);
  });
}
inline void copies_out_wait() {
  simt::groups(simt::Kind::Send)++;
  simt::catch_up(simt::Kind::Send, 0);
}

// ---- Copies of single threads ----

inline void copy_quad(u32 to, const void* from, bool there) {
  simt::ask(simt::Kind::Fetch, [=] {
    void* quad = simt::shared_at(to, 16, 16);
    if (there) memcpy(quad, from, 16);
    else memset(quad, 0, 16);
  });
}
inline void copy_word(u32 to, const void* from) {
  simt::ask(simt::Kind::Fetch, [=] { memcpy(simt::shared_at(to, 4, 4), from, 4); });
}
inline void copies_commit() { simt::groups(simt::Kind::Fetch)++; }
template <int LEFT>
void copies_wait() {
  simt::catch_up(simt::Kind::Fetch, LEFT);
}
inline void copies_arrive(u32 barrier) {
  simt::hand_over(simt::Kind::Fetch, simt::Kind::Bring, [=] { simt::arrive(barrier); });
}
inline void copies_wait_all() {
  copies_commit();
  simt::catch_up(simt::Kind::Fetch, 0);
}

// ---- Memory ----

inline void store_quad(Quad* at, const u32 (&x)[4]) { memcpy(reinterpret_cast<void*>(at), x, 16); }
inline void load_quad(const Quad* at, u32 (&x)[4]) { memcpy(x, reinterpret_cast<const void*>(at), 16); }
template <class Q>
Q load_once(const Q* at) {
  return *at;
}
inline void expect_soon(const void*) {}
inline void store_pair(void* at, u32 low, u32 high) {
  const u32 both[2] = {low, high};
  memcpy(at, both, 8);
}

namespace simt {

inline f32* four_at(f32* at) {
  if (size_t(at) % 16 != 0) mistaken("has four numbers at %p", static_cast<void*>(at));
  return at;
}

}  // namespace simt

inline void add_four(f32* at, f32 x, f32 y, f32 z, f32 w) {
  const f32 four[4] = {x, y, z, w};
  for (int i = 0; i < 4; i++) simt::four_at(at)[i] += four[i];
}
inline void store_four(f32* at, f32 x, f32 y, f32 z, f32 w) {
  const f32 four[4] = {x, y, z, w};
  memcpy(simt::four_at(at), four, sizeof four);
}

// ---- Copies of warps between shared memory and a matrix in registers ----

namespace simt {

// What a lane asks for: the address of a row, and its registers.
struct Blocks {
  u32 row;
  u32* x;
};

// Has what all lanes ask for done at once: `each(lane, register, row, column, apart)` for every two elements of `BLOCKS` blocks that a lane has, of which
// one is at `row` and `column` of shared memory, the other `apart` bytes further.
template <int BLOCKS>
void with_blocks(const char* to, u32 row, u32* x, bool turned, bool writes) {
  Block& block = *self.block;
  Blocks own = {row, x};
  const int warp = block.running / WARP;
  meet_to(block.warps[warp], to, WARP, &own, [&] {
    for (int lane = 0; lane < WARP; lane++) {
      for (int i = 0; i < BLOCKS; i++) {
        u32& both = asked<Blocks>(warp * WARP + lane).x[i];
        u16 halves[2] = {u16(both), u16(both >> 16)};
        for (int k = 0; k < 2; k++) {
          const int along = lane % 4 * 2 + k, down = lane / 4;
          const u32 line = asked<Blocks>(warp * WARP + i * 8 + (turned ? along : down)).row;
          shared_at(line, 16, 16);
          u16& element = at<u16>(line + (turned ? down : along) * 2);
          if (writes) element = halves[k];
          else halves[k] = element;
        }
        if (!writes) both = halves[0] | u32(halves[1]) << 16;
      }
    }
  });
}

}  // namespace simt

inline void load_blocks(u32 (&x)[4], u32 row) { simt::with_blocks<4>("ldmatrix", row, x, false, false); }
inline void load_two_blocks(u32 (&x)[2], u32 row) { simt::with_blocks<2>("ldmatrix.x2", row, x, false, false); }
inline void load_blocks_turned(u32 (&x)[4], u32 row) { simt::with_blocks<4>("ldmatrix.trans", row, x, true, false); }
inline void store_blocks(u32 row, const u32 (&x)[4]) { simt::with_blocks<4>("stmatrix", row, const_cast<u32*>(x), false, true); }
inline void store_blocks_turned(u32 row, const u32 (&x)[4]) { simt::with_blocks<4>("stmatrix.trans", row, const_cast<u32*>(x), true, true); }
inline void store_two_blocks_turned(u32 row, const u32 (&x)[2]) { simt::with_blocks<2>("stmatrix.x2.trans", row, const_cast<u32*>(x), true, true); }
