//! Layers that together use every option of the language.

use mla_spec::explain::whole;
use mla_spec::{Activation, CacheKind, Checked, Core, FormChoice, Phase, Sources, check, read};

/// Small sizes of a latent layer.
const LATENT: &str = "params:
  hidden_size: 48
  num_attention_heads: 4
  q_lora_rank: 24
  kv_lora_rank: 16
  qk_nope_head_dim: 8
  qk_rope_head_dim: 4
  v_head_dim: 6
";

/// Small sizes of a grouped layer.
const GROUPED: &str = "module: SelfAttention
params:
  hidden_size: 48
  num_attention_heads: 6
  num_query_groups: 2
  kv_channels: 8
";

/// Small sizes of a cross attention.
const CROSS: &str = "module: CrossAttention
params:
  hidden_size: 48
  context_hidden_size: 20
  num_attention_heads: 4
  kv_channels: 8
";

const FORWARD: &str = "build: { phases: [forward] }\n";

/// An indexer's slots and these parameters.
fn indexer(params: &str, slots: &str) -> String {
    format!(
        "submodules:
  core_attention:
    module: SparseAttention
    submodules:
      indexer:
        module: LightningIndexer
        params: {{ num_heads: 2, head_dim: 8, topk: 4, {params} }}
        submodules:
          linear_wk: Linear
          linear_wq_b: Linear
          k_norm: {{ module: LayerNorm, params: {{ eps: 1.0e-6 }} }}
{slots}"
    )
}

const WEIGHTS: &str = "          linear_weights_proj: Linear\n";
const ROTATED: &str =
    "rope_layout: half, split_order: rope_first, query_input: q_latent, relu: true";
const NOPE: &str = "params:\n  qk_rope_head_dim: 0\n  rope: { type: none }\n";
const TAKES_KV: &str =
    "# no linear_kv_down_proj\n# no kv_layernorm\nparams:\n  kv_source: shared\n";

fn shared_indexer(more: &str) -> String {
    format!(
        "submodules:\n  core_attention: {{ module: SparseAttention, submodules: {{ indexer: {{ module: SharedIndexer, params: {{ topk: 4{more} }} }} }} }}\n"
    )
}

/// The same layer, trained; half of them compute everything again that can be.
pub fn trained(name: &str, checked: &Checked) -> Checked {
    let mut trained = checked.clone();
    trained.build = trained.build.for_training();
    let again = name.len().is_multiple_of(2);
    trained.build.recompute = match again {
        true => Activation::ALL.to_vec(),
        false => Vec::new(),
    };
    trained
}

/// Every option at least once, by a name of its own.
pub fn language() -> Vec<(String, Checked)> {
    let latent = |excerpt: &str| format!("{LATENT}{excerpt}");
    let latent_layers = latent_excerpts()
        .into_iter()
        .map(|(name, excerpt)| (name, latent(&excerpt)));
    let grouped_layers = grouped_excerpts()
        .into_iter()
        .map(|(name, excerpt)| (name, format!("{GROUPED}{excerpt}")));
    let cross_layers = [
        ("cross", String::new()),
        (
            "cross_padded",
            "params:\n  attn_mask_type: padding\n".to_owned(),
        ),
    ];
    let cross_layers = cross_layers
        .into_iter()
        .map(|(name, excerpt)| (name, format!("{CROSS}{excerpt}{FORWARD}")));
    latent_layers
        .chain(grouped_layers)
        .chain(cross_layers)
        .map(|(name, excerpt)| (name.to_owned(), with_mixed(checked(name, &whole(&excerpt)))))
        .collect()
}

/// The layer of a spec, under a name that all modules have in common.
///
/// # Panics
/// When the spec is refused.
pub fn checked(name: &str, yaml: &str) -> Checked {
    let mut sources = Sources::default();
    let document = read::yaml(&mut sources, name, yaml)
        .unwrap_or_else(|found| panic!("{}", mla_spec::render::text(&found, &sources, false)));
    let (checked, found) = check(&document);
    let mut checked =
        checked.unwrap_or_else(|| panic!("{}", mla_spec::render::text(&found, &sources, false)));
    checked.layer.name = "Layer".to_owned();
    checked
}

/// The layer, with the phase `mixed` beside its other cached ones where it has two forms over a cache of latents.
fn with_mixed(mut checked: Checked) -> Checked {
    let build = &mut checked.build;
    let cached = build.phases.iter().any(|phase| phase.is_cached());
    let both = checked.layer.latent().is_some()
        && checked.layer.core == Core::Dense
        && build.cache.kind == CacheKind::Latent
        && build.form == FormChoice::Auto;
    if cached && both {
        build.phases.push(Phase::Mixed);
    }
    checked
}

fn latent_excerpts() -> Vec<(&'static str, String)> {
    [dense_excerpts(), sparse_excerpts(), cache_excerpts()].concat()
}

fn dense_excerpts() -> Vec<(&'static str, String)> {
    let params = |text: &str| format!("params:\n{text}");
    vec![
        ("plain", String::new()),
        (
            "llama4_scale",
            params("  query_scaling: { type: llama4, beta: 0.1, original_max_position_embeddings: 3, position_offset: 1 }\n"),
        ),
        ("log_position", params("  query_scaling: { type: log_position }\n")),
        (
            "latent_scales",
            params("  q_lora_scale: { factor: hidden_over_rank, at: query }\n  kv_lora_scale: { factor: hidden_over_rank }\n"),
        ),
        ("latent_scale", params("  q_lora_scale: { factor: 3, at: latent }\n")),
        (
            "gate_per_head",
            "params:\n  attention_output_gate: per_head\nsubmodules:\n  linear_gate_proj: { module: ColumnParallelLinear, params: { dtype: f32, bias: true } }\n".to_owned(),
        ),
        (
            "gate_per_element",
            "params:\n  attention_output_gate: per_element\nsubmodules:\n  linear_gate_proj: ColumnParallelLinear\n".to_owned(),
        ),
        (
            "gate_fused",
            "# no linear_q_up_proj\nparams:\n  attention_output_gate: fused_with_query\nsubmodules:\n  linear_q_gate_proj: ColumnParallelLinear\n".to_owned(),
        ),
        (
            "gated_norms",
            "submodules:
  input_layernorm: { module: GatedRMSNorm, params: { eps: 1.0e-6, rank: 16 } }
  q_layernorm: { module: GatedRMSNorm, params: { eps: 1.0e-6, rank: 16 } }
  kv_layernorm: { module: GatedRMSNorm, params: { eps: 1.0e-6, rank: 16 } }
  k_rope_layernorm: { module: RMSNorm, params: { eps: 1.0e-5 } }
".to_owned(),
        ),
        (
            "llama3",
            params("  rope: { type: llama3, theta: 500000.0, layout: half, factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 }\n"),
        ),
        (
            "longrope",
            format!("params:\n  rope: {{ type: longrope, theta: 10000, layout: half, short_factor: [1, 1.5], long_factor: [4, 5], original_max_position_embeddings: 6, attention_factor: 1.19, select: by_length }}\n{FORWARD}"),
        ),
        (
            "dynamic",
            format!("params:\n  rope: {{ type: dynamic, theta: 10000, layout: half, factor: 2, max_position_embeddings: 4 }}\n{FORWARD}"),
        ),
        (
            "softmax",
            format!("params:\n  softmax_scale: 0.0884\n  attn_logits_soft_cap: 50\n  softmax_type: learnable\n  core_attention_bias: post_scale_bias\n  attention_dropout: 0.1\n{FORWARD}"),
        ),
        ("soft_cap", params("  attn_logits_soft_cap: 20\n  softmax_type: learnable\n")),
        ("off_by_one", params("  softmax_type: off-by-one\n")),
        ("window", params("  window_size: [3, 0]\n")),
        ("chunk", params("  attention_chunk_size: 4\n")),
        ("blocks", params("  bidirectional_blocks: true\n")),
        ("arbitrary", format!("params:\n  attn_mask_type: arbitrary\n{FORWARD}")),
        ("two_sided", format!("params:\n  attn_mask_type: padding\n  window_size: [2, 3]\n{FORWARD}")),
        ("gives_kv", params("  kv_source: own\n  share_kv: true\n")),
        ("takes_kv", TAKES_KV.to_owned()),
        ("takes_kv_expanded", format!("{TAKES_KV}build: {{ form: mha }}\n")),
    ]
}

fn sparse_excerpts() -> Vec<(&'static str, String)> {
    let rich = "rope_layout: half, split_order: nope_first, query_input: hidden, relu: false, hadamard: true, \
         query_scaling: { type: log_position }, forced: { initial: 1, local: 2 }, share_topk: true";
    let slots = "          linear_weights_proj: { module: Linear, params: { dtype: f32 } }
          q_input_norm: { module: LayerNorm, params: { eps: 1.0e-6 } }
";
    let pool = "pool: { size: 2, always_select_tail: true }";
    vec![
        ("sparse", indexer(ROTATED, WEIGHTS)),
        (
            "sparse_folded",
            format!(
                "{}build:\n  fold: [input_projections]\n",
                indexer(ROTATED, WEIGHTS)
            ),
        ),
        (
            "sparse_expanded",
            format!(
                "{}build: {{ phases: [forward], form: mha }}\n",
                indexer(ROTATED, WEIGHTS)
            ),
        ),
        ("sparse_rich", indexer(rich, slots)),
        (
            "sparse_pooled",
            format!(
                "{NOPE}{}",
                indexer(
                    &format!("query_input: q_latent, relu: true, {pool}"),
                    WEIGHTS
                )
            ),
        ),
        ("sparse_taken", shared_indexer("")),
        ("sparse_taken_pooled", shared_indexer(&format!(", {pool}"))),
        (
            "sparse_over_taken_kv",
            format!("{TAKES_KV}{}", indexer(ROTATED, WEIGHTS)),
        ),
        ("all_taken", format!("{TAKES_KV}{}", shared_indexer(""))),
    ]
}

fn cache_excerpts() -> Vec<(&'static str, String)> {
    let wide = "params:\n  kv_lora_rank: 512\n  qk_rope_head_dim: 64\n";
    let deep = "params:\n  kv_lora_rank: 448\n  qk_rope_head_dim: 64\n";
    let index = indexer(ROTATED, WEIGHTS).replace("head_dim: 8", "head_dim: 128");
    let transformed = index.replace("relu: true", "relu: true, hadamard: true");
    let cached = |cache: &str| format!("build:\n  dtype: bf16\n  cache: {{ {cache} }}\n");
    vec![
        (
            "fp8",
            format!("{wide}{}", cached("format: latent_fp8_e5m2")),
        ),
        (
            "fp8_ds_mla",
            format!(
                "{wide}{transformed}{}",
                cached(
                    "format: fp8_ds_mla, scale_format: ue8m0, page_size: 64, index_format: fp8_ue8m0, index_queries: as_keys"
                )
            ),
        ),
        (
            "fp8_model1",
            format!(
                "{deep}{index}{}",
                cached(
                    "format: fp8_model1, page_size: 64, index_format: mxfp4, index_queries: as_keys"
                )
            ),
        ),
        (
            "mxfp8",
            format!("{wide}{}", cached("format: mxfp8, page_size: 16")),
        ),
        (
            "fp8_weights",
            format!("{index}build: {{ weights: fp8_blocks, fold: [input_projections] }}\n"),
        ),
    ]
}

fn grouped_excerpts() -> Vec<(&'static str, String)> {
    let naive = "build: { cache: { format: naive_f32, page_size: 4 } }\n";
    let params = |text: &str| format!("params:\n{text}{naive}");
    vec![
        ("grouped", naive.to_owned()),
        (
            "grouped_normed",
            format!("# no linear_qkv\nparams:\n  rotary_dim: 4\nsubmodules:\n  linear_q: {{ module: ColumnParallelLinear, params: {{ bias: true }} }}\n  linear_kv: ColumnParallelLinear\n  q_layernorm: {{ module: RMSNorm, params: {{ eps: 1.0e-6 }} }}\n  k_layernorm: {{ module: LayerNorm, params: {{ eps: 1.0e-6 }} }}\n{naive}"),
        ),
        ("grouped_l2", params("  qk_l2_norm: true\n  qk_l2_norm_eps: 1.0e-5\n")),
        ("grouped_gate", params("  attention_output_gate: per_element\n")),
        ("grouped_sink", params("  softmax_type: learnable\n  window_size: [3, 0]\n")),
        (
            "grouped_flash",
            "build: { flash_decode: true, cache: { format: naive_f32, page_size: 4 } }\n".to_owned(),
        ),
        ("grouped_fp8_weights", "build: { weights: fp8_blocks, cache: { format: naive_f32, page_size: 4 } }\n".to_owned()),
        ("grouped_nope", "params:\n  rope: { type: none }\nbuild: { cache: { format: naive_f32, page_size: 4 } }\n".to_owned()),
    ]
}
