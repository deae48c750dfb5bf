//! Linear layers.

use crate::backend::Backend;
use crate::error::{Error, Result, product};
use crate::rows::{Rows, RowsView};
use crate::weights::Selected;

/// `y = x Wᵀ + b`, weight `[OUT, IN]` row-major as in checkpoints.
#[derive(Debug)]
pub struct Linear<B: Backend, const IN: usize, const OUT: usize> {
    device: B::Device,
    weight: B::Buffer<B::Elem>,
    bias: Option<B::Buffer<B::Elem>>,
}

impl<B: Backend, const IN: usize, const OUT: usize> Linear<B, IN, OUT> {
    /// The layer of a weight `[OUT, IN]`, row by row, and perhaps a bias `[OUT]`.
    ///
    /// # Errors
    /// When a length is not the shape's.
    pub fn new(
        device: &B::Device,
        weight: Vec<B::Elem>,
        bias: Option<Vec<B::Elem>>,
    ) -> Result<Self> {
        if weight.len() != product("a linear's weight", &[OUT, IN])? {
            return Err(Error::shape(
                "a linear's weight, flat",
                &[weight.len()],
                &[OUT, IN],
            ));
        }
        if let Some(bias) = &bias
            && bias.len() != OUT
        {
            return Err(Error::shape("a linear's bias", &[bias.len()], &[OUT]));
        }
        let bias = bias.map(|bias| B::upload(device, bias)).transpose()?;
        Ok(Self {
            device: device.clone(),
            weight: B::upload(device, weight)?,
            bias,
        })
    }

    /// Loads `NAME.weight` of each name and stacks their rows; no bias.
    ///
    /// # Errors
    /// When a tensor is unreadable or the stack is not `[OUT, IN]`.
    pub fn load(weights: &Selected<'_>, names: &[&str], device: &B::Device) -> Result<Self> {
        Self::new(device, Self::stack(weights, names, "weight")?, None)
    }

    /// Loads `NAME.weight` and `NAME.bias` of each name and stacks them.
    ///
    /// # Errors
    /// When a tensor is unreadable or a stack is not `[OUT, IN]` and `[OUT]`.
    pub fn load_biased(weights: &Selected<'_>, names: &[&str], device: &B::Device) -> Result<Self> {
        Self::new(
            device,
            Self::stack(weights, names, "weight")?,
            Some(Self::stack(weights, names, "bias")?),
        )
    }

    fn stack(weights: &Selected<'_>, names: &[&str], kind: &str) -> Result<Vec<B::Elem>> {
        let mut all = Vec::new();
        for name in names {
            let name = format!("{name}.{kind}");
            let (shape, values) = weights.read::<B::Elem>(&name)?;
            let row: &[usize] = if kind == "weight" { &[IN] } else { &[] };
            if shape.get(1..) != Some(row) {
                return Err(Error::shape(name, &shape, &[&[OUT], row].concat()));
            }
            all.extend(values);
        }
        Ok(all)
    }

    /// `x Wᵀ + b`.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn forward<'a>(&self, x: impl Into<RowsView<'a, B, IN>>) -> Result<Rows<B, OUT>>
    where
        B: 'a,
    {
        let x = x.into();
        product("a linear's output", &[x.rows(), OUT])?;
        let buffer = B::linear(
            &self.device,
            x.strided(),
            &self.weight,
            self.bias.as_ref(),
            OUT,
        )?;
        Ok(Rows {
            device: self.device.clone(),
            buffer,
            rows: x.rows(),
        })
    }

    /// The weight, for products that use parts of it.
    pub(crate) fn weight(&self) -> &B::Buffer<B::Elem> {
        &self.weight
    }

    pub(crate) fn is_biased(&self) -> bool {
        self.bias.is_some()
    }
}
