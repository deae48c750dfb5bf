//! A block: a generated attention and an MLP, each behind its norm and added to the residual stream.
//!
//! The attention is known by the runtime's traits, so that one block is written for both. What they call are a generated layer's own
//! functions, with widths in their types: `forward_train(&hidden, &positions, &mask)`, `backward(saved, &hidden, &d_output, &mut gradients)`,
//! `clip_qk(&max_logits, Some(&mut master))`. Code around a single layer calls those.

use mla_runtime::{
    Backend, ClipQk, ErasedGradients, Error, Extras, Forward, MaxLogits, NoProbe, ParameterSet,
    Result, Tensor, Train, Trainable, Weights,
};

use super::around::{self, Around};
use super::{Hidden, Sequences};

/// A block around the attention `L`.
#[derive(Debug)]
pub(crate) struct Block<B: Backend, L> {
    attention: L,
    around: Around<B>,
}

/// A number for each of its parameters; `P` are the attention's.
#[derive(Debug)]
pub(crate) struct BlockParameters<B: Backend, P> {
    pub(crate) attention: P,
    pub(crate) around: around::Parameters<B>,
}

impl<B: Backend, P: ParameterSet<B>> BlockParameters<B, P> {
    pub(crate) fn zeros(device: &B::Device) -> Result<Self> {
        Ok(Self {
            attention: P::zeros(device)?,
            around: around::Parameters::zeros(device)?,
        })
    }
}

/// What the backward pass needs.
pub(crate) struct Saved<B: Backend, L: Train<B>> {
    x: Hidden<B>,
    normed: Tensor<B>,
    attention: L::Saved,
    middle: Hidden<B>,
    mlp: around::Saved<B>,
}

impl<B: Backend, L: ClipQk<B> + Forward<B>> Block<B, L> {
    pub(crate) fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self> {
        Ok(Self {
            attention: L::load(weights, &attention_prefix(prefix), device)?,
            around: Around::load(weights, &around_prefix(prefix), device)?,
        })
    }

    /// `m = x + Attention(RMSNorm(x))`, then `m + MLP(m)`.
    pub(crate) fn forward(&self, mut x: Hidden<B>, at: &Sequences) -> Result<Hidden<B>> {
        let normed = self.around.attention_norm.forward(&x)?.into();
        let attended = self.attention.forward_erased(
            &normed,
            &at.positions,
            &at.mask,
            &mut Extras::default(),
            &mut NoProbe,
        )?;
        x.add(&Hidden::try_from(attended)?)?;
        let (out, _) = self.around.mlp(&x)?;
        x.add(&out)?;
        Ok(x)
    }

    /// As [`forward`](Self::forward), keeping what [`backward`](Self::backward) needs. The largest logits, which
    /// [`clip_qk`](Self::clip_qk) asks for, are merged into `largest`.
    pub(crate) fn forward_train(
        &self,
        x: Hidden<B>,
        at: &Sequences,
        largest: &mut MaxLogits,
    ) -> Result<(Hidden<B>, Saved<B, L>)> {
        let normed = self.around.attention_norm.forward(&x)?.into();
        let (attended, attention) = self.attention.forward_train_erased(
            &normed,
            &at.positions,
            &at.mask,
            &mut Extras::default(),
        )?;
        largest.merge(L::max_logits(&attention))?;
        let mut middle = x.copied()?;
        middle.add(&Hidden::try_from(attended)?)?;
        let (mut out, mlp) = self.around.mlp(&middle)?;
        out.add(&middle)?;
        let saved = Saved {
            x,
            normed,
            attention,
            middle,
            mlp,
        };
        Ok((out, saved))
    }

    /// The gradient of the block's input, and the loss of the attention's indexer where it has one, whose gradients are multiplied by
    /// `scale`, as the caller has multiplied `d`. Those of the parameters are added to `gradients`.
    pub(crate) fn backward(
        &self,
        saved: Saved<B, L>,
        mut d: Hidden<B>,
        scale: f64,
        gradients: &mut BlockParameters<B, L::Parameters>,
    ) -> Result<(Hidden<B>, Option<f64>)> {
        let Saved {
            x,
            normed,
            attention,
            middle,
            mlp,
        } = saved;
        let around = &self.around;
        d.add(&around.mlp_backward(&mlp, &middle, &d, &mut gradients.around)?)?;
        let mut extras = Extras {
            loss_scale: scale,
            ..Extras::default()
        };
        let ErasedGradients {
            hidden,
            indexer_loss,
            ..
        } = self.attention.backward_erased(
            attention,
            &normed,
            &d.copied()?.into(),
            &mut extras,
            &mut gradients.attention,
        )?;
        let d_normed = hidden.ok_or_else(|| {
            Error::MissingExtra("the attention has no gradient of its input".to_owned())
        })?;
        d.add(&around.attention_norm.backward(
            &x,
            &Hidden::try_from(d_normed)?,
            &mut gradients.around.attention_norm,
        )?)?;
        Ok((d, indexer_loss))
    }

    /// Makes master weights the working weights.
    pub(crate) fn assign(&mut self, from: &BlockParameters<B, L::Parameters>) -> Result<()> {
        self.attention.assign(&from.attention)?;
        self.around.assign(&from.around)
    }

    /// QK-clip of working and master weights; how many heads' logits were above the threshold.
    pub(crate) fn clip_qk(
        &mut self,
        largest: &MaxLogits,
        master: &mut BlockParameters<B, L::Parameters>,
    ) -> Result<usize> {
        let master = Some(&mut master.attention);
        let factors = self.attention.clip_qk_erased(largest.as_slice(), master)?;
        Ok(factors.iter().filter(|&&factor| factor != 1.0).count())
    }
}

/// Where the attention's tensors lie: exactly these below the prefix, so the block's other ones lie beside and not around them.
pub(crate) fn attention_prefix(block: &str) -> String {
    format!("{block}.attention")
}

/// Where the other tensors of a block lie.
pub(crate) fn around_prefix(block: &str) -> String {
    format!("{block}.around")
}
