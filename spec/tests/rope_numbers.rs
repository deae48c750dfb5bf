//! Frequencies, magnitudes and softmax scales against numbers that other implementations computed.
//!
//! The cases named `v3_*` and `v2lite_*` are golden cases made with Hugging Face transformers in float64.

use mla_spec::{
    AttnMask, Core, Dims, DownProjection, KvSource, Latent, Layer, Logits, Norm, Projections,
    Query, QueryScaling, Rope, RopeLayout, RopeScaling, Rotary, Yarn, YarnMagnitude,
    yarn_magnitude,
};

fn yarn(factor: f64, magnitude: YarnMagnitude, mscale_all_dim: f64) -> Yarn {
    Yarn {
        factor,
        original_max_position_embeddings: 4096,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        magnitude,
        mscale_all_dim,
    }
}

fn rotary(scaling: RopeScaling) -> Rotary {
    Rotary {
        theta: 10_000.0,
        layout: RopeLayout::Interleaved,
        scaling,
    }
}

fn deepseek(factor: f64, mscale: f64, mscale_all_dim: f64) -> Rotary {
    rotary(RopeScaling::Yarn(yarn(
        factor,
        YarnMagnitude::Ratio { mscale },
        mscale_all_dim,
    )))
}

fn layer(qk_nope_head_dim: u32, qk_rope_head_dim: u32, rope: Rope) -> Layer {
    Layer {
        name: "Example".to_owned(),
        input_norm: None,
        projections: Projections::Latent(Latent {
            dims: Dims {
                hidden_size: 64,
                num_attention_heads: 4,
                kv_lora_rank: 32,
                qk_nope_head_dim,
                qk_rope_head_dim,
                v_head_dim: 16,
            },
            query: Query::Plain,
            down: DownProjection::Separate {
                q_bias: false,
                kv_bias: false,
            },
            kv_norm: Norm::Identity,
            kv_scale: None,
            k_rope_norm: None,
            kv_source: KvSource::Own { shared: false },
        }),
        rope,
        query_scaling: QueryScaling::None,
        mask: AttnMask::CAUSAL,
        logits: Logits::PLAIN,
        core: Core::Dense,
        gate: None,
        output_bias: false,
        qk_clip: None,
    }
}

#[track_caller]
fn close(found: f64, expected: f64, relative: f64) {
    assert!(
        (found - expected).abs() <= relative * expected.abs(),
        "found {found}, expected {expected}"
    );
}

#[track_caller]
fn all_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .for_each(|(found, expected)| close(*found, *expected, 1e-12));
}

#[test]
fn frequencies_of_plain_rope() {
    all_close(
        &rotary(RopeScaling::None).inv_freq(8),
        &[1.0, 0.1, 0.01, 0.001],
    );
}

#[test]
fn frequencies_of_linear_scaling() {
    let linear = rotary(RopeScaling::Linear { factor: 4.0 });
    all_close(&linear.inv_freq(8), &[0.25, 0.025, 0.0025, 0.00025]);
    assert_eq!(linear.cos_sin_factor(), 1.0);
}

#[test]
fn frequencies_of_yarn() {
    // v3_yarn_b1_s33
    all_close(
        &deepseek(40.0, 1.0, 1.0).inv_freq(8),
        &[1.0, 0.1, 0.005125, 2.5e-05],
    );
    // v3_yarn_mscale_ratio_b1_s16
    all_close(
        &deepseek(16.0, 0.707, 1.0).inv_freq(8),
        &[1.0, 0.1, 0.0053125, 6.25e-05],
    );
    // v3_odd_dims_b2_s17
    let odd = [1.0, 0.03133072462688627, 0.0007540521415111595];
    all_close(&deepseek(40.0, 1.0, 1.0).inv_freq(6), &odd);
    // v3_real_head_dims_bf16_b1_s24
    let real = deepseek(40.0, 1.0, 1.0).inv_freq(64);
    let picked = [real[0], real[10], real[16], real[20], real[31]];
    all_close(
        &picked,
        &[
            1.0,
            0.056234132519034905,
            0.0055,
            0.0007905694150420945,
            3.33380358040831e-06,
        ],
    );
}

#[test]
fn ramp_bounds_that_are_not_rounded() {
    // pair_of(r) = 32 ln(4096 / 2πr) / ln 10000: 10.472.. for 32 rotations, 22.513.. for 1
    let mut exact = yarn(40.0, YarnMagnitude::Constant(1.0), 0.0);
    exact.truncate = false;
    let (low, high) = (10.472240810318025_f64, 22.513440636877274_f64);
    let found = rotary(RopeScaling::Yarn(exact)).inv_freq(64);
    for (pair, found) in found.into_iter().enumerate() {
        let kept = 10_000_f64.powf(-(pair as f64) / 32.0);
        let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
        close(found, kept / 40.0 * ramp + kept * (1.0 - ramp), 1e-12);
    }
}

#[test]
fn equal_betas_make_a_finite_ramp() {
    for truncate in [true, false] {
        let mut kimi = yarn(32.0, YarnMagnitude::Ratio { mscale: 1.0 }, 1.0);
        (kimi.beta_fast, kimi.truncate) = (1.0, truncate);
        let found = rotary(RopeScaling::Yarn(kimi)).inv_freq(64);
        assert!(
            found
                .iter()
                .all(|frequency| frequency.is_finite() && *frequency > 0.0)
        );
        assert!(found.is_sorted_by(|a, b| a > b));
        close(found[31], 10_000_f64.powf(-31.0 / 32.0) / 32.0, 1e-12);
    }
}

#[test]
fn magnitudes() {
    close(yarn_magnitude(40.0, 1.0), 1.3689, 1e-4);
    close(yarn_magnitude(40.0, 0.707), 1.2608, 1e-4);
    close(yarn_magnitude(32.0, 1.0), 1.3466, 1e-4);
    close(yarn_magnitude(128.0, 1.0), 1.4852, 1e-4);
    assert_eq!(yarn_magnitude(1.0, 1.0), 1.0);
    assert_eq!(yarn_magnitude(40.0, 0.0), 1.0);
}

#[test]
fn cos_and_sin_factors() {
    assert_eq!(deepseek(40.0, 1.0, 1.0).cos_sin_factor(), 1.0);
    close(deepseek(40.0, 1.0, 0.0).cos_sin_factor(), 1.369, 1e-3);
    // v3_yarn_mscale_ratio_b1_s16
    close(
        deepseek(16.0, 0.707, 1.0).cos_sin_factor(),
        0.9363975061530204,
        1e-14,
    );
    let constant = yarn(2048.0, YarnMagnitude::Constant(1.25), 0.0);
    assert_eq!(rotary(RopeScaling::Yarn(constant)).cos_sin_factor(), 1.25);
}

#[test]
fn softmax_scales() {
    let scale = |nope, rope_dim, rope| layer(nope, rope_dim, rope).softmax_scale();
    // v3_yarn_b1_s33, v3_yarn_mscale_ratio_b1_s16, v2lite_noqlora_yarn_b1_s16, v3_odd_dims_b2_s17,
    // v3_real_head_dims_bf16_b1_s24, v2_qlora_plain_b2_s33
    close(
        scale(16, 8, Rope::Rotary(deepseek(40.0, 1.0, 1.0))),
        0.38249888831204115,
        1e-14,
    );
    close(
        scale(16, 8, Rope::Rotary(deepseek(16.0, 0.707, 1.0))),
        0.3330061355597345,
        1e-14,
    );
    close(
        scale(16, 8, Rope::Rotary(deepseek(40.0, 0.707, 0.707))),
        0.3244810821936116,
        1e-14,
    );
    close(
        scale(10, 6, Rope::Rotary(deepseek(40.0, 1.0, 1.0))),
        0.46846355177315663,
        1e-14,
    );
    close(
        scale(128, 64, Rope::Rotary(deepseek(40.0, 1.0, 1.0))),
        0.1352337788608801,
        1e-14,
    );
    close(
        scale(16, 8, Rope::Rotary(rotary(RopeScaling::None))),
        0.2041241452319315,
        1e-14,
    );
    // multipliers of the released models
    let multiplier = |factor, mscale| {
        layer(128, 64, Rope::Rotary(deepseek(factor, 1.0, mscale)))
            .softmax_mscale()
            .powi(2)
    };
    close(multiplier(40.0, 1.0), 1.8739, 1e-4);
    close(multiplier(40.0, 0.707), 1.5896, 1e-4);
    close(multiplier(32.0, 1.0), 1.8133, 1e-4);
    close(multiplier(128.0, 1.0), 2.2058, 1e-4);
    assert_eq!(scale(256, 0, Rope::None), 0.0625);
}
