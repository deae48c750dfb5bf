//! Rust tokens and YAML are two spellings of one document.
#![cfg(feature = "tokens")]

use mla_spec::read::tokens::{self, Door};
use mla_spec::{Code, Diagnostics, Document, Place, Sources, read, render};
use proc_macro2::TokenStream;

fn parsed(text: &str) -> TokenStream {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn from_yaml(text: &str) -> Document {
    let mut sources = Sources::default();
    read::yaml(&mut sources, "spec.yaml", text)
        .unwrap_or_else(|errors| panic!("{}", render::text(&errors, &sources, false)))
}

fn attribute(args: &str, item: &str) -> Result<Door, Diagnostics> {
    let item = syn::parse2(parsed(item)).unwrap_or_else(|error| panic!("{error}"));
    tokens::attribute(parsed(args), &item, &mut Sources::default()).read
}

fn derive(item: &str) -> Result<Document, Diagnostics> {
    let item = syn::parse2(parsed(item)).unwrap_or_else(|error| panic!("{error}"));
    tokens::derive(&item, &mut Sources::default()).read
}

fn document(args: &str, item: &str) -> Document {
    match attribute(args, item) {
        Ok(Door::Document(document)) => document,
        Ok(Door::Spec { .. }) => panic!("a path"),
        Err(errors) => panic!("{}", render::text(&errors, &Sources::default(), false)),
    }
}

fn codes<T>(read: Result<T, Diagnostics>) -> Vec<u16> {
    read.err()
        .into_iter()
        .flatten()
        .map(|diagnostic| diagnostic.code.0)
        .collect()
}

const ARGS: &str = "
    hidden_size = 2048, num_attention_heads = 16, kv_lora_rank = 512,
    qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128,
    attn_mask_type = causal, rope(type = plain, theta = 50000.0, layout = interleaved),
    build(phases = [prefill, decode], dtype = bf16, cache(format = latent_bf16, page_size = 64), targets = [cpu, sm_90a]),
";
const FIELDS: &str = "
    linear_q_proj: ColumnParallelLinear,
    linear_kv_down_proj: Linear,
    kv_layernorm: IdentityOp,
    #[mla(normalization = RMSNorm, eps = 1e-6)] // a comment
    linear_kv_up_proj: slots::LayerNormColumnParallelLinear,
    #[mla(submodules(indexer(module = LightningIndexer, params(num_heads = 64, rope_layout = half), submodules(linear_wk = Linear))))]
    core_attention: SparseAttention,
    linear_proj: RowParallelLinear,
";
const YAML: &str = "
mla: 1
name: MoonlightAttention
module: MLASelfAttention
params:
  hidden_size: 2048
  num_attention_heads: 16
  kv_lora_rank: 512
  qk_nope_head_dim: 128
  qk_rope_head_dim: 64
  v_head_dim: 128
  attn_mask_type: causal
  rope: { type: plain, theta: 50000.0, layout: interleaved }
submodules:
  linear_q_proj: ColumnParallelLinear
  linear_kv_down_proj: Linear
  kv_layernorm: IdentityOp
  linear_kv_up_proj: { module: LayerNormColumnParallelLinear, params: { normalization: RMSNorm, eps: 1.0e-6 } }
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: { num_heads: 64, rope_layout: half }
        submodules: { linear_wk: Linear }
  linear_proj: RowParallelLinear
build:
  phases: [prefill, decode]
  dtype: bf16
  cache: { format: latent_bf16, page_size: 64 }
  targets: [cpu, sm_90a]
";

#[test]
fn all_doors_give_equal_documents() {
    let item = format!("pub struct MoonlightAttention {{ {FIELDS} }}");
    assert_eq!(document(ARGS, &item), from_yaml(YAML));
    assert_eq!(
        derive(&format!("#[mla({ARGS})] {item}")),
        Ok(from_yaml(YAML))
    );
}

#[test]
fn several_helper_attributes_are_one() {
    let item = "#[mla(a = 1)] #[mla(b = 2)] struct X { #[mla(c = 3)] #[mla(d = 4)] s: M }";
    let same = "mla: 1\nname: X\nmodule: MLASelfAttention\nparams: { a: 1, b: 2 }\nsubmodules: { s: { module: M, params: { c: 3, d: 4 } } }";
    assert_eq!(derive(item), Ok(from_yaml(same)));
}

#[test]
fn values_mean_what_they_mean_in_yaml() {
    let args = r#"int = -3, big = -9223372036854775808, grouped = 10_000, float = 1e-6, minus = -0.5, whole = 50000.0, yes = true,
        no = false, none = null, word = causal, text = "a: b", r#type = yarn, empty(), list = [1, [x], -2.0, "s"],"#;
    let same = r#"
mla: 1
name: X
module: MLASelfAttention
params: { int: -3, big: -9223372036854775808, grouped: 10000, float: 1.0e-6, minus: -0.5, whole: 50000.0, "yes": true, "no": false,
  none: null, word: causal, text: "a: b", type: yarn, empty: {}, list: [1, [x], -2.0, s] }
"#;
    assert_eq!(document(args, "struct X {}"), from_yaml(same));
    assert_eq!(
        document("mla = 1, module = Other, type = x", "struct r#type;"),
        from_yaml("mla: 1\nname: type\nmodule: Other\nparams: { type: x }")
    );
}

#[test]
fn a_version_or_build_of_the_wrong_kind_is_found_by_the_shared_pass() {
    assert_eq!(
        codes(attribute("mla = 2, module = 3, build = 4", "struct X;")),
        [13, 14, 14]
    );
}

#[test]
fn a_spec_path_stands_alone() {
    match attribute(
        "spec = \"a/b.yaml\", crate = ::other::path",
        "pub struct X;",
    ) {
        Ok(Door::Spec { path }) => assert_eq!(path.value(), "a/b.yaml"),
        _ => panic!("expected a path"),
    }
    assert_eq!(
        codes(attribute(
            "spec = \"a.yaml\", hidden_size = 3, build(dtype = f32)",
            "struct X { a: Linear }"
        )),
        [805, 805, 805]
    );
    assert_eq!(codes(attribute("spec = a.yaml", "struct X;")), [803]);
    assert_eq!(
        codes(attribute("spec = \"a\", spec = \"b\"", "struct X;")),
        [2]
    );
    assert_eq!(codes(derive("#[mla(spec = \"a.yaml\")] struct X;")), [805]);
}

#[test]
fn the_runtime_path_is_known_even_where_the_rest_is_wrong() {
    let item = syn::parse2(parsed("struct X(u8);")).unwrap_or_else(|error| panic!("{error}"));
    let outcome = tokens::attribute(
        parsed("crate = ::a::b, oops"),
        &item,
        &mut Sources::default(),
    );
    assert!(outcome.krate.is_some_and(|path| path.segments.len() == 2));
    assert_eq!(codes(outcome.read), [803, 801]);
}

#[test]
fn only_plain_structs_describe_layers() {
    assert_eq!(codes(attribute("", "enum X { A }")), [801]);
    assert_eq!(codes(attribute("", "fn f() {}")), [801]);
    assert_eq!(codes(attribute("", "struct X(Linear);")), [801]);
    assert_eq!(codes(derive("union X { a: u8 }")), [801]);
    assert_eq!(codes(attribute("", "struct X<T> { a: T }")), [802]);
}

#[test]
fn wrong_arguments_are_all_reported() {
    assert_eq!(
        codes(attribute(
            "a, b 3, 4 = 5, c = , d + 1, \"e\" = 2",
            "struct X;"
        )),
        [803, 803, 803, 804, 803, 803]
    );
    assert_eq!(
        codes(attribute(
            "a = (1), b = 1u32, c = 'x', d = a::b, e = x + y, f = {g}, h = -x, i = b\"s\"",
            "struct X;"
        )),
        [804; 8]
    );
    assert_eq!(
        codes(attribute(
            "a = 99999999999999999999, b = 1e999, c = -9223372036854775809",
            "struct X;"
        )),
        [3, 4, 3]
    );
    assert_eq!(
        codes(attribute("a = 1, a = 2, b(c = 1, c = 2)", "struct X;")),
        [2, 2]
    );
    assert_eq!(
        codes(attribute("crate = 3, spec = 4", "struct X;")),
        [803, 803]
    );
    assert_eq!(
        codes(attribute(
            "name = Y, params(a = 1), submodules(b = C)",
            "struct X;"
        )),
        [808; 3]
    );
}

#[test]
fn wrong_fields_are_all_reported() {
    let fields = "a: &'static str, b: Vec<u8>, c: (), #[mla] d: Linear, #[mla = 3] e: Linear, #[mla[x = 1]] f: Linear,
        #[mla(module = X, params(a = 1))] g: Linear, #[serde(skip)] h: Linear, #[cfg(test)] i: Linear, j: Linear, j: Linear";
    let expected = [807, 807, 806, 806, 806, 803, 803, 803, 808, 808, 2];
    assert_eq!(
        codes(attribute("", &format!("struct X {{ {fields} }}"))),
        expected
    );
    assert_eq!(
        codes(attribute("", "#[derive(Clone)] #[mla(a = 1)] struct X;")),
        [807, 808]
    );
    assert_eq!(
        codes(derive(
            "#[derive(Clone)] /** doc */ struct X { #[serde(skip)] h: Linear }"
        )),
        [0; 0]
    );
}

#[test]
fn deep_nesting_is_refused() {
    let deep = |open: &str, close: &str| format!("a{}x = 1{}", open.repeat(200), close.repeat(200));
    assert_eq!(
        codes(attribute(
            &deep("(b", ")")
                .replace("bx", "b(x")
                .replacen("= 1", "= 1)", 1),
            "struct X;"
        )),
        [6]
    );
    assert_eq!(
        codes(attribute(
            &format!("a = {}{}", "[".repeat(200), "]".repeat(200)),
            "struct X;"
        )),
        [6]
    );
}

#[test]
fn spans_are_those_of_the_tokens() {
    let item = syn::parse2(parsed("struct X { a: B }")).unwrap_or_else(|error| panic!("{error}"));
    let mut sources = Sources::default();
    let outcome = tokens::attribute(parsed("a = 1u8"), &item, &mut sources);
    let errors: Vec<_> = outcome.read.err().into_iter().flatten().collect();
    assert_eq!(errors[0].code, Code(804));
    let Some(Place::Token(index)) = sources.place(errors[0].primary.span) else {
        panic!("no token")
    };
    assert!(outcome.spans.get(*index).is_some());
}
