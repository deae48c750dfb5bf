//! Factors on the queries that grow with their position.

use crate::backend::{Accum, Backend, GradientOps, ParameterOps};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count, finite, product};
use crate::heads::Heads;
use crate::parameters::LogPositionParameters;
use crate::weights::Selected;

/// `q · (1 + β ln(1 + ⌊(pos + offset) / L₀⌋))`, L₀ the original length (features E-02, Llama 4's temperature tuning).
///
/// # Errors
/// When there is not one position per row, `beta` is not finite, or `original_max_position_embeddings` is 0.
pub fn llama4<B: Backend, const H: usize, const D: usize>(
    mut q: Heads<B, H, D>,
    positions: &[u32],
    beta: f64,
    original_max_position_embeddings: u32,
    position_offset: u32,
) -> Result<Heads<B, H, D>> {
    expect_count("positions", positions.len(), q.rows())?;
    let beta = finite("the factor of a query scale", beta)?;
    if original_max_position_embeddings == 0 {
        return Err(Error::BadConstant(
            "a query scale counts positions in steps of 0, wanted at least 1".to_owned(),
        ));
    }
    let factors = positions
        .iter()
        .map(|&position| {
            let position = u64::from(position) + u64::from(position_offset);
            let steps = position / u64::from(original_max_position_embeddings);
            Scalar::from_f64(1.0 + beta * (steps as f64).ln_1p())
        })
        .collect();
    let factors = B::upload(&q.device, factors)?;
    B::scale_parts(&q.device, &mut q.buffer, &factors, H * D)?;
    Ok(q)
}

/// A learned scale of the queries: `q_h · (a_h ln(pos + 1) + b_h)` (features S-14).
#[derive(Debug)]
pub struct LogPositionScale<B: Backend, const H: usize> {
    device: B::Device,
    pub(crate) scale: Vec<f64>,
    pub(crate) bias: Vec<f64>,
}

impl<B: Backend, const H: usize> LogPositionScale<B, H> {
    /// Loads a from `NAME.scale` and b from `NAME.bias`, rounded to the element type.
    ///
    /// # Errors
    /// When a tensor is unreadable or not `[H]`.
    pub fn load(weights: &Selected<'_>, name: &str, device: &B::Device) -> Result<Self> {
        let vector = |part: &str| {
            let name = format!("{name}.{part}");
            let (shape, values) = weights.read::<B::Elem>(&name)?;
            if shape != [H] {
                return Err(Error::shape(name, &shape, &[H]));
            }
            Ok(values)
        };
        Self::new(device, &vector("scale")?, &vector("bias")?)
    }

    /// The scale of these a and b.
    ///
    /// # Errors
    /// When there is not one of each per head.
    pub fn new(device: &B::Device, scale: &[B::Elem], bias: &[B::Elem]) -> Result<Self> {
        for values in [scale, bias] {
            expect_count("factors of a query scale", values.len(), H)?;
        }
        let wide = |values: &[B::Elem]| values.iter().map(|value| value.to_f64()).collect();
        Ok(Self {
            device: device.clone(),
            scale: wide(scale),
            bias: wide(bias),
        })
    }

    /// The scaled queries. Factors are computed in `f64` and rounded once.
    ///
    /// # Errors
    /// When there is not one position per row.
    pub fn heads<const D: usize>(
        &self,
        q: Heads<B, H, D>,
        positions: &[u32],
    ) -> Result<Heads<B, H, D>> {
        self.scaled(q, &logarithms(positions))
    }

    /// The gradient of the queries, `d` being that of [`LogPositionScale::heads`]' result and `q` what that was given; those of a and b are
    /// added to `gradient`: `da_h += Σ_t ln(pos_t + 1) (q_t,h · d_t,h)` and `db_h += Σ_t q_t,h · d_t,h`, summed in `f64`.
    ///
    /// # Errors
    /// When there is not one position and one row of `d` per row of `q`, or the device refuses.
    pub fn backward<const D: usize>(
        &self,
        q: &Heads<B, H, D>,
        d: Heads<B, H, D>,
        positions: &[u32],
        gradient: &mut LogPositionParameters<B, H>,
    ) -> Result<Heads<B, H, D>> {
        expect_count("rows of a query scale's gradient", d.rows(), q.rows())?;
        expect_count("positions", positions.len(), q.rows())?;
        let logs = logarithms(positions);
        let dots = B::Gradients::dots(&self.device, q.view().strided(), d.view().strided())?;
        let (mut scale, mut bias) = (vec![0.0; H], vec![0.0; H]);
        for (dots, log) in B::download(&self.device, &dots)?.chunks_exact(H).zip(&logs) {
            for (head, dot) in dots.iter().enumerate() {
                scale[head] += log * dot.to_f64();
                bias[head] += dot.to_f64();
            }
        }
        for (sums, into) in [(scale, &mut gradient.scale), (bias, &mut gradient.bias)] {
            let sums = sums.into_iter().map(Scalar::from_f64).collect();
            let sums = B::upload(&self.device, sums)?;
            B::Parameters::add(&self.device, &mut into.values, &sums)?;
        }
        self.scaled(d, &logs)
    }

    fn scaled<const D: usize>(
        &self,
        mut q: Heads<B, H, D>,
        logs: &[f64],
    ) -> Result<Heads<B, H, D>> {
        expect_count("positions", logs.len(), q.rows())?;
        let mut factors = Vec::with_capacity(product("query scales", &[logs.len(), H])?);
        for log in logs {
            factors.extend(
                self.scale
                    .iter()
                    .zip(&self.bias)
                    .map(|(a, b)| Accum::<B>::from_f64(a * log + b)),
            );
        }
        let factors = B::upload(&self.device, factors)?;
        B::scale_parts(&self.device, &mut q.buffer, &factors, D)?;
        Ok(q)
    }
}

/// `ln(pos + 1)`.
fn logarithms(positions: &[u32]) -> Vec<f64> {
    let log = |&position: &u32| f64::from(position).ln_1p();
    positions.iter().map(log).collect()
}
