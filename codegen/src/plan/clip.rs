//! What QK-clip scales (features 1.N).

use mla_spec::{GateSource, Layer, Projections, QkClip, QkvProjection, Query, QueryUp};

use super::Dim;

/// Which rows of which weights QK-clip scales.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipPlan {
    /// The threshold and the queries' share.
    pub clip: QkClip,
    /// How many groups of heads share a factor, where they share keys.
    pub groups: Option<Dim>,
    /// The weights.
    pub weights: Vec<ClippedWeight>,
}

/// A weight whose rows stand head by head, or group by group.
#[derive(Debug, Clone, PartialEq)]
pub struct ClippedWeight {
    /// Name of the variable that holds its rows' factors.
    pub name: &'static str,
    /// The module.
    pub slot: &'static str,
    /// A head's or group's rows, in order.
    pub parts: Vec<(ClippedRows, Share)>,
}

/// How many rows a part has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClippedRows {
    /// So many.
    Of(Dim),
    /// Those of all query heads of a group.
    GroupQueries,
}

/// The exponent of a head's factor η.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// `α`: queries that meet keys of their own.
    Queries,
    /// `1 - α`: these keys.
    Keys,
    /// 1: queries that meet a key shared by the heads.
    All,
    /// 0: values and gates.
    Nothing,
}

/// What QK-clip scales in a layer; `None` where it clips nothing.
pub(super) fn plan(layer: &Layer) -> Option<ClipPlan> {
    let clip = layer.qk_clip?;
    let dim = |name, size| Dim { name, size };
    let mut groups = None;
    let weights = match &layer.projections {
        Projections::Latent(latent) => {
            let dims = &latent.dims;
            let nope = ClippedRows::Of(dim("QK_NOPE_HEAD_DIM", dims.qk_nope_head_dim));
            let rope = ClippedRows::Of(dim("QK_ROPE_HEAD_DIM", dims.qk_rope_head_dim));
            let value = ClippedRows::Of(dim("V_HEAD_DIM", dims.v_head_dim));
            let mut queries = vec![(nope, Share::Queries)];
            queries.extend((dims.qk_rope_head_dim > 0).then_some((rope, Share::All)));
            let slot = match &latent.query {
                Query::Plain => "linear_q_proj",
                Query::Lora { up, .. } => match up {
                    QueryUp::Query => "linear_q_up_proj",
                    QueryUp::QueryAndGate => {
                        queries.push((value, Share::Nothing));
                        "linear_q_gate_proj"
                    }
                },
            };
            let keys = vec![(nope, Share::Keys), (value, Share::Nothing)];
            vec![
                weight("queries", slot, queries),
                weight("keys", "linear_kv_up_proj", keys),
            ]
        }
        Projections::Grouped(grouped) => {
            groups = Some(dim("NUM_QUERY_GROUPS", grouped.num_query_groups));
            let head = ClippedRows::Of(dim("HEAD_DIM", grouped.kv_channels));
            let q = (ClippedRows::GroupQueries, Share::Queries);
            let kv = [(head, Share::Keys), (head, Share::Nothing)];
            let has_gate = (layer.gate).is_some_and(|gate| gate.source == GateSource::Qkv);
            let gate = has_gate.then_some((ClippedRows::GroupQueries, Share::Nothing));
            match grouped.qkv {
                QkvProjection::Fused { .. } => {
                    let parts = std::iter::once(q).chain(gate).chain(kv).collect();
                    vec![weight("rows", "linear_qkv", parts)]
                }
                QkvProjection::Separate { .. } => vec![
                    weight("queries", "linear_q", vec![q]),
                    weight("keys", "linear_kv", kv.to_vec()),
                ],
            }
        }
        Projections::Cross(cross) => {
            let head = ClippedRows::Of(dim("HEAD_DIM", cross.kv_channels));
            let kv = vec![(head, Share::Keys), (head, Share::Nothing)];
            vec![
                weight("queries", "linear_q", vec![(head, Share::Queries)]),
                weight("keys", "linear_kv", kv),
            ]
        }
    };
    Some(ClipPlan {
        clip,
        groups,
        weights,
    })
}

fn weight(
    name: &'static str,
    slot: &'static str,
    parts: Vec<(ClippedRows, Share)>,
) -> ClippedWeight {
    ClippedWeight { name, slot, parts }
}
