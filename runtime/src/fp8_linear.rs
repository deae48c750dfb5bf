//! Linear layers whose weights are codes.

use crate::backend::Backend;
use crate::error::{Error, Result, product};
use crate::linear::{GroupPart, in_groups, tensors_of};
use crate::rows::{Rows, RowsView};
use crate::weights::{CodedRows, CodedTensor, Selected};

/// `y = x Wᵀ + b` as [`Linear`](crate::Linear), the weight `[OUT, IN]` in codes of e4m3 with an f32 scale for each 64 rows and 128 columns: `w = code · scale`
/// (features K-02). Blocks of an fp8 checkpoint keep their codes and scales where 64 rows have the same; whatever else comes is rounded when it is loaded.
/// `x` is not rounded.
#[derive(Debug)]
pub struct Fp8Linear<B: Backend, const IN: usize, const OUT: usize> {
    device: B::Device,
    /// As `weights/blocks.rs` says.
    weight: B::Bytes,
    bias: Option<B::Buffer<B::Elem>>,
}

impl<B: Backend, const IN: usize, const OUT: usize> Fp8Linear<B, IN, OUT> {
    /// Loads `NAME.weight` of each name and stacks their rows; no bias.
    ///
    /// # Errors
    /// When a tensor is unreadable or holds a number that is NaN or infinite, or the stack is not `[OUT, IN]`.
    pub fn load(weights: &Selected<'_>, names: &[&str], device: &B::Device) -> Result<Self> {
        Self::new(device, &stack(weights, names, IN)?, None)
    }

    /// Loads `NAME.weight` and `NAME.bias` of each name and stacks them.
    ///
    /// # Errors
    /// As [`Fp8Linear::load`], or when biases are not `[OUT]`.
    pub fn load_biased(weights: &Selected<'_>, names: &[&str], device: &B::Device) -> Result<Self> {
        let bias = crate::linear::stack(weights, names, "bias", &[])?;
        Self::new(device, &stack(weights, names, IN)?, Some(bias))
    }

    /// As [`Linear::load_grouped`](crate::Linear::load_grouped).
    ///
    /// # Errors
    /// As [`Fp8Linear::load`], or when a tensor has another number of rows than its part.
    pub fn load_grouped(
        weights: &Selected<'_>,
        groups: usize,
        parts: &[GroupPart<'_>],
        device: &B::Device,
    ) -> Result<Self> {
        Self::new(device, &grouped(weights, groups, parts, IN)?, None)
    }

    /// As [`Fp8Linear::load_grouped`], weights and biases.
    ///
    /// # Errors
    /// As [`Fp8Linear::load_grouped`].
    pub fn load_grouped_biased(
        weights: &Selected<'_>,
        groups: usize,
        parts: &[GroupPart<'_>],
        device: &B::Device,
    ) -> Result<Self> {
        let bias = crate::linear::grouped(weights, groups, parts, "bias", &[])?;
        Self::new(device, &grouped(weights, groups, parts, IN)?, Some(bias))
    }

    fn new(device: &B::Device, weight: &CodedRows, bias: Option<Vec<B::Elem>>) -> Result<Self> {
        let found = [weight.rows(), weight.columns()];
        if found != [OUT, IN] {
            return Err(Error::shape("a linear's weight", &found, &[OUT, IN]));
        }
        if let Some(bias) = bias.as_ref().filter(|bias| bias.len() != OUT) {
            return Err(Error::shape("a linear's bias", &[bias.len()], &[OUT]));
        }
        Ok(Self {
            device: device.clone(),
            weight: B::upload_bytes(device, weight.pack()?)?,
            bias: bias.map(|bias| B::upload(device, bias)).transpose()?,
        })
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
        let bias = self.bias.as_ref();
        Ok(Rows {
            device: self.device.clone(),
            buffer: B::fp8_linear(&self.device, x.strided(), &self.weight, bias, OUT)?,
            rows: x.rows(),
        })
    }
}

/// `NAME.weight` of each name, one below the other.
fn stack(weights: &Selected<'_>, names: &[&str], columns: usize) -> Result<CodedRows> {
    let tensors = names
        .iter()
        .map(|name| matrix(weights, &format!("{name}.weight"), columns))
        .collect::<Result<_>>()?;
    Ok(CodedRows::stacked(tensors, columns))
}

/// `NAME.weight` of each part, sorted into groups.
fn grouped(
    weights: &Selected<'_>,
    groups: usize,
    parts: &[GroupPart<'_>],
    columns: usize,
) -> Result<CodedRows> {
    let names = tensors_of(parts, "weight");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if let Some(whole) = weights.coded_grouped(&names)? {
        return Ok(CodedRows::stacked(vec![whole], columns)); // the checkpoint stacks them in this order itself
    }
    let mut tensors = Vec::with_capacity(parts.len());
    for part in parts {
        let name = format!("{}.weight", part.name);
        let tensor = matrix(weights, &name, columns)?;
        part.refuse_other(groups, &name, tensor.shape().to_vec())?;
        tensors.push(tensor);
    }
    let rows = in_groups(groups, parts).collect();
    Ok(CodedRows::new(tensors, rows, columns))
}

/// A tensor of rows that have so many columns.
fn matrix(weights: &Selected<'_>, name: &str, columns: usize) -> Result<CodedTensor> {
    let tensor = weights.coded(name)?;
    if tensor.shape().get(1..) != Some(&[columns]) {
        let wanted = [tensor.rows(), columns];
        return Err(Error::shape(name, tensor.shape(), &wanted));
    }
    Ok(tensor)
}
