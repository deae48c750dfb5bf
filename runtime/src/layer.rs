//! Generated layers behind traits, for code over many layers: the proofs and the driver of `run` and `verify`.
//!
//! A generated layer has inherent functions whose widths are in their types. These traits take [`Tensor`]s, whose width is a
//! run-time value, so that one function can be written for all layers. [`layer_traits!`](crate::layer_traits) implements them.
//!
//! **Which cache.** A layer's `Cache<B, F>` is generic over the format that it stores, and over a second one where it holds an indexer's
//! keys. Proofs want it to store exactly what the backend computes (`B::Elem`), `run` wants the formats that the spec names. So
//! [`Caches::Cache`] stays generic, and [`Caches::Stored`] and [`Caches::StoredIndex`] are the spec's choice.
//!
//! **Which arguments.** What only some layers' functions take comes in [`Extras`]; a layer that lacks one of its own says so.

use crate::{
    Backend, Batch, CacheFormat, Extras, Filling, Mask, Probe, Result, Tensor, TensorShape, Weights,
};

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
        extras: &mut Extras<'_, B>,
        probe: &mut dyn Probe,
    ) -> Result<Tensor<B>>;
}

/// A layer with a cached phase.
pub trait Caches<B: Backend>: Load<B> {
    /// Its cache, storing entries in the format `F` and an indexer's keys, if it has any, in `I`.
    type Cache<F: CacheFormat, I: CacheFormat>: KvCache<B> + Send + Sync + 'static;
    /// The format that the spec names for the layer's own entries, or for those of its source where it has none.
    type Stored: CacheFormat;
    /// The format that the spec names for an indexer's keys; [`Stored`](Self::Stored) where the layer holds none.
    type StoredIndex: CacheFormat;
}

/// A layer with the phase `prefill`: a ragged batch, planned for many new tokens per request.
pub trait Prefill<B: Backend>: Caches<B> {
    /// `hidden` `[rows, h]`, one row per new token of `batch` -> `[rows, h]`. The new tokens are cached.
    ///
    /// # Errors
    /// Whatever the layer's own `prefill` refuses; `hidden` of another width.
    fn prefill_erased<F: CacheFormat, I: CacheFormat>(
        &self,
        cache: &mut Self::Cache<F, I>,
        batch: &Batch,
        hidden: &Tensor<B>,
        extras: &mut Extras<'_, B>,
        probe: &mut dyn Probe,
    ) -> Result<Tensor<B>>;
}

/// A layer with the phase `decode`: a ragged batch, planned for few new tokens per request.
pub trait Decode<B: Backend>: Caches<B> {
    /// `hidden` `[rows, h]`, one row per new token of `batch` -> `[rows, h]`. The new tokens are cached.
    ///
    /// # Errors
    /// Whatever the layer's own `decode` refuses; `hidden` of another width.
    fn decode_erased<F: CacheFormat, I: CacheFormat>(
        &self,
        cache: &mut Self::Cache<F, I>,
        batch: &Batch,
        hidden: &Tensor<B>,
        extras: &mut Extras<'_, B>,
        probe: &mut dyn Probe,
    ) -> Result<Tensor<B>>;
}

/// A layer with the phase `mixed`: a ragged batch, in which each request is attended to in the form that is the cheaper for it.
pub trait Mixed<B: Backend>: Caches<B> {
    /// From how many new tokens on that is MHA, as [`Batch::forms`] takes it.
    const MHA_FROM: &'static [(usize, usize)];

    /// `hidden` `[rows, h]`, one row per new token of `batch` -> `[rows, h]`. The new tokens are cached.
    ///
    /// # Errors
    /// Whatever the layer's own `mixed` refuses; `hidden` of another width.
    fn mixed_erased<F: CacheFormat, I: CacheFormat>(
        &self,
        cache: &mut Self::Cache<F, I>,
        batch: &Batch,
        hidden: &Tensor<B>,
        extras: &mut Extras<'_, B>,
        probe: &mut dyn Probe,
    ) -> Result<Tensor<B>>;
}

/// What a cache of any format and layout can be asked.
///
/// A *block* is what a sequence's block list names: a page of a paged cache, one request's run of tokens in a contiguous one.
pub trait KvCache<B: Backend>: Sized {
    /// How it stores.
    type Format: CacheFormat;
    /// How it stores an indexer's keys; [`Format`](Self::Format) where it holds none.
    type IndexFormat: CacheFormat;
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

    /// Whether a batch with `rows` input rows can be written and read.
    ///
    /// # Errors
    /// `rows` is not the batch's tokens, a block id is out of range or named twice, a request lacks room, or a slot would be written
    /// twice or while it is read.
    fn check(&self, batch: &Batch, rows: usize) -> Result<()>;

    /// Overwrites every element, also of free blocks.
    ///
    /// # Errors
    /// The device refuses.
    fn fill_with(&mut self, with: Filling) -> Result<()>;

    /// The same, with one value: proofs fill caches with NaN to show that only written tokens are read.
    ///
    /// # Errors
    /// The device refuses.
    fn fill(&mut self, value: f64) -> Result<()> {
        self.fill_with(Filling::Value(value))
    }

    /// The first `tokens` tokens of a request whose blocks are `blocks`: latents `[tokens, r_kv]` and rotated shared keys
    /// `[tokens, d_r]` in the cache's own rope layout. `None` for a naive cache.
    ///
    /// # Errors
    /// `blocks` names a block that the cache lacks, or holds fewer than `tokens`.
    fn latent_rows(&self, blocks: &[u32], tokens: usize) -> Result<Option<(Vec<f64>, Vec<f64>)>>;

    /// An indexer's keys `[tokens, d_i]` of the same tokens. `None` where the cache holds none.
    ///
    /// # Errors
    /// As [`latent_rows`](Self::latent_rows).
    fn index_rows(&self, _blocks: &[u32], _tokens: usize) -> Result<Option<Vec<f64>>> {
        Ok(None)
    }
}

/// Implements this crate's erased traits for a generated layer: [`Load`], and a trait for each phase.
///
/// ```text
/// mla_runtime::layer_traits!(Name: forward, prefill, decode, mixed);    // any non-empty subset, in any order
/// mla_runtime::layer_traits!(Name: load);                               // a layer that is trained alone
/// mla_runtime::layer_traits!(Name: probed forward, prefill, decode);    // the functions take a probe
/// mla_runtime::layer_traits!(Name: probed indexed forward(topk: write), prefill(topk: write, bias));
/// ```
///
/// It stands in the module of the layer and uses these items of it:
///
/// - `Name<B: Backend>` with `load(&Weights, &str, &B::Device) -> Result<Self>`;
/// - `HIDDEN_SIZE: usize` and `TENSORS: [TensorShape; _]`;
/// - for `forward`: `forward(&self, &Rows<B, HIDDEN_SIZE>, &[u32], &Mask) -> Result<Rows<B, HIDDEN_SIZE>>`;
/// - for `prefill`, `decode` and `mixed`: `Cache<B, F = ...>` and
///   `prefill<F: CacheFormat>(&self, &mut Cache<B, F>, &Batch, &Rows<B, HIDDEN_SIZE>) -> Result<Rows<B, HIDDEN_SIZE>>`;
/// - for `mixed`: `MHA_FROM: [(usize, usize); _]` besides;
/// - with `probed`, every one of these functions has a last parameter `probe: &mut dyn Probe`.
///
/// What the layer's cache is, is said in front of the phases when it is not `Cache<B, F>`:
///
/// - `indexed`: `Cache<B, F = ..., I = ...>`, an indexer's keys in the format `I`; the functions are generic over `F` and `I`;
/// - `index_only`: `Cache<B, I = ...>`, an indexer's keys only, and `SourceCache<B, F = ...>`; the functions are generic over `F` and
///   `I`;
/// - `no_cache`: none; the functions take no cache, and are generic over the format `F` of `SourceCache<B, F = ...>`.
///
/// What each function takes between these parameters and the probe is listed behind its phase, in the function's order:
///
/// | listed | parameter | from |
/// |---|---|---|
/// | `context` | `&Rows<B, _>` | [`Extras::context`] |
/// | `context_mask` | `&Mask` | [`Extras::context_mask`] |
/// | `shared_kv: write`, `shared_kv: read` | `&mut SharedKv<B, ..>`, `&SharedKv<B, ..>` | [`Extras::shared_kv`] |
/// | `source` | `&SourceCache<B, F>` | [`Extras::source`] |
/// | `topk: write`, `topk: read` | `&mut TopK<B, _>`, `&TopK<B, _>` | [`Extras::topk`] |
/// | `bias` | `&AttentionBias<B>` | [`Extras::bias`] |
/// | `dropout` | `Option<Dropout>` | [`Extras::dropout`] |
#[macro_export]
macro_rules! layer_traits {
    ($layer:ident: probed $($rest:tt)+) => {
        $crate::layer_traits!(@cache $layer probed; $($rest)+);
    };
    ($layer:ident: $($rest:tt)+) => {
        $crate::layer_traits!(@cache $layer plain; $($rest)+);
    };
    (@cache $layer:ident $kind:ident; indexed $($rest:tt)+) => {
        $crate::layer_traits!(@all $layer $kind indexed; $($rest)+);
    };
    (@cache $layer:ident $kind:ident; index_only $($rest:tt)+) => {
        $crate::layer_traits!(@all $layer $kind index_only; $($rest)+);
    };
    (@cache $layer:ident $kind:ident; no_cache $($rest:tt)+) => {
        $crate::layer_traits!(@all $layer $kind no_cache; $($rest)+);
    };
    (@cache $layer:ident $kind:ident; $($rest:tt)+) => {
        $crate::layer_traits!(@all $layer $kind own; $($rest)+);
    };
    (@all $layer:ident $kind:ident $cache:ident; load) => {
        $crate::layer_traits!(@load $layer);
    };
    (@all $layer:ident $kind:ident $cache:ident; $($phase:ident $(($($extra:tt)*))?),+ $(,)?) => {
        $crate::layer_traits!(@load $layer);
        $crate::layer_traits!(@caches $layer $cache; $($phase),+);
        $($crate::layer_traits!(@phase $layer $kind $cache $phase [$($($extra)*)?]);)+
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
    (@caches $layer:ident $cache:ident;) => {};
    (@caches $layer:ident $cache:ident; forward $(, $phase:ident)*) => {
        $crate::layer_traits!(@caches $layer $cache; $($phase),*);
    };
    (@caches $layer:ident own; $first:ident $(, $phase:ident)*) => {
        impl<B: $crate::Backend> $crate::Caches<B> for $layer<B> {
            type Cache<F: $crate::CacheFormat, I: $crate::CacheFormat> = Cache<B, F>;
            type Stored = <Cache<B> as $crate::KvCache<B>>::Format;
            type StoredIndex = Self::Stored;
        }
    };
    (@caches $layer:ident indexed; $first:ident $(, $phase:ident)*) => {
        impl<B: $crate::Backend> $crate::Caches<B> for $layer<B> {
            type Cache<F: $crate::CacheFormat, I: $crate::CacheFormat> = Cache<B, F, I>;
            type Stored = <Cache<B> as $crate::KvCache<B>>::Format;
            type StoredIndex = <Cache<B> as $crate::KvCache<B>>::IndexFormat;
        }
    };
    (@caches $layer:ident index_only; $first:ident $(, $phase:ident)*) => {
        impl<B: $crate::Backend> $crate::Caches<B> for $layer<B> {
            type Cache<F: $crate::CacheFormat, I: $crate::CacheFormat> = Cache<B, I>;
            type Stored = <SourceCache<B> as $crate::KvCache<B>>::Format;
            type StoredIndex = <Cache<B> as $crate::KvCache<B>>::IndexFormat;
        }
    };
    (@caches $layer:ident no_cache; $first:ident $(, $phase:ident)*) => {
        impl<B: $crate::Backend> $crate::Caches<B> for $layer<B> {
            type Cache<F: $crate::CacheFormat, I: $crate::CacheFormat> = $crate::NoCache;
            type Stored = <SourceCache<B> as $crate::KvCache<B>>::Format;
            type StoredIndex = Self::Stored;
        }
    };
    (@phase $layer:ident $kind:ident $cache:ident forward $extras:tt) => {
        impl<B: $crate::Backend> $crate::Forward<B> for $layer<B> {
            fn forward_erased(
                &self,
                hidden: &$crate::Tensor<B>,
                positions: &[u32],
                mask: &$crate::Mask,
                extras: &mut $crate::Extras<'_, B>,
                probe: &mut dyn $crate::Probe,
            ) -> $crate::Result<$crate::Tensor<B>> {
                let _ = (&extras, &probe);
                let hidden = hidden.lend_rows::<HIDDEN_SIZE>()?;
                let out = $crate::layer_traits!(@call $kind probe extras (self.forward)
                    (&hidden, positions, mask) $extras)?;
                Ok(out.into())
            }
        }
    };
    (@phase $layer:ident $kind:ident $cache:ident prefill $extras:tt) => {
        $crate::layer_traits!(@cached $layer $kind $cache (Prefill, prefill_erased, prefill) $extras {});
    };
    (@phase $layer:ident $kind:ident $cache:ident decode $extras:tt) => {
        $crate::layer_traits!(@cached $layer $kind $cache (Decode, decode_erased, decode) $extras {});
    };
    (@phase $layer:ident $kind:ident $cache:ident mixed $extras:tt) => {
        $crate::layer_traits!(@cached $layer $kind $cache (Mixed, mixed_erased, mixed) $extras {
            const MHA_FROM: &'static [(usize, usize)] = &MHA_FROM;
        });
    };
    (@cached $layer:ident $kind:ident $cache:ident ($trait:ident, $erased:ident, $function:ident) $extras:tt {$($item:item)*}) => {
        impl<B: $crate::Backend> $crate::$trait<B> for $layer<B> {
            $($item)*

            fn $erased<F: $crate::CacheFormat, I: $crate::CacheFormat>(
                &self,
                cache: &mut <Self as $crate::Caches<B>>::Cache<F, I>,
                batch: &$crate::Batch,
                hidden: &$crate::Tensor<B>,
                extras: &mut $crate::Extras<'_, B>,
                probe: &mut dyn $crate::Probe,
            ) -> $crate::Result<$crate::Tensor<B>> {
                let _ = (&cache, &extras, &probe);
                let hidden = hidden.lend_rows::<HIDDEN_SIZE>()?;
                let out = $crate::layer_traits!(@with $cache $kind probe extras (self.$function)
                    cache (batch, &hidden) $extras)?;
                Ok(out.into())
            }
        }
    };
    (@with no_cache $kind:ident $probe:ident $extras:ident $function:tt $cache:ident $arguments:tt $list:tt) => {
        $crate::layer_traits!(@call $kind $probe $extras $function $arguments $list)
    };
    (@with $any:ident $kind:ident $probe:ident $extras:ident $function:tt $cache:ident ($($argument:expr),*) $list:tt) => {
        $crate::layer_traits!(@call $kind $probe $extras $function ($cache, $($argument),*) $list)
    };
    (@call plain $probe:ident $extras:ident ($self:ident.$function:ident) ($($argument:expr),*) []) => {
        $self.$function($($argument),*)
    };
    (@call probed $probe:ident $extras:ident ($self:ident.$function:ident) ($($argument:expr),*) []) => {
        $self.$function($($argument),*, $probe)
    };
    (@call $kind:ident $probe:ident $extras:ident $function:tt ($($argument:expr),*) [context $(, $($rest:tt)*)?]) => {
        $crate::layer_traits!(@call $kind $probe $extras $function
            ($($argument,)* &$crate::extras::context($extras.context)?) [$($($rest)*)?])
    };
    (@call $kind:ident $probe:ident $extras:ident $function:tt ($($argument:expr),*) [context_mask $(, $($rest:tt)*)?]) => {
        $crate::layer_traits!(@call $kind $probe $extras $function
            ($($argument,)* $crate::extras::given($extras.context_mask, "a mask of the context")?) [$($($rest)*)?])
    };
    (@call $kind:ident $probe:ident $extras:ident $function:tt ($($argument:expr),*) [shared_kv: write $(, $($rest:tt)*)?]) => {
        $crate::layer_traits!(@call $kind $probe $extras $function
            ($($argument,)* $extras.shared_kv.writer()?) [$($($rest)*)?])
    };
    (@call $kind:ident $probe:ident $extras:ident $function:tt ($($argument:expr),*) [shared_kv: read $(, $($rest:tt)*)?]) => {
        $crate::layer_traits!(@call $kind $probe $extras $function
            ($($argument,)* $extras.shared_kv.reader()?) [$($($rest)*)?])
    };
    (@call $kind:ident $probe:ident $extras:ident $function:tt ($($argument:expr),*) [source $(, $($rest:tt)*)?]) => {
        $crate::layer_traits!(@call $kind $probe $extras $function
            ($($argument,)* $crate::extras::source::<SourceCache<B, F>>($extras.source)?) [$($($rest)*)?])
    };
    (@call $kind:ident $probe:ident $extras:ident $function:tt ($($argument:expr),*) [topk: write $(, $($rest:tt)*)?]) => {
        $crate::layer_traits!(@call $kind $probe $extras $function
            ($($argument,)* $extras.topk.writer()?) [$($($rest)*)?])
    };
    (@call $kind:ident $probe:ident $extras:ident $function:tt ($($argument:expr),*) [topk: read $(, $($rest:tt)*)?]) => {
        $crate::layer_traits!(@call $kind $probe $extras $function
            ($($argument,)* $extras.topk.reader()?) [$($($rest)*)?])
    };
    (@call $kind:ident $probe:ident $extras:ident $function:tt ($($argument:expr),*) [bias $(, $($rest:tt)*)?]) => {
        $crate::layer_traits!(@call $kind $probe $extras $function
            ($($argument,)* $crate::extras::given($extras.bias, "a bias")?) [$($($rest)*)?])
    };
    (@call $kind:ident $probe:ident $extras:ident $function:tt ($($argument:expr),*) [dropout $(, $($rest:tt)*)?]) => {
        $crate::layer_traits!(@call $kind $probe $extras $function
            ($($argument,)* $extras.dropout) [$($($rest)*)?])
    };
}
