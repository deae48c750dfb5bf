//! In which ways a case is trained.

use mla_spec::{
    Activation, Checked, Core, Form, Indexer, IndexerLoss, LossEpsilon, LossReduction, LossStage,
    QkClip,
};

use super::case::Case;
use super::golden::Golden;
use crate::args::{self, Recompute, Verify};
use crate::driver::Training;

/// One way of training a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) aim: Aim,
    pub(super) form: Form,
    pub(super) recompute: Recompute,
}

/// What it is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// The gradients of `sum(output * grad_output)`.
    Gradients,
    /// A step of QK-clip.
    Clip,
    /// An indexer's loss.
    Loss(LossStage),
}

/// How much of a factor the cases' queries take: nope rows are scaled by its root.
const ALPHA: f64 = 0.5;

/// As cases compute an indexer's loss: the mean over batch and queries, 1e-8 added inside the logarithms.
const LOSS: IndexerLoss = IndexerLoss {
    coeff: 1.0,
    stage: LossStage::Dense,
    reduction: LossReduction::MeanAll,
    epsilon: LossEpsilon::Add,
};

impl Pass {
    /// The layer, built for it. Padding is always allowed, so that cases of one config share it.
    pub(super) fn layer(self, case: &Case, golden: &Golden, dtype: args::DType) -> Checked {
        let mut checked = case.spec.checked.clone();
        match (self.aim, &golden.clip, &mut checked.layer.core) {
            (Aim::Clip, Some(clip), _) => {
                checked.layer.qk_clip = Some(QkClip {
                    threshold: clip.manifest.tau,
                    alpha: ALPHA,
                });
            }
            (Aim::Loss(stage), _, Core::Sparse(Indexer::Lightning(indexer))) => {
                indexer.loss = Some(IndexerLoss { stage, ..LOSS });
            }
            _ => {}
        }
        let recompute = match self.recompute {
            Recompute::Nothing => Vec::new(),
            Recompute::Part(part) => vec![part],
            Recompute::All => parts(&checked),
        };
        let training = Training {
            form: Some(self.form),
            dtype: Some(dtype.into()),
            recompute: Some(recompute),
        };
        training.of(&checked, true)
    }

    /// Aim, form and what is computed again, in words.
    pub(super) fn cells(self) -> [String; 3] {
        let aim = match self.aim {
            Aim::Gradients => "gradients",
            Aim::Clip => "qk_clip",
            Aim::Loss(LossStage::Dense) => "dense loss",
            Aim::Loss(LossStage::Sparse) => "sparse loss",
        };
        let form = args::Form::from(self.form).word();
        [aim, form, self.recompute.word()].map(str::to_owned)
    }
}

/// The parts of a layer that can be computed again.
fn parts(checked: &Checked) -> Vec<Activation> {
    let made = Activation::ALL.into_iter();
    made.filter(|part| part.is_made_by(&checked.layer))
        .collect()
}

/// Every way that a case's files and the command line ask for; nothing where the layer hasn't got the form. What is compared to the bit
/// comes behind what it is compared with, and gradients last.
pub(super) fn passes(args: &Verify, case: &Case, golden: &Golden) -> Vec<Pass> {
    let mut forms: Vec<Form> = match args.form {
        Some(form) => vec![form.into()],
        None => vec![Form::Mha, Form::Mqa],
    };
    if case.spec.checked.layer.latent().is_none() {
        forms.retain(|form| *form == Form::Mha);
    }
    let mut aims: Vec<(Aim, Vec<Recompute>)> = Vec::new();
    if golden.clip.is_some() {
        aims.push((Aim::Clip, vec![Recompute::Nothing]));
    }
    if golden.loss.is_some() {
        let both = |recompute: &Recompute| !matches!(recompute, Recompute::Part(_));
        for stage in [LossStage::Dense, LossStage::Sparse] {
            let choices = choices(args, &case.spec.checked);
            aims.push((Aim::Loss(stage), choices.into_iter().filter(both).collect()));
        }
    }
    if golden.grads.is_some() {
        aims.push((Aim::Gradients, choices(args, &case.spec.checked)));
    }
    let mut passes = Vec::new();
    for (aim, choices) in aims {
        for &form in &forms {
            passes.extend(choices.iter().map(|&recompute| Pass {
                aim,
                form,
                recompute,
            }));
        }
    }
    passes
}

/// Nothing, which the others are held against, then each part and all of them, as far as they are asked for.
fn choices(args: &Verify, checked: &Checked) -> Vec<Recompute> {
    let parts = parts(checked);
    let mut choices: Vec<Recompute> = parts.iter().copied().map(Recompute::Part).collect();
    choices.extend((parts.len() > 1).then_some(Recompute::All));
    if let Some(asked) = &args.recompute {
        choices.retain(|choice| asked.contains(choice));
    }
    choices.insert(0, Recompute::Nothing);
    choices
}
