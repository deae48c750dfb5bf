//! Rules of models.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// A model of two small layers, the second of which is to be added, with the pattern.
macro_rules! small {
    ($layers:literal, $pattern:literal) => {
        concat!(
            "model:
  num_hidden_layers: 2
  layers:
    full:
      module: SelfAttention
      params: { hidden_size: 64, num_attention_heads: 4, num_query_groups: 2, kv_channels: 16, attn_mask_type: causal, rope: { type: none } }
      submodules: { linear_qkv: ColumnParallelLinear, core_attention: DotProductAttention, linear_proj: RowParallelLinear }
",
            $layers,
            "  pattern: ",
            $pattern,
            "\n"
        )
    };
}

/// A model of two layers, the first of which hands out its latents; the second is to be added.
macro_rules! sharing {
    ($other:literal) => {
        concat!(
            "model:
  num_hidden_layers: 2
  layers:
    own:
      module: MLASelfAttention
      params:
        hidden_size: 64
        num_attention_heads: 4
        kv_lora_rank: 32
        qk_nope_head_dim: 16
        qk_rope_head_dim: 8
        v_head_dim: 16
        attn_mask_type: causal
        rope: { type: plain, theta: 10000.0, layout: half }
        share_kv: true
      submodules:
        linear_q_proj: ColumnParallelLinear
        linear_kv_down_proj: Linear
        kv_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
        linear_kv_up_proj: ColumnParallelLinear
        core_attention: DotProductAttention
        linear_proj: RowParallelLinear
",
            $other,
            "  pattern: [own, other]
"
        )
    };
}

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(670),
        title: "not a layer's name",
        rule: "layers of a model are named in lower case letters, digits and single underscores, by no word of Rust; `<Model><Layer>` must be free for a type.",
        why: "the name becomes a module, and a part of a type.",
        wrong: small!(
            r"    Sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, Sliding]"
        ),
        right: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, sliding]"
        ),
    },
    Rule {
        code: Code(671),
        title: "no such layer",
        rule: "`pattern` and `like` name layers below `layers`.",
        why: "a layer that nobody described can't be generated.",
        wrong: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, slides]"
        ),
        right: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, sliding]"
        ),
    },
    Rule {
        code: Code(672),
        title: "a layer that stands nowhere",
        rule: "every layer is in `pattern`, or another one is like it.",
        why: "a layer that is ignored would look as if it did something.",
        wrong: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, full]"
        ),
        right: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, sliding]"
        ),
    },
    Rule {
        code: Code(673),
        title: "layers that are like each other",
        rule: "following `like` from layer to layer comes to one that is written out in full.",
        why: "in a circle there is nothing to start from.",
        wrong: small!(
            r"    sliding: { like: narrow, params: { window_size: [15, 0] } }
    narrow: { like: sliding, params: { window_size: [7, 0] } }
",
            r"[full, sliding]"
        ),
        right: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
    narrow: { like: sliding, params: { window_size: [7, 0] } }
",
            r"[sliding, narrow]"
        ),
    },
    Rule {
        code: Code(674),
        title: "like a layer of another module",
        rule: "a layer has the module of the one that it is like.",
        why: "parameters of one module mean nothing to another, so nothing would be inherited.",
        wrong: small!(
            r"    other: { like: full, module: CrossAttention }
",
            r"[full, other]"
        ),
        right: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, sliding]"
        ),
    },
    Rule {
        code: Code(675),
        title: "the pattern has another length",
        rule: "`pattern` lists `num_hidden_layers` times `attentions_per_layer` attentions.",
        why: "counts of layers are confused where a layer has several attentions, or prediction layers follow.",
        wrong: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, sliding, full]"
        ),
        right: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, sliding]"
        ),
    },
    Rule {
        code: Code(676),
        title: "the pattern is too long",
        rule: "a pattern has at most 4096 attentions.",
        why: "repetitions of repetitions grow quickly, and no model is that deep.",
        wrong: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, { repeat: 4096, of: [sliding, full] }]"
        ),
        right: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[{ repeat: 1, of: [full, sliding] }]"
        ),
    },
    Rule {
        code: Code(677),
        title: "two names for one layer (warning)",
        rule: "layers of different names differ in something.",
        why: "equal layers become one module, whose name is the first; a difference that was meant got lost.",
        wrong: small!(
            r"    sliding: { like: full }
",
            r"[full, sliding]"
        ),
        right: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] } }
",
            r"[full, sliding]"
        ),
    },
    Rule {
        code: Code(678),
        title: "layers of different widths",
        rule: "all layers of a model have the same `hidden_size`.",
        why: "they read and write one residual stream.",
        wrong: small!(
            r"    wide: { like: full, params: { hidden_size: 128 } }
",
            r"[full, wide]"
        ),
        right: small!(
            r"    wide: { like: full, params: { kv_channels: 32 } }
",
            r"[full, wide]"
        ),
    },
    Rule {
        code: Code(679),
        title: "stages out of order",
        rule: "`pipeline_stages` lists the first layer of every stage but the first: ascending, each once, from 1, below `num_hidden_layers`.",
        why: "a stage holds consecutive layers.",
        wrong: r"model:
  pipeline_stages: [3, 1]
",
        right: r"model:
  pipeline_stages: [1]
",
    },
    Rule {
        code: Code(680),
        title: "nothing to attend to yet",
        rule: "before a layer with a shared indexer or shared latents stands one that hands its own out.",
        why: "the first layer of a model can't share; systems that allow it read what was never written.",
        wrong: r"model:
  pattern: [picked, full, picking, picked]
",
        right: r"model:
  pattern: [picking, picked, full, picked]
",
    },
    Rule {
        code: Code(681),
        title: "a source that runs later",
        rule: "a source is an earlier attention, counted from 0.",
        why: "what a later one makes is not there yet.",
        wrong: r#"model:
  pattern: [picking, picked, picking, picked]
  topk_source: { "1": 2 }
"#,
        right: r#"model:
  pattern: [picking, picked, picking, picked]
  topk_source: { "3": 2 }
"#,
    },
    Rule {
        code: Code(682),
        title: "a source that hands out nothing",
        rule: "a source has `share_topk: true` at its indexer, or `share_kv: true`.",
        why: "a selection or latents that nobody keeps can't be attended to.",
        wrong: r#"model:
  topk_source: { "2": 0 }
"#,
        right: r#"model:
  topk_source: { "2": 1 }
"#,
    },
    Rule {
        code: Code(683),
        title: "a source that doesn't fit",
        rule: "those who share a selection agree on its size; those who share latents on `kv_lora_rank`, `qk_rope_head_dim`, `rope` and the cache.",
        why: "the consumer would read what the producer did not write.",
        wrong: sharing!(
            r"    other:
      like: own
      params: { share_kv: null, kv_source: shared, rope: { type: none } }
      submodules: { linear_kv_down_proj: null, kv_layernorm: null }
"
        ),
        right: sharing!(
            r"    other:
      like: own
      params: { share_kv: null, kv_source: shared }
      submodules: { linear_kv_down_proj: null, kv_layernorm: null }
"
        ),
    },
    Rule {
        code: Code(684),
        title: "shared across a pipeline stage",
        rule: "consumer and source stand in one pipeline stage.",
        why: "a selection or a cache of another stage is on another device; one system of three checks it.",
        wrong: r"model:
  pipeline_stages: [2]
",
        right: r"model:
  pipeline_stages: [1]
",
    },
    Rule {
        code: Code(685),
        title: "a source for a layer with its own",
        rule: "`topk_source` and `kv_source` speak of attentions that take from another.",
        why: "it would change nothing, and a reader would believe that something is shared.",
        wrong: r#"model:
  topk_source: { "0": 0 }
"#,
        right: r#"model:
  topk_source: { "2": 1 }
"#,
    },
    Rule {
        code: Code(686),
        title: "a layer's own phases, dtype or targets",
        rule: "in a model's layer `build` holds `cache`, `form`, `expect`, `context_chunk`, `flash_decode`, `recompute`, `offload`, `fold` and \
               `weights` alone.",
        why: "a model runs as a whole: every layer has the same phases, in the same arithmetic.",
        wrong: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] }, build: { dtype: bf16 } }
",
            r"[full, sliding]"
        ),
        right: small!(
            r"    sliding: { like: full, params: { window_size: [15, 0] }, build: { cache: { page_size: 16 } } }
",
            r"[full, sliding]"
        ),
    },
    Rule {
        code: Code(687),
        title: "not a place of tensors",
        rule: "`prefix` has the hole `{layer}`, and `{attention}` exactly where a layer has several.",
        why: "every attention loads tensors of its own.",
        wrong: r"model:
  prefix: model.layers.self_attn
",
        right: r#"model:
  prefix: "model.layers.{layer}.self_attn"
"#,
    },
    Rule {
        code: Code(688),
        title: "shared with nobody (warning)",
        rule: "a layer that hands out its selection or its latents has someone who takes them.",
        why: "handing out costs memory, and a layer that was meant to take them takes its own.",
        wrong: sharing!(
            r"    other: { like: own, params: { share_kv: null, kv_lora_rank: 16 } }
"
        ),
        right: sharing!(
            r"    other:
      like: own
      params: { share_kv: null, kv_source: shared }
      submodules: { linear_kv_down_proj: null, kv_layernorm: null }
"
        ),
    },
];
