//! What training costs: what its forward pass keeps per token, what its backward pass computes, and what each schedule would change.

use std::fmt;

use mla_spec::{Activation, Build, Checked, Form};

use super::bytes;
use super::text::{grouped, readable};
use super::work::Counter;
use crate::plan::cost::Lengths;
use crate::plan::{self, Op, Plan, Program, Training, print};

/// Training at `build.expect`'s lengths, for one request.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingReport {
    /// How attention is written.
    pub form: Option<Form>,
    /// Why.
    pub reason: String,
    /// Tokens.
    pub lengths: Lengths,
    /// FLOPs of the forward pass, and of the backward pass with what that computes again.
    pub flops: [u128; 2],
    /// What is kept, in the order of the forward pass.
    pub kept: Vec<KeptReport>,
    /// Schedules: nothing computed again, each part alone, all of them, and the spec's own where it is none of these.
    pub choices: Vec<ScheduleReport>,
}

/// A value that the forward pass keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptReport {
    /// The field of `Saved` that holds it.
    pub name: String,
    /// The part of the layer that makes it; `None` for what is kept in any case.
    pub part: Option<Activation>,
    /// Bytes per token.
    pub bytes: u128,
    /// Whether it waits in the host's memory.
    pub offloaded: bool,
}

/// What a schedule costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleReport {
    /// What is computed again.
    pub recompute: Vec<Activation>,
    /// Bytes per token kept on the device.
    pub bytes: u128,
    /// FLOPs of what is computed again.
    pub extra_flops: u128,
    /// Whether it is the spec's.
    pub chosen: bool,
}

/// The report of a layer's training; `None` where it is not trained.
pub(super) fn report(checked: &Checked, program: &Program) -> Option<TrainingReport> {
    let training = program.training.as_ref()?;
    let lengths = Lengths::of(&program.build.expect, training.forward.phase);
    let all = parts(checked);
    let mut sets: Vec<Vec<Activation>> = vec![Vec::new()];
    sets.extend(all.iter().map(|&part| vec![part]));
    sets.extend((all.len() > 1).then_some(all));
    let own = &checked.build.recompute;
    if !sets.contains(own) {
        sets.push(own.clone());
    }
    Some(TrainingReport {
        form: training.forward.form,
        reason: training.forward.form_reason.clone(),
        lengths,
        flops: [&training.forward, &training.backward].map(|plan| flops(program, plan, |_| true)),
        kept: kept(program, training),
        choices: sets.into_iter().map(|set| schedule(checked, set)).collect(),
    })
}

/// The cheapest schedule, in FLOPs, that keeps at most `budget` bytes per token on the device; the one that keeps least where none does.
/// `None` where the layer is not trained.
pub fn cheapest(checked: &Checked, budget: u128) -> Option<ScheduleReport> {
    plan::program(checked).training?;
    let parts = parts(checked);
    let subsets = (0..1_u32 << parts.len()).map(|bits| {
        let chosen = parts.iter().enumerate();
        chosen
            .filter(|(i, _)| bits & (1 << i) != 0)
            .map(|(_, part)| *part)
            .collect()
    });
    let all: Vec<ScheduleReport> = subsets.map(|set| schedule(checked, set)).collect();
    let fitting = all.iter().filter(|schedule| schedule.bytes <= budget);
    let by_cost = |schedule: &&ScheduleReport| {
        let ScheduleReport {
            extra_flops, bytes, ..
        } = **schedule;
        (extra_flops, bytes, schedule.recompute.len())
    };
    let least = |schedule: &&ScheduleReport| (schedule.bytes, schedule.extra_flops);
    fitting
        .min_by_key(by_cost)
        .or_else(|| all.iter().min_by_key(least))
        .cloned()
}

/// The parts that a layer's schedule may name.
fn parts(checked: &Checked) -> Vec<Activation> {
    let made = Activation::ALL.into_iter();
    made.filter(|part| part.is_made_by(&checked.layer))
        .collect()
}

/// The layer's training with this much computed again.
fn schedule(checked: &Checked, recompute: Vec<Activation>) -> ScheduleReport {
    let offload = checked.build.offload.iter().copied();
    let build = Build {
        offload: offload.filter(|part| !recompute.contains(part)).collect(),
        recompute: recompute.clone(),
        ..checked.build.for_training()
    };
    let program = plan::program(&Checked {
        build,
        ..checked.clone()
    });
    let (mut bytes, mut extra_flops) = (0, 0);
    if let Some(training) = &program.training {
        let kept = kept(&program, training);
        let on_device = kept.iter().filter(|kept| !kept.offloaded);
        bytes = on_device.map(|kept| kept.bytes).sum();
        let again = |op: &Op| !matches!(op, Op::Adjoint(_));
        extra_flops = flops(&program, &training.backward, again);
    }
    ScheduleReport {
        chosen: recompute == checked.build.recompute,
        recompute,
        bytes,
        extra_flops,
    }
}

fn kept(program: &Program, training: &Training) -> Vec<KeptReport> {
    let plan = &training.forward;
    let values = training.kept.iter().zip(plan.outputs.iter().skip(1));
    values
        .map(|(kept, id)| KeptReport {
            name: kept.name.clone(),
            part: kept.part,
            bytes: bytes::value(&plan.values[id.0].ty, 1, program.build.dtype),
            offloaded: kept.offloaded,
        })
        .collect()
}

fn flops(program: &Program, plan: &Plan, wanted: impl Fn(&Op) -> bool) -> u128 {
    let counter = Counter::new(
        program,
        plan,
        Lengths::of(&program.build.expect, plan.phase),
    );
    let ops = plan.ops().filter(|op| wanted(op));
    ops.flat_map(|op| counter.work(op))
        .map(|(_, work)| work.flops)
        .sum()
}

impl fmt::Display for TrainingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "train: {}", print::choice(self.form, &self.reason))?;
        let [forward, backward] = self.flops.map(|flops| readable(flops, "FLOP"));
        writeln!(
            f,
            "  {} tokens: {forward} forward, {backward} backward",
            self.lengths.new
        )?;
        let total: u128 = self.kept.iter().map(|kept| kept.bytes).sum();
        writeln!(f, "  kept per token: {} B", grouped(total))?;
        for kept in self.kept.iter().filter(|kept| kept.bytes > 0) {
            let part = kept.part.map_or("", Activation::word);
            let place = if kept.offloaded { ", on the host" } else { "" };
            let line = format!(
                "    {:<20} {:>10} B  {part}{place}",
                kept.name,
                grouped(kept.bytes)
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        writeln!(
            f,
            "  {:<44} {:>12}  {:>12}",
            "recompute", "kept/token", "extra"
        )?;
        for choice in &self.choices {
            writeln!(f, "{choice}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ScheduleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.recompute.iter().map(|part| part.word()).collect();
        let mark = if self.chosen { "*" } else { " " };
        write!(
            f,
            "{mark} {:<44} {:>10} B  {:>12}",
            format!("[{}]", words.join(", ")),
            grouped(self.bytes),
            readable(self.extra_flops, "FLOP")
        )
    }
}
