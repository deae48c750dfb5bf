//! Masks, logits, selections and hand-overs of the oracle, each against another way to say the same: dense masks for windows,
//! chunks, blocks and selections; caches for whole sequences; sums of small numbers for the rest.

#[allow(dead_code)] // this file makes its own layers
mod sample;

use mla_codegen::plan::interpret::{Bias, Cache, Context, Extras, Oracle, Piece, Run, Weights};
use mla_codegen::plan::{ProbeMode, Program, program, program_with};
use mla_spec::*;
use sample::random_spec::Dice;
use sample::{assert_close, numbers, weights};

const TOKENS: usize = 13;

/// A small latent layer with every phase.
fn latent() -> Checked {
    let rms = NormParams {
        kind: NormKind::RmsNorm,
        eps: 1e-6,
    };
    Checked {
        layer: Layer {
            name: "Small".to_owned(),
            input_norm: None,
            projections: Projections::Latent(Latent {
                dims: Dims {
                    hidden_size: 12,
                    num_attention_heads: 3,
                    kv_lora_rank: 7,
                    qk_nope_head_dim: 5,
                    qk_rope_head_dim: 4,
                    v_head_dim: 6,
                },
                query: Query::Lora {
                    rank: 8,
                    norm: Norm::Separate(rms),
                    scale: None,
                    up: QueryUp::Query,
                },
                down: DownProjection::Separate {
                    q_bias: false,
                    kv_bias: false,
                },
                kv_norm: Norm::Separate(rms),
                kv_scale: None,
                k_rope_norm: None,
                kv_source: KvSource::Own { shared: false },
            }),
            rope: Rope::Rotary(Rotary {
                theta: 100.0,
                layout: RopeLayout::Half,
                scaling: RopeScaling::None,
            }),
            query_scaling: QueryScaling::None,
            mask: AttnMask::CAUSAL,
            logits: Logits::PLAIN,
            core: Core::Dense,
            gate: None,
            output_bias: false,
            qk_clip: None,
        },
        build: Build::default(),
    }
}

fn grouped(qkv: QkvProjection) -> Checked {
    let mut checked = latent();
    checked.layer.projections = Projections::Grouped(Grouped {
        hidden_size: 12,
        num_attention_heads: 6,
        num_query_groups: 2,
        kv_channels: 8,
        rotary_dim: 4,
        qkv,
        norms: HeadNorms::Learned {
            q: None,
            k: Some(NormParams {
                kind: NormKind::RmsNorm,
                eps: 1e-6,
            }),
        },
    });
    checked.build.cache.kind = CacheKind::Naive;
    checked
}

fn lightning() -> LightningIndexer {
    LightningIndexer {
        num_heads: 2,
        head_dim: 8,
        topk: 4,
        query: IndexerQuery::Latent,
        rope: Some(IndexerRope {
            layout: RopeLayout::Half,
            split: SplitOrder::RopeFirst,
        }),
        k_norm: NormParams {
            kind: NormKind::LayerNorm,
            eps: 1e-6,
        },
        hadamard: false,
        relu: true,
        log_position_scaling: false,
        full_precision_weights: false,
        forced: Forced::default(),
        pool: None,
        shared: true,
        loss: None,
    }
}

fn sparse(indexer: LightningIndexer) -> Checked {
    let mut checked = latent();
    checked.layer.core = Core::Sparse(Indexer::Lightning(indexer));
    checked
}

/// A layer's weights and thirteen tokens.
struct Case {
    weights: Weights,
    hidden: Vec<f64>,
}

impl Case {
    fn new(checked: &Checked) -> Self {
        let mut dice = Dice::new(5);
        Self {
            weights: weights(&program(checked), &mut dice),
            hidden: numbers(TOKENS * 12, &mut dice),
        }
    }

    fn forward(&self, checked: &Checked, extras: Extras<'_>) -> Run {
        self.run(&probed(checked), extras)
    }

    fn run(&self, program: &Program, extras: Extras<'_>) -> Run {
        let positions: Vec<u32> = (0..TOKENS as u32).collect();
        let oracle = Oracle::new(program, &self.weights).expect("the weights fit");
        oracle
            .forward_with(
                &self.hidden,
                &positions,
                std::slice::from_ref(&(0..TOKENS)),
                extras,
            )
            .expect("forward runs")
    }

    /// The tokens call by call; `extras` of a call's rows.
    fn cached<'a>(
        &self,
        checked: &Checked,
        phase: Phase,
        extras: impl Fn(std::ops::Range<usize>) -> Extras<'a>,
    ) -> (Vec<f64>, Cache) {
        let program = probed(checked);
        let oracle = Oracle::new(&program, &self.weights).expect("the weights fit");
        let (mut cache, mut output) = (Cache::new(1), Vec::new());
        let mut start = 0;
        for tokens in [5, 1, 4, 0, 1, 2] {
            let rows = start..start + tokens;
            let hidden = &self.hidden[rows.start * 12..rows.end * 12];
            let piece = [Piece { request: 0, tokens }];
            let run = oracle
                .cached_with(phase, &mut cache, &piece, hidden, extras(rows.clone()))
                .expect("the phase runs");
            output.extend(run.output);
            start = rows.end;
        }
        (output, cache)
    }
}

fn probed(checked: &Checked) -> Program {
    program_with(checked, ProbeMode::Keep)
}

fn forced(checked: &Checked, form: Form) -> Checked {
    let mut changed = checked.clone();
    changed.build.form = FormChoice::Forced(form);
    changed
}

/// What every query sees by `sees(query, key)`.
fn dense(sees: impl Fn(usize, usize) -> bool) -> Vec<Vec<bool>> {
    let row = |query| (0..TOKENS).map(|key| sees(query, key)).collect();
    (0..TOKENS).map(row).collect()
}

/// A layer's forward, and that of the same layer under a dense mask.
fn assert_dense(checked: &Checked, extras: Extras<'_>, visible: &[Vec<bool>]) {
    let case = Case::new(checked);
    let mut arbitrary = checked.clone();
    arbitrary.layer.mask = AttnMask::of(MaskKind::Arbitrary, false);
    let given = Extras {
        visible: Some(visible),
        blocks: None,
        ..extras
    };
    for form in [Form::Mha, Form::Mqa] {
        let found = case.forward(&forced(checked, form), extras);
        let wanted = case.forward(&forced(&arbitrary, form), given);
        assert_close("output", &found.output, &wanted.output);
        assert_close("lse", &found.probes["mid.lse"], &wanted.probes["mid.lse"]);
    }
}

#[test]
fn windows_chunks_and_blocks_are_dense_masks() {
    let mut checked = latent();
    let window = |left, right| Some(Window { left, right });
    checked.layer.mask.window = window(Some(3), Some(0));
    assert_dense(
        &checked,
        Extras::default(),
        &dense(|q, k| k <= q && q - k <= 3),
    );
    checked.layer.mask = AttnMask::FULL;
    checked.layer.mask.window = window(Some(1), Some(2));
    let near = dense(|q, k| k + 1 >= q && k <= q + 2);
    assert_dense(&checked, Extras::default(), &near);
    checked.layer.mask = AttnMask::CAUSAL;
    checked.layer.mask.chunk = Some(5);
    let chunks = dense(|q, k| k <= q && k / 5 == q / 5);
    assert_dense(&checked, Extras::default(), &chunks);
    checked.layer.mask.chunk = None;
    checked.layer.mask.bidirectional_blocks = true;
    let blocks = [0, 7, 7, 7, 0, 0, 2, 2, 0, 7, 0, 0, 1];
    let seen = dense(|q, k| k <= q || blocks[q] != 0 && blocks[q] == blocks[k]);
    let extras = Extras {
        blocks: Some(&blocks),
        ..Extras::default()
    };
    assert_dense(&checked, extras, &seen);
}

#[test]
fn sparse_attention_is_attention_under_a_mask_of_what_is_picked() {
    let forced_tokens = Forced {
        initial: 1,
        local: 2,
    };
    let pool = Pool {
        size: 2,
        always_select_tail: true,
    };
    let mut hadamard = lightning();
    hadamard.hadamard = true;
    let mut keeps = lightning();
    keeps.forced = forced_tokens;
    let mut pools = lightning();
    pools.pool = Some(pool);
    for indexer in [lightning(), hadamard, keeps, pools] {
        let checked = sparse(indexer.clone());
        let case = Case::new(&checked);
        let run = case.forward(&checked, Extras::default());
        let picked = run.given.selection.clone().expect("a selection is given");
        let mut masked = checked.clone();
        masked.layer.core = Core::Dense;
        masked.layer.mask = AttnMask::of(MaskKind::Arbitrary, false);
        let visible = dense(|q, k| picked[q].contains(&k));
        let mut plain = Case::new(&checked);
        plain
            .weights
            .retain(|name, _| !name.starts_with("indexer."));
        let wanted = plain.forward(
            &masked,
            Extras {
                visible: Some(&visible),
                ..Extras::default()
            },
        );
        assert_close("output", &run.output, &wanted.output);
        for (query, picked) in picked.iter().enumerate() {
            let (topk, tail) = (indexer.topk as usize, indexer.tail() as usize);
            assert!(picked.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(picked.iter().all(|key| *key <= query));
            let most = (query + 1).min(topk);
            assert!((most..=most + tail).contains(&picked.len()) || indexer.pool.is_some());
            if indexer.forced == forced_tokens {
                let kept = [0, query, query.saturating_sub(1)];
                assert!(kept.iter().all(|key| picked.contains(key)), "{picked:?}");
            }
            if indexer.pool.is_some() && query % 2 == 0 {
                assert!(picked.contains(&query), "the tail of query {query}");
            }
        }
        for (kind, form) in [
            (CacheKind::Latent, Form::Mqa),
            (CacheKind::Latent, Form::Mha),
            (CacheKind::Naive, Form::Mha),
        ] {
            let mut cached = forced(&checked, form);
            cached.build.cache.kind = kind;
            for phase in [Phase::Prefill, Phase::Decode] {
                let (found, _) = case.cached(&cached, phase, |_| Extras::default());
                assert_close(&format!("{kind:?} {form:?}"), &found, &run.output);
            }
        }
    }
}

#[test]
fn equal_scores_pick_the_lowest_positions() {
    let checked = sparse(lightning());
    let mut case = Case::new(&checked);
    let zeros = case.weights.get_mut("indexer.weights_proj.weight");
    zeros.expect("head weights").fill(0.0);
    let run = case.forward(&checked, Extras::default());
    for (query, picked) in run.given.selection.expect("a selection").iter().enumerate() {
        assert_eq!(*picked, (0..(query + 1).min(4)).collect::<Vec<_>>());
    }
}

#[test]
fn a_shared_selection_is_attended_to_as_the_producer_attends() {
    let producer = sparse(lightning());
    let case = Case::new(&producer);
    let run = case.forward(&producer, Extras::default());
    let picked = run.given.selection.clone().expect("a selection");
    let mut consumer = producer.clone();
    consumer.layer.core = Core::Sparse(Indexer::Shared { topk: 4, tail: 0 });
    let mut plain = Case::new(&producer);
    plain
        .weights
        .retain(|name, _| !name.starts_with("indexer."));
    let of_rows = |rows: std::ops::Range<usize>| Extras {
        selection: Some(&picked[rows]),
        ..Extras::default()
    };
    let found = plain.forward(&consumer, of_rows(0..TOKENS));
    assert_close("forward", &found.output, &run.output);
    let (found, _) = plain.cached(&consumer, Phase::Decode, of_rows);
    assert_close("decode", &found, &run.output);
}

#[test]
fn soft_caps_biases_sinks_and_windows_hold_in_caches_too() {
    let mut checked = latent();
    checked.layer.logits = Logits {
        soft_cap: Some(1.5),
        sink: Sink::Learned,
        bias: true,
        ..Logits::PLAIN
    };
    checked.layer.mask.window = Some(Window {
        left: Some(4),
        right: Some(0),
    });
    let bias = Bias {
        values: numbers(3 * TOKENS * TOKENS, &mut Dice::new(8)),
        heads: 3,
        queries: TOKENS,
        keys: TOKENS,
    };
    let extras = Extras {
        bias: Some(&bias),
        ..Extras::default()
    };
    let case = Case::new(&checked);
    let wanted = case.forward(&checked, extras);
    let plain = case.forward(&checked, Extras::default());
    assert!(plain.output != wanted.output, "the bias counts");
    for (kind, form) in [
        (CacheKind::Latent, Form::Mqa),
        (CacheKind::Latent, Form::Mha),
        (CacheKind::Naive, Form::Mha),
    ] {
        let mut cached = forced(&checked, form);
        cached.build.cache.kind = kind;
        let (found, _) = case.cached(&cached, Phase::Prefill, |_| extras);
        assert_close(&format!("{kind:?} {form:?}"), &found, &wanted.output);
    }
}

#[test]
fn a_batch_in_two_forms_is_the_same_batch_in_either() {
    let variants: [fn(&mut Layer); 5] = [
        |_| {},
        |layer| layer.logits.sink = Sink::Learned,
        |layer| layer.logits.sink = Sink::OffByOne,
        |layer| layer.logits.soft_cap = Some(2.0),
        |layer| {
            layer.mask.window = Some(Window {
                left: Some(3),
                right: Some(0),
            });
        },
    ];
    for (index, change) in variants.into_iter().enumerate() {
        let mut checked = latent();
        change(&mut checked.layer);
        checked.build.phases = vec![Phase::Prefill, Phase::Decode, Phase::Mixed];
        let program = program(&checked);
        let table = program.mha_from.as_ref().expect("two forms");
        let mut dice = Dice::new(6);
        let weights = weights(&program, &mut dice);
        let oracle = Oracle::new(&program, &weights).expect("the weights fit");
        let mut caches =
            [Phase::Mixed, Phase::Prefill, Phase::Decode].map(|phase| (phase, Cache::new(3)));
        let mut mixes = false;
        for calls in [[6, 0, 2], [1, 5, 1], [0, 1, 4], [3, 1, 1]] {
            let pieces = [0, 1, 2].map(|request| Piece {
                request,
                tokens: calls[request],
            });
            let forms = pieces.iter().filter(|piece| piece.tokens > 0).map(|piece| {
                let cached = caches[0].1.tokens(piece.request) as u64;
                table.form(piece.tokens as u64, cached)
            });
            let forms: Vec<Form> = forms.collect();
            mixes |= forms.contains(&Form::Mha) && forms.contains(&Form::Mqa);
            let hidden = numbers(calls.iter().sum::<usize>() * 12, &mut dice);
            let outputs = caches.each_mut().map(|(phase, cache)| {
                let run = oracle.cached(*phase, cache, &pieces, &hidden);
                run.expect("the phase runs").output
            });
            for other in &outputs[1..] {
                assert_close(&format!("variant {index}"), &outputs[0], other);
            }
        }
        assert!(mixes, "variant {index}: no call has both forms");
    }
}

#[test]
fn dropout_follows_its_seed_and_leaves_the_log_sum_exp() {
    let mut checked = latent();
    checked.layer.logits.dropout = 0.4;
    let case = Case::new(&checked);
    let seeded = |seed| {
        let extras = Extras {
            dropout_seed: seed,
            ..Extras::default()
        };
        let [mha, mqa] =
            [Form::Mha, Form::Mqa].map(|form| case.forward(&forced(&checked, form), extras));
        assert_close("both forms", &mqa.output, &mha.output);
        mha
    };
    let (kept, one, other) = (seeded(None), seeded(Some(1)), seeded(Some(2)));
    assert_eq!(one.output, seeded(Some(1)).output);
    assert!(one.output != other.output && one.output != kept.output);
    assert_eq!(one.probes["mid.lse"], kept.probes["mid.lse"]);
    assert_close(
        "the largest",
        &one.probes["mid.max_logit"],
        &kept.probes["mid.max_logit"],
    );
}

#[test]
fn grouped_layers_are_the_same_through_every_cache_and_layout() {
    let fused = grouped(QkvProjection::Fused { bias: false });
    let case = Case::new(&fused);
    let wanted = case.forward(&fused, Extras::default());
    let separate = grouped(QkvProjection::Separate {
        q_bias: false,
        kv_bias: false,
    });
    let found = case.forward(&separate, Extras::default());
    assert_close("separate projections", &found.output, &wanted.output);
    for flash in [false, true] {
        let mut cached = fused.clone();
        cached.build.flash_decode = flash;
        let (found, _) = case.cached(&cached, Phase::Decode, |_| Extras::default());
        assert_close("decode", &found, &wanted.output);
    }
}

#[test]
fn another_layers_latents_are_attended_to_where_they_are() {
    let own = |shared| {
        let mut checked = latent();
        set_source(&mut checked, KvSource::Own { shared });
        checked
    };
    let producer = own(true);
    let case = Case::new(&producer);
    let made = case.forward(&producer, Extras::default());
    let shared = made.given.shared_kv.clone().expect("latents are given");
    let mut consumer = latent();
    set_source(&mut consumer, KvSource::Other);
    let mut others = Case::new(&producer);
    others.weights.retain(|name, _| !name.starts_with("kv_a_"));
    let extras = Extras {
        shared_kv: Some(&shared),
        ..Extras::default()
    };
    for form in [Form::Mha, Form::Mqa] {
        let found = others.forward(&forced(&consumer, form), extras);
        assert_close("forward", &found.output, &made.output);
        let program = probed(&forced(&consumer, form));
        let oracle = Oracle::new(&program, &others.weights).expect("the weights fit");
        let (_, source) = case.cached(&producer, Phase::Prefill, |_| Extras::default());
        let tokens = 4;
        let extras = Extras {
            source: Some(&source),
            ..Extras::default()
        };
        let start = TOKENS - tokens;
        let run = oracle.cached_with(
            Phase::Decode,
            &mut Cache::new(1),
            &[Piece { request: 0, tokens }],
            &others.hidden[start * 12..],
            extras,
        );
        let found = run.expect("the phase runs").output;
        assert_close("decode", &found, &made.output[start * 12..]);
    }
}

fn set_source(checked: &mut Checked, source: KvSource) {
    if let Projections::Latent(latent) = &mut checked.layer.projections {
        latent.kv_source = source;
        if source == KvSource::Other {
            latent.kv_norm = Norm::Identity;
        }
    }
}

#[test]
fn a_context_is_cached_once_and_attended_to_ever_after() {
    let mut checked = latent();
    checked.layer.projections = Projections::Cross(Cross {
        hidden_size: 12,
        context_hidden_size: 9,
        num_attention_heads: 3,
        kv_channels: 4,
        q_bias: true,
        kv_bias: false,
    });
    checked.layer.rope = Rope::None;
    checked.layer.mask = AttnMask::FULL;
    checked.build.cache.kind = CacheKind::Naive;
    let case = Case::new(&checked);
    let rows = numbers(6 * 9, &mut Dice::new(3));
    let given = Extras {
        context: Some(Context {
            rows: &rows,
            sequences: std::slice::from_ref(&(0..6)),
        }),
        ..Extras::default()
    };
    let wanted = case.forward(&checked, given);
    let program = probed(&checked);
    let oracle = Oracle::new(&program, &case.weights).expect("the weights fit");
    let mut cache = Cache::new(1);
    let mut call = |phase, rows: std::ops::Range<usize>, extras| {
        let tokens = rows.len();
        let hidden = &case.hidden[rows.start * 12..rows.end * 12];
        let piece = [Piece { request: 0, tokens }];
        let run = oracle.cached_with(phase, &mut cache, &piece, hidden, extras);
        run.expect("the phase runs").output
    };
    let mut found = call(Phase::Prefill, 0..5, given);
    found.extend(call(Phase::Decode, 5..6, Extras::default()));
    found.extend(call(Phase::Decode, 6..TOKENS, Extras::default()));
    assert_close("cached", &found, &wanted.output);
}
