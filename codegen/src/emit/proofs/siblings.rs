//! Other ways of computing a twin: each a program of its own, over the same tensors.

use mla_spec::{
    Activation, Build, CacheKind, CacheSpec, Checked, Core, DownProjection, Form, FormChoice,
    GateSource, Grouped, Indexer, KvSource, Latent, Layer, LightningIndexer, Norm, Phase,
    Projections, QkvProjection, Query, QueryUp, Rope, RopeLayout, WeightStore,
};

use super::handed;
use crate::plan::{self, Program};

/// All phases, whichever the spec emits: a twin has those that its mask allows.
const PHASES: [Phase; 3] = [Phase::Forward, Phase::Prefill, Phase::Decode];

/// The form of a phase; `None` where each request has its own.
type Forms = Vec<(Phase, Option<Form>)>;

/// From where on a twin's `mixed` expands, whatever its sizes would say: the batches of proofs have requests on both sides, with and without a
/// context.
const MHA_FROM: [(u64, Option<u64>); 2] = [(0, Some(2)), (3, Some(4))];

/// The twin as its layer is planned, and what it is compared with.
pub(super) struct Siblings {
    /// In the forms of the real layer.
    pub(super) planned: Program,
    /// In the other form, wherever there is another; `None` where nothing has two.
    pub(super) other_form: Option<Program>,
    /// What is fused separate and the other way round; the cache in the other layout. `None` where nothing is.
    pub(super) other_parts: Option<OtherParts>,
    /// A naive cache for a latent one and the other way round; `None` without a cache.
    pub(super) other_cache: Option<Program>,
    /// Making itself what the twin is handed; `None` where that is nothing.
    pub(super) own: Option<Program>,
    /// Whose cache the twin reads; `None` where it reads its own.
    pub(super) source: Option<Program>,
    /// Picking more keys than there are, and dense; `None` where the twin is dense or picks nothing itself.
    pub(super) covering: Option<(Program, Program)>,
    /// The twin's training; `None` where the layer is not trained.
    pub(super) training: Option<Trainings>,
}

/// A twin's training, and what it is compared with.
pub(super) struct Trainings {
    /// As the layer is planned.
    pub(super) planned: Program,
    /// With everything computed again that can be; nothing, where the layer computes it again already.
    pub(super) other_schedule: Program,
    /// In the other form; `None` where there is none.
    pub(super) other_form: Option<Program>,
}

/// [`Siblings::other_parts`].
pub(super) struct OtherParts {
    pub(super) program: Program,
    /// Whether some part is fused in one and separate in the other.
    pub(super) fusion: bool,
}

/// The siblings of `twin`, in the forms that `real` is planned in.
pub(super) fn of(real: &Checked, twin: &Checked) -> Siblings {
    let mixed = real.build.phases.iter().copied();
    let mixed = mixed.filter(|phase| *phase == Phase::Mixed);
    let phases: Vec<Phase> = if twin.layer.mask.is_causal() {
        PHASES.into_iter().chain(mixed).collect()
    } else {
        PHASES[..1].to_vec()
    };
    let with_phases = |checked: &Checked| {
        let build = Build {
            phases: phases.clone(),
            // Rounding weights to codes hides what proofs look for
            weights: WeightStore::Numbers,
            ..checked.build.clone()
        };
        Checked {
            build,
            ..checked.clone()
        }
    };
    let form = plan::program(real)
        .training
        .and_then(|training| training.forward.form);
    let (real, twin) = (with_phases(real), with_phases(twin));
    let forms: Forms = plan::program(&real)
        .plans
        .iter()
        .map(|plan| (plan.phase, plan.form))
        .collect();
    let naive = twin.build.cache.kind == CacheKind::Naive;
    // A naive cache holds what only the expanded form reads, and selected latents are never expanded
    let absorbed_alone = twin.layer.core != Core::Dense;
    let swappable = |phase| !(naive || absorbed_alone) || phase == Phase::Forward;
    let swapped = forms
        .iter()
        .filter(|(phase, _)| swappable(*phase))
        .filter_map(|&(phase, form)| match form? {
            Form::Mha => Some((phase, Some(Form::Mqa))),
            Form::Mqa => Some((phase, Some(Form::Mha))),
        });
    Siblings {
        planned: program(&twin, &forms),
        other_form: twin
            .layer
            .latent()
            .map(|_| program(&twin, &swapped.collect())),
        other_parts: other_parts(&twin, &forms),
        other_cache: (phases.len() > 1 && has_other_cache(&twin.layer)).then(|| other_cache(&twin)),
        own: handed::own(&twin).map(|own| program(&own, &forms)),
        source: handed::source(&twin).map(|source| program(&source, &forms)),
        covering: covering(&twin)
            .map(|(covering, dense)| (program(&covering, &forms), program(&dense, &forms))),
        training: training(form, &twin),
    }
}

/// The training of `twin`, in the form that the real layer's has.
fn training(form: Option<Form>, twin: &Checked) -> Option<Trainings> {
    let form = form?;
    let scheduled = |form, recompute: Vec<Activation>| {
        let build = Build {
            form: FormChoice::Forced(form),
            recompute,
            ..twin.build.for_training()
        };
        plan::program(&Checked {
            build,
            ..twin.clone()
        })
    };
    let kept = twin.build.recompute.clone();
    let other = match kept.is_empty() {
        true => Activation::ALL.to_vec(),
        false => Vec::new(),
    };
    Some(Trainings {
        planned: scheduled(form, kept.clone()),
        other_schedule: scheduled(form, other),
        other_form: twin.layer.latent().map(|_| match form {
            Form::Mha => scheduled(Form::Mqa, kept),
            Form::Mqa => scheduled(Form::Mha, kept),
        }),
    })
}

/// The twin, picking more keys than a sample's requests have, and the same layer with dense attention.
fn covering(twin: &Checked) -> Option<(Checked, Checked)> {
    let Core::Sparse(Indexer::Lightning(indexer)) = &twin.layer.core else {
        return None;
    };
    // Without its tail, an incomplete pool is never picked, however many keys may be
    if indexer.pool.is_some_and(|pool| !pool.always_select_tail) {
        return None;
    }
    // Layers with other projections of their input would join them to another width
    let with = |core| Checked {
        layer: Layer {
            core,
            ..twin.layer.clone()
        },
        build: Build {
            fold: Vec::new(),
            ..twin.build.clone()
        },
    };
    let all = LightningIndexer {
        topk: 128,
        ..indexer.clone()
    };
    let covering = with(Core::Sparse(Indexer::Lightning(all)));
    Some((covering, with(Core::Dense)))
}

/// Whether a layer can keep latents and keys and values alike.
fn has_other_cache(layer: &Layer) -> bool {
    let is_own = |latent: &Latent| matches!(latent.kv_source, KvSource::Own { .. });
    layer.core == Core::Dense && layer.latent().is_some_and(is_own)
}

/// The program of a layer with the form of each phase given, rather than chosen by cost: a twin's sizes would choose another.
fn program(checked: &Checked, forms: &Forms) -> Program {
    let forced = |phases: Vec<Phase>, form| {
        let build = Build {
            phases,
            form: match form {
                Some(form) => FormChoice::Forced(form),
                None => FormChoice::Auto,
            },
            ..checked.build.clone()
        };
        plan::program(&Checked {
            build,
            ..checked.clone()
        })
    };
    let all = forms.iter().map(|(phase, _)| *phase).collect();
    let mut whole = forced(all, Some(Form::Mha));
    whole.plans.clear();
    if let Some(table) = &mut whole.mha_from {
        table.from = MHA_FROM.into();
    }
    for &(phase, form) in forms {
        let part = forced(vec![phase], form);
        for constant in part.constants {
            if whole
                .constants
                .iter()
                .all(|known| known.name != constant.name)
            {
                whole.constants.push(constant);
            }
        }
        whole.plans.extend(part.plans);
    }
    whole
}

fn other_parts(twin: &Checked, forms: &Forms) -> Option<OtherParts> {
    let layer = Layer {
        projections: match &twin.layer.projections {
            Projections::Latent(latent) => Projections::Latent(Latent {
                query: other_query(&latent.query),
                kv_norm: other_norm(&latent.kv_norm),
                down: other_down(latent),
                ..latent.clone()
            }),
            Projections::Grouped(grouped) => Projections::Grouped(Grouped {
                qkv: other_qkv(&twin.layer, grouped),
                ..grouped.clone()
            }),
            Projections::Cross(cross) => Projections::Cross(cross.clone()),
        },
        ..twin.layer.clone()
    };
    let fusion = layer != twin.layer || !twin.build.fold.is_empty();
    let cached = forms.len() > 1;
    let cache = CacheSpec {
        page_size: if twin.build.cache.page_size.is_some() {
            None
        } else {
            Some(page_of(&twin.layer))
        },
        rope_layout: other_layout(twin),
        ..twin.build.cache
    };
    let build = Build {
        cache,
        fold: Vec::new(),
        ..twin.build.clone()
    };
    (fusion || cached).then(|| OtherParts {
        program: program(&Checked { layer, build }, forms),
        fusion,
    })
}

fn other_query(query: &Query) -> Query {
    match query {
        Query::Plain => Query::Plain,
        Query::Lora {
            rank,
            norm,
            scale,
            up,
        } => Query::Lora {
            rank: *rank,
            norm: match up {
                QueryUp::Query => other_norm(norm),
                // Its matrix reads the raw latent too
                QueryUp::QueryAndGate => norm.clone(),
            },
            scale: *scale,
            up: *up,
        },
    }
}

/// One matrix for two and the other way round; as it is where the two differ in having a bias, or one makes gates too.
fn other_qkv(layer: &Layer, grouped: &Grouped) -> QkvProjection {
    let fused_gate = layer
        .gate
        .is_some_and(|gate| gate.source == GateSource::Qkv);
    match grouped.qkv {
        QkvProjection::Fused { bias } if !fused_gate => QkvProjection::Separate {
            q_bias: bias,
            kv_bias: bias,
        },
        QkvProjection::Separate { q_bias, kv_bias } if q_bias == kv_bias => {
            QkvProjection::Fused { bias: q_bias }
        }
        same => same,
    }
}

fn other_norm(norm: &Norm) -> Norm {
    match norm {
        Norm::Identity => Norm::Identity,
        Norm::Separate(params) => Norm::FusedIntoLinear(*params),
        Norm::FusedIntoLinear(params) => Norm::Separate(*params),
    }
}

/// One matrix for two and the other way round; as it is where queries have no latent, or the two differ in having a bias.
fn other_down(latent: &Latent) -> DownProjection {
    match (&latent.down, &latent.query) {
        (DownProjection::Fused { bias }, _) => DownProjection::Separate {
            q_bias: *bias,
            kv_bias: *bias,
        },
        (DownProjection::Separate { q_bias, kv_bias }, Query::Lora { .. })
            if q_bias == kv_bias && latent.kv_source != KvSource::Other =>
        {
            DownProjection::Fused { bias: *q_bias }
        }
        (separate, _) => separate.clone(),
    }
}

/// A page that short requests cross, and that holds whole pools.
fn page_of(layer: &Layer) -> u32 {
    match layer.indexer() {
        Some(Indexer::Lightning(LightningIndexer {
            pool: Some(pool), ..
        })) => 2 * pool.size,
        Some(Indexer::Shared { tail, .. }) if *tail > 0 => 2 * (tail + 1),
        _ => 5,
    }
}

/// The order in which the twin does not cache its rope keys.
fn other_layout(twin: &Checked) -> Option<RopeLayout> {
    let Rope::Rotary(rotary) = &twin.layer.rope else {
        return None;
    };
    Some(
        match twin.build.cache.rope_layout.unwrap_or(rotary.layout) {
            RopeLayout::Interleaved => RopeLayout::Half,
            RopeLayout::Half => RopeLayout::Interleaved,
        },
    )
}

fn other_cache(twin: &Checked) -> Program {
    let (kind, decode) = match twin.build.cache.kind {
        CacheKind::Latent => (CacheKind::Naive, Form::Mha),
        CacheKind::Naive => (CacheKind::Latent, Form::Mqa),
    };
    let cache = CacheSpec {
        kind,
        ..twin.build.cache
    };
    let build = Build {
        cache,
        ..twin.build.clone()
    };
    program(
        &Checked {
            build,
            ..twin.clone()
        },
        &vec![
            (Phase::Prefill, Some(Form::Mha)),
            (Phase::Decode, Some(decode)),
        ],
    )
}
