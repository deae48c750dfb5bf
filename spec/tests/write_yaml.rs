//! What is written as YAML reads back equal.

use mla_spec::write::Comments;
use mla_spec::{
    Body, Document, Entry, ModuleSpec, Node, NodeKind, Param, Scalar, Sources, Span, Spanned,
    Submodule,
};
use mla_spec::{read, render, write};
use proptest::prelude::*;

fn read_back(text: &str) -> Document {
    let mut sources = Sources::default();
    match read::yaml(&mut sources, "written.yaml", text) {
        Ok(document) => document,
        Err(diagnostics) => panic!("{text}\n{}", render::text(&diagnostics, &sources, false)),
    }
}

fn word() -> impl Strategy<Value = String> {
    let odd = [
        "null",
        "~",
        "yes",
        "no",
        "on",
        "true",
        "TRUE",
        "1.0",
        "1e5",
        "0x1F",
        "0644",
        "1_000",
        ".inf",
        ".nan",
        "<<",
        "=",
        "-",
        "- a",
        "a: b",
        "a #b",
        "#a",
        "",
        " ",
        "a ",
        "é",
        "\u{1F980}",
        "\"",
        "'",
        "\\",
        "a\nb",
        "\t",
        "\r",
        "\0",
        "\u{feff}",
        "\u{2028}",
        "{",
        "[a",
        "*a",
        "&a",
        "!a",
        "%",
        "@",
        "`",
        "a,b",
        "?",
        ":",
        "a:",
        "---",
        "...",
        "|",
        ">",
        "y",
        "n",
        "1:2",
        "2001-01-01",
    ];
    prop_oneof![
        prop::sample::select(odd.to_vec()).prop_map(str::to_owned),
        "[a-z_][a-z0-9_]{0,12}",
        "\\PC{0,12}"
    ]
}

fn scalar() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        Just(Scalar::Null),
        any::<bool>().prop_map(Scalar::Bool),
        any::<i64>().prop_map(Scalar::Int),
        any::<f64>()
            .prop_filter("finite", |value| value.is_finite())
            .prop_map(Scalar::Float),
        prop::sample::select(vec![1e-6, 50000.0, 1e22, 0.0, -0.0, 5e-324, f64::MAX])
            .prop_map(Scalar::Float),
        word().prop_map(Scalar::Str),
    ]
}

fn unplaced(kind: NodeKind) -> Node {
    Node {
        kind,
        span: Span::NONE,
    }
}

fn entries(value: impl Strategy<Value = Node>) -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::btree_map(word(), value, 0..5).prop_map(|map| {
        map.into_iter()
            .map(|(key, value)| Entry {
                key: Spanned::unplaced(key),
                value,
            })
            .collect()
    })
}

fn node() -> impl Strategy<Value = Node> {
    scalar()
        .prop_map(|value| unplaced(NodeKind::Scalar(value)))
        .prop_recursive(3, 20, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| unplaced(NodeKind::Seq(items))),
                entries(inner).prop_map(|entries| unplaced(NodeKind::Map(entries))),
            ]
        })
}

fn spec() -> impl Strategy<Value = ModuleSpec> {
    let params = || {
        entries(node()).prop_map(|entries| {
            entries
                .into_iter()
                .map(|Entry { key, value }| Param { key, value })
                .collect::<Vec<_>>()
        })
    };
    let leaf = (word(), params()).prop_map(|(module, params)| ModuleSpec {
        module: Spanned::unplaced(module),
        params,
        submodules: Vec::new(),
        span: Span::NONE,
    });
    leaf.prop_recursive(3, 12, 4, move |inner| {
        (
            word(),
            params(),
            prop::collection::btree_map(word(), inner, 0..4),
        )
            .prop_map(|(module, params, slots)| ModuleSpec {
                module: Spanned::unplaced(module),
                params,
                submodules: slots
                    .into_iter()
                    .map(|(slot, spec)| Submodule {
                        slot: Spanned::unplaced(slot),
                        spec,
                    })
                    .collect(),
                span: Span::NONE,
            })
    })
}

fn document() -> impl Strategy<Value = Document> {
    (word(), spec(), prop::option::of(entries(node()))).prop_map(|(name, spec, build)| Document {
        mla: Spanned::unplaced(1),
        name: Spanned::unplaced(name),
        body: Body::Layer(spec),
        build: build.map(|entries| unplaced(NodeKind::Map(entries))),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_document_reads_back_equal(document in document()) {
        prop_assert_eq!(read_back(&write::yaml(&document, &Comments::default())), document);
    }

    #[test]
    fn comments_change_nothing(document in document(), text in "\\PC{0,20}|a\nb: 1|\u{2028}x") {
        let Body::Layer(layer) = &document.body else { return Ok(()) };
        let mut comments = Comments::default();
        comments.0.insert(String::new(), text.clone());
        comments.0.insert("name".into(), text.clone());
        for param in &layer.params {
            comments.0.insert(format!("params.{}", param.key.value), text.clone());
        }
        for submodule in &layer.submodules {
            comments.0.insert(format!("submodules.{}.module", submodule.slot.value), text.clone());
        }
        prop_assert_eq!(read_back(&write::yaml(&document, &comments)), document);
    }
}

const SPEC: &str = "\
# header
# of two lines
mla: 1
name: Small
module: MLASelfAttention
params:
  hidden_size: 64 # the width
  rope:
    type: plain
    theta: 50000.0
    layout: half # inferred
submodules:
  linear_q_proj: ColumnParallelLinear
  kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
  linear_kv_up_proj: # where
    module: LayerNormColumnParallelLinear
    params: { normalization: RMSNorm, eps: 1.0e-5 } # which
build:
  phases: [forward, decode]
  cache: { format: latent_f32 }
";

#[test]
fn the_style_is_as_people_write_it() {
    let comments = [
        ("", "header\nof two lines"),
        ("params.hidden_size", "the width"),
        ("params.rope.layout", "inferred"),
        ("submodules.linear_kv_up_proj", "where"),
        ("submodules.linear_kv_up_proj.params", "which"),
        ("params.absent", "never printed"),
    ];
    let comments = Comments(
        comments
            .map(|(path, text)| (path.to_owned(), text.to_owned()))
            .into(),
    );
    assert_eq!(write::yaml(&read_back(SPEC), &comments), SPEC);
}
