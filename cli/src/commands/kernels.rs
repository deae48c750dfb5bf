//! `mla-gen kernels SPEC`

use std::fmt::Write as _;

use mla_codegen::decode_digest;
use mla_codegen::plan::{self, cost, machine::Machine, tuned::Measured};
use mla_codegen::report;
use mla_nvrtc::{CubinCache, Report};
use mla_spec::{CacheDType, Checked, DType, Store, Target};

use crate::args::Kernels;
use crate::driver::variant::compute_in;
use crate::emit::cubin_of;
use crate::failure::Failure;
use crate::source;
use crate::talk;

/// Compiles the kernels of a layer, and prints what became of each.
pub(crate) fn kernels(args: &Kernels) -> Result<(), Failure> {
    let mut checked = source::spec(&args.spec, &args.config)?.checked;
    if let Some(dtype) = args.dtype {
        // What is stored as bytes stays so
        match checked.build.cache.store {
            Store::Plain(_) => compute_in(dtype.into(), &mut checked.build),
            _ => checked.build.dtype = dtype.into(),
        }
    }
    let program = plan::program(&checked);
    let (elem, key) = types(&checked);
    let cache = CubinCache::of_user();
    let mut table = vec![HEAD.map(str::to_owned)];
    let mut slow = Vec::new();
    let mut units = plan::kernels(&program);
    units.retain(|unit| unit.is_for(elem, &args.arch));
    let compiled = talk::progress(
        format!(
            "compiling {} texts of kernels for {}",
            units.len(),
            args.arch
        ),
        || -> Result<Vec<(String, Report)>, Failure> {
            let compile = |unit: &plan::KernelUnit| {
                let name = unit.name();
                let compiled = cubin_of(unit, [elem, key], &args.arch, &cache)?;
                Ok((name, mla_nvrtc::report(&compiled.log)))
            };
            units.iter().map(compile).collect()
        },
    )?;
    for (unit, report) in &compiled {
        rows(report, &mut table);
        if let Some(function) = report.spilled() {
            slow.push(format!("`{}` keeps values in local memory", function.name));
        }
        let warned = report.warnings.iter();
        slow.extend(warned.map(|warning| format!("{unit}: {} {}", warning.code, warning.text)));
    }
    let mut text = super::aligned(&table);
    for unit in &units {
        if let Some(choice) = plan::flash::FlashChoice::of(unit) {
            let _ = writeln!(text, "`{}`: {}", unit.name(), choice.reason());
        }
    }
    for plan in &program.plans {
        let form = match plan.form {
            Some(form) => format!("is in the {form:?} form"),
            None => "attends to each request in its own form".to_owned(),
        };
        let _ = writeln!(text, "{:?} {form}: {}", plan.phase, plan.form_reason);
    }
    let machine = Target::ALL
        .into_iter()
        .filter(|target| target.word() == args.arch)
        .find_map(Machine::of);
    if let Some(machine) = machine {
        text.push_str(&floors(&checked, machine));
    }
    talk::data(&text)?;
    match slow.as_slice() {
        [] => Ok(()),
        slow => Err(Failure::Check(slow.join("\n"))),
    }
}

/// The least that each phase takes on a device, and what binds it.
fn floors(checked: &Checked, machine: &Machine) -> String {
    let mut text = String::new();
    for floor in report::floors(checked, machine) {
        let groups = floor.groups.iter().map(|(group, roof, seconds)| {
            let time = cost::microseconds(*seconds);
            format!("{} {time} ({})", group.name(), roof.name())
        });
        let _ = writeln!(
            text,
            "{:?} over {} tokens (new: {}) takes {} at least on an {}, in bf16: {}",
            floor.phase,
            floor.lengths.met,
            floor.lengths.new,
            cost::microseconds(floor.seconds()),
            machine.name,
            groups.collect::<Vec<_>>().join(", ")
        );
        if let Some(choice) = &floor.absorbed {
            let _ = writeln!(text, "{:?}: {}", floor.phase, choice.reason());
        }
        if let Some(measured) = &floor.measured {
            let _ = writeln!(text, "{:?}: {}", floor.phase, overriding(measured));
        }
    }
    text
}

/// What runs in place of the model's choice, and whether that is still to be believed.
fn overriding(measured: &Measured) -> String {
    let reason = measured.reason();
    match measured.kernels == decode_digest() {
        true => reason,
        false => {
            format!("{reason}; kernels have changed since, and `mla-gen tune` measures them anew")
        }
    }
}

const HEAD: [&str; 5] = ["kernel", "registers", "shared", "spilled", "local"];

fn rows(report: &Report, table: &mut Vec<[String; 5]>) {
    for function in &report.functions {
        table.push([
            function.name.clone(),
            function.registers.to_string(),
            format!("{} B", function.shared_bytes),
            format!("{} B", function.spill_stores + function.spill_loads),
            format!("{} B", function.local_bytes.max(function.stack_frame)),
        ]);
    }
}

/// The number types of the layer's values and of its cache's entries.
fn types(checked: &Checked) -> (&'static str, &'static str) {
    let elem = match checked.build.dtype {
        DType::F32 => "f32",
        DType::Bf16 => "bf16",
        DType::F64 => "f64",
    };
    let key = match checked.build.cache.store {
        Store::Plain(CacheDType::F32) => "f32",
        Store::Plain(CacheDType::F16) => "f16",
        Store::Plain(CacheDType::F64) => "f64",
        Store::Plain(CacheDType::Bf16) => "bf16",
        // Kernels that read keys by their type never read bytes: those are decoded to elements before, or have kernels of their own
        _ => elem,
    };
    (elem, key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mla_codegen::plan::absorbed::Absorbed;
    use mla_tuned::{Line, Situation};

    #[test]
    fn a_table_that_overrides_the_model_is_named_and_so_is_its_age() {
        let mut situation = Situation::new(1, 8192);
        situation.note(16, 8.0);
        situation.note(32, 10.0);
        let mut measured = Measured {
            kernel: Absorbed {
                unit: "decode_narrow",
                rows: 16,
            },
            gpu: "NVIDIA H200".to_owned(),
            kernels: decode_digest(),
            line: Line {
                model: 32,
                situations: [situation; 2],
            },
        };
        let fresh = overriding(&measured);
        assert!(
            fresh.starts_with("measured on NVIDIA H200, decode_narrow of 16 rows runs"),
            "{fresh}"
        );
        assert!(
            fresh.ends_with("8.00 us for 10.00 us (1 x 8192 tokens)"),
            "{fresh}"
        );
        measured.kernels = "0123456789abcdef".to_owned();
        let stale = overriding(&measured);
        assert!(stale.starts_with(&fresh) && stale.contains("kernels have changed since"));
    }
}
