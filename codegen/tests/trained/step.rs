//! A step of training on random numbers, as a function of everything that has a gradient.

use std::collections::BTreeMap;
use std::ops::Range;

use mla_codegen::plan::interpret::{
    Bias, Context, Extras, Forwarded, Gradients, Incoming, Lent, Oracle, SharedKv, Weights,
};
use mla_codegen::plan::{Gradient, Program, program};
use mla_spec::{Checked, Core, Indexer, KvSource, MaskKind, Projections};

use super::sample::random_spec::Dice;
use super::sample::{numbers, weights};

/// Rows of each sequence; rows 0 and 7 are padding.
const SEQUENCES: [Range<usize>; 3] = [1..7, 8..9, 9..13];
const TOKENS: usize = 13;
/// All rows of a call.
pub(crate) const ROWS: usize = TOKENS;
/// Those of sequences.
pub(crate) const VALID_ROWS: usize = 11;
const LONGEST: usize = 6;
/// Rows of the context that goes with each sequence.
const CONTEXTS: [Range<usize>; 3] = [0..3, 4..9, 9..10];
const CONTEXT_TOKENS: usize = 10;

/// What gradients are of, by name: tensors of the checkpoint, and inputs under names with a `<`.
pub(crate) type Variables = BTreeMap<String, Vec<f64>>;

/// A layer's step.
pub(crate) struct Step {
    pub(crate) variables: Variables,
    /// What the output's gradient, and those of what is handed out, are.
    incoming: Vec<f64>,
    incoming_kv: SharedKv,
    positions: Vec<u32>,
    visible: Option<Vec<Vec<bool>>>,
    blocks: Option<Vec<u32>>,
    selection: Option<Vec<Vec<usize>>>,
    has_context: bool,
    /// Heads of the bias, where there is one.
    bias_heads: Option<usize>,
    dropout_seed: u64,
}

impl Step {
    /// Of a layer; the same in both forms.
    pub(crate) fn new(layer: &Checked, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let program = program(layer);
        let mut variables = weights(&program, &mut dice);
        let width = layer.layer.hidden_size() as usize;
        let mut add = |name: &str, count: usize, dice: &mut Dice| {
            variables.insert(name.to_owned(), numbers(count, dice));
        };
        add("<hidden", TOKENS * width, &mut dice);
        let mut kv = SharedKv::default();
        if let Projections::Latent(latent) = &layer.layer.projections {
            let widths = [latent.dims.kv_lora_rank, latent.dims.qk_rope_head_dim];
            let [latents, keys] = widths.map(|width| TOKENS * width as usize);
            kv.latent = numbers(latents, &mut dice);
            kv.k_rope = numbers(keys, &mut dice);
            if latent.kv_source == KvSource::Other {
                add("<latent", latents, &mut dice);
                add("<k_rope", keys, &mut dice);
            }
        }
        let mut has_context = false;
        if let Projections::Cross(cross) = &layer.layer.projections {
            has_context = true;
            let width = cross.context_hidden_size as usize;
            add("<context", CONTEXT_TOKENS * width, &mut dice);
        }
        let heads = layer.layer.num_attention_heads() as usize;
        let bias_heads = if dice.once_in(2) { heads } else { 1 };
        let bias_heads = layer.layer.logits.bias.then_some(bias_heads);
        if let Some(heads) = bias_heads {
            add("<bias", heads * LONGEST * LONGEST, &mut dice);
        }
        Self {
            variables,
            incoming: numbers(TOKENS * width, &mut dice),
            incoming_kv: kv,
            positions: positions(&mut dice),
            visible: (layer.layer.mask.kind == MaskKind::Arbitrary).then(|| visible(&mut dice)),
            blocks: layer
                .layer
                .mask
                .bidirectional_blocks
                .then(|| (0..TOKENS).map(|_| dice.within(0, 2)).collect()),
            selection: selection(layer, &mut dice),
            has_context,
            bias_heads,
            dropout_seed: dice.bits(),
        }
    }

    /// Does something with a program's oracle and what both passes are lent, at some values of the variables.
    pub(crate) fn at<T>(
        &self,
        program: &Program,
        variables: &Variables,
        run: impl FnOnce(&Oracle<'_>, Lent<'_>) -> T,
    ) -> T {
        let is_weight = |(name, _): &(&String, &Vec<f64>)| !name.starts_with('<');
        let weights: Weights = variables
            .iter()
            .filter(is_weight)
            .map(|(name, values)| (name.clone(), values.clone()))
            .collect();
        let oracle = Oracle::new(program, &weights).expect("the weights fit");
        let shared_kv = variables.get("<latent").map(|latent| SharedKv {
            latent: latent.clone(),
            k_rope: variables["<k_rope"].clone(),
        });
        let bias = self.bias_heads.map(|heads| Bias {
            values: variables["<bias"].clone(),
            heads,
            queries: LONGEST,
            keys: LONGEST,
        });
        let context = self.has_context.then(|| Context {
            rows: &variables["<context"],
            sequences: &CONTEXTS,
        });
        let lent = Lent {
            hidden: &variables["<hidden"],
            positions: &self.positions,
            sequences: &SEQUENCES,
            extras: Extras {
                context,
                visible: self.visible.as_deref(),
                blocks: self.blocks.as_deref(),
                selection: self.selection.as_deref(),
                shared_kv: shared_kv.as_ref(),
                bias: bias.as_ref(),
                dropout_seed: Some(self.dropout_seed),
                ..Extras::default()
            },
        };
        run(&oracle, lent)
    }

    /// What comes back: the output's gradient or none, and how an indexer's loss is scaled.
    pub(crate) fn incoming(&self, with_output: bool, loss_scale: f64) -> (Vec<f64>, SharedKv, f64) {
        let by = if with_output { 1.0 } else { 0.0 };
        let scaled = |values: &[f64]| values.iter().map(|value| by * value).collect();
        let kv = SharedKv {
            latent: scaled(&self.incoming_kv.latent),
            k_rope: scaled(&self.incoming_kv.k_rope),
        };
        (scaled(&self.incoming), kv, loss_scale)
    }

    /// `forward_train` where the variables are.
    pub(crate) fn forward(&self, program: &Program, variables: &Variables) -> Forwarded {
        self.at(program, variables, |oracle, lent| {
            oracle.forward_train(lent).expect("the forward pass runs")
        })
    }

    /// The gradients where the variables are, of what comes back.
    pub(crate) fn backward(
        &self,
        program: &Program,
        variables: &Variables,
        incoming: &(Vec<f64>, SharedKv, f64),
        how: How,
    ) -> Gradients {
        let (output, kv, loss_scale) = incoming;
        let incoming = Incoming {
            output,
            shared_kv: Some(kv),
            loss_scale: *loss_scale,
        };
        self.at(program, variables, |oracle, lent| {
            let made = oracle.forward_train(lent).expect("the forward pass runs");
            let gradients = match how {
                How::Whole => oracle.backward(&made.saved, lent, incoming),
                How::Split => oracle.backward_split(&made.saved, lent, incoming),
            };
            gradients.expect("the backward pass runs")
        })
    }

    /// What the gradients of [`incoming`](Self::incoming) are of: the output and what is handed out, weighted by what comes back.
    pub(crate) fn objective(&self, made: &Forwarded) -> f64 {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let given = made.run.given.shared_kv.as_ref().map_or(0.0, |given| {
            let latent = dot(&given.latent, &self.incoming_kv.latent);
            latent + dot(&given.k_rope, &self.incoming_kv.k_rope)
        });
        dot(&made.run.output, &self.incoming) + given
    }
}

/// Which functions a backward pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// `backward`.
    Whole,
    /// `backward_input` and `backward_dw`.
    Split,
}

/// Gradients under the names of the variables; zeros where there is none.
pub(crate) fn of_variables(gradients: &Gradients, variables: &Variables) -> Variables {
    let input = |name: &str| {
        let gradient = match name {
            "<hidden" => Gradient::Hidden,
            "<context" => Gradient::Context,
            "<latent" => Gradient::Latent,
            "<k_rope" => Gradient::RopeKey,
            _ => Gradient::Bias,
        };
        gradients.inputs.get(&gradient).cloned()
    };
    let of = |(name, values): (&String, &Vec<f64>)| {
        let found = match name.starts_with('<') {
            true => input(name).unwrap_or_else(|| vec![0.0; values.len()]),
            false => gradients.parameters[name].clone(),
        };
        assert_eq!(found.len(), values.len(), "{name}");
        (name.clone(), found)
    };
    variables.iter().map(of).collect()
}

/// Positions that begin anywhere.
fn positions(dice: &mut Dice) -> Vec<u32> {
    let mut positions = vec![0; TOKENS];
    for rows in SEQUENCES {
        let start = dice.within(0, 5);
        for (i, row) in rows.enumerate() {
            positions[row] = start + i as u32;
        }
    }
    positions
}

/// Any mask; a row may see nothing.
fn visible(dice: &mut Dice) -> Vec<Vec<bool>> {
    let row = |dice: &mut Dice| {
        let any = !dice.once_in(6);
        (0..LONGEST).map(|_| any && dice.once_in(2)).collect()
    };
    (0..TOKENS).map(|_| row(dice)).collect()
}

/// What another layer may have picked.
fn selection(layer: &Checked, dice: &mut Dice) -> Option<Vec<Vec<usize>>> {
    let Core::Sparse(Indexer::Shared { topk, .. }) = layer.layer.core else {
        return None;
    };
    let mut picked = vec![Vec::new(); TOKENS];
    for rows in SEQUENCES {
        for (i, row) in rows.enumerate() {
            let mut keys: Vec<usize> = (0..=i).collect();
            while keys.len() > topk as usize {
                let gone = dice.within(0, keys.len() as u32 - 1);
                keys.remove(gone as usize);
            }
            picked[row] = keys;
        }
    }
    Some(picked)
}
