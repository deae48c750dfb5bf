//! Linear layers.

use crate::attended::PerHead;
use crate::backend::{Accum, Backend, GradientOps, HeadMatrices};
use crate::element::Scalar;
use crate::error::{Error, Result, product};
use crate::rows::{Rows, RowsView};
use crate::weights::Selected;

/// `y = x Wᵀ + b`, weight `[OUT, IN]` row-major as in checkpoints.
#[derive(Debug)]
pub struct Linear<B: Backend, const IN: usize, const OUT: usize> {
    pub(crate) device: B::Device,
    pub(crate) weight: B::Buffer<B::Elem>,
    pub(crate) bias: Option<B::Buffer<B::Elem>>,
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
        checked::<B::Elem, IN, OUT>(&weight, bias.as_deref())?;
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
        Self::new(device, stack(weights, names, "weight", &[IN])?, None)
    }

    /// Loads `NAME.weight` and `NAME.bias` of each name and stacks them.
    ///
    /// # Errors
    /// When a tensor is unreadable or a stack is not `[OUT, IN]` and `[OUT]`.
    pub fn load_biased(weights: &Selected<'_>, names: &[&str], device: &B::Device) -> Result<Self> {
        Self::new(
            device,
            stack(weights, names, "weight", &[IN])?,
            Some(stack(weights, names, "bias", &[])?),
        )
    }

    /// Loads a projection whose output stands group by group (features R-05) from a checkpoint that keeps its parts apart: group `g` is
    /// each part's rows of group `g`, parts in the order given. No bias.
    ///
    /// # Errors
    /// When a tensor is unreadable or has another number of rows than its part, or the stack is not `[OUT, IN]`.
    pub fn load_grouped(
        weights: &Selected<'_>,
        groups: usize,
        parts: &[GroupPart<'_>],
        device: &B::Device,
    ) -> Result<Self> {
        let weight = grouped(weights, groups, parts, "weight", &[IN])?;
        Self::new(device, weight, None)
    }

    /// As [`Linear::load_grouped`], weights and biases.
    ///
    /// # Errors
    /// As [`Linear::load_grouped`].
    pub fn load_grouped_biased(
        weights: &Selected<'_>,
        groups: usize,
        parts: &[GroupPart<'_>],
        device: &B::Device,
    ) -> Result<Self> {
        let weight = grouped(weights, groups, parts, "weight", &[IN])?;
        let bias = grouped(weights, groups, parts, "bias", &[])?;
        Self::new(device, weight, Some(bias))
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

    /// The gradient of `x`: `dx = dy W`.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn backward_input<'a>(&self, dy: impl Into<RowsView<'a, B, OUT>>) -> Result<Rows<B, IN>>
    where
        B: 'a,
    {
        let dy = dy.into();
        product("a linear's gradient", &[dy.rows(), IN])?;
        let transposed = HeadMatrices {
            offset: 0,
            head_stride: 0,
            k_stride: IN,
            n_stride: 1,
            columns: IN,
        };
        let buffer = B::head_product(&self.device, dy.strided(), &self.weight, transposed)?;
        Ok(Rows {
            device: self.device.clone(),
            buffer,
            rows: dy.rows(),
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

/// What a checkpoint's tensor gives to each group of a grouped projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupPart<'a> {
    pub(crate) name: &'a str,
    pub(crate) heads: usize,
    pub(crate) width: usize,
    /// Rows of the tensor per head, and the first one that is taken.
    pub(crate) stride: usize,
    pub(crate) first: usize,
}

impl<'a> GroupPart<'a> {
    /// `heads` heads of `width` rows per group, head after head: `q_proj`, `k_proj`, `v_proj`.
    pub const fn heads(name: &'a str, heads: usize, width: usize) -> Self {
        Self {
            name,
            heads,
            width,
            stride: width,
            first: 0,
        }
    }

    /// The first `width` of each head's `2 · width` rows: the queries of a `q_proj` that holds the output gate as well.
    pub const fn first_half(name: &'a str, heads: usize, width: usize) -> Self {
        Self {
            name,
            heads,
            width,
            stride: 2 * width,
            first: 0,
        }
    }

    /// Refuses a tensor whose shape `found` has other rows than the part has.
    pub(crate) fn refuse_other(&self, groups: usize, name: &str, found: Vec<usize>) -> Result<()> {
        let rows = product("a grouped weight", &[groups, self.heads, self.stride])?;
        if found.first() == Some(&rows) {
            return Ok(());
        }
        let row = found.get(1..).unwrap_or_default();
        Err(Error::shape(name, &found, &[&[rows], row].concat()))
    }

    /// The other rows of [`GroupPart::first_half`]: the gate.
    pub const fn second_half(name: &'a str, heads: usize, width: usize) -> Self {
        Self {
            name,
            heads,
            width,
            stride: 2 * width,
            first: width,
        }
    }
}

/// `NAME.kind` of each name, rows of shape `row` below each other.
pub(crate) fn stack<S: Scalar>(
    weights: &Selected<'_>,
    names: &[&str],
    kind: &str,
    row: &[usize],
) -> Result<Vec<S>> {
    let mut all = Vec::new();
    for name in names {
        all.extend(rows_of::<S>(weights, &format!("{name}.{kind}"), row)?);
    }
    Ok(all)
}

/// `NAME.kind` of each part, its rows of shape `row` sorted into groups.
pub(crate) fn grouped<S: Scalar>(
    weights: &Selected<'_>,
    groups: usize,
    parts: &[GroupPart<'_>],
    kind: &str,
    row: &[usize],
) -> Result<Vec<S>> {
    let names = tensors_of(parts, kind);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if let Some((_, values)) = weights.read_grouped(&names)? {
        return Ok(values); // the checkpoint stacks them in this order itself
    }
    let row_len = row.iter().product::<usize>();
    let mut tensors = Vec::with_capacity(parts.len());
    for part in parts {
        let name = format!("{}.{kind}", part.name);
        let values = rows_of::<S>(weights, &name, row)?;
        let found = values.len().checked_div(row_len).unwrap_or(0);
        part.refuse_other(groups, &name, [&[found], row].concat())?;
        tensors.push(values);
    }
    let mut all = Vec::new();
    for (part, row) in in_groups(groups, parts) {
        all.extend_from_slice(&tensors[part][row * row_len..(row + 1) * row_len]);
    }
    Ok(all)
}

/// The tensors that parts are rows of, each once.
pub(crate) fn tensors_of(parts: &[GroupPart<'_>], kind: &str) -> Vec<String> {
    let mut names: Vec<String> = parts
        .iter()
        .map(|part| format!("{}.{kind}", part.name))
        .collect();
    names.dedup();
    names
}

/// The rows of a grouped projection, in order: of each, its part and its row there.
pub(crate) fn in_groups<'a>(
    groups: usize,
    parts: &'a [GroupPart<'a>],
) -> impl Iterator<Item = (usize, usize)> + 'a {
    (0..groups).flat_map(move |group| {
        parts.iter().enumerate().flat_map(move |(at, part)| {
            let heads = group * part.heads..(group + 1) * part.heads;
            heads.flat_map(move |head| {
                let first = head * part.stride + part.first;
                (first..first + part.width).map(move |row| (at, row))
            })
        })
    })
}

/// The values of a tensor whose rows have shape `row`.
fn rows_of<S: Scalar>(weights: &Selected<'_>, name: &str, row: &[usize]) -> Result<Vec<S>> {
    let (shape, values) = weights.read::<S>(name)?;
    if shape.get(1..) != Some(row) {
        return Err(Error::ShapeMismatch {
            what: name.to_owned(),
            wanted: [&shape[..shape.len().min(1)], row].concat(),
            found: shape,
        });
    }
    Ok(values)
}

/// A linear with its weight and its product in the accumulation type, whatever the element type: an indexer's head weights, a gate.
#[derive(Debug)]
pub struct AccumLinear<B: Backend, const IN: usize, const OUT: usize> {
    device: B::Device,
    pub(crate) weight: B::Buffer<Accum<B>>,
    pub(crate) bias: Option<B::Buffer<Accum<B>>>,
}

impl<B: Backend, const IN: usize, const OUT: usize> AccumLinear<B, IN, OUT> {
    /// The layer of a weight `[OUT, IN]`, row by row, and perhaps a bias `[OUT]`.
    ///
    /// # Errors
    /// When a length is not the shape's.
    pub fn new(
        device: &B::Device,
        weight: Vec<Accum<B>>,
        bias: Option<Vec<Accum<B>>>,
    ) -> Result<Self> {
        checked::<Accum<B>, IN, OUT>(&weight, bias.as_deref())?;
        Ok(Self {
            device: device.clone(),
            weight: B::upload(device, weight)?,
            bias: bias.map(|bias| B::upload(device, bias)).transpose()?,
        })
    }

    /// Loads `NAME.weight`; no bias.
    ///
    /// # Errors
    /// When the tensor is unreadable or not `[OUT, IN]`.
    pub fn load(weights: &Selected<'_>, name: &str, device: &B::Device) -> Result<Self> {
        let weight = stack(weights, &[name], "weight", &[IN])?;
        Self::new(device, weight, None)
    }

    /// Loads `NAME.weight` and `NAME.bias`.
    ///
    /// # Errors
    /// When a tensor is unreadable, or not `[OUT, IN]` and `[OUT]`.
    pub fn load_biased(weights: &Selected<'_>, name: &str, device: &B::Device) -> Result<Self> {
        let weight = stack(weights, &[name], "weight", &[IN])?;
        let bias = stack(weights, &[name], "bias", &[])?;
        Self::new(device, weight, Some(bias))
    }

    /// `x Wᵀ + b`, one value per row and head, never rounded to the element type.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn forward<'a>(&self, x: impl Into<RowsView<'a, B, IN>>) -> Result<PerHead<B, OUT>>
    where
        B: 'a,
    {
        let x = x.into();
        product("a linear's output", &[x.rows(), OUT])?;
        let bias = self.bias.as_ref();
        let buffer = B::accum_linear(&self.device, x.strided(), &self.weight, bias, OUT)?;
        Ok(PerHead {
            device: self.device.clone(),
            buffer,
            rows: x.rows(),
        })
    }

    /// The gradient of `x`: `dx = dy W`, rounded once.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn backward_input(&self, dy: &PerHead<B, OUT>) -> Result<Rows<B, IN>> {
        let sizes = (dy.rows(), OUT, IN);
        product("a linear's gradient", &[dy.rows(), IN])?;
        Ok(Rows {
            device: self.device.clone(),
            buffer: B::Gradients::accum_linear_backward(
                &self.device,
                &dy.buffer,
                &self.weight,
                sizes,
            )?,
            rows: dy.rows(),
        })
    }
}

/// Refuses lengths that are not `[OUT, IN]` and `[OUT]`.
fn checked<S, const IN: usize, const OUT: usize>(weight: &[S], bias: Option<&[S]>) -> Result<()> {
    if weight.len() != product("a linear's weight", &[OUT, IN])? {
        return Err(Error::shape(
            "a linear's weight, flat",
            &[weight.len()],
            &[OUT, IN],
        ));
    }
    match bias {
        Some(bias) if bias.len() != OUT => {
            Err(Error::shape("a linear's bias", &[bias.len()], &[OUT]))
        }
        _ => Ok(()),
    }
}
