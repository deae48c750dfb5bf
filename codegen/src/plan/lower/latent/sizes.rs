//! The named sizes of a latent layer.

use mla_spec::{DownProjection, KvSource, Latent, Layer, Query, QueryUp};

use super::super::common::{Common, derived, private, stated};
use super::super::writer::rank;
use crate::plan::{Constant, Dim};

/// Every size that the ops of a latent layer may speak of, under its name.
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
    /// Where queries and gates are made by one matrix.
    pub(in crate::plan) gated: Option<GatedQuery>,
}

/// The sizes of a projection that makes queries and gates.
#[derive(Debug, Clone, Copy)]
pub(in crate::plan) struct GatedQuery {
    /// The normed and the raw query latent.
    pub(in crate::plan) input: Dim,
    /// One head's query and gate.
    pub(in crate::plan) head: Dim,
    /// All heads' queries and gates.
    pub(in crate::plan) width: Dim,
}

impl Sizes {
    pub(in crate::plan) fn of(layer: &Layer, latent: &Latent) -> Self {
        let dims = &latent.dims;
        let dim = |name, size| Dim { name, size };
        let q_rank = layer.q_lora_rank().map(|rank| dim("Q_LORA_RANK", rank));
        let kv_down = dims.kv_lora_rank + dims.qk_rope_head_dim;
        let kv_head = dims.qk_nope_head_dim + dims.v_head_dim;
        let heads = dims.num_attention_heads;
        let gated_head = dims.qk_head_dim() + dims.v_head_dim;
        let gated = match latent.query {
            Query::Lora {
                rank,
                up: QueryUp::QueryAndGate,
                ..
            } => Some(GatedQuery {
                input: dim("Q_GATE_INPUT", 2 * rank),
                head: dim("Q_GATE_HEAD_DIM", gated_head),
                width: dim("Q_GATE_WIDTH", heads * gated_head),
            }),
            _ => None,
        };
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
            gated,
        }
    }

    /// What the sizes have in common with other families'.
    pub(super) fn common(&self) -> Common {
        Common {
            hidden: self.hidden,
            heads: self.heads,
            v: self.v,
            out: self.out,
        }
    }

    /// The constants to declare, derived ones after what they derive from.
    pub(super) fn constants(&self, latent: &Latent) -> Vec<Constant> {
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
        ]);
        all.extend(self.of_queries());
        all.extend(self.of_downs(latent));
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
        all.extend(norm_ranks(latent));
        all
    }

    fn of_queries(&self) -> Vec<Constant> {
        let Some(gated) = self.gated else {
            return vec![derived(
                self.q_width,
                "NUM_ATTENTION_HEADS * QK_HEAD_DIM",
                false,
                "Every head's query.",
            )];
        };
        vec![
            derived(
                gated.input,
                "Q_LORA_RANK + Q_LORA_RANK",
                false,
                "The normed query latent, then the raw one.",
            ),
            derived(
                gated.head,
                "QK_HEAD_DIM + V_HEAD_DIM",
                false,
                "One head's query, then its output gate.",
            ),
            derived(
                gated.width,
                "NUM_ATTENTION_HEADS * Q_GATE_HEAD_DIM",
                false,
                "Every head's query and gate.",
            ),
        ]
    }

    fn of_downs(&self, latent: &Latent) -> Vec<Constant> {
        if latent.kv_source == KvSource::Other {
            return Vec::new();
        }
        let mut all = vec![derived(
            self.kv_down,
            "KV_LORA_RANK + QK_ROPE_HEAD_DIM",
            false,
            "Rows of `kv_a_proj_with_mqa`: the key-value latent, then the shared rope key.",
        )];
        let fused = matches!(latent.down, DownProjection::Fused { .. });
        all.extend(self.qkv_down.filter(|_| fused).map(|width| {
            derived(
                width,
                "Q_LORA_RANK + KV_DOWN_WIDTH",
                false,
                "Rows of `linear_qkv_down_proj`: the query latent, then those of `kv_a_proj_with_mqa`.",
            )
        }));
        all
    }
}

/// The ranks of gated norms.
fn norm_ranks(latent: &Latent) -> Vec<Constant> {
    let q_norm = match &latent.query {
        Query::Lora { norm, .. } => norm.params().copied(),
        Query::Plain => None,
    };
    let norms = [
        (q_norm, Q_NORM_RANK),
        (latent.kv_norm.params().copied(), KV_NORM_RANK),
        (latent.k_rope_norm, K_ROPE_NORM_RANK),
    ];
    let ranks = norms
        .into_iter()
        .filter_map(|(norm, name)| rank(norm?.kind, name));
    ranks
        .map(|rank| private(rank, "Rows of the first matrix in a gated norm's gate."))
        .collect()
}

/// Names of the ranks of gated norms.
pub(super) const Q_NORM_RANK: &str = "Q_LAYERNORM_RANK";
pub(super) const KV_NORM_RANK: &str = "KV_LAYERNORM_RANK";
pub(super) const K_ROPE_NORM_RANK: &str = "K_ROPE_LAYERNORM_RANK";
