//! The named sizes of a layer.

use crate::plan::mla;
use mla_spec::Layer;

use crate::plan::{Constant, Dim};

/// Every size that the ops of a layer may speak of, under its name.
#[derive(Debug, Clone, Copy)]
pub(in crate::plan) struct Sizes {
    pub(in crate::plan) hidden: Dim,
    pub(in crate::plan) heads: Dim,
    pub(in crate::plan) q_rank: Option<Dim>,
    pub(in crate::plan) kv_rank: Dim,
    pub(in crate::plan) nope: Dim,
    pub(in crate::plan) rope: Dim,
    pub(in crate::plan) qk: Dim,
    pub(in crate::plan) v: Dim,
    /// All heads' queries.
    pub(in crate::plan) q_width: Dim,
    /// Latent and shared rope key.
    pub(in crate::plan) kv_down: Dim,
    /// Query latent, then latent and shared rope key.
    pub(in crate::plan) qkv_down: Option<Dim>,
    /// One head's key (without rope) and value.
    pub(in crate::plan) kv_head: Dim,
    /// All heads' keys and values.
    pub(in crate::plan) kv_up: Dim,
    /// All heads' outputs.
    pub(in crate::plan) out: Dim,
}

impl Sizes {
    pub(in crate::plan) fn of(layer: &Layer) -> Self {
        let dims = &mla(layer).dims;
        let dim = |name, size| Dim { name, size };
        let q_rank = layer.q_lora_rank().map(|rank| dim("Q_LORA_RANK", rank));
        let kv_down = dims.kv_lora_rank + dims.qk_rope_head_dim;
        let kv_head = dims.qk_nope_head_dim + dims.v_head_dim;
        let heads = dims.num_attention_heads;
        Self {
            hidden: dim("HIDDEN_SIZE", dims.hidden_size),
            heads: dim("NUM_ATTENTION_HEADS", heads),
            q_rank,
            kv_rank: dim("KV_LORA_RANK", dims.kv_lora_rank),
            nope: dim("QK_NOPE_HEAD_DIM", dims.qk_nope_head_dim),
            rope: dim("QK_ROPE_HEAD_DIM", dims.qk_rope_head_dim),
            qk: dim("QK_HEAD_DIM", dims.qk_head_dim()),
            v: dim("V_HEAD_DIM", dims.v_head_dim),
            q_width: dim("Q_WIDTH", heads * dims.qk_head_dim()),
            kv_down: dim("KV_DOWN_WIDTH", kv_down),
            qkv_down: q_rank.map(|rank| dim("QKV_DOWN_WIDTH", rank.size + kv_down)),
            kv_head: dim("KV_HEAD_WIDTH", kv_head),
            kv_up: dim("KV_UP_WIDTH", heads * kv_head),
            out: dim("OUT_WIDTH", heads * dims.v_head_dim),
        }
    }

    /// The constants to declare, derived ones after what they derive from. `fused_down` where one matrix makes all latents.
    pub(super) fn constants(&self, fused_down: bool) -> Vec<Constant> {
        let mut all = vec![
            stated(self.hidden, "Width of the residual stream, h."),
            stated(self.heads, "Heads, H."),
        ];
        all.extend(
            self.q_rank
                .map(|rank| stated(rank, "Width of the query latent, r_q.")),
        );
        all.extend([
            stated(self.kv_rank, "Width of the key-value latent, r_kv."),
            stated(self.nope, "Part of a head's query and key that no position enters, d_n."),
            stated(self.rope, "Part of a head's query, and the key shared by all heads, that positions enter, d_r."),
            stated(self.v, "One head's value, d_v."),
            derived(
                self.qk,
                "QK_NOPE_HEAD_DIM + QK_ROPE_HEAD_DIM",
                true,
                "One head's query: d_n, then d_r.",
            ),
            derived(self.q_width, "NUM_ATTENTION_HEADS * QK_HEAD_DIM", false, "Every head's query."),
            derived(
                self.kv_down,
                "KV_LORA_RANK + QK_ROPE_HEAD_DIM",
                false,
                "Rows of `kv_a_proj_with_mqa`: the key-value latent, then the shared rope key.",
            ),
        ]);
        all.extend(self.qkv_down.filter(|_| fused_down).map(|width| {
            derived(
                width,
                "Q_LORA_RANK + KV_DOWN_WIDTH",
                false,
                "Rows of `linear_qkv_down_proj`: the query latent, then those of `kv_a_proj_with_mqa`.",
            )
        }));
        all.extend([
            derived(
                self.kv_head,
                "QK_NOPE_HEAD_DIM + V_HEAD_DIM",
                false,
                "One head's key without its rope part, then its value.",
            ),
            derived(
                self.kv_up,
                "NUM_ATTENTION_HEADS * KV_HEAD_WIDTH",
                false,
                "Every head's key and value.",
            ),
            derived(
                self.out,
                "NUM_ATTENTION_HEADS * V_HEAD_DIM",
                false,
                "Every head's output.",
            ),
        ]);
        all
    }
}

fn stated(dim: Dim, doc: &'static str) -> Constant {
    Constant {
        name: dim.name,
        value: dim.size,
        formula: None,
        doc,
        public: true,
    }
}

fn derived(dim: Dim, formula: &'static str, public: bool, doc: &'static str) -> Constant {
    Constant {
        name: dim.name,
        value: dim.size,
        formula: Some(formula),
        doc,
        public,
    }
}
