//! What a layer that is trained may say, and what becomes of it.

use mla_spec::explain::whole;
use mla_spec::{
    Activation, Build, Checked, Diagnostics, Indexer, IndexerLoss, Layer, LossEpsilon,
    LossReduction, LossStage, Phase, QkClip, Sources,
};

/// The layer of an excerpt (see [`whole`]), which must be accepted without a word.
fn accepted(excerpt: &str) -> Checked {
    let text = whole(excerpt);
    let document = mla_spec::read::yaml(&mut Sources::default(), "spec.yaml", &text)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    let (checked, diagnostics) = mla_spec::check(&document);
    assert_eq!(diagnostics, Diagnostics::new(), "{text}");
    checked.expect("a spec without errors is a layer")
}

fn layer(excerpt: &str) -> Layer {
    accepted(excerpt).layer
}

fn build(excerpt: &str) -> Build {
    accepted(excerpt).build
}

/// The loss of an indexer of DeepSeek-V3.2's kind with these parameters more.
fn loss(params: &str) -> Option<IndexerLoss> {
    let sparse = layer(&format!(
        "submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: {{ num_heads: 64, head_dim: 128, topk: 2048, rope_layout: half, split_order: rope_first,
                  query_input: q_latent, relu: true, {params} }}
        submodules:
          linear_wk: Linear
          linear_wq_b: Linear
          linear_weights_proj: Linear
          k_norm: {{ module: LayerNorm, params: {{ eps: 1.0e-6 }} }}
{TRAIN}"
    ));
    match sparse.indexer() {
        Some(Indexer::Lightning(indexer)) => indexer.loss,
        other => panic!("{other:?} doesn't pick"),
    }
}

const TRAIN: &str = "build: { phases: [train] }\n";

#[test]
fn training_takes_whole_sequences() {
    for params in [
        "attn_mask_type: no_mask",
        "attn_mask_type: arbitrary",
        "core_attention_bias: post_scale_bias",
        "attention_dropout: 0.1",
    ] {
        let trained = build(&format!("params:\n  {params}\n{TRAIN}"));
        assert_eq!(trained.phases, [Phase::Train], "{params}");
    }
    let expecting = build("build: { phases: [decode, train], expect: { prefill_tokens: 512 } }\n");
    assert_eq!(expecting.phases, [Phase::Decode, Phase::Train]);
    assert_eq!(expecting.expect.prefill_tokens, 512);
    assert!(!Build::default().phases.contains(&Phase::Train));
}

#[test]
fn what_training_keeps() {
    let kept = |excerpt: &str| {
        let build = build(excerpt);
        (build.recompute, build.offload)
    };
    let latent = kept(
        "build: { phases: [train], recompute: [core_attn, mla_up_proj], offload: [q_down_proj, layernorm, kv_down_proj] }\n",
    );
    assert_eq!(
        latent,
        (
            vec![Activation::QUp, Activation::KvUp, Activation::CoreAttn],
            vec![Activation::QDown, Activation::KvDown, Activation::Layernorm],
        )
    );
    let grouped = kept(
        "module: SelfAttention
submodules:
  input_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
build: { phases: [forward, train], recompute: [qkv_proj, input_layernorm] }
",
    );
    assert_eq!(
        grouped,
        (
            vec![Activation::InputLayernorm, Activation::Qkv],
            Vec::new()
        )
    );
    assert_eq!(kept(TRAIN), (Vec::new(), Vec::new()));
}

/// Each word stands for a part of some layer, and is its name.
#[test]
fn parts_of_a_layer() {
    let layers = [
        layer("submodules:\n  input_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n"),
        layer("module: SelfAttention\n"),
        layer("module: CrossAttention\n"),
    ];
    for part in Activation::ALL {
        let makers: Vec<usize> = (0..layers.len())
            .filter(|index| part.is_made_by(&layers[*index]))
            .collect();
        let expected: &[usize] = match part {
            Activation::CoreAttn => &[0, 1, 2],
            Activation::Qkv => &[1, 2],
            _ => &[0],
        };
        assert_eq!(makers, expected, "{}", part.word());
        if makers.contains(&0) {
            let word = part.word();
            let built = build(&format!(
                "submodules:\n  input_layernorm: {{ module: RMSNorm, params: {{ eps: 1.0e-6 }} }}\nbuild: {{ phases: [train], recompute: [{word}] }}\n"
            ));
            assert_eq!(built.recompute, [part]);
        }
    }
}

#[test]
fn clipped_layers() {
    let clip = "  qk_clip: { threshold: 100, alpha: 0.5 }\n";
    let expected = Some(QkClip {
        threshold: 100.0,
        alpha: 0.5,
    });
    let norms = "submodules:\n  q_layernorm: IdentityOp\n";
    for excerpt in [
        format!("params:\n{clip}"),
        format!("params:\n{clip}  query_scaling: {{ type: log_position }}\n"),
        format!("params:\n{clip}  softmax_type: learnable\n"),
        format!("module: SelfAttention\nparams:\n{clip}{norms}"),
        format!("module: CrossAttention\nparams:\n{clip}"),
    ] {
        assert_eq!(layer(&format!("{excerpt}{TRAIN}")).qk_clip, expected);
    }
    assert_eq!(layer("").qk_clip, None);
}

#[test]
fn losses_of_indexers() {
    assert_eq!(
        loss(
            "share_topk: true, loss: { stage: sparse, coeff: 0.5, reduction: mean_all, epsilon: add }"
        ),
        Some(IndexerLoss {
            stage: LossStage::Sparse,
            coeff: 0.5,
            reduction: LossReduction::MeanAll,
            epsilon: LossEpsilon::Add,
        })
    );
    assert_eq!(
        loss("loss: { stage: dense, coeff: 1, reduction: mean_valid, epsilon: clamp }"),
        Some(IndexerLoss {
            stage: LossStage::Dense,
            coeff: 1.0,
            reduction: LossReduction::MeanValid,
            epsilon: LossEpsilon::Clamp,
        })
    );
    let sum =
        loss("share_topk: false, loss: { stage: dense, coeff: 1, reduction: sum, epsilon: add }");
    assert_eq!(sum.map(|loss| loss.reduction), Some(LossReduction::Sum));
    assert_eq!(loss("hadamard: true"), None);
}
