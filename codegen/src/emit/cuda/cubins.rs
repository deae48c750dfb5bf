//! Kernels that are compiled ahead of time: which, for which number types, and what their files are called.

use mla_spec::{Build, CacheDType, DType, IndexStore, Store};

use super::super::Options;
use crate::plan::{self, KernelUnit, Program};

/// A text that is compiled for an architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CubinFile {
    /// Where it stands, beside the layer's module.
    pub file: String,
    /// What it is compiled from.
    pub unit: KernelUnit,
    /// The number types of the layer's values, and of what else the kernels read.
    pub types: [&'static str; 2],
    /// `sm_90a`.
    pub arch: String,
}

/// What a layer's kernels are compiled to for some architectures.
pub(crate) fn cubins(program: &Program, options: &Options) -> Vec<CubinFile> {
    let units = plan::kernels(program);
    let mut files = Vec::new();
    for arch in &options.cubins {
        for unit in &units {
            for types in types(unit.unit, &program.build) {
                let [values, others] = types;
                if !unit.is_for(values, arch) {
                    continue;
                }
                files.push(CubinFile {
                    file: format!("cuda/{}.{values}.{others}.{arch}.cubin", unit.name()),
                    unit: unit.clone(),
                    types,
                    arch: arch.clone(),
                });
            }
        }
    }
    files
}

/// The pairs of number types that a layer asks for a unit with. Another pair is compiled when it is asked for.
fn types(unit: &str, build: &Build) -> Vec<[&'static str; 2]> {
    let (values, sums) = match build.dtype {
        DType::F32 => ("f32", "f32"),
        DType::Bf16 => ("bf16", "f32"),
        DType::F64 => ("f64", "f64"),
    };
    let mut others = match unit {
        "gradients" | "product" => vec![values, sums],
        "attend" | "entries" | "index_scores" | "copy" => {
            let stored = match build.cache.store {
                Store::Plain(stored) => Some(stored),
                _ => None,
            };
            let index = match build.cache.index {
                IndexStore::Plain(index) => Some(index),
                _ => None,
            };
            let entries = [stored, index].into_iter().flatten().map(name);
            let copied = (unit == "copy").then_some(sums);
            std::iter::once(values)
                .chain(copied)
                .chain(entries)
                .collect()
        }
        _ => vec![values],
    };
    others.sort_unstable();
    others.dedup();
    others.into_iter().map(|other| [values, other]).collect()
}

fn name(stored: CacheDType) -> &'static str {
    match stored {
        CacheDType::F32 => "f32",
        CacheDType::Bf16 => "bf16",
        CacheDType::F16 => "f16",
        CacheDType::F64 => "f64",
    }
}
