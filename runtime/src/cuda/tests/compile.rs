//! Every kernel through NVIDIA's compiler, for sizes that models have and for odd ones: nothing may go to slow memory, and the
//! assembler may warn of nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mla_codegen::cuda::{UNITS, kernel_text, symbol};

use crate::cuda::driver::Source;

/// Fails instead of being skipped where there is no compiler.
const REQUIRED: &str = "MLA_REQUIRE_NVRTC";

const ARCHITECTURES: [&str; 2] = ["sm_90a", "sm_80"];

/// Types of a layer's values.
const ELEMENTS: [&str; 3] = ["f32", "f64", "bf16"];

/// Which second types a unit is compiled with.
#[derive(Clone, Copy)]
enum Keys {
    /// It has none: the elements' own.
    Own,
    /// The elements' or the accumulators'.
    Sums,
    /// Those of a cache's entries.
    Entries,
}

impl Keys {
    fn of(self, element: &'static str) -> Vec<&'static str> {
        match (self, element) {
            (Self::Own, _) | (Self::Sums, "f32" | "f64") => vec![element],
            (Self::Sums, _) => vec![element, "f32"],
            // Each type of entries with one of elements, and entries of other types than elements
            (Self::Entries, "f32") => vec!["f32", "bf16"],
            (Self::Entries, "f64") => vec!["f64"],
            (Self::Entries, _) => vec!["f32", "f64", "bf16", "f16"],
        }
    }
}

/// A unit's name, the sizes that it is compiled for, and its second types.
const CASES: &[(&str, &[&[usize]], Keys)] = &[
    ("copy", &[&[]], Keys::Entries),
    ("pointwise", &[&[]], Keys::Own),
    ("norm", &[&[7168], &[512], &[1]], Keys::Own),
    ("norm_backward", &[&[7168], &[512], &[1]], Keys::Own),
    (
        "rotate",
        &[
            &[192, 128, 32, 0, 0],
            &[64, 0, 32, 0, 1],
            &[128, 0, 32, 1, 1],
            &[11, 2, 4, 1, 0],
        ],
        Keys::Own,
    ),
    ("hadamard", &[&[128], &[1]], Keys::Own),
    (
        "prologue",
        &[
            &[1536, 512, 64, 0, 0, 0],
            &[0, 512, 64, 1, 0, 0],
            &[1536, 512, 64, 3, 128, 7],
            &[33, 96, 6, 6, 64, 9],
        ],
        Keys::Entries,
    ),
    ("product", &[&[]], Keys::Sums),
    ("entries", &[&[]], Keys::Entries),
    ("gradients", &[&[]], Keys::Sums),
    ("parameters", &[&[]], Keys::Own),
    ("fp8_flat", &[&[512, 64], &[3, 0]], Keys::Own),
    (
        "fp8_ds_mla",
        &[&[512, 64, 0], &[512, 64, 1], &[128, 0, 0], &[128, 3, 1]],
        Keys::Own,
    ),
    ("fp8_model1", &[&[448, 64], &[64, 0], &[192, 3]], Keys::Own),
    ("mxfp8", &[&[448, 64], &[32, 0]], Keys::Own),
    (
        "index_fp8",
        &[&[128, 0], &[128, 1], &[200, 1], &[1, 0]],
        Keys::Own,
    ),
    ("index_mxfp4", &[&[128], &[32]], Keys::Own),
    (
        "attend",
        &[
            &[128, 1, 1, 1, 512, 64, 512],
            &[128, 128, 1, 128, 128, 64, 128],
            &[32, 8, 1, 8, 128, 0, 128],
            &[5, 1, 1, 1, 21, 6, 13],
        ],
        Keys::Entries,
    ),
    (
        "decode_wide",
        &[
            &[64, 128, 512, 64],
            &[64, 16, 512, 64],
            &[64, 40, 512, 0],
            &[64, 128, 256, 32],
            &[64, 64, 128, 48],
        ],
        Keys::Own,
    ),
    (
        "decode_tall",
        &[
            &[128, 128, 256, 64],
            &[128, 128, 256, 32],
            &[128, 192, 256, 0],
            &[128, 40, 256, 32],
            &[128, 128, 128, 32],
            &[128, 40, 128, 48],
            &[128, 64, 128, 0],
        ],
        Keys::Own,
    ),
    (
        "decode_narrow",
        &[
            &[16, 16, 512, 64],
            &[32, 16, 512, 64],
            &[32, 16, 512, 0],
            &[16, 16, 256, 32],
            &[16, 8, 128, 32],
            &[32, 32, 512, 64],
            // Tables may choose blocks of fewer rows than a query has heads
            &[16, 40, 512, 64],
            &[16, 128, 512, 64],
        ],
        Keys::Own,
    ),
    (
        "decode_deep",
        &[
            &[16, 16, 1024, 64],
            &[32, 128, 1024, 64],
            &[32, 32, 1024, 64],
            &[16, 16, 640, 0],
            &[32, 40, 640, 48],
            &[16, 8, 384, 64],
            &[32, 16, 384, 16],
        ],
        Keys::Own,
    ),
    (
        "sparse_wide",
        &[
            &[64, 128, 512, 64, 1],
            &[64, 64, 512, 64, 1],
            &[64, 40, 256, 32, 1],
            &[64, 128, 128, 48, 1],
            &[64, 40, 512, 0, 1],
            &[64, 192, 256, 64, 1],
        ],
        Keys::Own,
    ),
    (
        "sparse_narrow",
        &[
            &[16, 16, 512, 64, 1],
            &[16, 8, 512, 64, 1],
            &[16, 16, 256, 32, 1],
            &[16, 1, 128, 0, 1],
            &[32, 32, 512, 64, 1],
            &[32, 20, 128, 16, 1],
        ],
        Keys::Own,
    ),
    (
        "sparse_wide_fp8",
        &[
            &[64, 128, 512, 64, 3, 1],
            &[64, 40, 512, 64, 3, 1],
            &[64, 320, 512, 0, 3, 1],
            &[64, 40, 512, 64, 1, 1],
            &[64, 64, 256, 64, 2, 1],
            &[64, 128, 128, 32, 1, 1],
        ],
        Keys::Own,
    ),
    (
        "sparse_narrow_fp8",
        &[
            &[16, 16, 512, 64, 3, 1],
            &[16, 1, 512, 0, 3, 1],
            &[16, 16, 512, 64, 1, 1],
            &[16, 5, 256, 32, 2, 1],
            &[16, 16, 128, 64, 1, 1],
        ],
        Keys::Own,
    ),
    (
        "decode_wide_fp8",
        &[
            &[64, 128, 512, 64, 1],
            &[64, 16, 512, 64, 2],
            &[64, 128, 512, 64, 3],
            &[64, 40, 512, 0, 3],
            &[64, 128, 256, 32, 1],
            &[64, 40, 128, 0, 1],
            &[64, 128, 128, 32, 2],
        ],
        Keys::Own,
    ),
    (
        "decode_narrow_fp8",
        &[
            &[16, 16, 512, 64, 1],
            &[16, 16, 512, 64, 2],
            &[16, 16, 512, 64, 3],
            &[16, 16, 512, 0, 3],
            &[16, 8, 256, 32, 1],
            &[16, 5, 128, 48, 2],
        ],
        Keys::Own,
    ),
    ("decode_schedule", &[&[]], Keys::Own),
    (
        "skinny",
        &[&[16, 4], &[32, 4], &[16, 1], &[32, 2]],
        Keys::Own,
    ),
    ("skinny_fp8", &[&[16], &[32], &[64], &[128]], Keys::Own),
    (
        "skinny_heads",
        &[
            &[16, 128, 1],
            &[32, 128, 1],
            &[16, 512, 0],
            &[32, 512, 0],
            &[32, 64, 1],
        ],
        Keys::Own,
    ),
    ("fp8_weight", &[&[]], Keys::Own),
    (
        "flash_forward",
        &[
            &[128, 64, 128, 0, 1, 0],
            &[128, 64, 128, 0, 0, 0],
            &[128, 64, 128, 1, 0, 1],
            &[192, 64, 256, 1, 0, 1],
            &[96, 16, 96, 0, 0, 1],
            &[256, 0, 256, 0, 0, 0],
            &[128, 64, 128, 1, 1, 1],
            &[64, 32, 64, 0, 1, 0],
            &[64, 0, 64, 0, 1, 1],
            &[128, 0, 128, 0, 1, 1],
            &[96, 16, 96, 1, 1, 0],
            &[192, 64, 128, 0, 1, 0],
            &[256, 0, 256, 0, 1, 0],
            &[192, 64, 256, 1, 1, 1],
            &[80, 0, 80, 0, 1, 1],
            &[192, 0, 192, 0, 0, 0],
            &[128, 64, 208, 1, 1, 0],
        ],
        Keys::Own,
    ),
    ("merge", &[&[]], Keys::Own),
    ("attend_delta", &[&[]], Keys::Own),
    (
        "attend_backward",
        &[
            &[128, 1, 1, 512, 64, 512],
            &[128, 128, 1, 128, 64, 128],
            &[32, 8, 8, 128, 0, 128],
            &[5, 5, 1, 11, 6, 13],
        ],
        Keys::Own,
    ),
    (
        "backward_chosen",
        &[
            &[128, 1, 1, 512, 64, 512],
            &[128, 128, 1, 128, 64, 128],
            &[32, 8, 8, 128, 0, 128],
            &[5, 5, 1, 11, 6, 13],
        ],
        Keys::Own,
    ),
    ("choosers", &[&[]], Keys::Own),
    (
        "flash_delta",
        &[
            &[128, 64, 128, 64, 0],
            &[128, 64, 128, 64, 1],
            &[64, 0, 64, 128, 0],
            &[80, 0, 80, 64, 0],
            &[192, 64, 256, 64, 1],
        ],
        Keys::Own,
    ),
    (
        "flash_backward",
        &[
            &[128, 64, 128, 64, 0, 0],
            &[128, 64, 128, 64, 0, 1],
            &[128, 0, 128, 64, 0, 0],
            &[128, 0, 128, 64, 0, 1],
            &[128, 0, 128, 64, 1, 0],
            &[128, 0, 128, 64, 1, 1],
            &[64, 64, 128, 64, 0, 1],
            &[64, 32, 64, 64, 0, 0],
            &[64, 32, 64, 128, 0, 1],
            &[64, 32, 64, 128, 1, 1],
            &[64, 0, 64, 128, 0, 0],
            &[64, 0, 64, 128, 0, 1],
            &[80, 0, 80, 64, 0, 1],
            &[96, 16, 96, 64, 0, 0],
            &[48, 16, 48, 128, 1, 1],
            &[128, 48, 128, 64, 0, 0],
            &[16, 0, 16, 128, 0, 0],
            &[192, 64, 256, 64, 0, 0],
            &[192, 64, 256, 64, 0, 1],
            &[256, 0, 256, 64, 1, 0],
            &[192, 0, 192, 64, 0, 1],
            &[256, 0, 64, 64, 0, 0],
        ],
        Keys::Own,
    ),
    (
        "flash_queries",
        &[
            &[128, 64, 128, 64],
            &[64, 32, 64, 128],
            &[80, 0, 80, 64],
            &[192, 64, 256, 64],
        ],
        Keys::Own,
    ),
    (
        "index_logits",
        &[
            &[64, 128, 1, 64, 1],
            &[64, 128, 1, 128, 1],
            &[64, 128, 1, 128, 2],
            &[32, 64, 1, 128, 2],
            &[8, 64, 1, 64, 1],
            &[64, 128, 2, 128, 2],
            &[16, 64, 2, 128, 1],
            &[64, 128, 3, 64, 1],
            &[64, 128, 3, 128, 1],
            &[8, 64, 3, 64, 1],
        ],
        Keys::Own,
    ),
    ("index_scores", &[&[64, 128], &[3, 7]], Keys::Entries),
    ("topk", &[&[]], Keys::Own),
    ("topk_few", &[&[]], Keys::Own),
    ("pool_keys", &[&[]], Keys::Own),
    ("index_target", &[&[]], Keys::Own),
    ("index_spread", &[&[64, 128], &[3, 7]], Keys::Own),
    ("poison", &[&[]], Keys::Own),
    ("random", &[&[]], Keys::Own),
    ("swizzles", &[&[]], Keys::Own),
    ("tensor_core", &[&[]], Keys::Own),
    ("instructions", &[&[]], Keys::Own),
    ("warpgroups", &[&[]], Keys::Own),
    ("ceiling_memory", &[&[]], Keys::Own),
    ("ceiling_rows", &[&[1152], &[656]], Keys::Own),
    ("ceiling_tiles", &[&[24]], Keys::Own),
    ("ceiling_convert", &[&[]], Keys::Own),
    ("ceiling_wgmma", &[&[64], &[128], &[256]], Keys::Own),
];

/// One compilation.
struct Task {
    unit: &'static str,
    dims: &'static [usize],
    element: &'static str,
    key: &'static str,
    arch: &'static str,
}

fn tasks() -> Vec<Task> {
    let mut tasks = Vec::new();
    for &(unit, sizes, keys) in CASES {
        let known = UNITS.iter().find(|known| known.name == unit);
        for &dims in sizes {
            for element in ELEMENTS {
                for key in keys.of(element) {
                    for arch in ARCHITECTURES {
                        // Elsewhere one type shows that nothing is Hopper's own
                        let wanted = arch == "sm_90a" || (element, key) == ("bf16", "bf16");
                        if !wanted || known.is_some_and(|unit| !unit.is_for(element, arch)) {
                            continue;
                        }
                        tasks.push(Task {
                            unit,
                            dims,
                            element,
                            key,
                            arch,
                        });
                    }
                }
            }
        }
    }
    tasks
}

impl Task {
    /// What is wrong with what the compiler makes of it.
    fn complaint(&self) -> Option<String> {
        let Some(text) = kernel_text(self.unit, self.dims) else {
            return Some(format!(
                "{} takes other sizes than {:?}",
                self.unit, self.dims
            ));
        };
        let source = Source {
            name: &format!("{}.cu", symbol(self.unit, self.dims)),
            text: &text,
            defines: &[("MLA_ELEM", self.element), ("MLA_KEY", self.key)],
            checked: false,
        };
        let log = match mla_nvrtc::compile(&source, self.arch) {
            Ok(compiled) => compiled.log,
            Err(error) => return Some(error.to_string()),
        };
        let complaint = complaint_of(&log)?;
        let Self {
            element, key, arch, ..
        } = self;
        Some(format!(
            "{} for {arch}, elements {element}, keys {key}: {complaint}",
            source.name
        ))
    }
}

/// What is wrong, by what the compiler and the assembler say.
fn complaint_of(log: &str) -> Option<String> {
    let report = mla_nvrtc::report(log);
    if report.functions.is_empty() {
        return Some(format!("no kernels in what the assembler says:\n{log}"));
    }
    if let Some(function) = report.spilled() {
        return Some(format!("{function:?}"));
    }
    if let Some(warning) = report.warnings.first() {
        return Some(format!("{warning:?}"));
    }
    log.lines()
        .find(|line| line.to_lowercase().contains("warning"))
        .map(ToOwned::to_owned)
}

#[test]
fn every_unit_is_among_the_cases() {
    for unit in UNITS {
        let listed = CASES.iter().any(|(name, ..)| *name == unit.name);
        assert!(listed, "`{}` is compiled nowhere", unit.name);
    }
    for (name, ..) in CASES {
        let known = UNITS.iter().any(|unit| unit.name == *name);
        assert!(known, "there is no unit `{name}`");
    }
}

#[test]
fn every_kernel_compiles_and_keeps_to_its_registers() {
    if !mla_nvrtc::present() {
        let required = std::env::var_os(REQUIRED).is_some_and(|value| value == "1");
        assert!(!required, "{:?}", mla_nvrtc::version());
        eprintln!("no NVRTC here: skipped");
        return;
    }
    let tasks = tasks();
    let next = AtomicUsize::new(0);
    let complaints = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(complaint) = task.complaint() {
                        complaints.lock().expect("no worker panics").push(complaint);
                    }
                }
            });
        }
    });
    let complaints = complaints.into_inner().expect("no worker panics");
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

#[test]
fn a_spill_a_warning_and_silence_are_complained_of() {
    let good = "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n\
                ptxas info    : Function properties for k\n\
                ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                ptxas info    : Used 10 registers, used 1 barriers";
    assert_eq!(complaint_of(good), None);
    assert!(complaint_of("").is_some());
    assert!(complaint_of(&good.replace("0 bytes spill loads", "4 bytes spill loads")).is_some());
    assert!(complaint_of(&good.replace("0 bytes stack", "8 bytes stack")).is_some());
    assert!(complaint_of(&format!("{good}\nk.cu(3): warning #177-D: unused")).is_some());
}
