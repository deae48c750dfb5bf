//! MaxText's and Megatron's options about recomputation, in our words.

use mla_spec::explain::{recompute::RULES, whole};
use mla_spec::import::{Recomputed, recompute};
use mla_spec::{Activation, Checked, Code, Diagnostics, Layer, Severity, Sources};
use proptest::prelude::*;

use Activation::{CoreAttn, InputLayernorm, KvDown, KvUp, Layernorm, QDown, QUp, Qkv};

fn layer(excerpt: &str) -> Layer {
    let text = whole(excerpt);
    let document = mla_spec::read::yaml(&mut Sources::default(), "spec.yaml", &text)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    let (checked, diagnostics) = mla_spec::check(&document);
    assert!(!diagnostics.has_errors(), "{diagnostics}");
    checked.expect("a spec without errors is a layer").layer
}

fn latent() -> Layer {
    layer("")
}

fn translate(options: &str, layer: &Layer) -> Result<Recomputed, Diagnostics> {
    recompute(&mut Sources::default(), "options.yaml", options, layer)
}

/// The lists, of options that are accepted without a word.
#[track_caller]
fn lists(options: &str, layer: &Layer) -> (Vec<Activation>, Vec<Activation>) {
    let found = translate(options, layer).unwrap_or_else(|error| panic!("{options}: {error}"));
    assert_eq!(found.lints, Diagnostics::new(), "{options}");
    (found.recompute, found.offload)
}

fn codes(diagnostics: &Diagnostics) -> Vec<u16> {
    diagnostics.iter().map(|found| found.code.0).collect()
}

#[track_caller]
fn refused(options: &str, layer: &Layer) -> Vec<u16> {
    match translate(options, layer) {
        Ok(found) => panic!("{options}: {found:?}"),
        Err(diagnostics) => codes(&diagnostics),
    }
}

/// Lists, and codes of warnings.
#[track_caller]
fn noted(options: &str, layer: &Layer) -> (Vec<Activation>, Vec<Activation>, Vec<u16>) {
    let found = translate(options, layer).unwrap_or_else(|error| panic!("{options}: {error}"));
    assert!(!found.lints.has_errors());
    (found.recompute, found.offload, codes(&found.lints))
}

const NORMED: &str =
    "submodules:\n  input_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n";

#[test]
fn tensors_of_latent_attention() {
    assert_eq!(
        lists(
            "query_wa_proj: device\nkv_wa_proj: offload\nmla_q: device\nmla_kv: device\nquery_proj: offload\nkey_proj: remat\nvalue_proj: remat\nattention_out: offload\n",
            &latent()
        ),
        (vec![KvUp], vec![KvDown, QUp, CoreAttn])
    );
    // What isn't named is computed again, and nobody names the input's norm.
    assert_eq!(
        lists("{ remat_policy: custom, context: device }", &layer(NORMED)),
        (
            vec![InputLayernorm, QDown, KvDown, Layernorm, QUp, KvUp],
            vec![]
        )
    );
    let plain = layer(
        "# no q_lora_rank\n# no linear_q_down_proj\n# no q_layernorm\n# no linear_q_up_proj\nsubmodules:\n  linear_q_proj: ColumnParallelLinear\n",
    );
    assert_eq!(
        lists("{ query_proj: device, mla_kv: device }", &plain),
        (vec![KvDown, KvUp, CoreAttn], vec![])
    );
    let fused = layer(
        "# no linear_q_down_proj\n# no linear_kv_down_proj\nsubmodules:\n  linear_qkv_down_proj: Linear\n",
    );
    assert_eq!(
        lists("{ query_wa_proj: offload, kv_wa_proj: offload }", &fused),
        (vec![Layernorm, QUp, KvUp, CoreAttn], vec![QDown])
    );
    assert_eq!(refused("query_wa_proj: offload", &fused), [752]);
}

#[test]
fn tensors_of_attention_without_latents() {
    let fused = layer("module: SelfAttention\n");
    let all = "{ query_proj: device, key_proj: device, value_proj: device }";
    assert_eq!(lists(all, &fused), (vec![CoreAttn], vec![]));
    assert_eq!(
        lists("{ qkv_proj: offload }", &fused),
        (vec![CoreAttn], vec![Qkv])
    );
    assert_eq!(
        refused(
            "{ qkv_proj: offload, query_proj: device, key_proj: device, value_proj: device }",
            &fused
        ),
        [752]
    );
    let cross = layer("module: CrossAttention\n");
    assert_eq!(lists(all, &cross), (vec![CoreAttn], vec![]));
    let (_, _, notes) = noted("{ qkv_proj: device, query_wa_proj: device }", &cross);
    assert_eq!(notes, [754, 754]);
    assert_eq!(refused("query_proj: device", &cross), [752]);
    let normed = layer(
        "module: SelfAttention\nsubmodules:\n  k_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }\n",
    );
    assert_eq!(
        lists("remat_policy: save_qkv_proj", &normed),
        (vec![Layernorm, CoreAttn], vec![])
    );
}

#[test]
fn presets() {
    let of = |preset: &str| lists(&format!("remat_policy: {preset}"), &latent());
    let below = vec![QDown, KvDown, Layernorm];
    let with = |more: &[Activation]| [&below[..], more].concat();
    assert_eq!(of("none"), (vec![], vec![]));
    assert_eq!(of("null"), (vec![], vec![]));
    assert_eq!(of("full"), (with(&[QUp, KvUp, CoreAttn]), vec![]));
    assert_eq!(of("custom"), of("full"));
    for kept in [
        "minimal",
        "minimal_with_quantization",
        "save_dot_except_mlp",
        "save_dot_except_mlpwi",
        "save_qkv_proj",
    ] {
        assert_eq!(of(kept), (with(&[CoreAttn]), vec![]), "{kept}");
    }
    for kept in [
        "minimal_with_context",
        "minimal_flash",
        "minimal_with_context_and_quantization",
        "save_dot_with_context_except_mlp",
    ] {
        assert_eq!(of(kept), (below.clone(), vec![]), "{kept}");
    }
    for aside in ["qkv_proj_offloaded", "minimal_offloaded"] {
        assert_eq!(of(aside), (with(&[CoreAttn]), vec![QUp, KvUp]), "{aside}");
    }
    assert_eq!(of("save_out_proj"), of("full"));
    let grouped = layer("module: SelfAttention\n");
    assert_eq!(
        lists("remat_policy: qkv_proj_offloaded", &grouped),
        (vec![CoreAttn], vec![Qkv])
    );
}

#[test]
fn presets_beside_tensors() {
    let consistent = "{ remat_policy: full, query_proj: remat, mlpwo: device }";
    assert_eq!(noted(consistent, &latent()).2, [754]);
    assert_eq!(
        refused("{ remat_policy: minimal, query_proj: offload }", &latent()),
        [752]
    );
    assert_eq!(
        refused("{ remat_policy: none, attention_out: remat }", &latent()),
        [752]
    );
}

#[test]
fn what_comes_to_nothing() {
    let all = lists("remat_policy: full", &latent()).0;
    for idle in [
        "out_proj: device",
        "mlpwi: offload",
        "decoder_layer_input: offload",
        "kv_proj: device",
    ] {
        assert_eq!(
            noted(idle, &latent()),
            (all.clone(), vec![], vec![754]),
            "{idle}"
        );
    }
    let silent = "{ out_proj: remat, mlpwo: remat, decoder_layer_input: device, indexer_cutoff_threshold: remat }";
    assert_eq!(lists(silent, &latent()), (all, vec![]));
    let sparse = layer(
        "submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer: { module: SharedIndexer, params: { topk: 64 } }
",
    );
    assert_eq!(noted("indexer_cutoff_threshold: offload", &sparse).2, [754]);
    assert_eq!(
        refused("indexer_cutoff_threshold: offload", &latent()),
        [753]
    );
}

#[test]
fn megatron() {
    let of = |options: &str| lists(options, &latent());
    assert_eq!(
        of("recompute_granularity: selective"),
        (vec![CoreAttn], vec![])
    );
    assert_eq!(
        of("{ recompute_granularity: selective, recompute_modules: [core_attn, mla_up_proj] }"),
        (vec![QUp, KvUp, CoreAttn], vec![])
    );
    assert_eq!(of("recompute_modules: []"), (vec![], vec![]));
    assert_eq!(
        of("recompute_granularity: full"),
        lists("remat_policy: full", &latent())
    );
    assert_eq!(of("recompute_granularity: null"), (vec![], vec![]));
    assert_eq!(of("recompute_num_layers: null"), (vec![], vec![]));
    assert_eq!(
        lists("recompute_modules: [layernorm]", &layer(NORMED)),
        (vec![InputLayernorm], vec![])
    );
    assert_eq!(
        noted("recompute_modules: [layernorm, moe_act]", &latent()),
        (vec![], vec![], vec![754, 754])
    );
    let (all, _, notes) = noted(
        "{ recompute_granularity: full, recompute_method: uniform, recompute_num_layers: 1 }",
        &latent(),
    );
    assert_eq!(
        (all, notes),
        (of("recompute_granularity: full").0, vec![754, 754])
    );
    let grouped = layer("module: SelfAttention\n");
    assert_eq!(refused("recompute_modules: [mla_up_proj]", &grouped), [753]);
}

#[test]
fn what_is_refused() {
    let of = |options: &str| refused(options, &latent());
    assert_eq!(of("- query_proj"), [702]);
    assert_eq!(of("{}"), [750]);
    assert_eq!(of("offload_modules: [core_attn]"), [750]);
    assert_eq!(of("query_poj: device"), [750]);
    assert_eq!(of("{ remat_policy: most, query_proj: device }"), [751]);
    assert_eq!(of("remat_policy: 1"), [707]);
    assert_eq!(of("query_proj: on_device"), [751]);
    assert_eq!(of("recompute_granularity: partial"), [751]);
    assert_eq!(of("recompute_modules: [core_attention]"), [751]);
    assert_eq!(of("recompute_modules: core_attn"), [707]);
    assert_eq!(
        of("{ recompute_modules: [core_attn], query_proj: device }"),
        [752]
    );
    assert_eq!(
        of("{ recompute_granularity: full, recompute_modules: [core_attn] }"),
        [752]
    );
    assert_eq!(
        of("{ recompute_granularity: selective, recompute_num_layers: 1 }"),
        [752]
    );
    assert_eq!(of("mla_q: device"), [752]);
    assert_eq!(of("key_proj: device"), [752]);
    assert_eq!(of("{ attention_out: device, context: offload }"), [752]);
    assert_eq!(of("a: 1\na: 2\n"), [2]);
}

/// What comes out is what the language accepts, and says again.
#[test]
fn lists_stand_in_a_spec() {
    for options in [
        "remat_policy: qkv_proj_offloaded",
        "recompute_granularity: full",
        "{ query_wa_proj: device, kv_wa_proj: offload, context: device }",
    ] {
        let (recompute, offload) = lists(options, &layer(NORMED));
        let words = |parts: &[Activation]| {
            let words: Vec<&str> = parts.iter().map(|part| part.word()).collect();
            words.join(", ")
        };
        let mut excerpt = format!(
            "{NORMED}build:\n  phases: [train]\n  recompute: [{}]\n",
            words(&recompute)
        );
        if !offload.is_empty() {
            excerpt.push_str(&format!("  offload: [{}]\n", words(&offload)));
        }
        let document =
            mla_spec::read::yaml(&mut Sources::default(), "spec.yaml", &whole(&excerpt)).unwrap();
        let Some(Checked { build, .. }) = mla_spec::check(&document).0 else {
            panic!("{excerpt}");
        };
        assert_eq!((build.recompute, build.offload), (recompute, offload));
    }
}

#[test]
fn every_code_is_explained_by_options_that_meet_it() {
    for rule in RULES {
        let found = |options: &str| match translate(options, &latent()) {
            Ok(found) => found.lints,
            Err(found) => found,
        };
        let wrong = found(rule.wrong);
        let only: Vec<Code> = wrong.iter().map(|found| found.code).collect();
        assert_eq!(only, [rule.code]);
        let warns = wrong
            .iter()
            .all(|found| found.severity == Severity::Warning);
        assert_eq!(warns, rule.title.ends_with("(warning)"), "{}", rule.code);
        assert_eq!(found(rule.right), Diagnostics::new(), "{}", rule.code);
    }
}

proptest! {
    /// Whatever is written, lists or a diagnostic come out.
    #[test]
    fn any_options(
        keys in prop::collection::vec("[a-z_]{1,12}|remat_policy|query_proj|mla_q|key_proj|recompute_modules|recompute_granularity", 0..4),
        values in prop::collection::vec("[a-z]{1,8}|custom|full|device|offload|remat|\\[core_attn\\]|null|3", 4),
    ) {
        let options: String = keys
            .iter()
            .zip(&values)
            .map(|(key, value)| format!("{key}: {value}\n"))
            .collect();
        match translate(&options, &latent()) {
            Ok(found) => {
                prop_assert!(found.recompute.iter().all(|part| !found.offload.contains(part)));
                prop_assert!(found.recompute.is_sorted() && found.offload.is_sorted());
            }
            Err(found) => prop_assert!(found.has_errors(), "{options}"),
        }
    }
}
