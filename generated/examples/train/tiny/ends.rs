//! Both ends of the model: characters in, logits out.

use mla_runtime::{
    AccumLinear, Backend, Linear, LinearParameters, NormParameters, PerHead, Result, RmsNorm, Rows,
    TensorShape, Weights,
};

use super::text::VOCABULARY;
use super::{Hidden, NORM_EPS, WIDTH};

/// The tensors below the prefix.
pub(crate) const TENSORS: [TensorShape; 3] = [
    TensorShape::new("embedding.weight", &[VOCABULARY, WIDTH]),
    TensorShape::new("norm.weight", &[WIDTH]),
    TensorShape::new("head.weight", &[VOCABULARY, WIDTH]),
];

/// A number for each parameter, as a generated layer has it.
#[derive(Debug)]
pub(crate) struct Parameters<B: Backend> {
    embedding: LinearParameters<B, WIDTH, VOCABULARY>,
    norm: NormParameters<B, WIDTH>,
    head: LinearParameters<B, WIDTH, VOCABULARY>,
}

impl<B: Backend> Parameters<B> {
    pub(crate) fn zeros(device: &B::Device) -> Result<Self> {
        Ok(Self {
            embedding: LinearParameters::zeros(device, &[("embedding", VOCABULARY)])?,
            norm: NormParameters::zeros(device, "norm")?,
            head: LinearParameters::zeros(device, &[("head", VOCABULARY)])?,
        })
    }
}

/// Embedding, last norm and output head.
#[derive(Debug)]
pub(crate) struct Ends<B: Backend> {
    device: B::Device,
    /// A row for each token.
    embedding: Linear<B, WIDTH, VOCABULARY>,
    norm: RmsNorm<B, WIDTH>,
    /// In the accumulation type: logits that are rounded to bf16 are too coarse to tell good from better.
    head: AccumLinear<B, WIDTH, VOCABULARY>,
}

// What makes a module's parameters a set that optimisers and checkpoints know: generated layers have the same line
mla_runtime::parameters!(Ends: embedding, norm, head);

/// A row for each token that is 1 at the token's place and 0 elsewhere.
pub(crate) type OneHot<B> = Rows<B, VOCABULARY>;

impl<B: Backend> Ends<B> {
    pub(crate) fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self> {
        let weights = weights.exactly(prefix, &TENSORS)?;
        Ok(Self {
            device: device.clone(),
            embedding: Linear::load(&weights, &["embedding"], device)?,
            norm: RmsNorm::load(&weights, "norm", NORM_EPS, device)?,
            head: AccumLinear::load(&weights, "head", device)?,
        })
    }

    pub(crate) fn one_hot(&self, tokens: &[usize]) -> Result<OneHot<B>> {
        let mut values = vec![0.0; tokens.len() * VOCABULARY];
        for (row, &token) in values.chunks_mut(VOCABULARY).zip(tokens) {
            row[token] = 1.0;
        }
        Rows::from_f64(&self.device, &values)
    }

    /// `x = onehot · E`: picking a row is a product, and the one that a linear's backward pass has.
    pub(crate) fn embed(&self, one_hot: &OneHot<B>) -> Result<Hidden<B>> {
        self.embedding.backward_input(one_hot)
    }

    /// `dE += onehotᵀ · dx`.
    pub(crate) fn embed_backward(
        &self,
        one_hot: &OneHot<B>,
        d_x: &Hidden<B>,
        gradients: &mut Parameters<B>,
    ) -> Result<()> {
        gradients.embedding.accumulate(d_x, one_hot)
    }

    /// `W · RMSNorm(x)`, and the normed rows, which the backward pass needs.
    pub(crate) fn logits(&self, x: &Hidden<B>) -> Result<(PerHead<B, VOCABULARY>, Hidden<B>)> {
        let normed = self.norm.forward(x)?;
        Ok((self.head.forward(&normed)?, normed))
    }

    /// The gradient of `x`, given that of the logits.
    pub(crate) fn logits_backward(
        &self,
        x: &Hidden<B>,
        normed: &Hidden<B>,
        d_logits: &[f64],
        gradients: &mut Parameters<B>,
    ) -> Result<Hidden<B>> {
        let d_logits = Rows::from_f64(&self.device, d_logits)?;
        let d_logits = d_logits.view().to_per_head()?;
        gradients.head.accumulate_per_head(normed, &d_logits)?;
        let d_normed = self.head.backward_input(&d_logits)?;
        self.norm.backward(x, &d_normed, &mut gradients.norm)
    }
}
