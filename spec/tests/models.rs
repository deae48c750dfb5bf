//! Models: what a document about one means, and that one is always answered.

use std::path::Path;

use mla_spec::write::Comments;
use mla_spec::{
    Body, CheckedModel, Diagnostics, Document, ModelDocument, ModuleSpec, Node, Scalar, Sources,
    Span, check, check_model, read, render, write,
};
use proptest::prelude::*;

fn read_text(text: &str) -> (Result<Document, Diagnostics>, Sources) {
    let mut sources = Sources::default();
    (read::yaml(&mut sources, "model.yaml", text), sources)
}

fn document(text: &str) -> Document {
    let (document, sources) = read_text(text);
    document.unwrap_or_else(|found| panic!("{}", render::text(&found, &sources, false)))
}

fn checked(text: &str) -> CheckedModel {
    let (document, sources) = read_text(text);
    let (checked, found) = check_model(&document.expect("the model reads"));
    let shown = render::text(&found, &sources, false);
    assert!(found.is_empty(), "{shown}");
    checked.expect("nothing was refused")
}

/// The base of the rules' examples with other entries below `model`.
fn model(entries: &str) -> String {
    mla_spec::explain::whole(&format!("model:\n{entries}"))
}

#[test]
fn each_consumer_finds_the_nearest_earlier_source() {
    let found = checked(&model(
        "  num_hidden_layers: 10\n  pattern: [full, picking, { repeat: 2, of: [picked, picked, picking] }, full, picked]\n",
    ));
    let sources: Vec<_> = found.indices.iter().map(|at| at.topk_source).collect();
    let wanted = [
        None,
        None,
        Some(1),
        Some(1),
        None,
        Some(4),
        Some(4),
        None,
        None,
        Some(7),
    ];
    assert_eq!(sources, wanted);
    assert_eq!(found.topk_consumers(4).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(found.layers.len(), 3);
    assert_eq!(
        found.layer(3).map(|layer| layer.name.as_str()),
        Some("picked")
    );
    assert_eq!(found.prefix_of(7), "model.layers.7.self_attn");
    assert_eq!(found.stages, [0]);
}

#[test]
fn a_stated_source_wins() {
    let found = checked(&model(
        "  num_hidden_layers: 4\n  pattern: [picking, picking, picked, picked]\n  topk_source: { \"3\": 0 }\n",
    ));
    assert_eq!(found.indices[2].topk_source, Some(1));
    assert_eq!(found.indices[3].topk_source, Some(0));
    let listed = checked(&model(
        "  num_hidden_layers: 4\n  pattern: [picking, picking, picked, picked]\n  topk_source: [0, 1, 1, 0]\n",
    ));
    assert_eq!(listed, found);
}

#[test]
fn layers_are_named_after_the_model_and_stand_once() {
    let found = checked(&model(
        "  num_hidden_layers: 4\n  pattern: [full, picking, picked, full]\n",
    ));
    let types: Vec<_> = found
        .layers
        .iter()
        .map(|layer| layer.checked.layer.name.as_str())
        .collect();
    assert_eq!(
        types,
        [
            "ExampleModelFull",
            "ExampleModelPicking",
            "ExampleModelPicked"
        ]
    );
    let distinct: Vec<_> = found.indices.iter().map(|at| at.layer).collect();
    assert_eq!(distinct, [0, 1, 2, 0]);
}

#[test]
fn several_attentions_make_a_layer() {
    let found = checked(&model(
        "  num_hidden_layers: 2\n  attentions_per_layer: 2\n  pipeline_stages: [1]\n  pattern: [picking, picked, picking, full]\n",
    ));
    assert_eq!((found.num_hidden_layers(), found.indices.len()), (2, 4));
    assert_eq!(found.prefix_of(3), "model.layers.1.self_attn.1");
    assert_eq!(found.position(2), (1, 0));
    let stages: Vec<_> = found.indices.iter().map(|at| at.stage).collect();
    assert_eq!(stages, [0, 0, 1, 1]);
    assert_eq!(found.stages, [0, 1]);
}

#[test]
fn latents_with_and_without_rope_are_kept_apart() {
    let text = whole_file("small-shared.yaml");
    let nope = "    bare: { like: store, params: { qk_nope_head_dim: 24, qk_rope_head_dim: 0, rope: null } }\n    \
                bare_reuse: { like: reuse, params: { qk_nope_head_dim: 24, qk_rope_head_dim: 0, rope: null } }\n";
    let text = text
        .replace(
            "  pipeline_stages: [3] # what is shared stays inside a stage\n",
            "",
        )
        .replace("  pattern:", &format!("{nope}  pattern:"))
        .replace(
            "[reuse] }, picking",
            "[reuse] }, bare, reuse, bare_reuse, picking",
        )
        .replace("num_hidden_layers: 6", "num_hidden_layers: 9");
    let found = checked(&text);
    assert_eq!(found.indices[4].kv_source, Some(0));
    assert_eq!(found.indices[5].kv_source, Some(3));
    assert_eq!(found.kv_consumers(0).collect::<Vec<_>>(), [1, 2, 4]);
}

#[test]
fn a_layer_may_be_built_in_its_own_way() {
    let own = "build: { cache: { format: latent_bf16, page_size: 8 } }";
    let text = model(&format!(
        "  num_hidden_layers: 2\n  layers:\n    full:\n      module: SelfAttention\n      params: {{ hidden_size: 64, num_attention_heads: 4, \
         num_query_groups: 2, kv_channels: 16, attn_mask_type: causal, rope: {{ type: plain, theta: 1e4, layout: half }} }}\n      \
         submodules: {{ linear_qkv: ColumnParallelLinear, core_attention: DotProductAttention, linear_proj: RowParallelLinear }}\n      \
         build: {{ cache: {{ format: naive_bf16 }} }}\n    bare: {{ like: full, params: {{ rope: {{ type: none }} }} }}\n  pattern: [full, bare]\n{own}\n"
    ));
    // `flash_decode` is of use to the layer that rotates, so the other one does without.
    let text = text.replace(
        "build: { cache: { format: latent",
        "build: { flash_decode: true, cache: { format: latent",
    );
    let found = checked(&text);
    let flash: Vec<_> = found
        .layers
        .iter()
        .map(|layer| layer.checked.build.flash_decode)
        .collect();
    assert_eq!(flash, [true, false]);
    let pages = found
        .layers
        .iter()
        .map(|layer| layer.checked.build.cache.page_size);
    assert!(pages.eq([Some(8), Some(8)]));
}

#[test]
fn equal_layers_under_two_names_become_one() {
    let text = model("  num_hidden_layers: 2\n  pattern: [full, again]\n").replace(
        "    picking:\n",
        "    again: { like: full }\n    picking:\n",
    );
    // The layers in between are left out of the pattern here, so only what is said of `again` counts.
    let text = text
        .split("    picking:\n")
        .next()
        .map_or_else(String::new, |head| {
            format!("{head}  pattern: [full, again]\n")
        });
    let (found, warnings) = check_model(&document(&text));
    let found = found.expect("a warning refuses nothing");
    assert_eq!((found.layers.len(), found.indices[1].layer), (1, 0));
    assert_eq!(
        warnings.iter().map(|one| one.code.0).collect::<Vec<_>>(),
        [677]
    );
}

#[test]
fn layers_and_models_are_told_apart() {
    let layer = document(mla_spec::explain::BASE);
    let (nothing, found) = check_model(&layer);
    assert!(nothing.is_none() && found.iter().all(|one| one.code.0 == 811));
    let model = document(mla_spec::explain::MODEL);
    let (nothing, found) = check(&model);
    assert!(nothing.is_none() && found.iter().all(|one| one.code.0 == 811));
}

fn whole_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn what_is_written_reads_back_equal() {
    for text in [
        whole_file("small-shared.yaml"),
        mla_spec::explain::MODEL.to_owned(),
    ] {
        let document = document(&text);
        let written = write::yaml(&document, &Comments::default());
        assert_eq!(read_text(&written).0, Ok(document), "{written}");
    }
}

/// A model file's layer with another width, so that all of them fit one residual stream.
fn layer_of(name: &str) -> ModuleSpec {
    let Body::Layer(mut spec) = document(&whole_file(name)).body else {
        panic!("{name} is no layer")
    };
    for param in &mut spec.params {
        if param.key.value == "hidden_size" {
            param.value = Node::scalar(Scalar::Int(512), Span::NONE);
        }
    }
    spec
}

#[test]
fn layers_written_by_their_differences_are_the_same_layers() {
    let names = [
        "deepseek-v3.yaml",
        "moonlight.yaml",
        "nope-odd.yaml",
        "odd-small.yaml",
        "ax-k1.yaml",
        "llama3-8b.yaml",
        "qwen3-8b.yaml",
    ];
    for first in names {
        for second in names {
            let mut model = ModelDocument::new("Pair");
            let (one, other) = (layer_of(first), layer_of(second));
            model.push("one", one.clone());
            model.push("other", other.clone());
            let written = write::yaml(&model.document(), &Comments::default());
            let found = checked(&written);
            for (index, spec) in [one, other].into_iter().enumerate() {
                let alone = Document {
                    body: Body::Layer(spec),
                    ..document(mla_spec::explain::BASE)
                };
                let (alone, _) = check(&alone);
                let mut alone = alone.expect("it is a layer").layer;
                let layer = &found.layer(index).expect("it stands there").checked.layer;
                alone.name.clone_from(&layer.name);
                assert_eq!(alone, *layer, "{first}, {second}:\n{written}");
            }
        }
    }
}

#[test]
fn a_long_pattern_is_written_by_its_repetitions() {
    let (full, other) = (layer_of("deepseek-v3.yaml"), layer_of("moonlight.yaml"));
    let mut model = ModelDocument::new("Long");
    model
        .prefix("model.layers.{layer}.attn")
        .pipeline_stages([20]);
    for index in 0..78 {
        let shared = index > 2 && index % 4 != 2;
        let (name, spec) = if shared {
            ("other", &other)
        } else {
            ("full", &full)
        };
        assert_eq!(model.push(name, spec.clone()), name);
    }
    let written = write::yaml(&model.document(), &Comments::default());
    assert!(written.contains("repeat: 18"), "{written}");
    let found = checked(&written);
    let layers: Vec<_> = found.indices.iter().map(|at| at.layer).collect();
    let wanted: Vec<_> = (0..78)
        .map(|at| usize::from(at > 2 && at % 4 != 2))
        .collect();
    assert_eq!(layers, wanted);
    assert_eq!(found.prefix_of(5), "model.layers.5.attn");
    assert_eq!(found.indices[20].stage, 1);
}

fn change() -> impl Strategy<Value = (usize, Option<&'static str>)> {
    let words = [
        "0",
        "-1",
        "1",
        "4097",
        "[]",
        "{}",
        "null",
        "x",
        "\"3\"",
        "full",
        "picked",
        "[full]",
        "1.5",
        "{ repeat: 2, of: [full] }",
    ];
    (
        0usize..200,
        prop::option::of(prop::sample::select(words.to_vec())),
    )
}

/// The text with some lines gone, or with other values.
fn mutated(text: &str, changes: &[(usize, Option<&str>)]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (at, word) in changes {
        if lines.is_empty() {
            break;
        }
        let at = at % lines.len();
        match (word, lines[at].split_once(": ")) {
            (Some(word), Some((key, _))) => lines[at] = format!("{key}: {word}"),
            _ => {
                lines.remove(at);
            }
        }
    }
    lines.join("\n") + "\n"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_model_comes_out_exactly_if_nothing_is_an_error(changes in prop::collection::vec(change(), 1..4), which in 0usize..2) {
        let texts = [mla_spec::explain::MODEL.to_owned(), whole_file("small-shared.yaml")];
        let (Ok(document), _) = read_text(&mutated(&texts[which], &changes)) else { return Ok(()) };
        let (checked, found) = check_model(&document);
        prop_assert_eq!(checked.is_some(), !found.has_errors());
        if let Some(model) = checked {
            for (index, at) in model.indices.iter().enumerate() {
                prop_assert!(at.layer < model.layers.len());
                for source in [at.topk_source, at.kv_source].into_iter().flatten() {
                    prop_assert!(source < index && model.indices[source].stage == at.stage);
                }
            }
        }
    }
}
