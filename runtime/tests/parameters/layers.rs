//! Two layers that between them have every kind of parameter, in the shape in which layers are generated.

use mla_runtime::{TensorShape, Weights};

/// Stacked rows, norms in front of linears, biases, sinks, a query scale, pooled keys, and ranks of 0.
pub(crate) mod latent {
    use mla_runtime::{
        AccumLinear, Backend, GatedNormParameters, GatedRmsNorm, KeyPoolParameters, KeyPools,
        LayerNorm, LayerNormLinear, Linear, LinearParameters, LogPositionParameters,
        LogPositionScale, NormLinearParameters, NormParameters, Result, RmsNorm, SinkParameters,
        Sinks, TensorShape, Weights,
    };

    const H: usize = 2;
    const HIDDEN: usize = 6;
    const Q: usize = 3;
    const KV: usize = 5;
    const DOWN: usize = Q + KV;
    const RANK: usize = 2;
    const POOL: usize = 4;

    pub(crate) const TENSORS: [TensorShape; 21] = [
        TensorShape::new("q_a_proj.weight", &[Q, HIDDEN]),
        TensorShape::new("q_a_proj.bias", &[Q]),
        TensorShape::new("kv_a_proj_with_mqa.weight", &[KV, HIDDEN]),
        TensorShape::new("kv_a_proj_with_mqa.bias", &[KV]),
        TensorShape::new("q_a_layernorm.weight", &[Q]),
        TensorShape::new("q_b_proj.weight", &[4, Q]),
        TensorShape::new("kv_a_layernorm.weight", &[KV]),
        TensorShape::new("kv_a_layernorm.bias", &[KV]),
        TensorShape::new("kv_b_proj.weight", &[4, KV]),
        TensorShape::new("gate_norm.norm.weight", &[HIDDEN]),
        TensorShape::new("gate_norm.mlp.fc1.weight", &[RANK, HIDDEN]),
        TensorShape::new("gate_norm.mlp.fc2.weight", &[HIDDEN, RANK]),
        TensorShape::new("weights_proj.weight", &[H, HIDDEN]),
        TensorShape::new("weights_proj.bias", &[H]),
        TensorShape::new("sinks", &[H]),
        TensorShape::new("softmax_scaling.scale", &[H]),
        TensorShape::new("softmax_scaling.bias", &[H]),
        TensorShape::new("pool_gate", &[3, HIDDEN]),
        TensorShape::new("pool_ape", &[POOL, 3]),
        TensorShape::new("nothing.weight", &[0, HIDDEN]),
        TensorShape::new("from_nothing.weight", &[HIDDEN, 0]),
    ];

    pub(crate) struct Latent<B: Backend> {
        pub(crate) down: Linear<B, HIDDEN, DOWN>,
        q_up: LayerNormLinear<B, RmsNorm<B, Q>, Q, 4>,
        kv_up: LayerNormLinear<B, LayerNorm<B, KV>, KV, 4>,
        gate_norm: GatedRmsNorm<B, HIDDEN, RANK>,
        weights_proj: AccumLinear<B, HIDDEN, H>,
        sinks: Sinks<B, H>,
        query_scale: LogPositionScale<B, H>,
        pools: KeyPools<B, HIDDEN, 3, POOL>,
        nothing: Linear<B, HIDDEN, 0>,
        from_nothing: Linear<B, 0, HIDDEN>,
    }

    pub(crate) struct Parameters<B: Backend> {
        pub(crate) down: LinearParameters<B, HIDDEN, DOWN>,
        q_up: NormLinearParameters<NormParameters<B, Q>, LinearParameters<B, Q, 4>>,
        kv_up: NormLinearParameters<NormParameters<B, KV>, LinearParameters<B, KV, 4>>,
        gate_norm: GatedNormParameters<B, HIDDEN, RANK>,
        weights_proj: LinearParameters<B, HIDDEN, H>,
        sinks: SinkParameters<B, H>,
        query_scale: LogPositionParameters<B, H>,
        pools: KeyPoolParameters<B, HIDDEN, 3, POOL>,
        nothing: LinearParameters<B, HIDDEN, 0>,
        from_nothing: LinearParameters<B, 0, HIDDEN>,
    }

    impl<B: Backend> Latent<B> {
        pub(crate) fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self> {
            let weights = &weights.exactly(prefix, &TENSORS)?;
            Ok(Self {
                down: Linear::load_biased(weights, &["q_a_proj", "kv_a_proj_with_mqa"], device)?,
                q_up: LayerNormLinear::new(
                    RmsNorm::load(weights, "q_a_layernorm", 1e-6, device)?,
                    Linear::load(weights, &["q_b_proj"], device)?,
                ),
                kv_up: LayerNormLinear::new(
                    LayerNorm::load(weights, "kv_a_layernorm", 1e-6, device)?,
                    Linear::load(weights, &["kv_b_proj"], device)?,
                ),
                gate_norm: GatedRmsNorm::load(weights, "gate_norm", 1e-6, device)?,
                weights_proj: AccumLinear::load_biased(weights, "weights_proj", device)?,
                sinks: Sinks::load(weights, "sinks", device)?,
                query_scale: LogPositionScale::load(weights, "softmax_scaling", device)?,
                pools: KeyPools::load(weights, "pool", device)?,
                nothing: Linear::load(weights, &["nothing"], device)?,
                from_nothing: Linear::load(weights, &["from_nothing"], device)?,
            })
        }
    }

    impl<B: Backend> Parameters<B> {
        pub(crate) fn zeros(device: &B::Device) -> Result<Self> {
            Ok(Self {
                down: LinearParameters::zeros_biased(
                    device,
                    &[("q_a_proj", Q), ("kv_a_proj_with_mqa", KV)],
                )?,
                q_up: NormLinearParameters::new(
                    NormParameters::zeros(device, "q_a_layernorm")?,
                    LinearParameters::zeros(device, &[("q_b_proj", 4)])?,
                ),
                kv_up: NormLinearParameters::new(
                    NormParameters::zeros_shifted(device, "kv_a_layernorm")?,
                    LinearParameters::zeros(device, &[("kv_b_proj", 4)])?,
                ),
                gate_norm: GatedNormParameters::zeros(device, "gate_norm")?,
                weights_proj: LinearParameters::zeros_biased(device, &[("weights_proj", H)])?,
                sinks: SinkParameters::zeros(device, "sinks")?,
                query_scale: LogPositionParameters::zeros(device, "softmax_scaling")?,
                pools: KeyPoolParameters::zeros(device, "pool")?,
                nothing: LinearParameters::zeros(device, &[("nothing", 0)])?,
                from_nothing: LinearParameters::zeros(device, &[("from_nothing", HIDDEN)])?,
            })
        }
    }

    mla_runtime::parameters!(Latent: down, q_up, kv_up, gate_norm, weights_proj, sinks, query_scale, pools, nothing, from_nothing);
}

/// A projection whose rows stand group by group: queries, gates, keys and values.
pub(crate) mod grouped {
    use mla_runtime::{Backend, GroupPart, Linear, LinearParameters, Result, TensorShape, Weights};

    const HIDDEN: usize = 3;
    const GROUPS: usize = 2;
    const D: usize = 2;
    /// Two query heads with gates, a key and a value head per group.
    const QKV: usize = GROUPS * 6 * D;

    pub(crate) const TENSORS: [TensorShape; 6] = [
        TensorShape::new("q_proj.weight", &[16, HIDDEN]),
        TensorShape::new("q_proj.bias", &[16]),
        TensorShape::new("k_proj.weight", &[4, HIDDEN]),
        TensorShape::new("k_proj.bias", &[4]),
        TensorShape::new("v_proj.weight", &[4, HIDDEN]),
        TensorShape::new("v_proj.bias", &[4]),
    ];

    const PARTS: [GroupPart<'static>; 4] = [
        GroupPart::first_half("q_proj", 2, D),
        GroupPart::second_half("q_proj", 2, D),
        GroupPart::heads("k_proj", 1, D),
        GroupPart::heads("v_proj", 1, D),
    ];

    pub(crate) struct Grouped<B: Backend> {
        pub(crate) linear_qkv: Linear<B, HIDDEN, QKV>,
    }

    pub(crate) struct Parameters<B: Backend> {
        linear_qkv: LinearParameters<B, HIDDEN, QKV>,
    }

    impl<B: Backend> Grouped<B> {
        pub(crate) fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self> {
            let weights = weights.exactly(prefix, &TENSORS)?;
            let linear_qkv = Linear::load_grouped_biased(&weights, GROUPS, &PARTS, device)?;
            Ok(Self { linear_qkv })
        }
    }

    impl<B: Backend> Parameters<B> {
        pub(crate) fn zeros(device: &B::Device) -> Result<Self> {
            let linear_qkv = LinearParameters::zeros_grouped_biased(device, GROUPS, &PARTS)?;
            Ok(Self { linear_qkv })
        }
    }

    mla_runtime::parameters!(Grouped: linear_qkv);
}

/// Values that no bf16 holds, different ones in every place, below `model.layers.0.self_attn`.
pub(crate) fn checkpoint(tensors: &[TensorShape]) -> Weights {
    let values = |tensor: usize, shape: &[usize]| -> Vec<f32> {
        (0..shape.iter().product::<usize>())
            .map(|i| {
                (1.0 + i as f32 / 1000.3)
                    * if (i + tensor).is_multiple_of(3) {
                        -1.0
                    } else {
                        1.0
                    }
            })
            .map(|value| value + tensor as f32)
            .collect()
    };
    Weights::from_tensors(tensors.iter().enumerate().map(|(i, tensor)| {
        let name = format!("{PREFIX}.{}", tensor.name);
        (name, (tensor.shape.to_vec(), values(i, tensor.shape)))
    }))
    .unwrap()
}

pub(crate) const PREFIX: &str = "model.layers.0.self_attn";
