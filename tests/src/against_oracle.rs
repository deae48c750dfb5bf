//! Generated code against the oracle, which interprets the plan that the code was printed from: both in `f64`, call by call.

use mla_codegen::plan::interpret::{
    Cache, Incoming, Lent, Oracle, Piece, SharedKv, Weights as Numbers,
};
use mla_codegen::plan::{Gradient, program};
use mla_runtime::narrow::E4m3;
use mla_runtime::proof::ProofBackend;
use mla_runtime::{
    Batch, Caches, Decode, ErasedGradients, Extras, Forward, KvCache, Load, Mask, Mixed, NoProbe,
    ParameterSet, Prefill, Result, Sequence, Tensor, TensorShape, Train, Weights,
};
use mla_spec::{Checked, Phase, WeightStore};

use crate::random_spec::Dice;

/// New tokens of two requests in each call.
const CALLS: [[usize; 2]; 4] = [[3, 0], [1, 2], [2, 4], [1, 1]];

/// A layer and the same weights as plain numbers.
fn loaded<L: Load<B>, B: ProofBackend<Elem = f64>>(checked: &Checked, seed: u64) -> (L, Numbers) {
    let random = || Weights::random("layer", L::TENSORS, seed);
    let weights = match checked.build.weights {
        WeightStore::Numbers => random(),
        WeightStore::Fp8Blocks => random().and_then(|weights| few_bits(&weights, L::TENSORS)),
    };
    let weights = weights.expect("random weights");
    let layer = L::load(&weights, "layer", &B::Device::default()).expect("the layer loads");
    let selected = weights
        .exactly("layer", L::TENSORS)
        .expect("exactly the layer's tensors");
    let read = |name: &str| selected.read::<f64>(name).expect("a readable tensor").1;
    let numbers = L::TENSORS
        .iter()
        .map(|tensor| (tensor.name.to_owned(), read(tensor.name)));
    (layer, numbers.collect())
}

/// The weights of `layer`, matrices rounded to what blocks of codes hold exactly, whichever rows stand together in one: to e4m3 with one power of two for all of
/// them, and each row with the largest code in the first of any 128 columns, so that a block's scale is that power of two.
fn few_bits(weights: &Weights, tensors: &[TensorShape]) -> Result<Weights> {
    let selected = weights.exactly("layer", tensors)?;
    let mut read = Vec::new();
    for tensor in tensors {
        read.push((tensor, selected.read::<f32>(tensor.name)?.1));
    }
    let is_matrix = |tensor: &TensorShape| tensor.shape.len() == 2;
    let matrices = read.iter().filter(|(tensor, _)| is_matrix(tensor));
    let numbers = matrices.flat_map(|(_, values)| values);
    let most = numbers.fold(0.0_f32, |most, value| most.max(value.abs()));
    let unit = (most / E4m3::MAX).log2().ceil().exp2();
    for (tensor, values) in &mut read {
        if !is_matrix(tensor) {
            continue;
        }
        for row in values.chunks_mut(tensor.shape[1].max(1)) {
            for (column, value) in row.iter_mut().enumerate() {
                let code = match column % 128 {
                    0 => E4m3::MAX.copysign(*value),
                    _ => *value / unit,
                };
                *value = E4m3::encode(code).decode() * unit;
            }
        }
    }
    let named = read.into_iter();
    Weights::from_tensors(named.map(|(tensor, values)| {
        let name = format!("layer.{}", tensor.name);
        (name, (tensor.shape.to_vec(), values))
    }))
}

fn random(tokens: usize, width: usize, seed: u64) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    (0..tokens * width).map(|_| 1.7 * dice.signed()).collect()
}

fn tensor<B: ProofBackend<Elem = f64>>(values: &[f64], width: usize) -> Tensor<B> {
    Tensor::from_vec(&B::Device::default(), values.to_vec(), width).expect("whole rows")
}

fn largest<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    let values = values.into_iter();
    values.fold(0.0, |largest, value| largest.max(value.abs()))
}

#[track_caller]
fn assert_close(what: &str, found: &[f64], wanted: &[f64]) {
    assert_close_beside(what, found, wanted, largest(wanted));
}

/// `largest` is the size of the numbers that roundings come from.
#[track_caller]
fn assert_close_beside(what: &str, found: &[f64], wanted: &[f64], largest: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (found - wanted).abs() <= 1e-11 * largest,
            "{what}: element {i}: found {found}, wanted {wanted}"
        );
    }
}

/// `forward` of a generated layer is the oracle's.
///
/// # Panics
/// When it is not.
pub fn forward_is_the_oracles<L: Forward<B>, B: ProofBackend<Elem = f64>>(
    name: &str,
    checked: &Checked,
) {
    let (layer, weights) = loaded::<L, B>(checked, 1);
    let program = program(checked);
    let oracle = Oracle::new(&program, &weights).expect("the oracle has the same tensors");
    let hidden = random(7, L::HIDDEN_SIZE, 2);
    let positions = [0, 1, 2, 3, 40, 41, 1000];
    let wanted = oracle
        .forward(&hidden, &positions, &[0..4, 4..7])
        .expect("the oracle runs");
    let mask = Mask::cu_seqlens(&[0, 4, 7]);
    let found = layer.forward_erased(
        &tensor(&hidden, L::HIDDEN_SIZE),
        &positions,
        &mask,
        &mut Extras::default(),
        &mut NoProbe,
    );
    let found = found
        .and_then(|found| found.to_vec())
        .expect("the layer runs");
    assert_close(&format!("{name}, forward"), &found, &wanted.output);
}

/// A training step of a generated layer is the oracle's: output, largest logits, and every gradient, in one part and in two.
///
/// # Panics
/// When it is not.
pub fn training_is_the_oracles<L: Train<B>, B: ProofBackend<Elem = f64>>(
    name: &str,
    checked: &Checked,
) {
    let (layer, weights) = loaded::<L, B>(checked, 1);
    let program = program(checked);
    let oracle = Oracle::new(&program, &weights).expect("the oracle has the same tensors");
    let (hidden, d_output) = (random(7, L::HIDDEN_SIZE, 2), random(7, L::HIDDEN_SIZE, 3));
    let positions = [0, 1, 2, 3, 40, 41, 1000];
    let lent = Lent {
        hidden: &hidden,
        positions: &positions,
        sequences: &[0..4, 4..7],
        extras: mla_codegen::plan::interpret::Extras::default(),
    };
    let forwarded = oracle.forward_train(lent).expect("the oracle runs");
    // What comes back for what was handed out
    let back = |given: &[f64], seed: u64| random(7, given.len() / 7, seed);
    let d_shared_kv = forwarded
        .run
        .given
        .shared_kv
        .as_ref()
        .map(|given| SharedKv {
            latent: back(&given.latent, 4),
            k_rope: back(&given.k_rope, 5),
        });
    let handed_back = d_shared_kv
        .as_ref()
        .map(|SharedKv { latent, k_rope }| [latent, k_rope].map(|d| tensor(d, d.len() / 7)));
    let incoming = Incoming {
        output: &d_output,
        shared_kv: d_shared_kv.as_ref(),
        loss_scale: 1.5,
    };
    let wanted = oracle
        .backward(&forwarded.saved, lent, incoming)
        .expect("the oracle goes back");
    // Where a softmax is saturated, what is left for queries and keys is a small difference of what values get
    let size = largest(
        wanted
            .inputs
            .values()
            .chain(wanted.parameters.values())
            .flatten(),
    );
    let mask = Mask::cu_seqlens(&[0, 4, 7]);
    let (input, d_input) = (
        tensor(&hidden, L::HIDDEN_SIZE),
        tensor(&d_output, L::HIDDEN_SIZE),
    );
    for split in [false, true] {
        let mut extras = Extras {
            loss_scale: 1.5,
            d_shared_kv: handed_back
                .as_ref()
                .map(|[latent, k_rope]| [latent, k_rope]),
            ..Extras::default()
        };
        let device = B::Device::default();
        let mut gradients = L::Parameters::zeros(&device).expect("room for gradients");
        let (output, saved) = layer
            .forward_train_erased(&input, &positions, &mask, &mut extras)
            .expect("the layer runs");
        let what = |of: &str| format!("{name}, {of}, split {split}");
        let output = output.to_vec().expect("the output");
        assert_close(&what("output"), &output, &forwarded.run.output);
        let logits = L::max_logits(&saved);
        assert_close(&what("largest logits"), logits, &forwarded.max_logits);
        let found: ErasedGradients<B> = if split {
            let (found, deferred) = layer
                .backward_input_erased(saved, &input, &d_input, &mut extras, &mut gradients)
                .expect("the layer goes back");
            layer
                .backward_dw_erased(deferred, &input, &d_input, &mut extras, &mut gradients)
                .expect("the weights' gradients");
            found
        } else {
            layer
                .backward_erased(saved, &input, &d_input, &mut extras, &mut gradients)
                .expect("the layer goes back")
        };
        if let Some(of_hidden) = found.hidden {
            let of_hidden = of_hidden.to_vec().expect("a gradient");
            let wanted = &wanted.inputs[&Gradient::Hidden];
            assert_close_beside(&what("gradient of hidden"), &of_hidden, wanted, size);
        }
        if let Some(loss) = found.indexer_loss {
            let wanted = &wanted.inputs[&Gradient::IndexerLoss];
            assert_close(&what("indexer's loss"), &[loss], wanted);
        }
        for tensor in gradients.tensors().expect("gradients") {
            let wanted = &wanted.parameters[&tensor.name];
            assert_close_beside(&what(&tensor.name), &tensor.values, wanted, size);
        }
    }
}

/// Blocks of two requests, interleaved, so that neither's lie together where the cache has pages.
fn blocks(page: Option<usize>) -> [Vec<u32>; 2] {
    let each = page.map_or(1, |page| 8_usize.div_ceil(page));
    [0, 1].map(|request| {
        (0..each)
            .map(|block| (2 * block + request) as u32)
            .collect()
    })
}

/// A cached phase of a generated layer is the oracle's, call by call, and so is what the cache holds.
///
/// # Panics
/// When it is not.
pub fn cached_is_the_oracles<L: Prefill<B> + Decode<B>, B: ProofBackend<Elem = f64>>(
    name: &str,
    checked: &Checked,
    phase: Phase,
) {
    call_by_call(name, checked, phase, |layer: &L, cache, batch, input| {
        let (mut extras, mut probe) = (Extras::default(), NoProbe);
        match phase {
            Phase::Decode => layer.decode_erased(cache, batch, input, &mut extras, &mut probe),
            _ => layer.prefill_erased(cache, batch, input, &mut extras, &mut probe),
        }
    });
}

/// As [`cached_is_the_oracles`], of the phase `mixed`. Whether a call had requests of both forms: those of small layers need not.
///
/// # Panics
/// When it is not.
pub fn mixed_is_the_oracles<L: Mixed<B>, B: ProofBackend<Elem = f64>>(
    name: &str,
    checked: &Checked,
) -> bool {
    let mut mixes = false;
    call_by_call(
        name,
        checked,
        Phase::Mixed,
        |layer: &L, cache, batch, input| {
            mixes |= batch.forms(L::MHA_FROM)?.are_mixed();
            layer.mixed_erased(cache, batch, input, &mut Extras::default(), &mut NoProbe)
        },
    );
    mixes
}

/// A layer's cache of what it computes.
type Exact<L, B> = <L as Caches<B>>::Cache<f64, f64>;

/// What a phase of a layer gives and caches, beside what the oracle does.
fn call_by_call<L: Caches<B>, B: ProofBackend<Elem = f64>>(
    name: &str,
    checked: &Checked,
    phase: Phase,
    mut run: impl FnMut(&L, &mut Exact<L, B>, &Batch, &Tensor<B>) -> Result<Tensor<B>>,
) {
    let (layer, weights) = loaded::<L, B>(checked, 3);
    let program = program(checked);
    let oracle = Oracle::new(&program, &weights).expect("the oracle has the same tensors");
    let blocks = blocks(L::Cache::<f64, f64>::PAGE_SIZE);
    let device = B::Device::default();
    let mut cache =
        L::Cache::<f64, f64>::with_blocks(&device, 2 * blocks[0].len(), 8).expect("a small cache");
    let mut logical = Cache::new(2);
    for (index, call) in CALLS.into_iter().enumerate() {
        let hidden = random(call.iter().sum(), L::HIDDEN_SIZE, 4 + index as u64);
        let sequences = [0, 1].map(|request| Sequence {
            cached: logical.tokens(request),
            new: call[request],
            blocks: &blocks[request],
        });
        let batch = Batch::new(&sequences).expect("a valid batch");
        let input = tensor(&hidden, L::HIDDEN_SIZE);
        let found = run(&layer, &mut cache, &batch, &input)
            .and_then(|found| found.to_vec())
            .expect("the layer runs");
        let pieces = [0, 1].map(|request| Piece {
            request,
            tokens: call[request],
        });
        let wanted = oracle
            .cached(phase, &mut logical, &pieces, &hidden)
            .expect("the oracle runs");
        assert_close(
            &format!("{name}, {phase:?}, call {index}"),
            &found,
            &wanted.output,
        );
    }
    for request in [0, 1] {
        let tokens = logical.tokens(request);
        let held = cache
            .latent_rows(&blocks[request], tokens)
            .expect("the tokens lie in the blocks");
        if let Some((latent, k_rope)) = held {
            let (wanted_latent, wanted_key) = logical.latent_rows(request);
            assert_close(
                &format!("{name}, {phase:?}: cached latents"),
                &latent,
                &wanted_latent,
            );
            assert_close(
                &format!("{name}, {phase:?}: cached keys"),
                &k_rope,
                &wanted_key,
            );
        }
    }
}
