//! What stands around an attention in its block: the norm in front of it, and the MLP behind it with its own norm.

use mla_runtime::backend::Accum;
use mla_runtime::{
    Backend, Linear, LinearParameters, NormParameters, Real, Result, RmsNorm, Rows, TensorShape,
    Weights,
};

use super::{Hidden, NORM_EPS, WIDTH};

/// Width inside the MLP.
const INNER: usize = 2 * WIDTH;

/// Rows inside the MLP.
type Inner<B> = Rows<B, INNER>;

/// The tensors below the prefix.
pub(crate) const TENSORS: [TensorShape; 5] = [
    TensorShape::new("attention_norm.weight", &[WIDTH]),
    TensorShape::new("mlp_norm.weight", &[WIDTH]),
    TensorShape::new("gate_proj.weight", &[INNER, WIDTH]),
    TensorShape::new("up_proj.weight", &[INNER, WIDTH]),
    TensorShape::new("down_proj.weight", &[WIDTH, INNER]),
];

/// A number for each parameter, as a generated layer has it.
#[derive(Debug)]
pub(crate) struct Parameters<B: Backend> {
    pub(crate) attention_norm: NormParameters<B, WIDTH>,
    mlp_norm: NormParameters<B, WIDTH>,
    gate_proj: LinearParameters<B, WIDTH, INNER>,
    up_proj: LinearParameters<B, WIDTH, INNER>,
    down_proj: LinearParameters<B, INNER, WIDTH>,
}

impl<B: Backend> Parameters<B> {
    pub(crate) fn zeros(device: &B::Device) -> Result<Self> {
        Ok(Self {
            attention_norm: NormParameters::zeros(device, "attention_norm")?,
            mlp_norm: NormParameters::zeros(device, "mlp_norm")?,
            gate_proj: LinearParameters::zeros(device, &[("gate_proj", INNER)])?,
            up_proj: LinearParameters::zeros(device, &[("up_proj", INNER)])?,
            down_proj: LinearParameters::zeros(device, &[("down_proj", WIDTH)])?,
        })
    }
}

/// The modules, with their working weights.
#[derive(Debug)]
pub(crate) struct Around<B: Backend> {
    pub(crate) attention_norm: RmsNorm<B, WIDTH>,
    mlp_norm: RmsNorm<B, WIDTH>,
    gate_proj: Linear<B, WIDTH, INNER>,
    up_proj: Linear<B, WIDTH, INNER>,
    down_proj: Linear<B, INNER, WIDTH>,
}

mla_runtime::parameters!(Around: attention_norm, mlp_norm, gate_proj, up_proj, down_proj);

/// What the MLP's backward pass needs.
#[derive(Debug)]
pub(crate) struct Saved<B: Backend> {
    normed: Hidden<B>,
    gate: Inner<B>,
    up: Inner<B>,
    inner: Inner<B>,
}

impl<B: Backend> Around<B> {
    pub(crate) fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self> {
        let weights = weights.exactly(prefix, &TENSORS)?;
        Ok(Self {
            attention_norm: RmsNorm::load(&weights, "attention_norm", NORM_EPS, device)?,
            mlp_norm: RmsNorm::load(&weights, "mlp_norm", NORM_EPS, device)?,
            gate_proj: Linear::load(&weights, &["gate_proj"], device)?,
            up_proj: Linear::load(&weights, &["up_proj"], device)?,
            down_proj: Linear::load(&weights, &["down_proj"], device)?,
        })
    }

    /// `W_D · (silu(W_G · n) ⊙ W_U · n)`, `n = RMSNorm(x)`.
    pub(crate) fn mlp(&self, x: &Hidden<B>) -> Result<(Hidden<B>, Saved<B>)> {
        let normed = self.mlp_norm.forward(x)?;
        let gate = self.gate_proj.forward(&normed)?;
        let up = self.up_proj.forward(&normed)?;
        let inner = gated(&gate, &up)?;
        let out = self.down_proj.forward(&inner)?;
        let saved = Saved {
            normed,
            gate,
            up,
            inner,
        };
        Ok((out, saved))
    }

    /// The gradient of the MLP's `x`; those of its parameters are added to `gradients`.
    pub(crate) fn mlp_backward(
        &self,
        saved: &Saved<B>,
        x: &Hidden<B>,
        d_out: &Hidden<B>,
        gradients: &mut Parameters<B>,
    ) -> Result<Hidden<B>> {
        let Saved {
            normed,
            gate,
            up,
            inner,
        } = saved;
        gradients.down_proj.accumulate(inner, d_out)?;
        let d_inner = self.down_proj.backward_input(d_out)?;
        let (d_gate, d_up) = gated_backward(gate, up, &d_inner)?;
        gradients.gate_proj.accumulate(normed, &d_gate)?;
        gradients.up_proj.accumulate(normed, &d_up)?;
        let mut d_normed = self.gate_proj.backward_input(&d_gate)?;
        d_normed.add(&self.up_proj.backward_input(&d_up)?)?;
        self.mlp_norm
            .backward(x, &d_normed, &mut gradients.mlp_norm)
    }
}

/// `silu(gate) ⊙ up`, `silu(x) = x · σ(x)`, on the host and rounded once.
fn gated<B: Backend>(gate: &Inner<B>, up: &Inner<B>) -> Result<Inner<B>> {
    let pairs = gate.to_vec()?.into_iter().zip(up.to_vec()?);
    let values = pairs.map(|(gate, up)| {
        let (gate, up) = (Accum::<B>::load(gate), Accum::<B>::load(up));
        (gate * logistic(gate) * up).store()
    });
    Rows::from_vec(gate.device(), values.collect())
}

/// The gradients of `gate` and `up`: `d_up = d ⊙ silu(gate)` and `d_gate = d ⊙ up ⊙ silu'(gate)`, where
/// `silu'(x) = σ(x) (1 + x (1 - σ(x)))`.
fn gated_backward<B: Backend>(
    gate: &Inner<B>,
    up: &Inner<B>,
    d: &Inner<B>,
) -> Result<(Inner<B>, Inner<B>)> {
    let pairs = gate.to_vec()?.into_iter().zip(up.to_vec()?);
    let gradients = pairs
        .zip(d.to_vec()?)
        .map(|((gate, up), d)| -> (B::Elem, B::Elem) {
            let (gate, up) = (Accum::<B>::load(gate), Accum::<B>::load(up));
            let d = Accum::<B>::load(d);
            let (one, open) = (Accum::<B>::ONE, logistic(gate));
            let slope = open * (one + gate * (one - open));
            ((d * up * slope).store(), (d * gate * open).store())
        });
    let (d_gate, d_up) = gradients.unzip();
    let device = gate.device();
    Ok((
        Rows::from_vec(device, d_gate)?,
        Rows::from_vec(device, d_up)?,
    ))
}

/// `σ(x) = 1 / (1 + e^-x)`; e^-x may be infinite, and σ is 0 then.
fn logistic<A: Real>(x: A) -> A {
    A::ONE / (A::ONE + (-x).exp())
}
