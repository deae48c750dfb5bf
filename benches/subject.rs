//! The generated layers that are timed.

use std::sync::Arc;

use mla_generated::{deepseek_v2_lite, deepseek_v3};
use mla_runtime::weights::generator::Recipe;
use mla_runtime::{
    Batch, Cpu, CpuDevice, Error, KvCache, Result, Rows, Sequence, TensorShape, Weights,
};

/// A [`Subject`] of a generated layer. Layers share no type: each has its widths in its functions' signatures.
macro_rules! subject {
    ($name:expr, $model:ident::$layer:ident) => {{
        let device = CpuDevice::new();
        let weights = Weights::random("layer", &$model::TENSORS, 0)?;
        let layer: Arc<$model::$layer<Cpu>> =
            Arc::new($model::$layer::load(&weights, "layer", &device)?);
        let sizes = Sizes {
            hidden: $model::HIDDEN_SIZE,
            heads: $model::NUM_ATTENTION_HEADS,
            q_lora: rows_of("q_a_proj.weight", &$model::TENSORS),
            kv_lora: $model::KV_LORA_RANK,
            nope: $model::QK_NOPE_HEAD_DIM,
            rope: $model::QK_ROPE_HEAD_DIM,
            v: $model::V_HEAD_DIM,
            weights: $model::TENSORS
                .iter()
                .map(|tensor| tensor.shape.iter().product::<usize>())
                .sum(),
        };
        let ready = |cached: usize, new: usize| -> Result<_> {
            let (cache, batch) = request::<$model::Cache<Cpu>>(&device, cached, new)?;
            let values = Recipe::for_hidden_states(1).values("hidden", new * $model::HIDDEN_SIZE);
            Ok((cache, batch, Rows::from_vec(&device, values)?))
        };

        let (mut cache, batch, hidden) = ready(0, PREFILL_TOKENS)?;
        finite(&layer.prefill(&mut cache, &batch, &hidden)?.to_vec()?)?;
        let shared = Arc::clone(&layer);
        let prefill: Call = Box::new(move || shared.prefill(&mut cache, &batch, &hidden).map(drop));

        let (mut cache, batch, hidden) = ready(CACHED_TOKENS, 1)?;
        finite(&layer.decode(&mut cache, &batch, &hidden)?.to_vec()?)?;
        let decode: Call = Box::new(move || layer.decode(&mut cache, &batch, &hidden).map(drop));

        Ok(Subject {
            name: $name,
            sizes,
            prefill,
            decode,
        })
    }};
}

/// New tokens of a prefill.
const PREFILL_TOKENS: usize = 512;
/// Cached tokens that a decoded token sees besides itself.
const CACHED_TOKENS: usize = 4096;

/// What is timed of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    /// Many tokens, nothing cached.
    Prefill,
    /// One token, much cached.
    Decode,
}

impl Phase {
    /// All phases.
    pub(crate) const ALL: [Self; 2] = [Self::Prefill, Self::Decode];

    /// How tables call it.
    pub(crate) fn title(self) -> String {
        format!("{} {}", self.name(), self.tokens())
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }

    /// New tokens of a prefill, cached ones of a decode.
    pub(crate) fn tokens(self) -> usize {
        match self {
            Self::Prefill => PREFILL_TOKENS,
            Self::Decode => CACHED_TOKENS,
        }
    }
}

/// A model whose layer can be timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    /// DeepSeek-V2-Lite.
    V2Lite,
    /// DeepSeek-V3.
    V3,
}

impl Shape {
    /// All shapes.
    pub(crate) const ALL: [Self; 2] = [Self::V2Lite, Self::V3];

    /// The shape that the command line calls `name`.
    ///
    /// # Errors
    /// There is none; the message lists those there are.
    pub(crate) fn named(name: &str) -> std::result::Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|shape| shape.name() == name)
            .ok_or_else(|| format!("unknown shape `{name}`, wanted v2-lite or v3"))
    }

    fn name(self) -> &'static str {
        match self {
            Self::V2Lite => "v2-lite",
            Self::V3 => "v3",
        }
    }

    /// The layer with random weights, and inputs for both phases.
    ///
    /// # Errors
    /// The layer refuses, or computes something that is not finite.
    pub(crate) fn subject(self) -> Result<Subject> {
        match self {
            Self::V2Lite => subject!(self.name(), deepseek_v2_lite::DeepSeekV2LiteAttention),
            Self::V3 => subject!(self.name(), deepseek_v3::DeepSeekV3Attention),
        }
    }
}

/// A layer's sizes.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Heads.
    pub(crate) heads: usize,
    /// Width of the query latent; 0 where queries come straight from the residual stream.
    pub(crate) q_lora: usize,
    /// Width of the key-value latent.
    pub(crate) kv_lora: usize,
    /// Unrotated part of a head's query and key.
    pub(crate) nope: usize,
    /// Rotated part.
    pub(crate) rope: usize,
    /// One head's value.
    pub(crate) v: usize,
    /// Elements of all weights.
    weights: usize,
}

impl Sizes {
    /// Multiplications and additions of a prefill: every weight once per token, and causal attention.
    pub(crate) fn prefill_operations(&self) -> f64 {
        let pairs = PREFILL_TOKENS * (PREFILL_TOKENS + 1) / 2;
        let per_pair = self.heads * (self.nope + self.rope + self.v);
        2.0 * (PREFILL_TOKENS * self.weights + pairs * per_pair) as f64
    }

    /// Bytes that a decode has to read: every weight, and what is cached.
    pub(crate) fn decode_bytes(&self) -> f64 {
        (size_of::<f32>() * (self.weights + CACHED_TOKENS * (self.kv_lora + self.rope))) as f64
    }
}

/// One phase of a layer, ready to be called again and again.
type Call = Box<dyn FnMut() -> Result<()> + Send>;

/// A layer to be timed.
pub(crate) struct Subject {
    /// How tables call it.
    pub(crate) name: &'static str,
    /// Its sizes.
    pub(crate) sizes: Sizes,
    prefill: Call,
    decode: Call,
}

impl Subject {
    /// One call of a phase.
    pub(crate) fn call(&mut self, phase: Phase) -> &mut Call {
        match phase {
            Phase::Prefill => &mut self.prefill,
            Phase::Decode => &mut self.decode,
        }
    }
}

/// A cache in which a request has `cached` tokens, and the batch that adds `new` ones.
fn request<C: KvCache<Cpu>>(device: &CpuDevice, cached: usize, new: usize) -> Result<(C, Batch)> {
    let tokens = cached + new;
    let page = C::PAGE_SIZE.unwrap_or(tokens);
    let blocks: Vec<u32> = (0..tokens.div_ceil(page) as u32).collect();
    let mut cache = C::with_blocks(device, blocks.len(), page)?;
    cache.fill(0.25)?;
    let batch = Batch::new(&[Sequence {
        cached,
        new,
        blocks: &blocks,
    }])?;
    Ok((cache, batch))
}

/// The first extent of a tensor; 0 where the layer has none of that name.
fn rows_of(name: &str, tensors: &[TensorShape]) -> usize {
    tensors
        .iter()
        .find(|tensor| tensor.name == name)
        .map_or(0, |tensor| tensor.shape[0])
}

/// Times of a layer that computes nonsense are worth nothing.
fn finite(values: &[f32]) -> Result<()> {
    if values.iter().all(|value| value.is_finite()) {
        Ok(())
    } else {
        Err(Error::Device(
            "the timed layer's output is not finite".to_owned(),
        ))
    }
}
