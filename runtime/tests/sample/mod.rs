//! A layer written by hand in the look of generated code: LoRA queries, separate norms, a paged latent cache, yarn-free rope.

use mla_runtime::{
    Backend, Batch, CacheFormat, Cpu, Heads, Interleaved, LatentCache, Linear, Mask, Padding,
    Paged, Result, RmsNorm, Rotary, Rows, TensorShape, Visibility, Weights, absorb, attention,
};

pub(crate) const HIDDEN_SIZE: usize = 20;
pub(crate) const NUM_ATTENTION_HEADS: usize = 3;
pub(crate) const Q_LORA_RANK: usize = 10;
pub(crate) const KV_LORA_RANK: usize = 7;
pub(crate) const QK_NOPE_HEAD_DIM: usize = 5;
pub(crate) const QK_ROPE_HEAD_DIM: usize = 4;
pub(crate) const QK_HEAD_DIM: usize = QK_NOPE_HEAD_DIM + QK_ROPE_HEAD_DIM;
pub(crate) const V_HEAD_DIM: usize = 6;
const Q_WIDTH: usize = NUM_ATTENTION_HEADS * QK_HEAD_DIM;
const KV_DOWN_WIDTH: usize = KV_LORA_RANK + QK_ROPE_HEAD_DIM;
const KV_HEAD_WIDTH: usize = QK_NOPE_HEAD_DIM + V_HEAD_DIM;
const KV_UP_WIDTH: usize = NUM_ATTENTION_HEADS * KV_HEAD_WIDTH;
const OUT_WIDTH: usize = NUM_ATTENTION_HEADS * V_HEAD_DIM;
pub(crate) const SOFTMAX_SCALE: f64 = 1.0 / 3.0;
const Q_LAYERNORM_EPS: f64 = 1e-6;
const KV_LAYERNORM_EPS: f64 = 1e-6;
pub(crate) const INV_FREQ: [f64; 2] = [1.0, 0.01];
const COS_SIN_FACTOR: f64 = 1.0;
const CONTEXT_CHUNK: usize = 3;

pub(crate) const TENSORS: [TensorShape; 7] = [
    TensorShape {
        name: "q_a_proj.weight",
        shape: &[Q_LORA_RANK, HIDDEN_SIZE],
    },
    TensorShape {
        name: "q_a_layernorm.weight",
        shape: &[Q_LORA_RANK],
    },
    TensorShape {
        name: "q_b_proj.weight",
        shape: &[Q_WIDTH, Q_LORA_RANK],
    },
    TensorShape {
        name: "kv_a_proj_with_mqa.weight",
        shape: &[KV_DOWN_WIDTH, HIDDEN_SIZE],
    },
    TensorShape {
        name: "kv_a_layernorm.weight",
        shape: &[KV_LORA_RANK],
    },
    TensorShape {
        name: "kv_b_proj.weight",
        shape: &[KV_UP_WIDTH, KV_LORA_RANK],
    },
    TensorShape {
        name: "o_proj.weight",
        shape: &[HIDDEN_SIZE, OUT_WIDTH],
    },
];

pub(crate) type Cache<B, E = f32> =
    LatentCache<B, E, Interleaved, Paged<5>, KV_LORA_RANK, QK_ROPE_HEAD_DIM>;

pub(crate) struct SampleAttention<B: Backend = Cpu<f32>> {
    linear_q_down_proj: Linear<B, HIDDEN_SIZE, Q_LORA_RANK>,
    q_layernorm: RmsNorm<B, Q_LORA_RANK>,
    linear_q_up_proj: Linear<B, Q_LORA_RANK, Q_WIDTH>,
    linear_kv_down_proj: Linear<B, HIDDEN_SIZE, KV_DOWN_WIDTH>,
    kv_layernorm: RmsNorm<B, KV_LORA_RANK>,
    linear_kv_up_proj: Linear<B, KV_LORA_RANK, KV_UP_WIDTH>,
    linear_proj: Linear<B, OUT_WIDTH, HIDDEN_SIZE>,
    rotary: Rotary<B, Interleaved, Interleaved, QK_ROPE_HEAD_DIM>,
}

impl<B: Backend> SampleAttention<B> {
    pub(crate) fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self> {
        let weights = weights.exactly(prefix, &TENSORS)?;
        Ok(Self {
            linear_q_down_proj: Linear::load(&weights, &["q_a_proj"], device)?,
            q_layernorm: RmsNorm::load(&weights, "q_a_layernorm", Q_LAYERNORM_EPS, device)?,
            linear_q_up_proj: Linear::load(&weights, &["q_b_proj"], device)?,
            linear_kv_down_proj: Linear::load(&weights, &["kv_a_proj_with_mqa"], device)?,
            kv_layernorm: RmsNorm::load(&weights, "kv_a_layernorm", KV_LAYERNORM_EPS, device)?,
            linear_kv_up_proj: Linear::load(&weights, &["kv_b_proj"], device)?,
            linear_proj: Linear::load(&weights, &["o_proj"], device)?,
            rotary: Rotary::new(device, &INV_FREQ, COS_SIN_FACTOR)?,
        })
    }

    pub(crate) fn forward(
        &self,
        hidden: &Rows<B, HIDDEN_SIZE>,
        positions: &[u32],
        mask: &Mask,
    ) -> Result<Rows<B, HIDDEN_SIZE>> {
        let segments = mask.segments(hidden.rows(), Visibility::CAUSAL, Padding::Allowed)?;
        let angles = self.rotary.angles(positions)?;

        let q_compressed = self.linear_q_down_proj.forward(hidden)?;
        let q_compressed = self.q_layernorm.forward(&q_compressed)?;
        let q = self
            .linear_q_up_proj
            .forward(&q_compressed)?
            .into_heads::<NUM_ATTENTION_HEADS, QK_HEAD_DIM>();
        let q = self.rotary.heads(q, &angles)?;

        let kv_down = self.linear_kv_down_proj.forward(hidden)?;
        let kv_compressed = self
            .kv_layernorm
            .forward(kv_down.columns::<0, KV_LORA_RANK>())?;
        let k_rope = self
            .rotary
            .key(kv_down.columns::<KV_LORA_RANK, QK_ROPE_HEAD_DIM>(), &angles)?;

        let kv = self
            .linear_kv_up_proj
            .forward(&kv_compressed)?
            .into_heads::<NUM_ATTENTION_HEADS, KV_HEAD_WIDTH>();
        let attended: Heads<B, NUM_ATTENTION_HEADS, V_HEAD_DIM> =
            attention::expanded(&q, &kv, &k_rope, &segments, SOFTMAX_SCALE)?;

        self.linear_proj.forward(&attended.into_rows::<OUT_WIDTH>())
    }

    /// `forward` in the absorbed form.
    pub(crate) fn forward_absorbed(
        &self,
        hidden: &Rows<B, HIDDEN_SIZE>,
        positions: &[u32],
        mask: &Mask,
    ) -> Result<Rows<B, HIDDEN_SIZE>> {
        let segments = mask.segments(hidden.rows(), Visibility::CAUSAL, Padding::Allowed)?;
        let angles = self.rotary.angles(positions)?;
        let q_compressed = self
            .q_layernorm
            .forward(&self.linear_q_down_proj.forward(hidden)?)?;
        let q = self
            .linear_q_up_proj
            .forward(&q_compressed)?
            .into_heads::<NUM_ATTENTION_HEADS, QK_HEAD_DIM>();
        let q = self.rotary.heads(q, &angles)?;
        let kv_down = self.linear_kv_down_proj.forward(hidden)?;
        let kv_compressed = self
            .kv_layernorm
            .forward(kv_down.columns::<0, KV_LORA_RANK>())?;
        let k_rope = self
            .rotary
            .key(kv_down.columns::<KV_LORA_RANK, QK_ROPE_HEAD_DIM>(), &angles)?;
        let q_latent = absorb::queries(&self.linear_kv_up_proj, q.part::<0, QK_NOPE_HEAD_DIM>())?;
        let q_rope = q.part::<QK_NOPE_HEAD_DIM, QK_ROPE_HEAD_DIM>();
        let attended: Heads<B, NUM_ATTENTION_HEADS, KV_LORA_RANK> = attention::absorbed(
            &q_latent,
            q_rope,
            kv_compressed.view(),
            &k_rope,
            &segments,
            SOFTMAX_SCALE,
        )?;
        let out: Heads<B, NUM_ATTENTION_HEADS, V_HEAD_DIM> =
            absorb::values(&self.linear_kv_up_proj, &attended)?;
        self.linear_proj.forward(&out.into_rows::<OUT_WIDTH>())
    }

    pub(crate) fn prefill<E: CacheFormat>(
        &self,
        cache: &mut Cache<B, E>,
        batch: &Batch,
        hidden: &Rows<B, HIDDEN_SIZE>,
    ) -> Result<Rows<B, HIDDEN_SIZE>> {
        cache.check(batch, hidden.rows())?;
        let angles = self.rotary.angles(batch.positions())?;
        let q_compressed = self
            .q_layernorm
            .forward(&self.linear_q_down_proj.forward(hidden)?)?;
        let q = self
            .linear_q_up_proj
            .forward(&q_compressed)?
            .into_heads::<NUM_ATTENTION_HEADS, QK_HEAD_DIM>();
        let q = self.rotary.heads(q, &angles)?;
        let kv_down = self.linear_kv_down_proj.forward(hidden)?;
        let kv_compressed = self
            .kv_layernorm
            .forward(kv_down.columns::<0, KV_LORA_RANK>())?;
        let k_rope = self
            .rotary
            .key(kv_down.columns::<KV_LORA_RANK, QK_ROPE_HEAD_DIM>(), &angles)?;
        let context = cache.context(
            batch,
            &kv_compressed,
            &k_rope,
            CONTEXT_CHUNK,
            Visibility::CAUSAL,
        );
        let attended: Heads<B, NUM_ATTENTION_HEADS, V_HEAD_DIM> =
            attention::over_context(&q, context, SOFTMAX_SCALE, |latent| {
                let kv = self.linear_kv_up_proj.forward(latent)?;
                Ok(kv.into_heads::<NUM_ATTENTION_HEADS, KV_HEAD_WIDTH>())
            })?;
        cache.write(batch, &kv_compressed, &k_rope)?;
        self.linear_proj.forward(&attended.into_rows::<OUT_WIDTH>())
    }

    pub(crate) fn decode<E: CacheFormat>(
        &self,
        cache: &mut Cache<B, E>,
        batch: &Batch,
        hidden: &Rows<B, HIDDEN_SIZE>,
    ) -> Result<Rows<B, HIDDEN_SIZE>> {
        cache.check(batch, hidden.rows())?;
        let angles = self.rotary.angles(batch.positions())?;
        let q_compressed = self
            .q_layernorm
            .forward(&self.linear_q_down_proj.forward(hidden)?)?;
        let q = self
            .linear_q_up_proj
            .forward(&q_compressed)?
            .into_heads::<NUM_ATTENTION_HEADS, QK_HEAD_DIM>();
        let q = self.rotary.heads(q, &angles)?;
        let kv_down = self.linear_kv_down_proj.forward(hidden)?;
        let kv_compressed = self
            .kv_layernorm
            .forward(kv_down.columns::<0, KV_LORA_RANK>())?;
        let k_rope = self
            .rotary
            .key(kv_down.columns::<KV_LORA_RANK, QK_ROPE_HEAD_DIM>(), &angles)?;
        cache.write(batch, &kv_compressed, &k_rope)?;
        let q_latent = absorb::queries(&self.linear_kv_up_proj, q.part::<0, QK_NOPE_HEAD_DIM>())?;
        let attended: Heads<B, NUM_ATTENTION_HEADS, KV_LORA_RANK> = cache.attend(
            batch,
            &q_latent,
            q.part::<QK_NOPE_HEAD_DIM, QK_ROPE_HEAD_DIM>(),
            Visibility::CAUSAL,
            SOFTMAX_SCALE,
        )?;
        let out: Heads<B, NUM_ATTENTION_HEADS, V_HEAD_DIM> =
            absorb::values(&self.linear_kv_up_proj, &attended)?;
        self.linear_proj.forward(&out.into_rows::<OUT_WIDTH>())
    }
}

mla_runtime::layer_traits!(SampleAttention: forward, prefill, decode);
