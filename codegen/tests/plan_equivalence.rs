//! Forms, caches, fusions, layouts and probes change how a layer is computed, never what: the oracle runs each plan of random
//! layers and finds the same numbers.

mod sample;

use std::collections::BTreeMap;

use mla_codegen::plan::interpret::{Cache, Given, Oracle, Piece, Run, Weights};
use mla_codegen::plan::{ProbeMode, Program, program, program_with};
use mla_spec::{
    CacheKind, Checked, Core, DownProjection, Fold, Form, FormChoice, GateSource, Indexer,
    IndexerQuery, Latent, Layer, Phase, Projections, QkvProjection, Query, QueryScaleSite, QueryUp,
    RopeLayout,
};

use sample::random_spec::{Dice, checked};
use sample::{assert_close, cacheable, moved, numbers, weights};

const SEEDS: std::ops::Range<u64> = 0..150;

/// Tokens of each request, in the calls that bring them. Some calls bring a request nothing.
const CALLS: [[usize; 3]; 5] = [[3, 5, 1], [0, 2, 1], [4, 1, 0], [1, 1, 1], [2, 0, 3]];

struct Case {
    checked: Checked,
    weights: Weights,
    /// Each request's hidden states, token by token.
    requests: [Vec<Vec<f64>>; 3],
}

impl Case {
    fn new(seed: u64, checked: Checked) -> Self {
        let mut dice = Dice::new(seed);
        let weights = weights(&program(&checked), &mut dice);
        let width = checked.layer.hidden_size() as usize;
        let tokens = |request: usize| CALLS.iter().map(|call| call[request]).sum();
        let requests = std::array::from_fn(|request| {
            (0..tokens(request))
                .map(|_| numbers(width, &mut dice))
                .collect()
        });
        Self {
            checked,
            weights,
            requests,
        }
    }

    /// All requests as packed sequences through `forward`.
    fn forward(&self, program: &Program) -> Run {
        let (mut positions, mut sequences) = (Vec::new(), Vec::new());
        for request in &self.requests {
            sequences.push(positions.len()..positions.len() + request.len());
            positions.extend(0..request.len() as u32);
        }
        let hidden = self.requests.concat().concat();
        let oracle = Oracle::new(program, &self.weights).expect("the weights fit");
        oracle
            .forward(&hidden, &positions, &sequences)
            .expect("forward runs")
    }

    /// All requests through a cached phase, call by call; results in the order of [`Case::forward`].
    fn cached(&self, program: &Program, phase: Phase) -> (Run, Cache) {
        let oracle = Oracle::new(program, &self.weights).expect("the weights fit");
        let mut cache = Cache::new(self.requests.len());
        let mut outputs: [Vec<f64>; 3] = Default::default();
        let mut probes: [BTreeMap<&'static str, Vec<f64>>; 3] = Default::default();
        for call in CALLS {
            let (mut pieces, mut hidden) = (Vec::new(), Vec::new());
            for (request, &tokens) in call.iter().enumerate() {
                let start = cache.tokens(request);
                pieces.push(Piece { request, tokens });
                hidden.extend(self.requests[request][start..start + tokens].concat());
            }
            let rows: usize = call.iter().sum();
            let run = oracle
                .cached(phase, &mut cache, &pieces, &hidden)
                .expect("the phase runs");
            let mut row = 0;
            for piece in &pieces {
                let part = |all: &[f64]| {
                    let width = all.len() / rows;
                    all[row * width..(row + piece.tokens) * width].to_vec()
                };
                outputs[piece.request].extend(part(&run.output));
                for (name, values) in &run.probes {
                    probes[piece.request]
                        .entry(name)
                        .or_default()
                        .extend(part(values));
                }
                row += piece.tokens;
            }
        }
        let mut joined = Run {
            output: outputs.concat(),
            probes: BTreeMap::new(),
            scores: Vec::new(),
            given: Given::default(),
        };
        for (name, values) in probes.iter().flatten() {
            joined.probes.entry(name).or_default().extend(values);
        }
        (joined, cache)
    }
}

fn with(checked: &Checked, change: impl Fn(&mut Checked)) -> Checked {
    let mut changed = checked.clone();
    change(&mut changed);
    changed
}

fn forced(checked: &Checked, kind: CacheKind, form: Form) -> Checked {
    with(checked, |changed| {
        changed.build.form = FormChoice::Forced(form);
        changed.build.cache.kind = kind;
        changed.build.flash_decode = false; // one op has fewer places to probe
    })
}

/// The caches and forms that a layer can have.
fn ways(checked: &Checked) -> &'static [(CacheKind, Form)] {
    match checked.layer.projections {
        Projections::Latent(_) => &[
            (CacheKind::Latent, Form::Mha),
            (CacheKind::Latent, Form::Mqa),
            (CacheKind::Naive, Form::Mha),
        ],
        Projections::Grouped(_) | Projections::Cross(_) => &[(CacheKind::Naive, Form::Mha)],
    }
}

/// The random layers that have latents.
fn latent_layers(
    layers: impl Iterator<Item = (u64, Checked)>,
) -> impl Iterator<Item = (u64, Checked)> {
    layers.filter(|(_, checked)| checked.layer.latent().is_some())
}

#[track_caller]
fn assert_same_run(what: &str, found: &Run, wanted: &Run) {
    assert_close(what, &found.output, &wanted.output);
    let names = |run: &Run| run.probes.keys().copied().collect::<Vec<_>>();
    assert_eq!(names(found), names(wanted), "{what}: probes");
    for (name, values) in &found.probes {
        assert_close(&format!("{what}: {name}"), values, &wanted.probes[name]);
    }
}

#[test]
fn both_forms_of_forward_agree() {
    for (seed, layer) in latent_layers(SEEDS.map(|seed| (seed, checked(seed)))) {
        let layer = with(&layer, |changed| {
            changed.build.phases = vec![Phase::Forward]
        });
        let case = Case::new(seed, layer);
        let [mha, mqa] = [Form::Mha, Form::Mqa].map(|form| {
            let program = program_with(
                &forced(&case.checked, CacheKind::Latent, form),
                ProbeMode::Keep,
            );
            assert_eq!(program.plans[0].form, Some(form));
            case.forward(&program)
        });
        assert_same_run(&format!("seed {seed}"), &mqa, &mha);
    }
}

#[test]
fn every_form_and_cache_gives_what_forward_gives() {
    for (seed, layer) in cacheable(SEEDS) {
        let case = Case::new(seed, layer);
        let (kind, form) = ways(&case.checked)[0];
        let wanted = case.forward(&program_with(
            &forced(&case.checked, kind, form),
            ProbeMode::Keep,
        ));
        for &(kind, form) in ways(&case.checked) {
            let program = program_with(&forced(&case.checked, kind, form), ProbeMode::Keep);
            for phase in [Phase::Prefill, Phase::Decode] {
                let (found, _) = case.cached(&program, phase);
                assert_same_run(
                    &format!("seed {seed}, {kind:?} {form:?} {phase:?}"),
                    &found,
                    &wanted,
                );
            }
        }
    }
}

#[test]
fn a_batch_in_two_forms_gives_what_forward_gives() {
    let dense =
        latent_layers(cacheable(SEEDS)).filter(|(_, layer)| layer.layer.core == Core::Dense);
    let mut mixed = 0;
    for (seed, layer) in dense {
        let layer = with(&layer, |changed| {
            changed.build.phases = vec![Phase::Forward, Phase::Mixed];
            changed.build.form = FormChoice::Auto;
            changed.build.cache.kind = CacheKind::Latent;
        });
        let case = Case::new(seed, layer);
        let program = program(&case.checked);
        let table = program.mha_from.as_ref().expect("two forms");
        let mut cached = [0; 3];
        for call in CALLS {
            let new = call.iter().zip(&cached).filter(|(new, _)| **new > 0);
            let forms: Vec<Form> = new
                .map(|(&new, &cached)| table.form(new as u64, cached))
                .collect();
            mixed += usize::from(forms.contains(&Form::Mha) && forms.contains(&Form::Mqa));
            for (cached, new) in cached.iter_mut().zip(call) {
                *cached += new as u64;
            }
        }
        let wanted = case.forward(&program).output;
        let (found, _) = case.cached(&program, Phase::Mixed);
        assert_close(&format!("seed {seed}, mixed"), &found.output, &wanted);
    }
    assert!(mixed > 10, "only {mixed} calls had requests of both forms");
}

#[test]
fn every_chunk_of_context_gives_the_same() {
    for (seed, layer) in latent_layers(cacheable(0..30)) {
        let case = Case::new(seed, forced(&layer, CacheKind::Latent, Form::Mha));
        let outputs = [1, 2, 5, 1000].map(|chunk| {
            let changed = with(&case.checked, |changed| changed.build.context_chunk = chunk);
            case.cached(&program(&changed), Phase::Prefill).0.output
        });
        for output in &outputs[1..] {
            assert_close(&format!("seed {seed}"), output, &outputs[0]);
        }
    }
}

fn latent(checked: &mut Checked) -> &mut Latent {
    match &mut checked.layer.projections {
        Projections::Latent(latent) => latent,
        other => panic!("{other:?}"),
    }
}

/// Whether an indexer reads the normed query latent, which then is not normed inside a projection.
fn reads_query_latent(layer: &Layer) -> bool {
    matches!(layer.indexer(), Some(Indexer::Lightning(indexer)) if indexer.query == IndexerQuery::Latent)
}

#[test]
fn fused_and_separate_modules_agree() {
    for (seed, layer) in latent_layers(cacheable(SEEDS)) {
        let case = Case::new(seed, layer);
        let moved_norms = with(&case.checked, |changed| {
            let has_other_readers = reads_query_latent(&changed.layer);
            let latent = latent(changed);
            if latent.kv_scale.is_none() {
                latent.kv_norm = moved(&latent.kv_norm);
            }
            if let Query::Lora {
                norm, scale, up, ..
            } = &mut latent.query
                && !matches!(scale, Some((_, QueryScaleSite::Latent)))
                && *up == QueryUp::Query
                && !has_other_readers
            {
                *norm = moved(norm);
            }
        });
        let moved_down = with(&case.checked, |changed| {
            let latent = latent(changed);
            latent.down = match (&latent.down, &latent.query) {
                (DownProjection::Fused { bias }, _) => DownProjection::Separate {
                    q_bias: *bias,
                    kv_bias: *bias,
                },
                (DownProjection::Separate { q_bias, kv_bias }, Query::Lora { .. })
                    if q_bias == kv_bias =>
                {
                    DownProjection::Fused { bias: *q_bias }
                }
                (down, _) => down.clone(),
            };
        });
        let wanted = program_with(&case.checked, ProbeMode::Keep);
        for changed in [moved_norms, moved_down] {
            let found = program_with(&changed, ProbeMode::Keep);
            assert_same_run(
                &format!("seed {seed}"),
                &case.forward(&found),
                &case.forward(&wanted),
            );
            for phase in [Phase::Prefill, Phase::Decode] {
                let (found, wanted) = (case.cached(&found, phase).0, case.cached(&wanted, phase).0);
                assert_same_run(&format!("seed {seed}, {phase:?}"), &found, &wanted);
            }
        }
    }
}

/// One matrix makes what several make apart, exactly where the language says that there are several.
#[test]
fn folded_projections_agree_with_those_apart() {
    let mut folded = 0;
    for (seed, layer) in cacheable(SEEDS) {
        let [apart, together] = [Vec::new(), Fold::ALL.to_vec()].map(|fold| {
            let layer = with(&layer, |changed| changed.build.fold.clone_from(&fold));
            program_with(&layer, ProbeMode::Keep)
        });
        let joins = together.modules != apart.modules;
        let is_of = Fold::InputProjections.is_of(&layer.layer);
        assert_eq!(joins, is_of, "seed {seed}");
        if !joins {
            assert_eq!(together.plans, apart.plans, "seed {seed}");
            continue;
        }
        folded += 1;
        let case = Case::new(seed, layer);
        let found = case.forward(&together);
        assert_same_run(&format!("seed {seed}"), &found, &case.forward(&apart));
        for phase in [Phase::Prefill, Phase::Decode] {
            let [found, wanted] = [&together, &apart].map(|program| case.cached(program, phase).0);
            assert_same_run(&format!("seed {seed}, {phase:?}"), &found, &wanted);
        }
    }
    assert!(folded > 20, "{folded} layers were folded");
}

#[test]
fn grouped_projections_and_fused_decodes_agree() {
    for (seed, layer) in cacheable(0..400) {
        let Projections::Grouped(grouped) = &layer.layer.projections else {
            continue;
        };
        let case = Case::new(seed, layer.clone());
        let wanted = program_with(&case.checked, ProbeMode::Drop);
        let gate = layer.layer.gate.map(|gate| gate.source);
        if gate != Some(GateSource::Qkv) {
            let other = match grouped.qkv {
                QkvProjection::Fused { bias } => Some(QkvProjection::Separate {
                    q_bias: bias,
                    kv_bias: bias,
                }),
                QkvProjection::Separate { q_bias, kv_bias } => (q_bias == kv_bias
                    && gate.is_none())
                .then_some(QkvProjection::Fused { bias: q_bias }),
            };
            let changed = with(&case.checked, |changed| {
                if let (Projections::Grouped(grouped), Some(other)) =
                    (&mut changed.layer.projections, other)
                {
                    grouped.qkv = other;
                }
            });
            let found = program_with(&changed, ProbeMode::Drop);
            let what = format!("seed {seed}, projections");
            assert_same_run(&what, &case.forward(&found), &case.forward(&wanted));
        }
        let changed = with(&case.checked, |changed| changed.build.flash_decode = false);
        let apart = program_with(&changed, ProbeMode::Drop);
        let [found, wanted] =
            [&wanted, &apart].map(|program| case.cached(program, Phase::Decode).0);
        assert_same_run(&format!("seed {seed}, decode"), &found, &wanted);
    }
}

#[test]
fn the_layout_of_cached_keys_does_not_matter() {
    for (seed, layer) in cacheable(0..60) {
        let case = Case::new(seed, layer);
        let [interleaved, half] = [RopeLayout::Interleaved, RopeLayout::Half].map(|layout| {
            let changed = with(&case.checked, |changed| {
                changed.build.cache.rope_layout = Some(layout)
            });
            case.cached(&program(&changed), Phase::Decode)
        });
        assert_close(
            &format!("seed {seed}"),
            &half.0.output,
            &interleaved.0.output,
        );
    }
}

#[test]
fn latent_caches_hold_the_same_whatever_the_form() {
    for (seed, layer) in latent_layers(cacheable(0..40)) {
        let case = Case::new(seed, layer);
        let [mha, mqa] = [Form::Mha, Form::Mqa].map(|form| {
            case.cached(
                &program(&forced(&case.checked, CacheKind::Latent, form)),
                Phase::Prefill,
            )
            .1
        });
        for request in 0..3 {
            let (mha, mqa) = (mha.latent_rows(request), mqa.latent_rows(request));
            assert_eq!(
                mha.0.len(),
                case.requests[request].len()
                    * case.checked.layer.latent().unwrap().dims.kv_lora_rank as usize
            );
            assert_close(&format!("seed {seed}: latents"), &mqa.0, &mha.0);
            assert_close(&format!("seed {seed}: rope keys"), &mqa.1, &mha.1);
        }
    }
}

#[test]
fn probes_leave_outputs_as_they_are_to_the_bit() {
    for (seed, layer) in cacheable(SEEDS) {
        let case = Case::new(seed, layer);
        let (plain, probed) = (
            program(&case.checked),
            program_with(&case.checked, ProbeMode::Keep),
        );
        let found = [
            case.forward(&plain),
            case.cached(&plain, Phase::Prefill).0,
            case.cached(&plain, Phase::Decode).0,
        ];
        let wanted = [
            case.forward(&probed),
            case.cached(&probed, Phase::Prefill).0,
            case.cached(&probed, Phase::Decode).0,
        ];
        for (found, wanted) in found.iter().zip(&wanted) {
            assert!(found.output == wanted.output, "seed {seed}");
            assert!(
                found.probes.is_empty() && wanted.probes.contains_key("mid.lse"),
                "seed {seed}"
            );
        }
    }
}
