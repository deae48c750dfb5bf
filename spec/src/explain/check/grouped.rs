//! Rules of `SelfAttention` and `CrossAttention`.

use crate::diagnostic::Code;
use crate::explain::Rule;

/// In the order of the codes.
pub(super) const RULES: &[Rule] = &[
    Rule {
        code: Code(650),
        title: "query groups of different sizes",
        rule: "`num_query_groups` divides `num_attention_heads`.",
        why: "as many query heads share each key head; a remainder would have none.",
        wrong: r"module: SelfAttention
params:
  num_query_groups: 5
",
        right: r"module: SelfAttention
params:
  num_query_groups: 8
",
    },
    Rule {
        code: Code(651),
        title: "a part of a head that can't be rotated",
        rule: "`rotary_dim` is even and at most `kv_channels`; without it `kv_channels` is even.",
        why: "rope turns pairs of a head's first elements.",
        wrong: r"module: SelfAttention
params:
  rotary_dim: 256
",
        right: r"module: SelfAttention
params:
  rotary_dim: 64
",
    },
    Rule {
        code: Code(652),
        title: "`rotary_dim` without rope",
        rule: "`rotary_dim` stands beside a `rope` that rotates.",
        why: "it would say how much of a head is rotated where nothing is.",
        wrong: r"module: SelfAttention
params:
  rotary_dim: 64
  rope: { type: none }
",
        right: r"module: SelfAttention
params:
  rope: { type: none }
",
    },
    Rule {
        code: Code(653),
        title: "heads normed twice",
        rule: "`qk_l2_norm` excludes norms in `q_layernorm` and `k_layernorm`.",
        why: "the learned norm stands before rope, the other behind it; no model has both.",
        wrong: r"module: SelfAttention
params:
  qk_l2_norm: true
  qk_l2_norm_eps: 1.0e-6
submodules:
  q_layernorm: { module: RMSNorm, params: { eps: 1.0e-6 } }
",
        right: r"module: SelfAttention
params:
  qk_l2_norm: true
  qk_l2_norm_eps: 1.0e-6
",
    },
    Rule {
        code: Code(654),
        title: "an eps without its norm",
        rule: "`qk_l2_norm_eps` stands beside `qk_l2_norm: true`.",
        why: "it would change nothing, and a reader would believe that heads are normed.",
        wrong: r"module: SelfAttention
params:
  qk_l2_norm_eps: 1.0e-6
",
        right: r"module: SelfAttention
params:
  qk_l2_norm: true
  qk_l2_norm_eps: 1.0e-6
",
    },
    Rule {
        code: Code(655),
        title: "queries, keys and values made twice",
        rule: "either `linear_qkv` makes all three, or `linear_q` and `linear_kv` do.",
        why: "a checkpoint has one set of weights.",
        wrong: r"module: SelfAttention
submodules:
  linear_q: ColumnParallelLinear
",
        right: r"module: SelfAttention
submodules:
  linear_qkv: ColumnParallelLinear
",
    },
    Rule {
        code: Code(656),
        title: "a gate that `linear_qkv` does not make",
        rule: "`linear_qkv` holds one gate per element behind each group's queries; with `linear_q` and `linear_kv` the gate is `linear_gate_proj`'s.",
        why: "the rows of the joint projection are laid out for a gate as long as the query.",
        wrong: r"module: SelfAttention
params:
  attention_output_gate: per_head
",
        right: r"module: SelfAttention
params:
  attention_output_gate: per_element
",
    },
    Rule {
        code: Code(657),
        title: "a parameter of latent attention",
        rule: "ranks, the parts of a head and scales of latents belong to `MLASelfAttention`.",
        why: "the other modules make no latents, so the parameter would be ignored.",
        wrong: r"module: SelfAttention
params:
  kv_lora_rank: 512
",
        right: r"module: SelfAttention
params:
  num_query_groups: 1
",
    },
    Rule {
        code: Code(658),
        title: "sparse attention without latents",
        rule: "`SparseAttention` fills `core_attention` of `MLASelfAttention` alone.",
        why: "the indexer's queries and the selected keys are those of latent attention; the systems that have it refuse it elsewhere too.",
        wrong: r"module: SelfAttention
submodules:
  core_attention: SparseAttention
",
        right: r"module: SelfAttention
submodules:
  core_attention: DotProductAttention
",
    },
    Rule {
        code: Code(659),
        title: "the length of a head is not said",
        rule: "`SelfAttention` and `CrossAttention` state `kv_channels`.",
        why: "other systems fall back to `hidden_size / num_attention_heads`, which is wrong for many checkpoints.",
        wrong: r"# no kv_channels
module: SelfAttention
",
        right: r"module: SelfAttention
params:
  kv_channels: 128
",
    },
    Rule {
        code: Code(660),
        title: "not in cross attention",
        rule: "`CrossAttention` has no query groups, rope, gate, norms of heads, or masks that count positions.",
        why: "its keys belong to another sequence, whose positions do not compare with the queries'.",
        wrong: r"module: CrossAttention
params:
  num_query_groups: 4
",
        right: r"module: CrossAttention
params:
  context_hidden_size: 768
",
    },
    Rule {
        code: Code(661),
        title: "a causal mask between two sequences",
        rule: "masks of `CrossAttention` are `no_mask`, `padding`, `arbitrary` and `causal_bottom_right`.",
        why: "which key comes before which query is said only where the ends of the two sequences are aligned.",
        wrong: r"module: CrossAttention
params:
  attn_mask_type: causal
",
        right: r"module: CrossAttention
params:
  attn_mask_type: no_mask
",
    },
    Rule {
        code: Code(662),
        title: "two sequences aligned while one grows",
        rule: "`causal_bottom_right` goes with the phase `forward` alone.",
        why: "it aligns the last query with the last key, and a prefill or decode doesn't know how many queries will come.",
        wrong: r"module: CrossAttention
params:
  attn_mask_type: causal_bottom_right
build:
  phases: [forward, prefill, decode]
",
        right: r"module: CrossAttention
params:
  attn_mask_type: no_mask
build:
  phases: [forward, prefill, decode]
",
    },
    Rule {
        code: Code(663),
        title: "a cache of latents without latents",
        rule: "`latent_*` formats are for `MLASelfAttention`.",
        why: "the other modules have keys and values of their own, which `naive_*` formats keep.",
        wrong: r"module: SelfAttention
build:
  cache: { format: latent_f32 }
",
        right: r"module: SelfAttention
build:
  cache: { format: naive_f32 }
",
    },
    Rule {
        code: Code(664),
        title: "a build key that serves latents alone",
        rule: "`form`, `expect` and `context_chunk` are for `MLASelfAttention`.",
        why: "attention without latents has one form, so nothing would read them.",
        wrong: r"module: SelfAttention
build:
  form: mqa
",
        right: r"module: SelfAttention
build:
  dtype: f32
",
    },
    Rule {
        code: Code(665),
        title: "`flash_decode` where it can't be",
        rule: "`flash_decode` joins rope, the cache's update and attention in the decode of a `SelfAttention` that rotates.",
        why: "elsewhere there is nothing to join, and the key would be ignored.",
        wrong: r"module: SelfAttention
params:
  rope: { type: none }
build:
  flash_decode: true
",
        right: r"module: SelfAttention
build:
  flash_decode: true
",
    },
    Rule {
        code: Code(666),
        title: "cross attention that decodes what nothing cached",
        rule: "a `CrossAttention` with the phase `decode` has the phase `prefill` as well.",
        why: "the prefill makes the context's keys and values and caches them; a decode only reads them.",
        wrong: r"module: CrossAttention
build:
  phases: [forward, decode]
",
        right: r"module: CrossAttention
build:
  phases: [forward, prefill, decode]
",
    },
    Rule {
        code: Code(667),
        title: "a mix of forms where there is one",
        rule: "the phase `mixed` wants an `MLASelfAttention` whose attention is dense, a cache of latents, and `form: auto`.",
        why: "it expands the latents of requests with many new tokens and absorbs the queries of the others. Heads with keys of their own, picked \
              latents and naive caches have one form, and a forced form leaves nothing to choose: there `prefill` and `decode` do the same.",
        wrong: r"build:
  phases: [prefill, decode, mixed]
  form: mha
",
        right: r"build:
  phases: [prefill, decode, mixed]
",
    },
];
