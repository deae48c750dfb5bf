//! What some layers' functions take besides hidden states, for code over many layers.

use std::any::{Any, type_name};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::rows::Rows;
use crate::shared_kv::SharedKvGradients;
use crate::softmax::{AttentionBias, Dropout};
use crate::tensor::Tensor;

/// Further arguments of a layer's function, those that it does not take left empty.
///
/// One `Extras` can accompany a call through all layers of a model: what a layer hands over to later ones stays in it.
#[derive(Debug)]
pub struct Extras<'a, B: Backend> {
    /// What cross attention attends to, `[rows, width]`.
    pub context: Option<&'a Tensor<B>>,
    /// How the context's rows fall into sequences.
    pub context_mask: Option<&'a Mask>,
    /// A [`TopK`](crate::TopK): keys selected by a layer for itself and for later ones.
    pub topk: Handover,
    /// A [`SharedKv`](crate::SharedKv): latents and rotated keys of a layer for later ones.
    pub shared_kv: Handover,
    /// The cache of the layer whose latents this one attends to.
    pub source: Option<&'a (dyn Any + Send + Sync)>,
    /// Added to the scaled logits.
    pub bias: Option<&'a AttentionBias<B>>,
    /// Which probabilities are dropped, if any.
    pub dropout: Option<Dropout>,
    /// The gradients of latents `[rows, r_kv]` and rotated keys `[rows, d_r]` that the layer handed to others (a backward pass).
    pub d_shared_kv: Option<[&'a Tensor<B>; 2]>,
    /// What the gradients of an indexer's loss are multiplied by (a backward pass).
    pub loss_scale: f64,
}

impl<B: Backend> Default for Extras<'_, B> {
    fn default() -> Self {
        Self {
            context: None,
            context_mask: None,
            topk: Handover::default(),
            shared_kv: Handover::default(),
            source: None,
            bias: None,
            dropout: None,
            d_shared_kv: None,
            loss_scale: 1.0,
        }
    }
}

/// A place for what one layer hands over to later ones, whatever its type.
#[derive(Debug, Default)]
pub struct Handover(Option<Box<dyn Any + Send + Sync>>);

/// What can be made from values on the host, for code that does not know its widths.
pub trait FromHost: Any + Send + Sync + Sized {
    /// The values.
    type Host: Any + Send + Sync;

    /// The same on the device.
    ///
    /// # Errors
    /// When the values don't fit the type.
    fn from_host(host: &Self::Host) -> Result<Self>;
}

impl Handover {
    /// The `T` to be written; an empty one where there is none, or something of another type.
    ///
    /// # Errors
    /// Never: what is there is a `T`, or has just been made.
    pub fn writer<T: Any + Default + Send + Sync>(&mut self) -> Result<&mut T> {
        if self.0.as_ref().is_some_and(|value| !value.is::<T>()) {
            self.0 = None;
        }
        let value = self.0.get_or_insert_with(|| Box::new(T::default()));
        value.downcast_mut().ok_or_else(|| missing::<T>())
    }

    /// Puts values of the host in place of an earlier layer; the first reader says what they become.
    pub fn of_host<H: Any + Send + Sync>(host: H) -> Self {
        Self(Some(Box::new(host)))
    }

    /// The `T` that an earlier layer wrote, or that values of the host make.
    ///
    /// # Errors
    /// When there is none; when the values don't fit.
    pub fn reader<T: FromHost>(&mut self) -> Result<&T> {
        let host = self.0.as_ref().and_then(|value| value.downcast_ref());
        if let Some(made) = host.map(T::from_host).transpose()? {
            self.0 = Some(Box::new(made));
        }
        let value = self.0.as_ref().and_then(|value| value.downcast_ref());
        value.ok_or_else(|| missing::<T>())
    }
}

fn missing<T>() -> Error {
    let name = type_name::<T>();
    Error::MissingExtra(format!("no layer before this one has written a {name}"))
}

/// An argument that the layer's function can't do without.
///
/// # Errors
/// When it is missing.
#[doc(hidden)]
pub fn given<'a, T>(argument: Option<&'a T>, name: &str) -> Result<&'a T> {
    argument.ok_or_else(|| Error::MissingExtra(format!("the layer's function needs {name}")))
}

/// The context, in the layer's width.
///
/// # Errors
/// When it is missing, or of another width.
#[doc(hidden)]
pub fn context<B: Backend, const W: usize>(context: Option<&Tensor<B>>) -> Result<Rows<B, W>> {
    given(context, "a context")?.to_rows()
}

/// The source layer's cache.
///
/// # Errors
/// When it is missing, or of another type.
#[doc(hidden)]
pub fn source<T: Any>(source: Option<&(dyn Any + Send + Sync)>) -> Result<&T> {
    source
        .and_then(|cache| cache.downcast_ref())
        .ok_or_else(|| {
            let name = type_name::<T>();
            Error::MissingExtra(format!(
                "the layer's function needs the source's cache, a {name}"
            ))
        })
}

/// The gradients of what the layer handed to others, in its widths.
///
/// # Errors
/// When they are missing, or of another width.
#[doc(hidden)]
pub fn shared_kv_gradients<B: Backend, const C: usize, const R: usize>(
    gradients: Option<[&Tensor<B>; 2]>,
) -> Result<SharedKvGradients<B, C, R>> {
    let [latent, k_rope] = given(gradients.as_ref(), "the gradients of shared latents")?;
    SharedKvGradients::new(latent.to_rows()?, k_rope.to_rows()?)
}
