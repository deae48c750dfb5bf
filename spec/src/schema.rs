//! The JSON Schema that editors complete and check specs with.
//!
//! It knows names, kinds and closed words, with a sentence on each; what one value asks of another is `check`'s.

mod grouped;

use serde_json::{Map, Value, json};

use crate::read::{SPEC_KEYS, TOP_LEVEL_KEYS};

/// The schema (draft 2020-12) of the language, ending with a line end.
pub fn json_schema() -> String {
    let mut text = format!("{:#}", schema());
    text.push('\n');
    text
}

fn schema() -> Value {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mla-gen spec",
        "description": "An attention layer, as Megatron-Core's ModuleSpec: a module, its parameters and its submodules.",
    });
    let bodies: Vec<Value> = std::iter::once(latent()).chain(grouped::layers()).collect();
    merge(&mut root, json!({ "anyOf": bodies }));
    root
}

/// A spec of latent attention.
fn latent() -> Value {
    let sections = [mla(), name(), attention(), params(), submodules(), build()];
    closed(
        TOP_LEVEL_KEYS.into_iter().zip(sections),
        &["mla", "name", "module", "params", "submodules"],
    )
}

fn mla() -> Value {
    json!({ "const": 1, "description": "Version of the language." })
}

fn name() -> Value {
    json!({
        "type": "string",
        "pattern": "^[A-Z][A-Za-z0-9]*$",
        "description": "Name of the generated Rust type, in upper camel case.",
    })
}

fn attention() -> Value {
    words(
        &["MLASelfAttention"],
        "The module described: Multi-head Latent Attention over one sequence.",
    )
}

/// A size in elements or a number of heads.
fn size(text: &str) -> Value {
    json!({ "type": "integer", "minimum": 1, "description": text })
}

fn params() -> Value {
    described(
        "Sizes and options of the layer. Names are those of a Hugging Face `config.json`.",
        closed(
            [
                ("hidden_size", size("Width of the residual stream, h.")),
                ("num_attention_heads", size("Number of heads, H.")),
                (
                    "q_lora_rank",
                    size(
                        "Width of the query latent, r_q. Leave it out for plain queries (`linear_q_proj`).",
                    ),
                ),
                (
                    "kv_lora_rank",
                    size(
                        "Width of the key-value latent, r_kv: what the latent cache keeps per token.",
                    ),
                ),
                (
                    "qk_nope_head_dim",
                    size("The part of a head's query and key that is never rotated, d_n."),
                ),
                (
                    "qk_rope_head_dim",
                    json!({ "type": "integer", "minimum": 0, "multipleOf": 2,
                            "description": "The part that rope rotates, d_r; its key is shared by all heads. 0 for none." }),
                ),
                ("v_head_dim", size("Length of a head's value, d_v.")),
                (
                    "attn_mask_type",
                    words(
                        &["causal", "no_mask", "padding", "padding_causal"],
                        "Which keys a query sees: what came before (`causal`), everything (`no_mask`), and the same \
                         with padded inputs allowed (`padding_causal`, `padding`).",
                    ),
                ),
                ("rope", rope()),
            ],
            &[
                "hidden_size",
                "num_attention_heads",
                "kv_lora_rank",
                "qk_nope_head_dim",
                "qk_rope_head_dim",
                "v_head_dim",
                "attn_mask_type",
            ],
        ),
    )
}

fn rope() -> Value {
    let number = |text: &str| json!({ "type": "number", "description": text });
    described(
        "Rotary embedding. Required unless `qk_rope_head_dim` is 0.",
        closed(
            [
                (
                    "type",
                    words(
                        &["none", "plain", "linear", "yarn"],
                        "How frequencies are made: not at all, as they are, divided by `factor`, or YaRN.",
                    ),
                ),
                ("theta", number("Base of the frequencies (`rope_theta`).")),
                (
                    "layout",
                    words(
                        &["interleaved", "half"],
                        "Which elements make a pair in the checkpoint's weights: (2i, 2i + 1), or (i, i + d_r / 2). \
                         The wrong one gives wrong numbers, not an error.",
                    ),
                ),
                (
                    "factor",
                    number("How many times longer the context is than in the original training."),
                ),
                (
                    "original_max_position_embeddings",
                    json!({ "type": "integer", "minimum": 1, "description": "Context length of the original training." }),
                ),
                (
                    "beta_fast",
                    number("YaRN: rotations above which a frequency is kept."),
                ),
                (
                    "beta_slow",
                    number("YaRN: rotations below which a frequency is divided by `factor`."),
                ),
                (
                    "mscale",
                    number(
                        "YaRN: numerator of what cos and sin are multiplied by. Either this or `attention_factor`.",
                    ),
                ),
                (
                    "attention_factor",
                    number(
                        "YaRN: what cos and sin are multiplied by, as it stands. Either this or `mscale`.",
                    ),
                ),
                (
                    "mscale_all_dim",
                    number(
                        "YaRN: exponent of the softmax scale's correction; 0 leaves the scale alone.",
                    ),
                ),
                (
                    "truncate",
                    json!({ "type": "boolean", "description": "YaRN: whether the ramp's bounds are rounded to whole pairs. Default: true." }),
                ),
            ],
            &["type"],
        ),
    )
}

fn submodules() -> Value {
    let down = ["Linear"];
    let up = ["ColumnParallelLinear", "LayerNormColumnParallelLinear"];
    let norms = ["IdentityOp", "RMSNorm", "LayerNorm"];
    described(
        "What fills each slot: a module's name, or a mapping with `module` and `params`. Slot names are Megatron-Core's.",
        closed(
            [
                (
                    "linear_q_proj",
                    slot(
                        &["ColumnParallelLinear"],
                        "Plain queries, `q_proj`. Excludes the three slots of LoRA queries.",
                    ),
                ),
                (
                    "linear_q_down_proj",
                    slot(&down, "Query latent, `q_a_proj`."),
                ),
                (
                    "q_layernorm",
                    slot(
                        &norms,
                        "Norm of the query latent, `q_a_layernorm`; `IdentityOp` where the up projection holds it.",
                    ),
                ),
                (
                    "linear_q_up_proj",
                    slot(&up, "Queries from their latent, `q_b_proj`."),
                ),
                (
                    "linear_kv_down_proj",
                    slot(
                        &down,
                        "Key-value latent and shared rope key, `kv_a_proj_with_mqa`.",
                    ),
                ),
                (
                    "linear_qkv_down_proj",
                    slot(
                        &down,
                        "Both down projections as one matrix, the query's rows first. Replaces the two.",
                    ),
                ),
                (
                    "kv_layernorm",
                    slot(
                        &norms,
                        "Norm of the key-value latent, `kv_a_layernorm`; `IdentityOp` where the up projection holds it.",
                    ),
                ),
                (
                    "linear_kv_up_proj",
                    slot(&up, "Keys and values from their latent, `kv_b_proj`."),
                ),
                (
                    "core_attention",
                    slot(&["DotProductAttention"], "Attention itself."),
                ),
                (
                    "linear_proj",
                    slot(&["RowParallelLinear"], "Output projection, `o_proj`."),
                ),
            ],
            &[
                "kv_layernorm",
                "linear_kv_up_proj",
                "core_attention",
                "linear_proj",
            ],
        ),
    )
}

/// A slot that one of `modules` fills.
fn slot(modules: &[&str], description: &str) -> Value {
    let modules = words(modules, "The module in this slot.");
    let params = module_params(&modules);
    filled(modules, params, description)
}

/// A slot that a module with these parameters fills.
fn slot_with(module: &str, params: Vec<(&'static str, Value)>, description: &str) -> Value {
    filled(
        words(&[module], "The module in this slot."),
        params,
        description,
    )
}

fn filled(modules: Value, params: Vec<(&'static str, Value)>, description: &str) -> Value {
    let shapes = [modules.clone(), spec(&modules, params)];
    json!({ "description": description, "anyOf": shapes })
}

fn spec(modules: &Value, params: Vec<(&'static str, Value)>) -> Value {
    let params = described("The module's parameters.", closed(params, &[]));
    let submodules = described(
        "None of these modules has submodules in this release.",
        closed([], &[]),
    );
    closed(
        SPEC_KEYS
            .into_iter()
            .zip([modules.clone(), params, submodules]),
        &["module"],
    )
}

/// Whether a projection has a bias.
fn bias() -> (&'static str, Value) {
    let description = "Whether the projection has a bias. Default: false.";
    (
        "bias",
        json!({ "type": "boolean", "description": description }),
    )
}

/// The parameters of the modules of a slot.
fn module_params(modules: &Value) -> Vec<(&'static str, Value)> {
    let has = |module: &str| {
        modules["enum"]
            .as_array()
            .is_some_and(|words| words.iter().any(|word| word == module))
    };
    let mut params = Vec::new();
    if has("Linear") || has("RowParallelLinear") {
        params.push(bias());
    }
    if has("RMSNorm") || has("LayerNormColumnParallelLinear") {
        params.push((
            "eps",
            json!({ "type": "number", "exclusiveMinimum": 0, "description": "The norm's epsilon. Often not the config's `rms_norm_eps`." }),
        ));
    }
    if has("LayerNormColumnParallelLinear") {
        params.push((
            "normalization",
            words(
                &["RMSNorm", "LayerNorm"],
                "The norm that the projection holds.",
            ),
        ));
    }
    params
}

fn build() -> Value {
    let tokens = |text: &str| json!({ "type": "integer", "minimum": 0, "description": text });
    described(
        "How the layer is computed. Nothing here changes the mathematics.",
        closed(
            [
                (
                    "phases",
                    list(
                        &["forward", "prefill", "decode"],
                        "Functions to emit. Default: all three.",
                    ),
                ),
                (
                    "dtype",
                    words(
                        &["f32", "bf16", "f64"],
                        "Type of arithmetic and of weights in memory. Default: f32.",
                    ),
                ),
                ("cache", cache()),
                (
                    "form",
                    words(
                        &["auto", "mha", "mqa"],
                        "Form of attention: computed per phase, expanded, or absorbed. Default: auto.",
                    ),
                ),
                (
                    "expect",
                    described(
                        "Lengths at which the cheaper form is chosen, in tokens per request.",
                        closed(
                            [
                                ("prefill_tokens", tokens("New tokens of a prefill.")),
                                (
                                    "prefill_context",
                                    tokens("Tokens already cached at a prefill."),
                                ),
                                ("decode_tokens", tokens("New tokens of a decode step.")),
                                (
                                    "decode_context",
                                    tokens("Tokens already cached at a decode step."),
                                ),
                            ],
                            &[],
                        ),
                    ),
                ),
                (
                    "context_chunk",
                    json!({ "type": "integer", "minimum": 1, "description": "Cached tokens expanded at a time. Default: 1024." }),
                ),
                (
                    "flash_decode",
                    json!({ "type": "boolean", "description": "SelfAttention: rotate, cache and attend in one op at decode. Default: false." }),
                ),
                (
                    "targets",
                    list(&["cpu"], "What the layer is built for. Default: cpu."),
                ),
            ],
            &[],
        ),
    )
}

fn cache() -> Value {
    let kinds = ["latent", "naive"];
    let formats: Vec<_> = kinds
        .iter()
        .flat_map(|kind| ["f32", "bf16", "f16", "f64"].map(|dtype| format!("{kind}_{dtype}")))
        .collect();
    let formats: Vec<_> = formats.iter().map(String::as_str).collect();
    described(
        "What prefill and decode keep of past tokens.",
        closed(
            [
                (
                    "format",
                    words(
                        &formats,
                        "What is kept, the latents or every head's keys and values, and in which type. Default: latent_f32.",
                    ),
                ),
                (
                    "page_size",
                    json!({ "type": "integer", "minimum": 1, "description": "Tokens per page. Leave it out for a contiguous cache." }),
                ),
                (
                    "rope_layout",
                    words(
                        &["interleaved", "half"],
                        "Order of the cached rope key's elements. Default: the layer's own.",
                    ),
                ),
            ],
            &[],
        ),
    )
}

/// One of a closed set of words.
fn words(words: &[&str], description: &str) -> Value {
    json!({ "type": "string", "enum": words, "description": description })
}

/// A list of distinct words.
fn list(choices: &[&str], description: &str) -> Value {
    let items = words(choices, description);
    json!({ "type": "array", "items": items, "minItems": 1, "uniqueItems": true, "description": description })
}

/// A mapping with these keys and no others.
fn closed<'a>(properties: impl IntoIterator<Item = (&'a str, Value)>, required: &[&str]) -> Value {
    let properties: Map<_, _> = properties
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

fn described(description: &str, schema: Value) -> Value {
    let mut described = json!({ "description": description });
    merge(&mut described, schema);
    described
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
