//! The layer of the golden cases `v3_yarn_b1_s33`, `v3_leftpad_b2_s24`, `v3_packed_b1_s40` and `v3_far_positions_b1_s16`, which
//! share one config, written by hand.

use crate::*;

const HIDDEN_SIZE: usize = 64;
const H: usize = 4;
const Q: usize = 24;
const C: usize = 32;
const N: usize = 16;
const R: usize = 8;
const V: usize = 16;
const QK: usize = N + R;
/// (16 + 8)^-1/2 · (0.1 ln 40 + 1)².
const SCALE: f64 = 0.382_498_888_312_041_15;
/// YaRN's, base 10000, factor 40 over 4096.
const INV_FREQ: [f64; R / 2] = [1.0, 0.1, 0.005_125, 2.5e-5];
const TENSORS: [TensorShape; 7] = [
    TensorShape {
        name: "q_a_proj.weight",
        shape: &[Q, HIDDEN_SIZE],
    },
    TensorShape {
        name: "q_a_layernorm.weight",
        shape: &[Q],
    },
    TensorShape {
        name: "q_b_proj.weight",
        shape: &[H * QK, Q],
    },
    TensorShape {
        name: "kv_a_proj_with_mqa.weight",
        shape: &[C + R, HIDDEN_SIZE],
    },
    TensorShape {
        name: "kv_a_layernorm.weight",
        shape: &[C],
    },
    TensorShape {
        name: "kv_b_proj.weight",
        shape: &[H * (N + V), C],
    },
    TensorShape {
        name: "o_proj.weight",
        shape: &[HIDDEN_SIZE, H * V],
    },
];

type Cache<B, E = f32> = LatentCache<B, E, Interleaved, Paged<3>, C, R>;

pub(super) struct GoldenLayer<B: Backend> {
    q_down: Linear<B, HIDDEN_SIZE, Q>,
    q_norm: RmsNorm<B, Q>,
    q_up: Linear<B, Q, { H * QK }>,
    kv_down: Linear<B, HIDDEN_SIZE, { C + R }>,
    kv_norm: RmsNorm<B, C>,
    kv_up: Linear<B, C, { H * (N + V) }>,
    out: Linear<B, { H * V }, HIDDEN_SIZE>,
    rotary: Rotary<B, Interleaved, Interleaved, R>,
}

struct Projected<B: Backend> {
    q: Heads<B, H, QK>,
    latent: Rows<B, C>,
    k_rope: RopeKey<B, Interleaved, R>,
}

impl<B: Backend> GoldenLayer<B> {
    fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self> {
        let weights = weights.exactly(prefix, &TENSORS)?;
        Ok(Self {
            q_down: Linear::load(&weights, &["q_a_proj"], device)?,
            q_norm: RmsNorm::load(&weights, "q_a_layernorm", 1e-6, device)?,
            q_up: Linear::load(&weights, &["q_b_proj"], device)?,
            kv_down: Linear::load(&weights, &["kv_a_proj_with_mqa"], device)?,
            kv_norm: RmsNorm::load(&weights, "kv_a_layernorm", 1e-6, device)?,
            kv_up: Linear::load(&weights, &["kv_b_proj"], device)?,
            out: Linear::load(&weights, &["o_proj"], device)?,
            rotary: Rotary::new(device, &INV_FREQ, 1.0)?,
        })
    }

    fn project(
        &self,
        hidden: &Rows<B, HIDDEN_SIZE>,
        positions: &[u32],
        probe: &mut dyn Probe,
    ) -> Result<Projected<B>> {
        let angles = self.rotary.angles(positions)?;
        let q = self.q_norm.forward(&self.q_down.forward(hidden)?)?;
        let q = self
            .rotary
            .heads(self.q_up.forward(&q)?.into_heads::<H, QK>(), &angles)?;
        let kv_down = self.kv_down.forward(hidden)?;
        let latent = self.kv_norm.forward(kv_down.columns::<0, C>())?;
        let k_rope = self.rotary.key(kv_down.columns::<C, R>(), &angles)?;
        probe::record(probe, "mid.q", &q)?;
        probe::record(probe, "mid.kv_latent", &latent)?;
        probe::record(probe, "mid.k_pe", &k_rope)?;
        Ok(Projected { q, latent, k_rope })
    }

    fn finish(&self, out: Heads<B, H, V>, probe: &mut dyn Probe) -> Result<Rows<B, HIDDEN_SIZE>> {
        probe::record(probe, "mid.attn_out", &out)?;
        self.out.forward(&out.into_rows::<{ H * V }>())
    }

    fn forward(
        &self,
        hidden: &Rows<B, HIDDEN_SIZE>,
        positions: &[u32],
        mask: &Mask,
        probe: &mut dyn Probe,
    ) -> Result<Rows<B, HIDDEN_SIZE>> {
        let segments = mask.segments(hidden.rows(), Visibility::CAUSAL, Padding::Allowed)?;
        let Projected { q, latent, k_rope } = self.project(hidden, positions, probe)?;
        let kv = self.kv_up.forward(&latent)?.into_heads::<H, { N + V }>();
        let attended: Attended<B, H, V> = attention::expanded(&q, &kv, &k_rope, &segments, SCALE)?;
        record(&attended, probe)?;
        self.finish(attended.into_out()?, probe)
    }

    fn prefill<E: CacheFormat>(
        &self,
        cache: &mut Cache<B, E>,
        batch: &Batch,
        hidden: &Rows<B, HIDDEN_SIZE>,
        probe: &mut dyn Probe,
    ) -> Result<Rows<B, HIDDEN_SIZE>> {
        cache.check(batch, hidden.rows())?;
        let Projected { q, latent, k_rope } = self.project(hidden, batch.positions(), probe)?;
        let context = cache.context(batch, &latent, &k_rope, 7, Visibility::CAUSAL);
        let attended: Attended<B, H, V> = attention::over_context(&q, context, SCALE, |latent| {
            let kv = self.kv_up.forward(latent)?;
            Ok(kv.into_heads::<H, { N + V }>())
        })?;
        cache.write(batch, &latent, &k_rope)?;
        record(&attended, probe)?;
        self.finish(attended.into_out()?, probe)
    }

    fn decode<E: CacheFormat>(
        &self,
        cache: &mut Cache<B, E>,
        batch: &Batch,
        hidden: &Rows<B, HIDDEN_SIZE>,
        probe: &mut dyn Probe,
    ) -> Result<Rows<B, HIDDEN_SIZE>> {
        cache.check(batch, hidden.rows())?;
        let Projected { q, latent, k_rope } = self.project(hidden, batch.positions(), probe)?;
        cache.write(batch, &latent, &k_rope)?;
        let q_latent = absorb::queries(&self.kv_up, q.part::<0, N>())?;
        let attended: Attended<B, H, C> = cache.attend(
            batch,
            &q_latent,
            q.part::<N, R>(),
            Visibility::CAUSAL,
            SCALE,
        )?;
        record(&attended, probe)?;
        let z = attended.into_out()?;
        self.finish(absorb::values(&self.kv_up, &z)?, probe)
    }
}

fn record<B: Backend, const W: usize>(
    attended: &Attended<B, H, W>,
    probe: &mut dyn Probe,
) -> Result<()> {
    probe::record(probe, "mid.lse", attended.lse())?;
    probe::record(probe, "mid.max_logit", attended.max_logit())
}

crate::layer_traits!(GoldenLayer: probed forward, prefill, decode);
