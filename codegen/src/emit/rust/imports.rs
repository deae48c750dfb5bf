//! Imports, computed from the code that was printed.

use super::layout::Lines;

/// Types and traits of the runtime that generated code may name. Sorted.
const TYPES: [&str; 74] = [
    "AccumLinear",
    "Angles",
    "Attended",
    "AttentionBias",
    "Backend",
    "Batch",
    "CacheFormat",
    "Contiguous",
    "Cpu",
    "Cubin",
    "Dropout",
    "Fp8DsMla",
    "Fp8E4m3",
    "Fp8E5m2",
    "Fp8Linear",
    "Fp8Model1",
    "GatedNormParameters",
    "GatedRmsNorm",
    "GroupPart",
    "Half",
    "Heads",
    "IndexCache",
    "IndexFp8",
    "IndexMxfp4",
    "IndexedCache",
    "IndexerGradients",
    "IndexerLoss",
    "Interleaved",
    "KernelSource",
    "KeyPoolParameters",
    "KeyPools",
    "LatentCache",
    "LayerNorm",
    "LayerNormLinear",
    "Linear",
    "LinearParameters",
    "LogPositionParameters",
    "LogPositionScale",
    "LossEpsilon",
    "LossReduction",
    "Mask",
    "Mxfp8",
    "NaiveCache",
    "NormLinearParameters",
    "NormParameters",
    "Offloaded",
    "Padding",
    "Paged",
    "PerHead",
    "PooledIndexCache",
    "PowerOfTwo",
    "Probe",
    "QkClip",
    "Result",
    "RmsNorm",
    "RopeKey",
    "Rotary",
    "Rows",
    "Segments",
    "Selecting",
    "SelectingPools",
    "Selection",
    "SharedKv",
    "SharedKvGradients",
    "SinkParameters",
    "Sinks",
    "Softmax",
    "TensorShape",
    "TopK",
    "Unrotated",
    "Visibility",
    "Weights",
    "bf16",
    "f16",
];

/// Modules of the runtime that generated code may name, always with `::` behind. Sorted, after the types.
const MODULES: [&str; 11] = [
    "absorb",
    "attention",
    "concat",
    "gate",
    "groups",
    "hadamard",
    "indexer",
    "l2_norm",
    "position_scale",
    "probe",
    "qk_clip",
];

/// The `use` of everything that `code` takes from the runtime, `level` indentations in.
pub(crate) fn of(code: &str, runtime: &str, level: usize) -> String {
    let mut used: Vec<String> = TYPES
        .iter()
        .filter(|name| occurs(code, name, ""))
        .map(|&name| name.to_owned())
        .collect();
    used.extend(
        MODULES
            .iter()
            .filter(|name| occurs(code, name, "::"))
            .map(|&name| name.to_owned()),
    );
    // rustfmt's order: capitals first
    used.sort();
    let mut lines = Lines::indented(level);
    lines.import(runtime, &used);
    lines.into_text()
}

/// Whether `word`, followed by `behind`, stands in the code outside comments.
pub(super) fn occurs(code: &str, word: &str, behind: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.any(|line| {
        line.match_indices(word).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + word.len()..]);
            !before.ends_with(is_part) && !after.starts_with(is_part) && after.starts_with(behind)
        })
    })
}
