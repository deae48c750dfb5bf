//! The passes, in order. Each takes a program to an equal one; [`trace`] shows the program after each.

mod absorb;
mod cache;
mod expansion;
mod fold;
mod fp8_weights;
mod fuse_norm;
mod fuse_queries;
mod fuse_round;
mod prologue;
mod unused;

pub(super) use unused::{compact, drop_unused};

use std::borrow::Cow;

use mla_spec::{
    Build, CacheDType, CacheKind, Checked, Core, DType, Dims, Form, FormChoice, Latent, Phase,
    Store,
};

use super::cost::{self, Lengths};
use super::lower::lower;
use super::machine::Machine;
use super::{MhaFrom, Op, Plan, Program};
use crate::report::latent_bytes;

/// One rewriting of a program.
pub struct Pass {
    /// What it does, in a word or two.
    pub name: &'static str,
    /// Does it.
    pub run: fn(&Checked, &mut Program),
}

/// Whether intermediate values are reported to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeMode {
    /// No: ordinary code.
    Drop,
    /// Yes: code for `run` and `verify`. The outputs are the same to the bit, but on a device that rounds sums elsewhere where it is not
    /// asked for an attention's log-sum-exp.
    Keep,
}

/// Names of the first stage and of the pass that [`ProbeMode::Keep`] leaves out.
const LOWER: &str = "lower";
const DROP_PROBES: &str = "drop-probes";

/// All passes after lowering, in order.
pub const PASSES: [Pass; 12] = [
    Pass {
        name: "choose-form",
        run: choose_form,
    },
    Pass {
        name: "absorb",
        run: absorb::run,
    },
    Pass {
        name: "cache",
        run: cache::run,
    },
    Pass {
        name: DROP_PROBES,
        run: drop_probes,
    },
    Pass {
        name: "drop-unused",
        run: unused::run,
    },
    Pass {
        name: "fold",
        run: fold::run,
    },
    Pass {
        name: "fp8-weights",
        run: fp8_weights::run,
    },
    Pass {
        name: "differentiate",
        run: super::train::run,
    },
    Pass {
        name: "prologue",
        run: prologue::run,
    },
    Pass {
        name: "fuse-queries",
        run: fuse_queries::run,
    },
    Pass {
        name: "fuse-norm",
        run: fuse_norm::run,
    },
    Pass {
        name: "fuse-round",
        run: fuse_round::run,
    },
];

/// The program of a layer, without probes.
pub fn program(checked: &Checked) -> Program {
    program_with(checked, ProbeMode::Drop)
}

/// The program of a layer.
pub fn program_with(checked: &Checked, probes: ProbeMode) -> Program {
    let mut program = lower(checked);
    for pass in passes(probes) {
        (pass.run)(checked, &mut program);
    }
    program
}

/// The program's text after lowering and after each pass, by the pass's name.
pub fn trace(checked: &Checked) -> Vec<(&'static str, String)> {
    let texts = stages(checked).into_iter();
    texts
        .map(|(name, program)| (name, program.to_string()))
        .collect()
}

/// The program after lowering and after each pass, by the pass's name.
pub fn stages(checked: &Checked) -> Vec<(&'static str, Program)> {
    let mut stages = vec![(LOWER, lower(checked))];
    for pass in passes(ProbeMode::Drop) {
        let mut program = stages[stages.len() - 1].1.clone();
        (pass.run)(checked, &mut program);
        stages.push((pass.name, program));
    }
    stages
}

fn passes(probes: ProbeMode) -> impl Iterator<Item = &'static Pass> {
    PASSES
        .iter()
        .filter(move |pass| probes == ProbeMode::Drop || pass.name != DROP_PROBES)
}

/// Fixes the form of each phase, with its reason. The plan still is MHA: `absorb` rewrites it.
fn choose_form(checked: &Checked, program: &mut Program) {
    for plan in &mut program.plans {
        if plan.phase == Phase::Mixed {
            program.mha_from = checked
                .layer
                .latent()
                .map(|latent| mha_from(checked, latent));
            let words = program
                .mha_from
                .as_ref()
                .map_or_else(String::new, MhaFrom::words);
            (plan.form, plan.form_reason) = (None, words);
            continue;
        }
        let (form, reason) = form_of(checked, plan.phase);
        (plan.form, plan.form_reason) = (Some(form), reason);
    }
}

/// From where on `mixed` attends to a request in the expanded form: as [`latent_form`] chooses, at each request's own lengths.
fn mha_from(checked: &Checked, latent: &Latent) -> MhaFrom {
    let (build, dims) = (&checked.build, &latent.dims);
    match machine(build) {
        Some(machine) => {
            let token = token_bytes(build, dims, Phase::Mixed);
            MhaFrom {
                from: cost::mha_from(|lengths| cost::faster(machine, dims, lengths, token).0),
                doc: format!(
                    "New tokens of a request from which on MHA takes no longer than MQA, behind as many cached ones; a pair holds up to the next \
                     one. By the roofs of an {}, where MHA makes a key and a value of every cached latent, writes and reads them, and MQA reads \
                     longer queries and multiplies more per pair.",
                    machine.name
                ),
            }
        }
        None => MhaFrom {
            from: cost::mha_from(|lengths| cost::cheaper(dims, lengths)),
            doc: "New tokens of a request from which on MHA costs no more than MQA, behind as many cached ones; a pair holds up to the next one. In \
                  multiplications of a head: `r_kv (d_n + d_v) · cached <= ((2 r_kv + d_r) - (d_n + d_r + d_v)) · new · (cached + new)`."
                .to_owned(),
        },
    }
}

fn form_of(checked: &Checked, phase: Phase) -> (Form, String) {
    match checked.layer.latent() {
        Some(latent) => latent_form(checked, latent, phase),
        None => (
            Form::Mha,
            "keys and values are made from no latent".to_owned(),
        ),
    }
}

fn latent_form(checked: &Checked, latent: &Latent, phase: Phase) -> (Form, String) {
    let Checked { layer, build } = checked;
    if phase.is_cached() && build.cache.kind == CacheKind::Naive {
        return (
            Form::Mha,
            "a naive cache holds keys and values, not latents".to_owned(),
        );
    }
    if phase.is_cached() && layer.core != Core::Dense {
        return (
            Form::Mqa,
            "each query picks cached latents of its own: to expand them would serve that query alone"
                .to_owned(),
        );
    }
    let selected = layer.indexer().map(mla_spec::Indexer::width);
    match build.form {
        FormChoice::Forced(form) => (form, "the spec's `build.form` says so".to_owned()),
        FormChoice::Auto => {
            let lengths = Lengths::of(&build.expect, phase).picking(selected);
            match machine(build) {
                Some(machine) => {
                    let token = token_bytes(build, &latent.dims, phase);
                    cost::faster(machine, &latent.dims, lengths, token)
                }
                None => (
                    cost::cheaper(&latent.dims, lengths),
                    cost::reason(&latent.dims, lengths),
                ),
            }
        }
    }
}

/// The device that a layer is built for, where its rates are known: those of products are of bf16.
fn machine(build: &Build) -> Option<&'static Machine> {
    let mut targets = build.targets.iter();
    targets
        .find_map(|target| Machine::of(*target))
        .filter(|_| build.dtype == DType::Bf16)
}

/// Bytes of a token's latent and rope key, as a phase reads them.
pub(crate) fn token_bytes(build: &Build, dims: &Dims, phase: Phase) -> u64 {
    let store = if phase.is_cached() {
        build.cache.store
    } else {
        Store::Plain(CacheDType::Bf16)
    };
    latent_bytes(store, dims.kv_lora_rank, dims.qk_rope_head_dim)
}

fn drop_probes(_: &Checked, program: &mut Program) {
    for step in program.plans.iter_mut().flat_map(|plan| &mut plan.steps) {
        step.ops.retain(|op| !matches!(op, Op::Probe { .. }));
    }
}

impl Plan {
    /// The op that defines `value`.
    pub(super) fn definition(&self, value: super::ValueId) -> Option<&Op> {
        self.ops().find(|op| op.makes(value))
    }

    /// How many ops read `value`, the outputs counting as one.
    fn uses(&self, value: super::ValueId) -> usize {
        let reads = self
            .ops()
            .flat_map(Op::reads)
            .filter(|read| *read == value)
            .count();
        reads + usize::from(self.outputs.contains(&value))
    }

    /// The ops of all steps, in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.steps.iter().flat_map(|step| &step.ops)
    }

    /// A new value.
    pub(super) fn define(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        ty: super::Ty,
    ) -> super::ValueId {
        self.values.push(super::Value {
            name: name.into(),
            ty,
        });
        super::ValueId(self.values.len() - 1)
    }
}
