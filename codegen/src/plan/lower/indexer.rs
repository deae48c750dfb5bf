//! The indexer in front of sparse attention (features 1.L).

use mla_spec::{Checked, Indexer, IndexerQuery, Layer, LightningIndexer, LossStage, SplitOrder};

use super::common::{Inputs, derived, private, stated};
use super::module::{linear, norm};
use super::writer::{Writer, rank};
use crate::plan::{
    Aspect, Constant, Dim, IndexCachePlan, IndexerPlan, LinearParams, Module, ModuleKind, Number,
    Numeral, Op, PoolPlan, PositionScale, Rows, Turn, Turned, Ty, ValueId, formulas,
};

/// The sizes of an indexer.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    heads: Dim,
    dim: Dim,
    topk: Dim,
    /// All heads' queries.
    q_width: Dim,
    pool: Option<Dim>,
}

fn sizes(indexer: &LightningIndexer) -> Sizes {
    let dim = |name, size| Dim { name, size };
    let head_dim = dim("INDEX_HEAD_DIM", indexer.head_dim);
    Sizes {
        heads: dim("INDEX_N_HEADS", indexer.num_heads),
        dim: head_dim,
        topk: dim("INDEX_TOPK", indexer.topk),
        q_width: dim("INDEX_Q_WIDTH", indexer.num_heads * indexer.head_dim),
        pool: indexer.pool.map(|pool| dim("INDEX_POOL_SIZE", pool.size)),
    }
}

/// What a selection holds at most.
pub(super) fn selected(indexer: &Indexer) -> Dim {
    let (tail, name) = match indexer {
        Indexer::Shared { tail, .. } => (*tail, "SELECTED_KEYS"),
        Indexer::Lightning(indexer) => (indexer.tail(), "SELECTED_KEYS"),
    };
    Dim {
        name: if tail == 0 { "INDEX_TOPK" } else { name },
        size: indexer.width(),
    }
}

/// The sizes to declare.
pub(super) fn constants(layer: &Layer) -> Vec<Constant> {
    let Some(indexer) = layer.indexer() else {
        return Vec::new();
    };
    let (topk, tail) = match indexer {
        Indexer::Shared { topk, tail } => (*topk, *tail),
        Indexer::Lightning(own) => (own.topk, own.tail()),
    };
    let dim = |name, size| Dim { name, size };
    let mut all = vec![stated(
        dim("INDEX_TOPK", topk),
        "Keys that a query attends to at most.",
    )];
    if tail > 0 {
        all.push(private(
            dim("INDEX_POOL_TAIL", tail),
            "Tokens of an incomplete pool, which are picked on top of those, at most.",
        ));
        all.push(derived(
            selected(indexer),
            "INDEX_TOPK + INDEX_POOL_TAIL",
            true,
            "Keys that a query attends to at most, an incomplete pool's included.",
        ));
    }
    if let Indexer::Lightning(own) = indexer {
        all.extend(own_constants(own));
    }
    all
}

fn own_constants(indexer: &LightningIndexer) -> Vec<Constant> {
    let sizes = sizes(indexer);
    let mut all = vec![
        stated(sizes.heads, "Heads of the indexer, h_i."),
        stated(sizes.dim, "One head of the indexer, d_i."),
        derived(
            sizes.q_width,
            "INDEX_N_HEADS * INDEX_HEAD_DIM",
            false,
            "Every indexer head's query.",
        ),
    ];
    if let Some(pool) = sizes.pool {
        all.push(stated(
            pool,
            "Tokens whose indexer keys are pooled into one.",
        ));
    }
    if let IndexerQuery::Hidden { norm: Some(params) } = indexer.query {
        all.extend(
            rank(params.kind, "INDEX_Q_NORM_RANK")
                .map(|rank| private(rank, "Rows of the first matrix in `q_input_norm`'s gate.")),
        );
    }
    all.extend(
        rank(indexer.k_norm.kind, "INDEX_K_NORM_RANK")
            .map(|rank| private(rank, "Rows of the first matrix in the key norm's gate.")),
    );
    all
}

/// The numbers to declare.
pub(super) fn numbers(layer: &Layer) -> Vec<Number> {
    let Some(Indexer::Lightning(indexer)) = layer.indexer() else {
        return Vec::new();
    };
    vec![Number {
        name: "INDEX_SCALE",
        value: Numeral::Real(scale(indexer)),
        doc: format!(
            "What the indexer's scores are multiplied by: {}^-1/2 · {}^-1/2.",
            indexer.num_heads, indexer.head_dim
        ),
    }]
}

fn scale(indexer: &LightningIndexer) -> f64 {
    (f64::from(indexer.num_heads) * f64::from(indexer.head_dim)).powf(-0.5)
}

/// What a program knows of its indexer.
pub(super) fn plan(indexer: &LightningIndexer) -> IndexerPlan {
    let sizes = sizes(indexer);
    IndexerPlan {
        heads: sizes.heads,
        head_dim: sizes.dim,
        topk: sizes.topk,
        scale: scale(indexer),
        relu: indexer.relu,
        rope: indexer.rope,
        forced: indexer.forced,
        pool: sizes.pool.zip(indexer.pool).map(|(size, pool)| PoolPlan {
            size,
            slot: KEY_POOLS,
            tail: pool.always_select_tail,
        }),
        loss: indexer.loss,
    }
}

/// What the cache keeps for it; `None` without an indexer of the layer's own.
pub(super) fn cache(checked: &Checked) -> Option<IndexCachePlan> {
    let Some(Indexer::Lightning(indexer)) = checked.layer.indexer() else {
        return None;
    };
    Some(IndexCachePlan {
        store: checked.build.cache.index,
        width: sizes(indexer).dim,
        pool: sizes(indexer).pool,
        rounds_queries: checked.build.cache.rounds_index_queries,
    })
}

/// Its modules; `latent` is the query latent's width.
pub(super) fn modules(layer: &Layer, hidden: Dim, latent: Option<Dim>) -> Vec<Module> {
    let Some(Indexer::Lightning(indexer)) = layer.indexer() else {
        return Vec::new();
    };
    let sizes = sizes(indexer);
    let mut all = Vec::new();
    let input = match (indexer.query, latent) {
        (IndexerQuery::Latent, Some(latent)) => latent,
        _ => hidden,
    };
    if let IndexerQuery::Hidden { norm: Some(params) } = indexer.query {
        all.push(norm(
            ("indexer_q_input_norm", "what the indexer's queries see"),
            "indexer.q_input_norm",
            ("INDEX_Q_NORM_EPS", params.eps),
            (params.kind, hidden, rank(params.kind, "INDEX_Q_NORM_RANK")),
        ));
    }
    let one = |slot, symbol, source, widths| linear((slot, symbol), source, widths, false);
    all.push(one(
        "indexer_wq_b",
        "W_IQ",
        "indexer.wq_b",
        (input, sizes.q_width),
    ));
    all.push(one("indexer_wk", "W_IK", "indexer.wk", (hidden, sizes.dim)));
    all.push(norm(
        ("indexer_k_norm", "the indexer's key"),
        "indexer.k_norm",
        ("INDEX_K_NORM_EPS", indexer.k_norm.eps),
        (
            indexer.k_norm.kind,
            sizes.dim,
            rank(indexer.k_norm.kind, "INDEX_K_NORM_RANK"),
        ),
    ));
    all.push(weights(indexer, hidden, &sizes));
    all.extend(key_pools(hidden, &sizes));
    if indexer.log_position_scaling {
        all.push(Module {
            slot: "indexer_query_scale",
            kind: ModuleKind::LogPositionScale {
                heads: sizes.heads,
                source: "indexer.softmax_scaling",
            },
            doc: "a and b of the indexer's query scale a_h ln(pos + 1) + b_h, HF `indexer.softmax_scaling`."
                .to_owned(),
        });
    }
    all
}

fn weights(indexer: &LightningIndexer, hidden: Dim, sizes: &Sizes) -> Module {
    let params = LinearParams {
        input: hidden,
        output: sizes.heads,
        rows: Rows::Stacked(vec![("indexer.weights_proj", sizes.heads)]),
        bias: false,
    };
    let (kind, note) = if indexer.full_precision_weights {
        (
            ModuleKind::AccumLinear(params),
            ", in the accumulation type",
        )
    } else {
        (ModuleKind::Linear(params), "")
    };
    Module {
        slot: "indexer_weights_proj",
        kind,
        doc: format!("W_IW, HF `indexer.weights_proj`{note}."),
    }
}

/// What pools keys.
const KEY_POOLS: &str = "indexer_key_pools";

fn key_pools(hidden: Dim, sizes: &Sizes) -> Option<Module> {
    let source = "indexer.index_kpool_compress";
    Some(Module {
        slot: KEY_POOLS,
        kind: ModuleKind::KeyPools {
            input: hidden,
            pool: sizes.pool?,
            width: sizes.dim,
            source,
        },
        doc: format!(
            "W_IG and what is added to the gates by place in the pool, HF `{source}_gate` and `{source}_ape`."
        ),
    })
}

impl Writer<'_> {
    /// The selection that attention is limited to; `None` where it is dense. `latent` is the query latent.
    pub(super) fn selection(
        &mut self,
        inputs: &Inputs,
        latent: Option<ValueId>,
    ) -> Option<ValueId> {
        let indexer = self.layer.indexer()?;
        let ty = Ty::Selection(selected(indexer));
        let picked = match indexer {
            Indexer::Shared { .. } => {
                self.step(formulas::shared_selection());
                self.define("selection", ty, |out| Op::TakeSelection { out })
            }
            Indexer::Lightning(own) => {
                let (k, gates) = self.index_keys(own, inputs);
                let q = self.index_queries(own, inputs, latent);
                let weights = self.index_weights(own, inputs.hidden);
                if let (Some(loss), mla_spec::Phase::Train) = (own.loss, self.phase) {
                    self.push(Op::Learn { q, k, weights });
                    if loss.stage == LossStage::Dense {
                        return None;
                    }
                }
                self.step(formulas::selection(own));
                let segments = inputs.segments;
                let picked = self.define("selection", ty.clone(), |out| Op::Select {
                    q,
                    k,
                    gates,
                    weights,
                    segments,
                    out,
                });
                if own.pool.is_none() {
                    self.probe("indexer.scores", picked, Aspect::Scores);
                }
                if own.shared {
                    self.define("selection", ty, |out| Op::GiveSelection { x: picked, out })
                } else {
                    picked
                }
            }
        };
        self.probe("indexer.selection", picked, Aspect::Value);
        Some(picked)
    }

    fn index_queries(
        &mut self,
        own: &LightningIndexer,
        inputs: &Inputs,
        latent: Option<ValueId>,
    ) -> ValueId {
        let sizes = sizes(own);
        self.step(formulas::index_queries(own));
        let x = match (own.query, latent) {
            (IndexerQuery::Latent, Some(latent)) => latent,
            (IndexerQuery::Hidden { norm: Some(_) }, _) => self.norm(
                "index_hidden",
                inputs.hidden,
                "indexer_q_input_norm",
                self.common.hidden,
            ),
            _ => inputs.hidden,
        };
        let rows = self.linear("index_q", x, "indexer_wq_b", sizes.q_width);
        let mut q = self.heads("index_q", rows, sizes.heads, sizes.dim);
        if let (Some(turn), Some(angles)) = (turn(own), inputs.angles) {
            let x = q;
            q = self.turned(x, |out| Op::RotateHeads {
                x,
                angles,
                turn,
                out,
            });
        }
        if own.log_position_scaling {
            let scale = PositionScale::Learned {
                slot: "indexer_query_scale",
            };
            let x = q;
            q = self.turned(x, |out| Op::ScaleByPosition { x, scale, out });
        }
        self.transformed(own, q)
    }

    /// Keys, and their gates where they are pooled.
    fn index_keys(
        &mut self,
        own: &LightningIndexer,
        inputs: &Inputs,
    ) -> (ValueId, Option<ValueId>) {
        let sizes = sizes(own);
        self.step(formulas::index_keys(own));
        let rows = self.linear("index_k", inputs.hidden, "indexer_wk", sizes.dim);
        let mut k = self.norm("index_k", rows, "indexer_k_norm", sizes.dim);
        if let (Some(turn), Some(angles)) = (turn(own), inputs.angles) {
            let x = k;
            k = self.turned(x, |out| Op::RotateRows {
                x,
                angles,
                turn,
                out,
            });
        }
        let k = self.transformed(own, k);
        let gates = own.pool.map(|_| {
            let (x, slot) = (inputs.hidden, KEY_POOLS);
            self.define("index_gates", Ty::Rows(sizes.dim), |out| Op::PoolGates {
                x,
                slot,
                out,
            })
        });
        (k, gates)
    }

    fn index_weights(&mut self, own: &LightningIndexer, hidden: ValueId) -> ValueId {
        let heads = sizes(own).heads;
        let slot = "indexer_weights_proj";
        if own.full_precision_weights {
            return self.accum_linear("index_weights", hidden, slot, heads);
        }
        let x = self.linear("index_weights", hidden, slot, heads);
        self.define("index_weights", Ty::PerHead(heads), |out| Op::IntoPerHead {
            x,
            out,
        })
    }

    fn transformed(&mut self, own: &LightningIndexer, x: ValueId) -> ValueId {
        if own.hadamard {
            self.turned(x, |out| Op::Hadamard { x, out })
        } else {
            x
        }
    }
}

/// The indexer's rotation.
fn turn(own: &LightningIndexer) -> Option<Turn> {
    let rope = own.rope?;
    Some(Turn {
        part: match rope.split {
            SplitOrder::RopeFirst => Turned::First,
            SplitOrder::NopeFirst => Turned::Last,
        },
        indexer: true,
    })
}
