// Weights as codes of e4m3 in blocks of 128 rows and 128 columns, as `weights/blocks.rs` of the runtime lays them: a tile of a product and a step of what is
// summed. A block's codes lie in one piece, all that a thread of `skinny_fp8.cuh` multiplies in the order in which it reads it: of each half, warp, half of
// the columns and half of the warp's rows the 32 lanes one behind the other, 16 codes each. Behind the codes of all blocks stand their scales, 16 bytes for
// each block: the first two numbers are those of the halves of its rows.
//
// Lane `4 g + t` has row `g`, and of 64 columns those that a left operand of four products has in its registers. Of each product they are four neighbouring
// bytes: the first and third are its two neighbouring columns in the lower half of the operand, the others those in the upper half.

constexpr int BLOCK_ROWS = 128;
constexpr int BLOCK_COLUMNS = 128;
constexpr int HALF_ROWS = 64;  // of a scale
constexpr int BLOCK_CODES = BLOCK_ROWS * BLOCK_COLUMNS;

// Where in a block the code of a row and column is.
__device__ inline i32 code_at(i32 row, i32 column) {
  const i32 run = row / 16 * 4 + column / 64 * 2 + row / 8 % 2;  // of 32 lanes
  const i32 own = row % 8 * 4 + column % 8 / 2;
  return run * 512 + own * 16 + column / 16 % 4 * 4 + column % 2 * 2 + column / 8 % 2;
}

// The number of a code that is no NaN: in f32 too its bits are those of 2^-120 of it.
__device__ inline f32 widen_code(u32 code) { return f32_of((code & 0x80) << 24 | (code & 0x7f) << 20) * f32_of(u32(120 + 127) << 23); }

// Four codes as numbers of bf16: the first and third of them, and the second and fourth. None is NaN. A code's bits are those of a number of bf16 that is 2^-120
// of what it says, since exponents of e4m3 count from 7, those of bf16 from 127.
__device__ inline void widen_codes(u32 codes, u32& even, u32& odd) {
  constexpr u32 SIGNS = 0x80008000, OTHERS = 0x07f007f0, POWERS = 0x7b807b80;  // twice 2^120
  even = times_bf16((codes << 8 & SIGNS) | (codes << 4 & OTHERS), POWERS);
  odd = times_bf16((codes & SIGNS) | (codes >> 4 & OTHERS), POWERS);
}
