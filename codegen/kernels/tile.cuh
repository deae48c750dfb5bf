// How tiles lie in shared memory for the tensor cores, and how they are described to them. `tile.rs` mirrors it.

// Rows of a tile are 128 bytes, eight of them an atom of 1024. Within an atom the 16-byte chunks of a row are exchanged by the row's
// number, so that neither rows nor columns meet in the same banks.
__device__ inline u32 swizzled_128(u32 byte) { return byte ^ (byte >> 7 & 7) << 4; }

// The same for rows of 64 bytes: an atom is 512 bytes, and two rows share an exchange.
__device__ inline u32 swizzled_64(u32 byte) { return byte ^ (byte >> 7 & 3) << 4; }

// The same for rows of 32 bytes: an atom is 256 bytes, and four rows share an exchange.
__device__ inline u32 swizzled_32(u32 byte) { return byte ^ (byte >> 7 & 1) << 4; }

// What the tensor cores are told of a tile that begins at `address`: swizzles count from addresses that are multiples of an atom.
// `atom_stride`: bytes from one group of eight rows to the next. `chunk_stride`: of a tile that lies turned, bytes from one run of 64
// values to the next along the rows.
__device__ inline u64 descriptor(u32 address, u32 chunk_stride, u32 atom_stride, u64 layout) {
  return u64((address & 0x3ffff) >> 4) | u64(chunk_stride >> 4) << 16 | u64(atom_stride >> 4) << 32 | layout << 62;
}

[[maybe_unused]] constexpr u64 LAYOUT_128 = 1;
[[maybe_unused]] constexpr u64 LAYOUT_64 = 2;
[[maybe_unused]] constexpr u64 LAYOUT_32 = 3;

// The row and the first of two neighbouring columns that accumulators 2 · `pair` and 2 · `pair` + 1 of a thread hold, of a result of
// 64 rows.
__device__ inline int accumulator_row(int thread, int pair) { return thread / 32 * 16 + thread % 32 / 4 + pair % 2 * 8; }
__device__ inline int accumulator_column(int thread, int pair) { return pair / 2 * 8 + thread % 4 * 2; }

// The same of the four registers of a left matrix of 64 rows and 16 columns, each of which holds two neighbouring values of a row.
__device__ inline int left_row(int thread, int part) { return thread / 32 * 16 + thread % 32 / 4 + part % 2 * 8; }
__device__ inline int left_column(int thread, int part) { return part / 2 * 8 + thread % 4 * 2; }
