//! The model: both ends, and two blocks between them.

use mla_generated::tiny_dense::{self, TinyDenseAttention};
use mla_generated::tiny_sparse::{self, TinySparseAttention};
use mla_runtime::weights::generator::Recipe;
use mla_runtime::{Backend, MaxLogits, Result, Scalar, TensorShape, Trainable, Weights};

use super::Sequences;
use super::block::Block;
use super::ends::Ends;
use super::loss::cross_entropy;
use super::parameters::Parameters;
use super::text::Batch;

/// Where the tensors of the ends lie in a checkpoint.
pub(crate) const ENDS: &str = "ends";
/// Where those of the blocks lie.
pub(crate) const BLOCKS: [&str; 2] = ["blocks.0", "blocks.1"];

/// The model, with its working weights.
#[derive(Debug)]
pub(crate) struct Model<B: Backend> {
    ends: Ends<B>,
    /// Every query sees all keys before it.
    dense: Block<B, TinyDenseAttention<B>>,
    /// Every query attends to the keys that an indexer picks for it.
    sparse: Block<B, TinySparseAttention<B>>,
}

/// What a batch, or a step of several, lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Losses {
    /// The model's, nats per character.
    pub(crate) model: f64,
    /// The indexer's: how far its scores are from what attention does, nats per query.
    pub(crate) indexer: f64,
}

/// The largest logits of each attention's heads over the micro-batches of a step.
#[derive(Debug)]
pub(crate) struct Largest {
    pub(crate) dense: MaxLogits,
    pub(crate) sparse: MaxLogits,
}

impl Largest {
    pub(crate) fn none() -> Self {
        Self {
            dense: MaxLogits::new(tiny_dense::NUM_ATTENTION_HEADS),
            sparse: MaxLogits::new(tiny_sparse::NUM_ATTENTION_HEADS),
        }
    }
}

/// Random weights for a new model, whose parameters are named and shaped like `parameters`.
pub(crate) fn initial<B: Backend>(parameters: &Parameters<B>, seed: u64) -> Result<Weights> {
    let mut tensors = Vec::new();
    for (prefix, set) in parameters.sets() {
        tensors.extend(set.tensor_shapes().iter().map(|tensor| {
            let name = format!("{prefix}.{}", tensor.name);
            (name, tensor.shape.to_vec(), recipe(tensor, seed))
        }));
    }
    Weights::generated(tensors)
}

/// Norms begin as 1 and biases as 0; a matrix begins so that what it gives has the deviation of what it is given, or less of it: what is
/// added to the residual stream begins small, and with a small head every character begins about as likely as any other.
fn recipe(tensor: &TensorShape, seed: u64) -> Recipe {
    let usual = Recipe::for_tensor(tensor.name, tensor.shape, seed);
    let [_, fan_in] = tensor.shape else {
        return Recipe {
            amplitude: 0.0,
            ..usual
        };
    };
    let gain = match tensor.name {
        "head.weight" => 0.1,
        "o_proj.weight" | "down_proj.weight" => 0.5,
        _ => 1.0,
    };
    Recipe {
        amplitude: gain * (3.0 / *fan_in as f64).sqrt(),
        ..usual
    }
}

impl<B: Backend> Model<B> {
    pub(crate) fn load(weights: &Weights, device: &B::Device) -> Result<Self> {
        let [dense, sparse] = BLOCKS;
        Ok(Self {
            ends: Ends::load(weights, ENDS, device)?,
            dense: Block::load(weights, dense, device)?,
            sparse: Block::load(weights, sparse, device)?,
        })
    }

    /// Logits of the character behind each of `tokens`, which are sequences of `length`; row by row.
    pub(crate) fn logits(&self, tokens: &[usize], length: usize) -> Result<Vec<f64>> {
        let at = Sequences::of(tokens.len(), length);
        let x = self.ends.embed(&self.ends.one_hot(tokens)?)?;
        let x = self.dense.forward(x, &at)?;
        let x = self.sparse.forward(x, &at)?;
        let (logits, _) = self.ends.logits(&x)?;
        Ok(logits.to_vec()?.into_iter().map(Scalar::to_f64).collect())
    }

    /// Forward and backward over a batch: the gradients of its losses times `scale` are added to `gradients`, and the largest logits
    /// merged into `largest`, so that a step may consist of any number of batches.
    pub(crate) fn learn(
        &self,
        batch: &Batch,
        scale: f64,
        gradients: &mut Parameters<B>,
        largest: &mut Largest,
    ) -> Result<Losses> {
        let at = Sequences::of(batch.tokens.len(), batch.length);
        let one_hot = self.ends.one_hot(&batch.tokens)?;
        let x = self.ends.embed(&one_hot)?;
        let (x, dense) = self.dense.forward_train(x, &at, &mut largest.dense)?;
        let (x, sparse) = self.sparse.forward_train(x, &at, &mut largest.sparse)?;
        let (logits, normed) = self.ends.logits(&x)?;

        let logits: Vec<f64> = logits.to_vec()?.into_iter().map(Scalar::to_f64).collect();
        let (loss, d_logits) = cross_entropy(&logits, &batch.targets, scale);

        let ends = &mut gradients.ends;
        let d = self.ends.logits_backward(&x, &normed, &d_logits, ends)?;
        let (d, indexer_loss) = self
            .sparse
            .backward(sparse, d, scale, &mut gradients.sparse)?;
        let (d, _) = self.dense.backward(dense, d, scale, &mut gradients.dense)?;
        self.ends.embed_backward(&one_hot, &d, ends)?;
        Ok(Losses {
            model: loss,
            indexer: indexer_loss.unwrap_or_default(),
        })
    }

    /// The mean loss over all characters of a batch; nothing is learnt.
    pub(crate) fn loss(&self, batch: &Batch) -> Result<f64> {
        let logits = self.logits(&batch.tokens, batch.length)?;
        Ok(cross_entropy(&logits, &batch.targets, 0.0).0)
    }

    /// Makes master weights the working weights, rounded to the element type.
    pub(crate) fn assign(&mut self, from: &Parameters<B>) -> Result<()> {
        self.ends.assign(&from.ends)?;
        self.dense.assign(&from.dense)?;
        self.sparse.assign(&from.sparse)
    }

    /// QK-clip of both attentions; how many heads' logits were above the threshold.
    pub(crate) fn clip_qk(
        &mut self,
        largest: &Largest,
        master: &mut Parameters<B>,
    ) -> Result<usize> {
        let dense = self.dense.clip_qk(&largest.dense, &mut master.dense)?;
        let sparse = self.sparse.clip_qk(&largest.sparse, &mut master.sparse)?;
        Ok(dense + sparse)
    }
}
