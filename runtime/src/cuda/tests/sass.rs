//! What kernels for Hopper are made of, instruction by instruction: that tensor cores and the copy engine are used as often as the text says, and
//! that nothing stands between products. It needs NVIDIA's compiler and disassembler, and no GPU.

use mla_codegen::cuda::{kernel_text, symbol};
use mla_nvrtc::Disassembly;

use crate::cuda::driver::Source;

/// A kernel and how often it has some instructions.
struct Counts {
    unit: &'static str,
    dims: &'static [usize],
    entry: &'static str,
    counts: &'static [(&'static str, usize)],
}

const fn counts(
    unit: &'static str,
    dims: &'static [usize],
    entry: &'static str,
    counts: &'static [(&'static str, usize)],
) -> Counts {
    Counts {
        unit,
        dims,
        entry,
        counts,
    }
}

/// Products of bf16 are `HGMMA`, of e4m3 `QGMMA`; `UTMALDG` is the copy engine's tile. A group of products that is waited for is a
/// `WARPGROUP.DEPBAR`; where the assembler does not trust a kernel, it puts one behind every product.
const EXPECTED: &[Counts] = &[
    counts(
        "tensor_core",
        &[],
        "tensor_core_rows",
        &[("HGMMA", 16), ("WARPGROUP.DEPBAR", 1)],
    ),
    counts(
        "tensor_core",
        &[],
        "tensor_core_rows_128",
        &[("HGMMA.64x128x16", 8), ("WARPGROUP.DEPBAR", 1)],
    ),
    counts(
        "tensor_core",
        &[],
        "tensor_core_rows_256",
        &[("HGMMA.64x256x16", 4), ("WARPGROUP.DEPBAR", 1)],
    ),
    counts(
        "tensor_core",
        &[],
        "tensor_core_a_held_256",
        &[("HGMMA.64x256x16", 4), ("WARPGROUP.DEPBAR", 1)],
    ),
    counts(
        "tensor_core",
        &[],
        "tensor_core_e4m3",
        &[("QGMMA.64x64x32", 8), ("HGMMA", 0)],
    ),
    counts(
        "tensor_core",
        &[],
        "tensor_core_e4m3_256",
        &[("QGMMA.64x256x32", 2), ("HGMMA", 0)],
    ),
    counts(
        "tensor_core",
        &[],
        "tensor_core_fetched",
        &[("HGMMA.64x256x16", 4), ("UTMALDG", 2), ("UTMACCTL", 2)],
    ),
    counts(
        "instructions",
        &[],
        "copy_by_engine",
        &[("UTMALDG", 2), ("UBLKCP", 1)],
    ),
    counts(
        "instructions",
        &[],
        "copy_by_threads",
        &[("LDSM", 2), ("STSM", 1), ("LDGSTS", 1)],
    ),
    counts(
        "tensor_core",
        &[],
        "tensor_core_tiles_of_32",
        &[("HGMMA.64x128x16", 8), ("WARPGROUP.DEPBAR", 1)],
    ),
    counts(
        "instructions",
        &[],
        "add_in_turn",
        &[("REDG.E.ADD.F32x4", 1), ("STG.E.128", 1)],
    ),
    counts("warpgroups", &[], "hand_on", &[("USETMAXREG", 2)]),
    counts("ceiling_tiles", &[24], "read_tiles", &[("UTMALDG", 1)]),
    counts(
        "ceiling_convert",
        &[],
        "convert_e4m3",
        &[("F2FP.F16.E4M3", 128)],
    ),
    counts(
        "ceiling_wgmma",
        &[64],
        "multiply_shared",
        &[("HGMMA.64x64x16", 4), ("WARPGROUP.DEPBAR", 2)],
    ),
    counts(
        "ceiling_wgmma",
        &[128],
        "multiply_shared",
        &[("HGMMA.64x128x16", 4), ("WARPGROUP.DEPBAR", 2)],
    ),
    counts(
        "ceiling_wgmma",
        &[256],
        "multiply_shared",
        &[("HGMMA.64x256x16", 4), ("WARPGROUP.DEPBAR", 2)],
    ),
    counts(
        "ceiling_wgmma",
        &[256],
        "multiply_held",
        &[("HGMMA.64x256x16", 4), ("WARPGROUP.DEPBAR", 2)],
    ),
    counts(
        "ceiling_wgmma",
        &[256],
        "multiply_e4m3",
        &[("QGMMA.64x256x32", 4), ("WARPGROUP.DEPBAR", 2)],
    ),
    // Logits of 64 rows and 64 keys: 4 pieces of the rotated part and 32 of the latents. Values: half of the latents for each of two
    // warpgroups, 4 pieces of 16 keys
    counts(
        "decode_wide",
        &[64, 128, 512, 64],
        "decode_wide",
        DECODE_WIDE,
    ),
    counts(
        "decode_wide",
        &[64, 16, 512, 64],
        "decode_wide",
        DECODE_WIDE,
    ),
    // Logits of 64 rows and a tile, 2 pieces of the rotated part and 16 of the latents, of an item's first tile and of others; values by 4 pieces of 16
    // keys, of the tile before and of an item's last. Both warpgroups run the same code
    counts(
        "decode_tall",
        &[128, 128, 256, 32],
        "decode_tall",
        &[
            ("HGMMA.64x64x16", 2 * (2 + 16)),
            ("HGMMA.64x256x16", 2 * 4),
            ("HGMMA", 2 * (2 + 16 + 4)),
        ],
    ),
    // The same with two tiles at a time
    counts(
        "decode_tall",
        &[128, 40, 128, 32],
        "decode_tall",
        &[
            ("HGMMA.64x128x16", 2 * (2 + 8) + 2 * 8),
            ("HGMMA", 2 * (2 + 8 + 8)),
        ],
    ),
    // Logits of the first task's first tile, of a task's other tiles and of the next task's first one: 12 pieces of 16 columns; what tiles but the last
    // add to the output, and what the last does: 8 pieces of 16 keys. The copy engine takes tiles of a part together
    counts(
        "flash_forward",
        &[128, 64, 128, 0, 0, 0],
        "flash_forward",
        &[
            ("HGMMA.64x128x16", 3 * 12 + 2 * 8),
            ("HGMMA", 3 * 12 + 2 * 8),
            ("UTMALDG", 5),
        ],
    ),
    // All logits of a tile, 4 + 32 pieces of 16 columns, and 8 times 64 columns of its latents with 4 pieces of 16 keys. Both warpgroups run the same code
    counts(
        "decode_narrow",
        &[16, 16, 512, 64],
        "decode_narrow",
        &[("HGMMA.64x16x16", 36 + 32), ("HGMMA", 36 + 32)],
    ),
    counts(
        "decode_narrow",
        &[32, 16, 512, 64],
        "decode_narrow",
        &[("HGMMA.64x32x16", 36 + 32), ("HGMMA", 36 + 32)],
    ),
    // Of latents of 1024 each of two warpgroups makes logits of a tile from a half of them, 32 pieces of 16 columns, one of them also from the
    // rotated part, 4 pieces; and multiplies 8 times 64 columns with 4 pieces of 16 keys
    counts(
        "decode_deep",
        &[16, 16, 1024, 64],
        "decode_deep",
        &[
            ("HGMMA.64x16x16", 2 * (32 + 32) + 4),
            ("HGMMA", 2 * (32 + 32) + 4),
        ],
    ),
    counts(
        "decode_deep",
        &[32, 128, 1024, 64],
        "decode_deep",
        &[
            ("HGMMA.64x32x16", 2 * (32 + 32) + 4),
            ("HGMMA", 2 * (32 + 32) + 4),
        ],
    ),
    // 64 keys by 4 + 32 pieces of 16 columns; then, of each half of the latents, 4 tiles of 64 columns by 4 pieces of 16 keys. They are widened in
    // registers, two codes at a time
    counts(
        "decode_wide_fp8",
        &[64, 128, 512, 64, 1],
        "decode_wide_fp8",
        &[
            ("HGMMA.64x64x16", 4 + 32 + 2 * 4 * 4),
            ("HGMMA", 4 + 32 + 2 * 4 * 4),
            ("F2FP.F16.E4M3.UNPACK_B", 4 * (4 + 32 + 2 * 4 * 4)),
        ],
    ),
    counts(
        "decode_wide_fp8",
        &[64, 128, 512, 64, 3],
        "decode_wide_fp8",
        &[
            ("HGMMA.64x64x16", 4 + 32 + 2 * 4 * 4),
            ("HGMMA", 4 + 32 + 2 * 4 * 4),
            ("F2FP.F16.E4M3.UNPACK_B", 4 * (32 + 2 * 4 * 4)),
        ],
    ),
    // 64 keys by 16 + 2 pieces of 32 codes and both terms of 16 rows; then 8 times 64 columns of latents by 4 pieces of 16 keys, which are widened by two,
    // as is the first term of each of 9 pairs of a row's numbers, twice
    counts(
        "decode_narrow_fp8",
        &[16, 16, 512, 64, 1],
        "decode_narrow_fp8",
        &[
            ("QGMMA.64x32x32", 16 + 2),
            ("HGMMA.64x16x16", 8 * 4),
            ("HGMMA", 8 * 4),
            ("F2FP.F16.E4M3.UNPACK_B", 4 * 8 * 4 + 18),
        ],
    ),
    // The rotated part is in bf16: 4 pieces of 16 numbers. Entries come whole, in the text once for all keys of a tile
    counts(
        "sparse_narrow_fp8",
        &[16, 16, 512, 64, 3, 1],
        "sparse_narrow_fp8",
        &[
            ("QGMMA.64x32x32", 16),
            ("HGMMA.64x16x16", 4 + 8 * 4),
            ("HGMMA", 4 + 8 * 4),
        ],
    ),
    counts(
        "sparse_wide_fp8",
        &[64, 128, 512, 64, 3, 1],
        "sparse_wide_fp8",
        &[
            ("HGMMA.64x64x16", 4 + 32 + 2 * 4 * 4),
            ("HGMMA", 4 + 32 + 2 * 4 * 4),
        ],
    ),
    // Of 64 keys and 64 queries, whichever warpgroup: logits by 12 pieces of 16 columns, gradients of probabilities by 8; gradients of values and keys by 4
    // pieces of 16 queries; a half of the queries' by 8 pieces of 16 keys, which is in the text twice: of tiles, and of a task's last. They are added
    // four numbers at a time, as are rotated parts of keys
    counts(
        "flash_backward",
        &[128, 64, 128, 64, 0, 0],
        "flash_backward",
        &[
            ("HGMMA.64x64x16", 12 + 8),
            ("HGMMA.64x128x16", 4),
            ("HGMMA.64x192x16", 4),
            ("HGMMA.64x96x16", 2 * 8),
            ("HGMMA", 12 + 8 + 4 + 4 + 2 * 8),
            ("MUFU.EX2", 32),
            ("STSM", 4),
            ("REDG.E.ADD.F32x4", 2 * 12 + 2 * 4),
            ("UTMALDG", 6),
            ("WARPGROUP.DEPBAR", 5),
        ],
    ),
    // The same with the first to add writing instead
    counts(
        "flash_backward",
        &[128, 64, 128, 64, 0, 1],
        "flash_backward",
        &[
            ("HGMMA", 12 + 8 + 4 + 4 + 2 * 8),
            ("REDG.E.ADD.F32x4", 2 * 12 + 2 * 4),
            ("STG.E.128", 2 * 12),
        ],
    ),
    // Tiles of 128 queries
    counts(
        "flash_backward",
        &[64, 0, 64, 128, 0, 0],
        "flash_backward",
        &[
            ("HGMMA.64x128x16", 4 + 4),
            ("HGMMA.64x64x16", 8 + 8 + 2 * 8),
            ("MUFU.EX2", 64),
            ("STSM", 8),
        ],
    ),
    // One warpgroup has logits by 16 pieces of 16 columns and gradients of keys, the other those of probabilities and of values, and each a half of the queries'
    counts(
        "flash_backward",
        &[192, 64, 256, 64, 0, 0],
        "flash_backward",
        &[
            ("HGMMA.64x64x16", 2 * 16),
            ("HGMMA.64x256x16", 2 * 4),
            ("HGMMA.64x128x16", 3 * 4),
        ],
    ),
];

/// The products of `decode_wide` for latents of 512 and a rotated part of 64.
const DECODE_WIDE: &[(&str, usize)] = &[
    ("HGMMA.64x64x16", 4 + 32),
    ("HGMMA.64x256x16", 2 * 4),
    ("HGMMA", 4 + 32 + 2 * 4),
];

/// Moves from a thread's registers to those that warps share, which describe tiles. Where there are many, descriptors are held by threads.
const MOST_MOVES: usize = 40;
/// Those of what the copy engine brings, a tile or bytes side by side: where from, where to, and by which barrier.
const MOVES_OF_A_COPY: usize = 3;

fn disassembled(expected: &Counts) -> Disassembly {
    let Counts {
        unit, dims, entry, ..
    } = expected;
    let source = Source {
        name: &format!("{}.cu", symbol(unit, dims)),
        text: &kernel_text(unit, dims).expect("there is such a unit"),
        defines: &[("MLA_ELEM", "bf16"), ("MLA_KEY", "bf16")],
        checked: false,
    };
    let compiled = mla_nvrtc::CubinCache::of_user()
        .compile(&source, "sm_90a")
        .expect("it compiles");
    let kernels = mla_nvrtc::disassemble(&compiled.cubin).expect("it is a cubin");
    let name = symbol(entry, dims);
    let found = kernels.into_iter().find(|kernel| kernel.kernel == name);
    found.unwrap_or_else(|| panic!("no kernel {name} in {}", source.name))
}

/// Whether there are a compiler and a disassembler.
fn disassembles() -> bool {
    let there = mla_nvrtc::present() && mla_nvrtc::disassembles();
    if !there {
        let required = std::env::var_os("MLA_REQUIRE_NVRTC").is_some_and(|value| value == "1");
        assert!(!required, "no NVRTC or no nvdisasm");
        eprintln!("no NVRTC or no nvdisasm here: skipped");
    }
    there
}

/// A kernel that has what it should, and nothing in slow memory.
fn counted(expected: &Counts) -> Disassembly {
    let kernel = disassembled(expected);
    let unseen = [("LDL", 0), ("STL", 0)];
    for (opcode, count) in expected.counts.iter().chain(&unseen) {
        assert_eq!(
            kernel.count(opcode),
            *count,
            "{opcode} of {}",
            kernel.kernel
        );
    }
    kernel
}

/// `ACQBULK` waits for the kernel before, `PREEXIT` lets the one behind start.
#[test]
fn kernels_wait_for_the_one_before_and_let_the_one_behind_start() {
    const IN_TURN: &[(&str, usize)] = &[("ACQBULK", 1), ("PREEXIT", 1)];
    const AHEAD: &[(&str, usize)] = &[
        ("ACQBULK", 1),
        ("PREEXIT", 1),
        ("HGMMA.64x16x16", 16),
        ("WARPGROUP.DEPBAR", 1),
    ];
    if !disassembles() {
        return;
    }
    counted(&counts("norm", &[512], "rms_norm", IN_TURN));
    counted(&counts("skinny", &[16, 4], "skinny", AHEAD));
    // A block of codes is two chunks of four products
    const OF_CODES: &[(&str, usize)] = &[
        ("ACQBULK", 1),
        ("PREEXIT", 1),
        ("HGMMA.64x16x16", 8),
        ("HMUL2.BF16_V2", 32),
        ("WARPGROUP.DEPBAR", 1),
    ];
    counted(&counts("skinny_fp8", &[16], "skinny_fp8", OF_CODES));
}

#[test]
fn kernels_for_hopper_are_made_of_what_their_texts_say() {
    if !disassembles() {
        return;
    }
    for expected in EXPECTED {
        let kernel = counted(expected);
        let moves = kernel.count("R2UR");
        let copies = kernel.count("UTMALDG");
        let asked = copies + kernel.count("UBLKCP");
        assert!(
            moves <= MOST_MOVES + MOVES_OF_A_COPY * asked,
            "{moves} R2UR beside {asked} copies of {}",
            kernel.kernel
        );
        if expected.unit.starts_with("decode") || expected.unit.starts_with("flash") {
            assert!(copies > 0, "no UTMALDG of {}", kernel.kernel);
        }
    }
}
