//! Generated layers behind traits, for code over many layers: the proofs and the driver of `run` and `verify`.
//!
//! A generated layer has inherent functions whose widths are in their types. These traits take [`Tensor`]s, whose width is a
//! run-time value, so that one function can be written for all layers. [`layer_traits!`](crate::layer_traits) implements them.
//!
//! **Which cache.** A layer's `Cache<B, F>` is generic over the format that it stores. Proofs want it to store exactly
//! what the backend computes (`F = B::Elem`), `run` wants the format that the spec names. So [`Caches::Cache`] stays generic,
//! and [`Caches::Stored`] is the spec's choice.

use crate::{Backend, Batch, CacheFormat, Mask, Probe, Result, Tensor, TensorShape, Weights};

/// A layer that can be loaded.
pub trait Load<B: Backend>: Sized {
    /// Width of what goes in and comes out.
    const HIDDEN_SIZE: usize;
    /// The tensors that it needs, by their names below its prefix.
    const TENSORS: &'static [TensorShape];

    /// Loads the layer from the tensors below `prefix`.
    ///
    /// # Errors
    /// The tensors below `prefix` are not exactly [`TENSORS`](Self::TENSORS).
    fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self>;
}

/// A layer with the phase `forward`: whole sequences, no cache.
pub trait Forward<B: Backend>: Load<B> {
    /// `hidden` `[rows, h]` -> `[rows, h]`.
    ///
    /// # Errors
    /// Whatever the layer's own `forward` refuses; `hidden` of another width.
    fn forward_erased(
        &self,
        hidden: &Tensor<B>,
        positions: &[u32],
        mask: &Mask,
        probe: &mut dyn Probe,
    ) -> Result<Tensor<B>>;
}

/// A layer with a cached phase.
pub trait Caches<B: Backend>: Load<B> {
    /// Its cache, storing entries in the format `F`.
    type Cache<F: CacheFormat>: KvCache<B>;
    /// The format that the spec names.
    type Stored: CacheFormat;
}

/// A layer with the phase `prefill`: a ragged batch, planned for many new tokens per request.
pub trait Prefill<B: Backend>: Caches<B> {
    /// `hidden` `[rows, h]`, one row per new token of `batch` -> `[rows, h]`. The new tokens are cached.
    ///
    /// # Errors
    /// Whatever the layer's own `prefill` refuses; `hidden` of another width.
    fn prefill_erased<F: CacheFormat>(
        &self,
        cache: &mut Self::Cache<F>,
        batch: &Batch,
        hidden: &Tensor<B>,
        probe: &mut dyn Probe,
    ) -> Result<Tensor<B>>;
}

/// A layer with the phase `decode`: a ragged batch, planned for few new tokens per request.
pub trait Decode<B: Backend>: Caches<B> {
    /// `hidden` `[rows, h]`, one row per new token of `batch` -> `[rows, h]`. The new tokens are cached.
    ///
    /// # Errors
    /// Whatever the layer's own `decode` refuses; `hidden` of another width.
    fn decode_erased<F: CacheFormat>(
        &self,
        cache: &mut Self::Cache<F>,
        batch: &Batch,
        hidden: &Tensor<B>,
        probe: &mut dyn Probe,
    ) -> Result<Tensor<B>>;
}

/// What a cache of any format and layout can be asked.
///
/// A *block* is what a sequence's block list names: a page of a paged cache, one request's run of tokens in a contiguous one.
pub trait KvCache<B: Backend>: Sized {
    /// How it stores.
    type Format: CacheFormat;
    /// Tokens per page; `None` for a contiguous cache.
    const PAGE_SIZE: Option<usize>;
    /// Stored values per token.
    const ELEMENTS_PER_TOKEN: usize;

    /// Bytes per token; what pads whole blocks is not counted.
    fn bytes_per_token() -> usize;

    /// An empty cache of `blocks` blocks. `tokens_per_block` is used by a contiguous cache only; a page's size is its type's.
    ///
    /// # Errors
    /// It does not fit in memory.
    fn with_blocks(device: &B::Device, blocks: usize, tokens_per_block: usize) -> Result<Self>;

    /// Overwrites every element, also of free blocks: proofs fill caches with NaN to show that only written tokens are read.
    ///
    /// # Errors
    /// The device refuses.
    fn fill(&mut self, value: f64) -> Result<()>;

    /// The first `tokens` tokens of a request whose blocks are `blocks`: latents `[tokens, r_kv]` and rotated shared keys
    /// `[tokens, d_r]` in the cache's own rope layout. `None` for a naive cache.
    ///
    /// # Errors
    /// `blocks` names a block that the cache lacks, or holds fewer than `tokens`.
    fn latent_rows(&self, blocks: &[u32], tokens: usize) -> Result<Option<(Vec<f64>, Vec<f64>)>>;
}

/// Implements this crate's erased traits for a generated layer: [`Load`], and a trait for each phase.
///
/// ```text
/// mla_runtime::layer_traits!(Name: forward, prefill, decode);           // any non-empty subset, in any order
/// mla_runtime::layer_traits!(Name: probed forward, prefill, decode);    // the functions take a probe
/// ```
///
/// It stands in the module of the layer and uses these items of it:
///
/// - `Name<B: Backend>` with `load(&Weights, &str, &B::Device) -> Result<Self>`;
/// - `HIDDEN_SIZE: usize` and `TENSORS: [TensorShape; _]`;
/// - for `forward`: `forward(&self, &Rows<B, HIDDEN_SIZE>, &[u32], &Mask) -> Result<Rows<B, HIDDEN_SIZE>>`;
/// - for `prefill` and `decode`: `Cache<B, F = ...>` and
///   `prefill<F: CacheFormat>(&self, &mut Cache<B, F>, &Batch, &Rows<B, HIDDEN_SIZE>) -> Result<Rows<B, HIDDEN_SIZE>>`;
/// - with `probed`, every one of these functions has a last parameter `probe: &mut dyn Probe`.
#[macro_export]
macro_rules! layer_traits {
    ($layer:ident: probed $($phase:ident),+ $(,)?) => {
        $crate::layer_traits!(@load $layer);
        $crate::layer_traits!(@caches $layer; $($phase),+);
        $($crate::layer_traits!(@phase $layer, $phase, probed);)+
    };
    ($layer:ident: $($phase:ident),+ $(,)?) => {
        $crate::layer_traits!(@load $layer);
        $crate::layer_traits!(@caches $layer; $($phase),+);
        $($crate::layer_traits!(@phase $layer, $phase, plain);)+
    };
    (@load $layer:ident) => {
        impl<B: $crate::Backend> $crate::Load<B> for $layer<B> {
            const HIDDEN_SIZE: usize = HIDDEN_SIZE;
            const TENSORS: &'static [$crate::TensorShape] = &TENSORS;

            fn load(weights: &$crate::Weights, prefix: &str, device: &B::Device) -> $crate::Result<Self> {
                <$layer<B>>::load(weights, prefix, device)
            }
        }
    };
    (@caches $layer:ident;) => {};
    (@caches $layer:ident; forward $(, $phase:ident)*) => {
        $crate::layer_traits!(@caches $layer; $($phase),*);
    };
    (@caches $layer:ident; $first:ident $(, $phase:ident)*) => {
        impl<B: $crate::Backend> $crate::Caches<B> for $layer<B> {
            type Cache<F: $crate::CacheFormat> = Cache<B, F>;
            type Stored = <Cache<B> as $crate::KvCache<B>>::Format;
        }
    };
    (@phase $layer:ident, forward, $kind:ident) => {
        impl<B: $crate::Backend> $crate::Forward<B> for $layer<B> {
            fn forward_erased(
                &self,
                hidden: &$crate::Tensor<B>,
                positions: &[u32],
                mask: &$crate::Mask,
                probe: &mut dyn $crate::Probe,
            ) -> $crate::Result<$crate::Tensor<B>> {
                let hidden = hidden.to_rows::<HIDDEN_SIZE>()?;
                let out = $crate::layer_traits!(@call $kind, probe, self.forward(&hidden, positions, mask))?;
                Ok(out.into())
            }
        }
    };
    (@phase $layer:ident, prefill, $kind:ident) => {
        $crate::layer_traits!(@cached $layer, $kind, Prefill, prefill_erased, prefill);
    };
    (@phase $layer:ident, decode, $kind:ident) => {
        $crate::layer_traits!(@cached $layer, $kind, Decode, decode_erased, decode);
    };
    (@cached $layer:ident, $kind:ident, $trait:ident, $erased:ident, $function:ident) => {
        impl<B: $crate::Backend> $crate::$trait<B> for $layer<B> {
            fn $erased<F: $crate::CacheFormat>(
                &self,
                cache: &mut Cache<B, F>,
                batch: &$crate::Batch,
                hidden: &$crate::Tensor<B>,
                probe: &mut dyn $crate::Probe,
            ) -> $crate::Result<$crate::Tensor<B>> {
                let hidden = hidden.to_rows::<HIDDEN_SIZE>()?;
                let out = $crate::layer_traits!(@call $kind, probe, self.$function(cache, batch, &hidden))?;
                Ok(out.into())
            }
        }
    };
    (@call plain, $probe:ident, $self:ident.$function:ident($($argument:expr),*)) => {{
        let _ = $probe;
        $self.$function($($argument),*)
    }};
    (@call probed, $probe:ident, $self:ident.$function:ident($($argument:expr),*)) => {
        $self.$function($($argument),*, $probe)
    };
}
