//! Gradients: how close training comes to a case's numbers, and whether it gives the same bits however it is scheduled.

use std::path::Path;

use super::case::{Case, Closeness};
use super::golden::{self, Golden, closeness, of_gradient};
use super::measure::{Row, Rule, Verdict, measure, rule};
use super::passes::{Aim, Pass, passes};
use super::trial::{Trial, written};
use crate::args::{DType, Recompute, Verify};
use crate::driver::job::{Grad, Input, Job, Mode, Report, Rope, Stored};
use crate::driver::{Program, hands_on};
use crate::failure::Failure;
use crate::talk::counted;
use crate::tensors::{Tensor, TensorFile};

/// Verifies gradients.
pub(crate) struct Gradients<'a> {
    pub(crate) args: &'a Verify,
}

/// What stands in front of a gradient's name.
const GRAD: &str = "grad.";

impl Trial for Gradients<'_> {
    type Subject = (Case, Golden);

    const COLUMNS: [&'static str; 3] = ["run", "form", "computed again"];
    const ABOUT: &'static str = ", training";
    const WANTED: &'static str = golden::WANTED;

    fn load(&self, folder: &Path) -> Result<Option<Self::Subject>, Failure> {
        let mut case = Case::load(folder, self.args.layer)?;
        let golden = Golden::load(folder, &mut case.manifest)?;
        Ok(golden.map(|golden| (case, golden)))
    }

    fn case<'a>(&self, (case, _): &'a Self::Subject) -> &'a Case {
        case
    }

    fn jobs(&self, (case, golden): &Self::Subject, program: &mut Program, room: &Path) -> Vec<Job> {
        let job = |(i, pass): (usize, Pass)| {
            let checked = pass.layer(case, golden, self.args.dtype);
            let layer = program.add(&checked);
            Job {
                name: format!("{}, {}", case.name, pass.cells().join(", ")),
                layer: layer.key,
                weights: case.weights.clone(),
                input: Input::Io {
                    path: case.io_path.clone(),
                },
                modes: vec![Mode::Grad],
                chunks: None,
                cache: Stored::Exact,
                rope: Rope {
                    found: layer.rope,
                    wanted: case.manifest.rope_layout(),
                },
                grad: Grad {
                    output: golden.grads.as_ref().map(|grads| grads.path.clone()),
                    hands_on: hands_on(&checked),
                    clip: pass.aim == Aim::Clip,
                },
                bench: Vec::new(),
                out: Some(room.join(&case.name).join(format!("{i}.safetensors"))),
            }
        };
        let passes = passes(self.args, case, golden);
        passes.into_iter().enumerate().map(job).collect()
    }

    fn judge(
        &self,
        (case, golden): &Self::Subject,
        reports: &[Result<Report, String>],
    ) -> Vec<Row> {
        let mut rows = Vec::new();
        // What the passes that keep everything wrote
        let mut kept: Vec<(Pass, TensorFile)> = Vec::new();
        for (pass, report) in passes(self.args, case, golden).into_iter().zip(reports) {
            let found: Vec<(String, Verdict)> = match written(report) {
                Err(problem) => vec![("gradients".to_owned(), Verdict::Broken(problem))],
                Ok((report, _, file)) if pass.recompute == Recompute::Nothing => {
                    let judged = Judged {
                        case,
                        found: &file,
                        dtype: self.args.dtype,
                    };
                    let mut all = judged.aim(pass.aim, golden);
                    all.push(in_two_parts(report));
                    kept.push((pass, file));
                    all
                }
                Ok((report, _, file)) => {
                    let of = |(other, _): &&(Pass, TensorFile)| {
                        (other.aim, other.form) == (pass.aim, pass.form)
                    };
                    let mut all = match kept.iter().find(of) {
                        Some((_, wanted)) => identical(&file, wanted),
                        None => {
                            let problem =
                                "the run that keeps everything gave nothing to compare it with";
                            vec![("gradients".to_owned(), Verdict::Broken(problem.to_owned()))]
                        }
                    };
                    let split = in_two_parts(report);
                    all.extend((!split.1.passed()).then_some(split));
                    all
                }
            };
            rows.extend(found.into_iter().map(|(tensor, verdict)| Row {
                way: pass.cells(),
                tensor,
                verdict,
            }));
        }
        rows
    }
}

/// Whether the weights' gradients apart were those of the whole backward pass.
fn in_two_parts(report: &Report) -> (String, Verdict) {
    match &report.split {
        Some(split) => {
            let verdict = split.differs.clone().map_or(Verdict::SAME, Verdict::Broken);
            let tensors = counted(split.tensors, "tensor");
            (format!("backward in two parts, {tensors}"), verdict)
        }
        None => {
            let problem = "the run did not try it".to_owned();
            ("backward in two parts".to_owned(), Verdict::Broken(problem))
        }
    }
}

/// Whether two runs wrote the same bits: one row, or one for each tensor that differs.
fn identical(found: &TensorFile, wanted: &TensorFile) -> Vec<(String, Verdict)> {
    let names = wanted.names();
    let mut wrong: Vec<(String, Verdict)> = Vec::new();
    for name in &names {
        let verdict = match (found.get(name), wanted.get(name)) {
            (Some(found), Some(wanted)) => measure(name, &found, &wanted, Rule::Bits, None),
            _ => Verdict::Broken("the run did not write it".to_owned()),
        };
        if !verdict.passed() {
            wrong.push((name.clone(), verdict));
        }
    }
    if wrong.is_empty() {
        let all = counted(names.len(), "tensor");
        wrong.push((format!("the same bits, {all}"), Verdict::SAME));
    }
    wrong
}

/// What a run that keeps everything wrote.
struct Judged<'a> {
    case: &'a Case,
    found: &'a TensorFile,
    dtype: DType,
}

impl Judged<'_> {
    fn aim(&self, aim: Aim, golden: &Golden) -> Vec<(String, Verdict)> {
        let mut all = Vec::new();
        // Attention over every key gives another output than the case's
        if aim != Aim::Loss(mla_spec::LossStage::Dense) {
            all.extend(self.outputs());
        }
        match aim {
            Aim::Gradients => all.extend(self.gradients(golden, true)),
            Aim::Clip => all.extend(self.clip(golden)),
            Aim::Loss(stage) => all.extend(self.loss(golden, stage)),
        }
        all
    }

    fn outputs(&self) -> Vec<(String, Verdict)> {
        let compare = &self.case.manifest.compare;
        let compared = |name: &&str| compare.contains_key(*name);
        let names = ["output", "mid.max_logit"].into_iter().filter(compared);
        let row = |name: &str| {
            let closeness = compare.get(name).copied();
            self.row(name, name, self.case.io.get(name), closeness)
        };
        names.filter_map(row).collect()
    }

    /// Every gradient that the case tells or the run wrote. Those that a case says are none, are none, where they `may_not` be anything
    /// else.
    fn gradients(&self, golden: &Golden, may_not: bool) -> Vec<(String, Verdict)> {
        let Some(told) = &golden.grads else {
            return Vec::new();
        };
        let manifest = &told.manifest;
        let compared = manifest.compare.iter().filter_map(|(name, closeness)| {
            let closeness = of_gradient(self.case, *closeness);
            self.row(name, name, told.tensors.get(name), Some(closeness))
        });
        let mut all: Vec<(String, Verdict)> = compared.collect();
        let weights = self.found.names().into_iter();
        let mut none = Vec::new();
        for name in weights.filter(|name| name.starts_with(GRAD)) {
            let weight = &name[GRAD.len()..];
            if manifest.no_grad.iter().any(|other| other == weight) {
                none.push(name);
            } else if !manifest.compare.contains_key(&name)
                && !manifest.left_out.iter().any(|other| other == weight)
            {
                let problem = "`grads` in the manifest does not say how closely, and does not list it in `left_out` or `no_grad`";
                all.push((name, Verdict::Broken(problem.to_owned())));
            }
        }
        if may_not {
            all.extend(self.zeros("without a gradient", &none));
        }
        all
    }

    /// Tensors that are exactly 0: one row, or one for each that is not.
    fn zeros(&self, what: &str, names: &[String]) -> Vec<(String, Verdict)> {
        let mut wrong = Vec::new();
        for name in names {
            let Some(found) = self.found.get(name) else {
                continue;
            };
            let wanted = Tensor {
                shape: found.shape.clone(),
                values: vec![0.0; found.values.len()],
            };
            let exact = Rule::Elements {
                rtol: 0.0,
                atol: 0.0,
            };
            let verdict = measure(name, &found, &wanted, exact, None);
            if !verdict.passed() {
                wrong.push((name.clone(), verdict));
            }
        }
        if wrong.is_empty() && !names.is_empty() {
            let all = counted(names.len(), "tensor");
            wrong.push((format!("{what}, {all}"), Verdict::SAME));
        }
        wrong
    }

    fn clip(&self, golden: &Golden) -> Vec<(String, Verdict)> {
        let Some(told) = &golden.clip else {
            return Vec::new();
        };
        let compare = &told.manifest.compare;
        let row = |name: &String| {
            // What is left of the largest logits is one, too
            let like = name.strip_suffix("_after").unwrap_or(name);
            let closeness = closeness(compare, name).or_else(|| closeness(compare, like));
            self.row(name, name, told.tensors.get(name), closeness)
        };
        let mut all: Vec<_> = told.tensors.names().iter().filter_map(row).collect();
        for name in self.found.names() {
            if name.starts_with("qkclip.after.") && told.tensors.get(&name).is_none() {
                let problem = "the case leaves this weight as it is".to_owned();
                all.push((name, Verdict::Broken(problem)));
            }
        }
        all
    }

    fn loss(&self, golden: &Golden, stage: mla_spec::LossStage) -> Vec<(String, Verdict)> {
        let Some(told) = &golden.loss else {
            return Vec::new();
        };
        let stage_name = match stage {
            mla_spec::LossStage::Dense => "indexer_loss.dense",
            mla_spec::LossStage::Sparse => "indexer_loss.sparse",
        };
        let mut all = Vec::new();
        let mut learned = Vec::new();
        for name in told.tensors.names() {
            let ours = match name.strip_prefix(stage_name) {
                Some("" | ".f64") => "indexer_loss",
                Some(rest) if rest.starts_with(".grad.") => &rest[1..],
                _ => continue,
            };
            learned.push(ours.to_owned());
            let closeness = closeness(&told.manifest.compare, &name);
            let closeness = closeness.map(|closeness| of_gradient(self.case, closeness));
            all.extend(self.row(&name, ours, told.tensors.get(&name), closeness));
        }
        match stage {
            mla_spec::LossStage::Sparse => all.extend(self.gradients(golden, false)),
            mla_spec::LossStage::Dense => {
                let mut frozen = self.found.names();
                frozen.retain(|name| name.starts_with(GRAD) && !learned.contains(name));
                all.extend(self.zeros("frozen", &frozen));
            }
        }
        all
    }

    /// Compares what the run calls `ours` with `wanted`, which the case calls `name`; `None` where nothing is asked in this arithmetic.
    fn row(
        &self,
        name: &str,
        ours: &str,
        wanted: Option<Tensor>,
        closeness: Option<Closeness>,
    ) -> Option<(String, Verdict)> {
        let broken = |problem: &str| Verdict::Broken(problem.to_owned());
        let verdict = match (self.found.get(ours), wanted, closeness) {
            (_, None, _) => broken("the case has no such tensor"),
            (_, _, None) => broken("the manifest does not say how closely"),
            (None, ..) => broken("the run did not write it"),
            (Some(found), Some(wanted), Some(closeness)) => {
                let by_rows = ["output", "grad.hidden_states", "qkclip.output_after"];
                let rows = match by_rows.contains(&ours) {
                    true => self.case.rows(),
                    false => None,
                };
                let rule = rule(closeness, self.dtype, &wanted)?;
                measure(ours, &found, &wanted, rule, rows.as_deref())
            }
        };
        Some((name.to_owned(), verdict))
    }
}
