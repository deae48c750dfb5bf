//! The printer of CUDA: kernels' bodies, which are files, instantiated for sizes.

mod cubins;
pub mod tile;
mod units;

use serde::Serialize;

use super::rust::render;
use crate::plan::KernelUnit;
pub use cubins::CubinFile;
pub(crate) use cubins::cubins;
pub use units::{CEILINGS, UNITS, Unit};

/// Bodies that others include.
const HEADERS: &[(&str, &str)] = &[
    (
        "attend_pairs.cuh",
        include_str!("../../../kernels/attend_pairs.cuh"),
    ),
    (
        "chosen_keys.cuh",
        include_str!("../../../kernels/chosen_keys.cuh"),
    ),
    ("coding.cuh", include_str!("../../../kernels/coding.cuh")),
    ("convert.cuh", include_str!("../../../kernels/convert.cuh")),
    ("copies.cuh", include_str!("../../../kernels/copies.cuh")),
    (
        "decode_codes.cuh",
        include_str!("../../../kernels/decode_codes.cuh"),
    ),
    (
        "decode_narrow.cuh",
        include_str!("../../../kernels/decode_narrow.cuh"),
    ),
    (
        "decode_parts.cuh",
        include_str!("../../../kernels/decode_parts.cuh"),
    ),
    (
        "decode_steps.cuh",
        include_str!("../../../kernels/decode_steps.cuh"),
    ),
    (
        "decode_wide.cuh",
        include_str!("../../../kernels/decode_wide.cuh"),
    ),
    (
        "decode_wide_fp8.cuh",
        include_str!("../../../kernels/decode_wide_fp8.cuh"),
    ),
    (
        "decoding.cuh",
        include_str!("../../../kernels/decoding.cuh"),
    ),
    (
        "deep_sums.cuh",
        include_str!("../../../kernels/deep_sums.cuh"),
    ),
    (
        "deep_tiles.cuh",
        include_str!("../../../kernels/deep_tiles.cuh"),
    ),
    (
        "exchanged_rows.cuh",
        include_str!("../../../kernels/exchanged_rows.cuh"),
    ),
    (
        "flash_backward_tiles.cuh",
        include_str!("../../../kernels/flash_backward_tiles.cuh"),
    ),
    (
        "flash_cut.cuh",
        include_str!("../../../kernels/flash_cut.cuh"),
    ),
    (
        "flash_gradients.cuh",
        include_str!("../../../kernels/flash_gradients.cuh"),
    ),
    (
        "flash_halves.cuh",
        include_str!("../../../kernels/flash_halves.cuh"),
    ),
    (
        "flash_landing.cuh",
        include_str!("../../../kernels/flash_landing.cuh"),
    ),
    (
        "flash_rows.cuh",
        include_str!("../../../kernels/flash_rows.cuh"),
    ),
    (
        "flash_sides.cuh",
        include_str!("../../../kernels/flash_sides.cuh"),
    ),
    (
        "flash_tiles.cuh",
        include_str!("../../../kernels/flash_tiles.cuh"),
    ),
    (
        "fp8_ds_mla.cuh",
        include_str!("../../../kernels/fp8_ds_mla.cuh"),
    ),
    (
        "fp8_flat.cuh",
        include_str!("../../../kernels/fp8_flat.cuh"),
    ),
    (
        "fp8_model1.cuh",
        include_str!("../../../kernels/fp8_model1.cuh"),
    ),
    (
        "fp8_blocks.cuh",
        include_str!("../../../kernels/fp8_blocks.cuh"),
    ),
    ("fused.cuh", include_str!("../../../kernels/fused.cuh")),
    (
        "hadamard_row.cuh",
        include_str!("../../../kernels/hadamard_row.cuh"),
    ),
    (
        "index_fp8.cuh",
        include_str!("../../../kernels/index_fp8.cuh"),
    ),
    (
        "index_mxfp4.cuh",
        include_str!("../../../kernels/index_mxfp4.cuh"),
    ),
    (
        "index_tiles.cuh",
        include_str!("../../../kernels/index_tiles.cuh"),
    ),
    (
        "key_sums.cuh",
        include_str!("../../../kernels/key_sums.cuh"),
    ),
    ("line.cuh", include_str!("../../../kernels/line.cuh")),
    ("mxfp8.cuh", include_str!("../../../kernels/mxfp8.cuh")),
    ("narrow.cuh", include_str!("../../../kernels/narrow.cuh")),
    (
        "narrow_chosen.cuh",
        include_str!("../../../kernels/narrow_chosen.cuh"),
    ),
    (
        "narrow_chosen_codes.cuh",
        include_str!("../../../kernels/narrow_chosen_codes.cuh"),
    ),
    (
        "narrow_codes.cuh",
        include_str!("../../../kernels/narrow_codes.cuh"),
    ),
    (
        "narrow_sums.cuh",
        include_str!("../../../kernels/narrow_sums.cuh"),
    ),
    (
        "narrow_tiles.cuh",
        include_str!("../../../kernels/narrow_tiles.cuh"),
    ),
    ("pairs.cuh", include_str!("../../../kernels/pairs.cuh")),
    ("prelude.cuh", include_str!("../../../kernels/prelude.cuh")),
    ("ptx.cuh", include_str!("../../../kernels/ptx.cuh")),
    (
        "query_rows.cuh",
        include_str!("../../../kernels/query_rows.cuh"),
    ),
    (
        "row_norm.cuh",
        include_str!("../../../kernels/row_norm.cuh"),
    ),
    ("runs.cuh", include_str!("../../../kernels/runs.cuh")),
    ("shared.cuh", include_str!("../../../kernels/shared.cuh")),
    ("sights.cuh", include_str!("../../../kernels/sights.cuh")),
    ("steps.cuh", include_str!("../../../kernels/steps.cuh")),
    ("stores.cuh", include_str!("../../../kernels/stores.cuh")),
    (
        "tall_rows.cuh",
        include_str!("../../../kernels/tall_rows.cuh"),
    ),
    (
        "tall_tiles.cuh",
        include_str!("../../../kernels/tall_tiles.cuh"),
    ),
    ("tile.cuh", include_str!("../../../kernels/tile.cuh")),
    (
        "topk_choose.cuh",
        include_str!("../../../kernels/topk_choose.cuh"),
    ),
    (
        "topk_exact.cuh",
        include_str!("../../../kernels/topk_exact.cuh"),
    ),
    (
        "topk_list.cuh",
        include_str!("../../../kernels/topk_list.cuh"),
    ),
    (
        "topk_row.cuh",
        include_str!("../../../kernels/topk_row.cuh"),
    ),
    (
        "topk_sample.cuh",
        include_str!("../../../kernels/topk_sample.cuh"),
    ),
    ("turns.cuh", include_str!("../../../kernels/turns.cuh")),
    (
        "two_rows.cuh",
        include_str!("../../../kernels/two_rows.cuh"),
    ),
    ("wgmma.cuh", include_str!("../../../kernels/wgmma.cuh")),
    (
        "wide_chosen.cuh",
        include_str!("../../../kernels/wide_chosen.cuh"),
    ),
    (
        "wide_codes.cuh",
        include_str!("../../../kernels/wide_codes.cuh"),
    ),
    (
        "wide_tiles.cuh",
        include_str!("../../../kernels/wide_tiles.cuh"),
    ),
    (
        "wide_weights.cuh",
        include_str!("../../../kernels/wide_weights.cuh"),
    ),
    ("written.cuh", include_str!("../../../kernels/written.cuh")),
];

/// What the template `kernel.cu.tera` is filled with.
#[derive(Serialize)]
struct KernelFile<'a> {
    version: &'a str,
    unit: &'a str,
    body: String,
    threads: u32,
    beside: u32,
    reads_ahead: bool,
    sizes: Vec<Size<'a>>,
    entries: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Size<'a> {
    name: &'a str,
    value: usize,
}

#[derive(Serialize)]
struct Entry<'a> {
    symbol: String,
    function: &'a str,
    args: &'a str,
}

/// The kernels of a unit for some sizes, as one text that includes nothing; `None` where there is no such unit, or it takes
/// other sizes.
pub fn kernel_text(unit: &str, dims: &[usize]) -> Option<String> {
    let unit = UNITS.iter().find(|known| known.name == unit)?;
    if unit.sizes.len() != dims.len() {
        return None;
    }
    let sizes = unit.sizes.iter().zip(dims);
    let entries = unit.entries.iter().map(|&(function, args)| Entry {
        symbol: symbol(function, dims),
        function,
        args,
    });
    Some(render(
        "kernel",
        &KernelFile {
            version: env!("CARGO_PKG_VERSION"),
            unit: unit.name,
            body: included(unit.body),
            threads: unit.threads,
            beside: unit.beside,
            reads_ahead: unit.reads_ahead,
            sizes: sizes.map(|(name, &value)| Size { name, value }).collect(),
            entries: entries.collect(),
        },
    ))
}

/// What a unit is for any sizes: its body and all that it includes; `None` where there is no such unit.
pub(crate) fn body(unit: &str) -> Option<String> {
    let unit = UNITS.iter().find(|known| known.name == unit)?;
    Some(included(unit.body))
}

impl KernelUnit {
    /// The name of its text, without its ending: `norm_512`.
    pub fn name(&self) -> String {
        symbol(self.unit, &self.dims)
    }

    /// Whether it is written for values of this type, `bf16`, on this architecture, `sm_90a`.
    pub fn is_for(&self, values: &str, arch: &str) -> bool {
        let unit = UNITS.iter().find(|known| known.name == self.unit);
        unit.is_some_and(|unit| unit.is_for(values, arch))
    }

    /// Its text.
    pub fn text(&self) -> String {
        // What plans ask for is a unit; tests render each
        kernel_text(self.unit, &self.dims)
            .unwrap_or_else(|| format!("#error \"no kernels {}\"\n", self.name()))
    }
}

/// The name of a kernel, or of a text without its ending, for some sizes: `rms_norm_512`. The runtime asks by the same names.
pub fn symbol(name: &str, dims: &[usize]) -> String {
    dims.iter().fold(name.to_owned(), |mut name, size| {
        name.push('_');
        name.push_str(&size.to_string());
        name
    })
}

/// A body with what it includes in place of the lines that say so, each header once.
fn included(body: &str) -> String {
    let mut text = String::new();
    append(body, &mut Vec::new(), &mut text);
    text
}

fn append<'a>(body: &'a str, seen: &mut Vec<&'a str>, text: &mut String) {
    for line in body.lines() {
        let name = line
            .strip_prefix("#include \"")
            .and_then(|rest| rest.strip_suffix('"'));
        let Some(name) = name else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        if let Some((_, header)) = HEADERS.iter().find(|(known, _)| *known == name) {
            append(header, seen, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_includes_headers_that_there_are() {
        let bodies = UNITS.iter().map(|unit| (unit.name, unit.body));
        for (name, body) in bodies.chain(HEADERS.iter().copied()) {
            for line in body.lines().filter(|line| line.contains("#include")) {
                let known = HEADERS
                    .iter()
                    .any(|(header, _)| line == format!("#include \"{header}\""));
                assert!(known, "{name}: {line}");
            }
        }
    }

    #[test]
    fn instructions_stand_in_rooms_that_the_host_has_others_for() {
        const ROOMS: [&str; 5] = [
            "convert.cuh",
            "copies.cuh",
            "ptx.cuh",
            "shared.cuh",
            "wgmma.cuh",
        ];
        let (rooms, others): (Vec<_>, Vec<_>) = UNITS
            .iter()
            .map(|unit| (unit.name, unit.body))
            .chain(HEADERS.iter().copied())
            .partition(|(name, _)| ROOMS.contains(name));
        assert_eq!(rooms.len(), ROOMS.len());
        for (name, body) in rooms {
            assert!(
                body.contains("#ifndef MLA_EMULATED") && body.trim_end().ends_with("#endif"),
                "{name}"
            );
        }
        // What all kernels begin with says by itself that the host has no such instructions.
        // What keeps the compiler from moving a value holds none
        let holds_one = |line: &&str| line.contains("asm") && !line.contains("asm volatile(\"\" :");
        for (name, body) in others {
            if name == "turns.cuh" {
                continue;
            }
            assert_eq!(body.lines().find(holds_one), None, "{name}");
        }
    }

    #[test]
    fn a_text_includes_nothing_and_names_its_kernels_by_their_sizes() {
        let text = kernel_text("norm", &[512]).expect("there are norms");
        assert!(!text.contains("#include"));
        assert!(text.contains("static constexpr int WIDTH = 512;"), "{text}");
        let entry = "rms_norm_512(const __grid_constant__ Norm args) {\n  begin_in_turn();\n  rms_norm<Cfg>(args);\n}\n";
        assert!(text.contains(entry), "{text}");
        assert_eq!(kernel_text("norm", &[]), None);
        assert_eq!(kernel_text("abnorm", &[1]), None);
        let text = kernel_text("decode_wide", &[64, 16, 512, 0]).expect("there is such a decode");
        assert!(text.contains("__launch_bounds__(384, 1) decode_wide_64_16_512_0("));
        for (unit, dims) in CEILINGS {
            assert!(kernel_text(unit, dims).is_some(), "{unit} {dims:?}");
        }
    }

    #[test]
    fn every_kernel_waits_for_the_one_before() {
        for unit in UNITS {
            let text = kernel_text(unit.name, &vec![1; unit.sizes.len()]).expect("a unit");
            let waiting = text.matches("{\n  begin_in_turn();\n").count();
            // `turns.cuh` has a call; any other is the kernel's own
            let by_itself = text.matches("wait_for_kernel_before();").count() > 1;
            let waits = match unit.reads_ahead {
                true => waiting == 0 && by_itself,
                false => waiting == unit.entries.len(),
            };
            assert!(waits, "{}", unit.name);
        }
    }

    #[test]
    fn what_only_hopper_runs_is_for_nothing_else() {
        let is_for = |unit, values, arch| {
            let dims = Vec::new();
            KernelUnit { unit, dims }.is_for(values, arch)
        };
        assert!(is_for("decode_wide", "bf16", "sm_90a"));
        assert!(!is_for("decode_wide", "bf16", "sm_80"));
        assert!(!is_for("decode_wide", "f32", "sm_90a"));
        assert!(is_for("tensor_core", "f32", "sm_90a"));
        assert!(!is_for("tensor_core", "f32", "sm_100"));
        assert!(is_for("merge", "f64", "sm_80"));
        assert!(!is_for("nothing", "bf16", "sm_90a"));
    }
}
