//! QK-clip on weights, against numbers that other code computed.

use std::path::Path;

use mla_runtime::{
    Backend, Cpu, CpuDevice, CpuElement, LayerNormLinear, Linear, LinearParameters, MaxLogits,
    Module, NormLinearParameters, NormParameters, ParameterGroup, QkClip, RmsNorm, Rows,
    TensorShape, Weights, bf16, qk_clip,
};

const DEVICE: CpuDevice = CpuDevice::new();

/// A step of the case `v3_qkclip_b2_s24`: maxima, factors, and weights before and after.
mod golden {
    use super::*;

    pub(super) const H: usize = 8;
    const NOPE: usize = 16;
    const ROPE: usize = 8;
    const V: usize = 16;
    const Q_RANK: usize = 24;
    const KV_RANK: usize = 32;
    const Q: usize = H * (NOPE + ROPE);
    const KV: usize = H * (NOPE + V);
    const CLIP: QkClip = QkClip {
        threshold: 14.39,
        alpha: 0.5,
    };
    const BEFORE: [TensorShape; 7] = [
        TensorShape::new("q_a_proj.weight", &[Q_RANK, 64]),
        TensorShape::new("q_a_layernorm.weight", &[Q_RANK]),
        TensorShape::new("q_b_proj.weight", &[Q, Q_RANK]),
        TensorShape::new("kv_a_proj_with_mqa.weight", &[KV_RANK + ROPE, 64]),
        TensorShape::new("kv_a_layernorm.weight", &[KV_RANK]),
        TensorShape::new("kv_b_proj.weight", &[KV, KV_RANK]),
        TensorShape::new("o_proj.weight", &[64, H * V]),
    ];
    const AFTER: [TensorShape; 6] = [
        TensorShape::new("gamma", &[H]),
        TensorShape::new("s_max", &[H]),
        TensorShape::new("s_max_after", &[H]),
        TensorShape::new(
            "after.model.layers.0.self_attn.kv_b_proj.weight",
            &[KV, KV_RANK],
        ),
        TensorShape::new(
            "after.model.layers.0.self_attn.q_b_proj.weight",
            &[Q, Q_RANK],
        ),
        TensorShape::new("output_after", &[2, 24, 64]),
    ];

    fn open(file: &str) -> Weights {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/v3_qkclip_b2_s24");
        Weights::open(folder.join(file)).unwrap()
    }

    fn values<B: Backend, const IN: usize, const OUT: usize>(
        parameters: &LinearParameters<B, IN, OUT>,
    ) -> Vec<f64> {
        let values = parameters.parameter(0).unwrap().to_vec().unwrap();
        values
            .into_iter()
            .map(mla_runtime::Scalar::to_f64)
            .collect()
    }

    /// Largest error relative to the wanted value.
    fn worst(found: &[f64], wanted: &[f64]) -> f64 {
        assert_eq!(found.len(), wanted.len());
        let errors = found
            .iter()
            .zip(wanted)
            .map(|(f, w)| (f - w).abs() / w.abs().max(1e-30));
        errors.fold(0.0, f64::max)
    }

    /// Clips the case's weights, working and master, and compares all four.
    pub(super) fn clipped_to<T: CpuElement>(closely: f64) {
        type Q<T> = Linear<Cpu<T>, Q_RANK, { golden::Q }>;
        type Kv<T> = Linear<Cpu<T>, KV_RANK, KV>;
        let (before, after) = (open("weights.safetensors"), open("qkclip.safetensors"));
        let before = before.exactly("model.layers.0.self_attn", &BEFORE).unwrap();
        let after = after.exactly("qkclip", &AFTER).unwrap();
        let wanted = |name: &str| after.read::<f64>(name).unwrap().1;

        let factors = CLIP.factors(&wanted("s_max")).unwrap();
        assert!(worst(&factors, &wanted("gamma")) < 1e-12);
        assert!(factors.contains(&1.0) && factors.iter().any(|&factor| factor < 1.0));
        let q_rows = qk_clip::heads(&factors, &[(NOPE, CLIP.alpha), (ROPE, 1.0)]).unwrap();
        let kv_rows = qk_clip::heads(&factors, &[(NOPE, 1.0 - CLIP.alpha), (V, 0.0)]).unwrap();

        let mut q = Q::<T>::load(&before, &["q_b_proj"], &DEVICE).unwrap();
        let mut kv = Kv::<T>::load(&before, &["kv_b_proj"], &DEVICE).unwrap();
        let mut q_master = LinearParameters::zeros(&DEVICE, &[("q_b_proj", golden::Q)]).unwrap();
        let mut kv_master = LinearParameters::zeros(&DEVICE, &[("kv_b_proj", KV)]).unwrap();
        q.read(&mut q_master).unwrap();
        kv.read(&mut kv_master).unwrap();
        q.scale_rows(&q_rows).unwrap();
        kv.scale_rows(&kv_rows).unwrap();
        q_master.scale_rows(&q_rows).unwrap();
        kv_master.scale_rows(&kv_rows).unwrap();

        let q_wanted = wanted("after.model.layers.0.self_attn.q_b_proj.weight");
        let kv_wanted = wanted("after.model.layers.0.self_attn.kv_b_proj.weight");
        // The weights are bf16 numbers, so masters are exact whatever the working type
        assert!(worst(&values(&q_master), &q_wanted) < 2e-7);
        assert!(worst(&values(&kv_master), &kv_wanted) < 2e-7);
        q.read(&mut q_master).unwrap();
        kv.read(&mut kv_master).unwrap();
        assert!(worst(&values(&q_master), &q_wanted) < closely);
        assert!(worst(&values(&kv_master), &kv_wanted) < closely);
        let (_, unclipped) = before.read::<f64>("q_b_proj.weight").unwrap();
        assert!(worst(&unclipped, &q_wanted) > 0.01);
    }

    /// What the factors promise: the largest logits after the clip.
    pub(super) fn promise() {
        let after = open("qkclip.safetensors");
        let after = after.exactly("qkclip", &AFTER).unwrap();
        let largest = after.read::<f64>("s_max").unwrap().1;
        let factors = CLIP.factors(&largest).unwrap();
        let bounded: Vec<f64> = largest.iter().zip(&factors).map(|(s, f)| s * f).collect();
        assert!(worst(&bounded, &after.read::<f64>("s_max_after").unwrap().1) < 1e-6);
    }
}

#[test]
fn clipped_weights_are_those_of_the_definition() {
    golden::clipped_to::<f32>(2e-7);
    golden::clipped_to::<f64>(1e-7);
    golden::clipped_to::<bf16>(1.0 / 256.0);
    golden::promise();
}

#[test]
fn a_bias_is_scaled_with_its_row() {
    let mut linear =
        Linear::<Cpu, 2, 2>::new(&DEVICE, vec![1.0, 2.0, 3.0, 4.0], Some(vec![8.0, 16.0])).unwrap();
    let mut master = LinearParameters::zeros_biased(&DEVICE, &[("q_proj", 2)]).unwrap();
    linear.read(&mut master).unwrap();
    let rows = qk_clip::heads(&[0.25], &[(1, 1.0), (1, 0.5)]).unwrap();
    linear.scale_rows(&rows).unwrap();
    master.scale_rows(&rows).unwrap();
    let wanted = [vec![0.25, 0.5, 1.5, 2.0], vec![2.0, 8.0]];
    let held = |set: &LinearParameters<Cpu, 2, 2>| {
        [0, 1].map(|index| set.parameter(index).unwrap().to_vec().unwrap())
    };
    assert_eq!(held(&master), wanted);
    linear.read(&mut master).unwrap();
    assert_eq!(held(&master), wanted);
}

#[test]
fn a_fused_norm_is_let_be() {
    let norm = RmsNorm::<Cpu, 1>::new(&DEVICE, vec![3.0], 0.0).unwrap();
    let linear = Linear::<Cpu, 1, 2>::new(&DEVICE, vec![1.0, 1.0], None).unwrap();
    let mut fused = LayerNormLinear::new(norm, linear);
    let mut master = NormLinearParameters::new(
        NormParameters::zeros(&DEVICE, "norm").unwrap(),
        LinearParameters::zeros(&DEVICE, &[("q_proj", 2)]).unwrap(),
    );
    fused.read(&mut master).unwrap();
    let rows = qk_clip::heads(&[0.5], &[(1, 1.0), (1, 0.0)]).unwrap();
    fused.scale_rows(&rows).unwrap();
    master.scale_rows(&rows).unwrap();
    let x = Rows::from_f64(&DEVICE, &[1.0]).unwrap();
    assert_eq!(fused.forward(&x).unwrap().to_vec().unwrap(), [1.5, 3.0]);
    fused.assign(&master).unwrap();
    assert_eq!(fused.forward(&x).unwrap().to_vec().unwrap(), [1.5, 3.0]);
}

#[test]
fn factors_of_other_rows_are_refused() {
    let mut linear = Linear::<Cpu, 1, 3>::new(&DEVICE, vec![1.0; 3], None).unwrap();
    let rows = qk_clip::heads(&[0.5], &[(2, 1.0)]).unwrap();
    let error = linear.scale_rows(&rows).unwrap_err();
    assert_eq!(error.to_string(), "row factors: found 2, wanted 3");
    // Even where they change nothing
    let ones = qk_clip::heads(&[1.0], &[(2, 1.0)]).unwrap();
    assert!(linear.scale_rows(&ones).is_err());
    let mut empty = Linear::<Cpu, 0, 2>::new(&DEVICE, Vec::new(), None).unwrap();
    empty.scale_rows(&rows).unwrap();
}

/// Largest `q·k` of each query head over random inputs.
fn largest_logits(qkv: &Linear<Cpu<f64>, 5, { 2 * 8 }>, inputs: &Rows<Cpu<f64>, 5>) -> Vec<f64> {
    // Two groups of two query heads, a key and a value head, 2 wide
    let rows = qkv.forward(inputs).unwrap().to_vec().unwrap();
    let at = |row: usize, group: usize, part: usize| &rows[row * 16 + group * 8 + part * 2..][..2];
    (0..4)
        .map(|head| {
            let (group, part) = (head / 2, head % 2);
            let mut largest = f64::NEG_INFINITY;
            for i in 0..inputs.rows() {
                for j in 0..inputs.rows() {
                    let (q, k) = (at(i, group, part), at(j, group, 2));
                    largest = largest.max(q[0] * k[0] + q[1] * k[1]);
                }
            }
            largest
        })
        .collect()
}

#[test]
fn grouped_logits_come_down_to_the_threshold() {
    let numbers = |count: usize, seed: u32| -> Vec<f64> {
        let mut state = f64::from(seed) * 0.618;
        let mut next = || {
            state = (state * 997.0 + 0.37).fract();
            4.0 * state - 2.0
        };
        (0..count).map(|_| next()).collect()
    };
    let mut qkv =
        Linear::<Cpu<f64>, 5, 16>::new(&DEVICE, numbers(80, 1), Some(numbers(16, 2))).unwrap();
    let inputs = Rows::from_vec(&DEVICE, numbers(35, 3)).unwrap();
    let mut seen = MaxLogits::new(4);
    seen.merge(&largest_logits(&qkv, &inputs)).unwrap();
    let clip = QkClip {
        threshold: seen.as_slice().iter().sum::<f64>() / 4.0,
        alpha: 0.3,
    };
    let factors = clip.factors(seen.as_slice()).unwrap();
    let rows = qk_clip::grouped(&factors, 2, &[(4, 0.3), (2, 0.7), (2, 0.0)]).unwrap();
    qkv.scale_rows(&rows).unwrap();
    let after = largest_logits(&qkv, &inputs);
    for (group, factor) in qk_clip::of_groups(&factors, 2)
        .unwrap()
        .into_iter()
        .enumerate()
    {
        for head in [2 * group, 2 * group + 1] {
            assert!((after[head] / (seen.as_slice()[head] * factor) - 1.0).abs() < 1e-12);
            assert!(after[head] <= clip.threshold * (1.0 + 1e-12));
        }
    }
    assert!(factors.iter().any(|&factor| factor < 1.0));
}
