//! Small layers as a person would write them, some with a mistake.

/// A module with a layer of 24 wide states, 3 heads and a cache `$cache`.
///
/// A last argument names the mistake that it makes.
macro_rules! small_layer {
    ($module:ident: $cache:ty, padding $padding:ident, prefill $prefill:ident, decode $decode:ident $(, $mistake:ident)?) => {
        pub(crate) mod $module {
            use crate::*;

            const HIDDEN_SIZE: usize = 24;
            const H: usize = 3;
            const C: usize = 10;
            const N: usize = 6;
            const R: usize = 4;
            const V: usize = 5;
            const QK: usize = N + R;
            const SCALE: f64 = 0.316;
            const MISTAKE: &str = concat!("", $(stringify!($mistake))?);
            pub(crate) const TENSORS: [TensorShape; 5] = [
                TensorShape { name: "q_proj.weight", shape: &[H * QK, HIDDEN_SIZE] },
                TensorShape { name: "kv_a_proj_with_mqa.weight", shape: &[C + R, HIDDEN_SIZE] },
                TensorShape { name: "kv_a_layernorm.weight", shape: &[C] },
                TensorShape { name: "kv_b_proj.weight", shape: &[H * (N + V), C] },
                TensorShape { name: "o_proj.weight", shape: &[HIDDEN_SIZE, H * V] },
            ];

            pub(crate) type Cache<B, E = f32> = $cache;

            #[derive(Debug)]
            pub(crate) struct Small<B: Backend = Cpu<f32>> {
                q: Linear<B, HIDDEN_SIZE, { H * QK }>,
                kv_down: Linear<B, HIDDEN_SIZE, { C + R }>,
                norm: RmsNorm<B, C>,
                kv_up: Linear<B, C, { H * (N + V) }>,
                out: Linear<B, { H * V }, HIDDEN_SIZE>,
                rotary: Rotary<B, Interleaved, Half, R>,
            }

            struct Projected<B: Backend> {
                q: Heads<B, H, QK>,
                latent: Rows<B, C>,
                k_rope: RopeKey<B, Half, R>,
            }

            impl<B: Backend> Small<B> {
                pub(crate) fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self> {
                    let weights = weights.exactly(prefix, &TENSORS)?;
                    Ok(Self {
                        q: Linear::load(&weights, &["q_proj"], device)?,
                        kv_down: Linear::load(&weights, &["kv_a_proj_with_mqa"], device)?,
                        norm: RmsNorm::load(&weights, "kv_a_layernorm", 1e-6, device)?,
                        kv_up: Linear::load(&weights, &["kv_b_proj"], device)?,
                        out: Linear::load(&weights, &["o_proj"], device)?,
                        rotary: Rotary::new(device, &[1.0, 0.02], 1.0)?,
                    })
                }

                fn project(&self, hidden: &Rows<B, HIDDEN_SIZE>, positions: &[u32], probe: &mut dyn Probe) -> Result<Projected<B>> {
                    let angles = self.rotary.angles(positions)?;
                    let q = self.rotary.heads(self.q.forward(hidden)?.into_heads::<H, QK>(), &angles)?;
                    let kv_down = self.kv_down.forward(hidden)?;
                    let latent = self.norm.forward(kv_down.columns::<0, C>())?;
                    let k_rope = self.rotary.key(kv_down.columns::<C, R>(), &angles)?;
                    probe::record(probe, "mid.q", &q)?;
                    probe::record(probe, "mid.kv_latent", &latent)?;
                    probe::record(probe, "mid.k_pe", &k_rope)?;
                    Ok(Projected { q, latent, k_rope })
                }

                fn finish(&self, attended: Attended<B, H, V>, probe: &mut dyn Probe) -> Result<Rows<B, HIDDEN_SIZE>> {
                    probe::record(probe, "mid.lse", attended.lse())?;
                    probe::record(probe, "mid.max_logit", attended.max_logit())?;
                    let out = attended.into_out()?.into_rows::<{ H * V }>();
                    probe::record(probe, "mid.attn_out", &out)?;
                    self.out.forward(&out)
                }

                fn forward(
                    &self,
                    hidden: &Rows<B, HIDDEN_SIZE>,
                    positions: &[u32],
                    mask: &Mask,
                    probe: &mut dyn Probe,
                ) -> Result<Rows<B, HIDDEN_SIZE>> {
                    let padding = if MISTAKE == "attends_to_padding" { Padding::Allowed } else { Padding::$padding };
                    let mut segments = mask.segments(hidden.rows(), Visibility::CAUSAL, padding)?;
                    if MISTAKE == "ignores_packing" {
                        segments = Mask::dense(1, hidden.rows()).segments(hidden.rows(), Visibility::CAUSAL, padding)?;
                    }
                    let Projected { q, latent, k_rope } = self.project(hidden, positions, probe)?;
                    let kv = self.kv_up.forward(&latent)?.into_heads::<H, { N + V }>();
                    self.finish(attention::expanded(&q, &kv, &k_rope, &segments, SCALE)?, probe)
                }

                fn prefill<E: CacheFormat>(
                    &self,
                    cache: &mut Cache<B, E>,
                    batch: &Batch,
                    hidden: &Rows<B, HIDDEN_SIZE>,
                    probe: &mut dyn Probe,
                ) -> Result<Rows<B, HIDDEN_SIZE>> {
                    self.$prefill(cache, batch, hidden, probe)
                }

                fn decode<E: CacheFormat>(
                    &self,
                    cache: &mut Cache<B, E>,
                    batch: &Batch,
                    hidden: &Rows<B, HIDDEN_SIZE>,
                    probe: &mut dyn Probe,
                ) -> Result<Rows<B, HIDDEN_SIZE>> {
                    self.$decode(cache, batch, hidden, probe)
                }

                small_layer!(@form $prefill);
                small_layer!(@other $prefill, $decode);
            }

            crate::layer_traits!(Small: probed forward, prefill, decode);
        }
    };
    (@other expanded, expanded) => {};
    (@other absorbed, absorbed) => {};
    (@other naive, naive) => {};
    (@other $first:ident, $second:ident) => { small_layer!(@form $second); };
    (@form absorbed) => {
        fn absorbed<E: CacheFormat>(
            &self,
            cache: &mut Cache<B, E>,
            batch: &Batch,
            hidden: &Rows<B, HIDDEN_SIZE>,
            probe: &mut dyn Probe,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            cache.check(batch, hidden.rows())?;
            let Projected { q, latent, k_rope } = self.project(hidden, batch.positions(), probe)?;
            cache.write(batch, &latent, &k_rope)?;
            let scale = if MISTAKE == "forgets_the_scale" { 1.0 } else { SCALE };
            let q_latent = absorb::queries(&self.kv_up, q.part::<0, N>())?;
            let attended: Attended<B, H, C> = cache.attend(batch, &q_latent, q.part::<N, R>(), Visibility::CAUSAL, scale)?;
            probe::record(probe, "mid.lse", attended.lse())?;
            probe::record(probe, "mid.max_logit", attended.max_logit())?;
            let out: Heads<B, H, V> = absorb::values(&self.kv_up, &attended.into_out()?)?;
            let out = out.into_rows::<{ H * V }>();
            probe::record(probe, "mid.attn_out", &out)?;
            self.out.forward(&out)
        }
    };
    (@form expanded) => {
        fn expanded<E: CacheFormat>(
            &self,
            cache: &mut Cache<B, E>,
            batch: &Batch,
            hidden: &Rows<B, HIDDEN_SIZE>,
            probe: &mut dyn Probe,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            cache.check(batch, hidden.rows())?;
            let Projected { q, latent, k_rope } = self.project(hidden, batch.positions(), probe)?;
            let attended: Attended<B, H, V> = if MISTAKE == "forgets_the_context" {
                let kv = self.kv_up.forward(&latent)?.into_heads::<H, { N + V }>();
                attention::expanded(&q, &kv, &k_rope, &batch.segments(Visibility::CAUSAL)?, SCALE)?
            } else {
                let context = cache.context(batch, &latent, &k_rope, 5, Visibility::CAUSAL);
                attention::over_context(&q, context, SCALE, |latent| {
                    Ok(self.kv_up.forward(latent)?.into_heads::<H, { N + V }>())
                })?
            };
            cache.write(batch, &latent, &k_rope)?;
            self.finish(attended, probe)
        }
    };
    (@form naive) => {
        fn naive<E: CacheFormat>(
            &self,
            cache: &mut Cache<B, E>,
            batch: &Batch,
            hidden: &Rows<B, HIDDEN_SIZE>,
            probe: &mut dyn Probe,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            cache.check(batch, hidden.rows())?;
            let Projected { q, latent, k_rope } = self.project(hidden, batch.positions(), probe)?;
            let kv = self.kv_up.forward(&latent)?.into_heads::<H, { N + V }>();
            cache.write(batch, &kv, &k_rope)?;
            self.finish(cache.attend(batch, &q, Visibility::CAUSAL, SCALE)?, probe)
        }
    };
}

small_layer!(usual: LatentCache<B, E, Half, Paged<8>, C, R>, padding Refused, prefill expanded, decode absorbed);
small_layer!(swapped: LatentCache<B, E, Half, Contiguous, C, R>, padding Allowed, prefill absorbed, decode expanded);
small_layer!(naive: NaiveCache<B, E, Half, Paged<4>, H, QK, V>, padding Refused, prefill naive, decode naive);
small_layer!(unscaled: LatentCache<B, E, Half, Paged<8>, C, R>, padding Refused, prefill expanded, decode absorbed, forgets_the_scale);
small_layer!(forgetful: LatentCache<B, E, Half, Paged<8>, C, R>, padding Allowed, prefill expanded, decode absorbed, forgets_the_context);
small_layer!(unpacked: LatentCache<B, E, Half, Paged<8>, C, R>, padding Allowed, prefill expanded, decode absorbed, ignores_packing);
small_layer!(unpadded: LatentCache<B, E, Half, Paged<8>, C, R>, padding Refused, prefill expanded, decode absorbed, attends_to_padding);
