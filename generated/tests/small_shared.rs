//! A model runs as its table says: what an attention picks or keeps reaches those that name it as their source, and whole
//! sequences give what a cache gives token by token.

use mla_generated::small_shared::{
    HIDDEN_SIZE, LAYERS, NUM_HIDDEN_LAYERS, SmallSharedLayer, picked, picking, reuse, store,
};
use mla_runtime::weights::generator::Recipe;
use mla_runtime::{
    Batch, Cpu, CpuDevice, Error, Interleaved, KvCache, Load, Mask, Result, Rows, Sequence,
    SharedKv, TensorShape, TopK, Weights,
};

type B = Cpu<f64>;
type Hidden = Rows<B, HIDDEN_SIZE>;

const DEVICE: CpuDevice = CpuDevice::new();

/// Tokens of each request: more than the 5 that are picked, over several pages.
const LENGTHS: [usize; 2] = [13, 9];

/// Pages of a request in a cache.
const PAGES: usize = 4;

/// An attention's own cache.
enum Cache {
    Store(store::Cache<B, f64>),
    /// It reads its source's.
    Reuse,
    Picking(picking::Cache<B, f64, f64>),
    Picked(picked::Cache<B, f64>),
}

impl Cache {
    fn of(layer: &SmallSharedLayer<B>) -> Result<Self> {
        let blocks = LENGTHS.len() * PAGES;
        Ok(match layer {
            SmallSharedLayer::Store(_) => Self::Store(KvCache::with_blocks(&DEVICE, blocks, 0)?),
            SmallSharedLayer::Reuse(_) => Self::Reuse,
            SmallSharedLayer::Picking(_) => {
                Self::Picking(KvCache::with_blocks(&DEVICE, blocks, 0)?)
            }
            SmallSharedLayer::Picked(_) => Self::Picked(KvCache::with_blocks(&DEVICE, blocks, 0)?),
        })
    }
}

/// Which of the cached functions runs.
#[derive(Clone, Copy)]
enum Phase {
    Prefill,
    Decode,
}

fn tensors(module: &str) -> &'static [TensorShape] {
    match module {
        "store" => <store::SmallSharedStore<B> as Load<B>>::TENSORS,
        "reuse" => <reuse::SmallSharedReuse<B> as Load<B>>::TENSORS,
        "picking" => <picking::SmallSharedPicking<B> as Load<B>>::TENSORS,
        "picked" => <picked::SmallSharedPicked<B> as Load<B>>::TENSORS,
        other => panic!("no layer `{other}`"),
    }
}

/// A checkpoint of the whole model without the tensors that end with `but`.
fn checkpoint(but: &str) -> Weights {
    let all = LAYERS.iter().flat_map(|at| {
        tensors(at.module).iter().map(|tensor| {
            let name = format!("{}.{}", at.prefix, tensor.name);
            let recipe = Recipe::for_tensor(tensor.name, tensor.shape, 7);
            (name, tensor.shape.to_vec(), recipe)
        })
    });
    Weights::generated(all.filter(|(name, ..)| !name.ends_with(but))).unwrap()
}

fn model() -> Vec<SmallSharedLayer<B>> {
    SmallSharedLayer::load_all(&checkpoint("~"), &DEVICE).unwrap()
}

/// The input of all tokens, request by request.
fn input() -> Vec<f64> {
    let rows: usize = LENGTHS.iter().sum();
    let values = Recipe::for_hidden_states(3).values("hidden_states", rows * HIDDEN_SIZE);
    values.into_iter().map(f64::from).collect()
}

fn hidden(values: &[f64]) -> Hidden {
    Rows::from_f64(&DEVICE, values).unwrap()
}

/// The residual stream behind an attention.
fn added(hidden: &Hidden, out: &Hidden) -> Result<Hidden> {
    let sums = hidden.to_vec()?.into_iter().zip(out.to_vec()?);
    Rows::from_vec(&DEVICE, sums.map(|(a, b)| a + b).collect())
}

/// All attentions over whole sequences.
fn forward(model: &[SmallSharedLayer<B>], mut hidden: Hidden) -> Result<Vec<f64>> {
    let positions: Vec<u32> = LENGTHS.iter().flat_map(|&n| 0..n as u32).collect();
    let mask = Mask::cu_seqlens(&[0, LENGTHS[0] as u32, (LENGTHS[0] + LENGTHS[1]) as u32]);
    let mut kv: SharedKv<B, Interleaved, { store::KV_LORA_RANK }, { store::QK_ROPE_HEAD_DIM }> =
        SharedKv::new();
    let mut topk: TopK<B, { picking::INDEX_TOPK }> = TopK::new();
    for layer in model {
        let out = match layer {
            SmallSharedLayer::Store(l) => l.forward(&hidden, &positions, &mask, &mut kv)?,
            SmallSharedLayer::Reuse(l) => l.forward(&hidden, &positions, &mask, &kv)?,
            SmallSharedLayer::Picking(l) => l.forward(&hidden, &positions, &mask, &mut topk)?,
            SmallSharedLayer::Picked(l) => l.forward(&hidden, &positions, &mask, &topk)?,
        };
        hidden = added(&hidden, &out)?;
    }
    hidden.to_vec()
}

/// All attentions over a batch's new tokens, with selections and latents of the sources that [`LAYERS`] names.
fn cached(
    model: &[SmallSharedLayer<B>],
    caches: &mut [Cache],
    batch: &Batch,
    phase: Phase,
    mut hidden: Hidden,
) -> Result<Hidden> {
    let mut selections: Vec<TopK<B, { picking::INDEX_TOPK }>> = Vec::new();
    for (index, layer) in model.iter().enumerate() {
        let at = LAYERS[index];
        let (before, own) = caches.split_at_mut(index);
        let mut picked = TopK::new();
        let out = match (layer, &mut own[0]) {
            (SmallSharedLayer::Store(l), Cache::Store(cache)) => match phase {
                Phase::Prefill => l.prefill(cache, batch, &hidden),
                Phase::Decode => l.decode(cache, batch, &hidden),
            },
            (SmallSharedLayer::Reuse(l), Cache::Reuse) => {
                let Some(Cache::Store(source)) = at.kv_source.map(|source| &before[source]) else {
                    panic!("attention {index} has no source of latents")
                };
                match phase {
                    Phase::Prefill => l.prefill(batch, &hidden, source),
                    Phase::Decode => l.decode(batch, &hidden, source),
                }
            }
            (SmallSharedLayer::Picking(l), Cache::Picking(cache)) => match phase {
                Phase::Prefill => l.prefill(cache, batch, &hidden, &mut picked),
                Phase::Decode => l.decode(cache, batch, &hidden, &mut picked),
            },
            (SmallSharedLayer::Picked(l), Cache::Picked(cache)) => {
                let source = at.topk_source.expect("a source of selections");
                match phase {
                    Phase::Prefill => l.prefill(cache, batch, &hidden, &selections[source]),
                    Phase::Decode => l.decode(cache, batch, &hidden, &selections[source]),
                }
            }
            _ => panic!("attention {index} has another layer's cache"),
        }?;
        selections.push(picked);
        hidden = added(&hidden, &out)?;
    }
    Ok(hidden)
}

/// Runs `steps`, each of a phase and the number of new tokens of both requests, and lays the outputs out as [`input`] is.
fn stepped(model: &[SmallSharedLayer<B>], steps: &[(Phase, [usize; 2])]) -> Vec<f64> {
    let input = input();
    let mut out = vec![f64::NAN; input.len()];
    let mut caches: Vec<Cache> = model.iter().map(|l| Cache::of(l).unwrap()).collect();
    let blocks: [Vec<u32>; 2] = [vec![6, 1, 4, 3], vec![0, 7, 2, 5]];
    let mut done = [0; 2];
    for &(phase, new) in steps {
        let sequences = [0, 1].map(|request| Sequence {
            cached: done[request],
            new: new[request],
            blocks: &blocks[request],
        });
        let batch = Batch::new(&sequences).unwrap();
        let ranges = [0, 1].map(|request| {
            let first = request * LENGTHS[0] + done[request];
            first * HIDDEN_SIZE..(first + new[request]) * HIDDEN_SIZE
        });
        let rows: Vec<f64> = ranges
            .iter()
            .flat_map(|range| &input[range.clone()])
            .copied()
            .collect();
        let result = cached(model, &mut caches, &batch, phase, hidden(&rows)).unwrap();
        let mut values = result.to_vec().unwrap().into_iter();
        for (request, range) in ranges.into_iter().enumerate() {
            out[range]
                .iter_mut()
                .zip(&mut values)
                .for_each(|(to, from)| *to = from);
            done[request] += new[request];
        }
    }
    assert_eq!(done, LENGTHS, "the steps are all tokens");
    out
}

fn assert_close(found: &[f64], wanted: &[f64]) {
    let scale = wanted
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let error = (found - wanted).abs();
        // Not `>`: a NaN is an error too
        assert!(error <= 1e-11 * scale, "{at}: {found} and {wanted}");
    }
}

#[test]
fn a_prefill_is_a_forward() {
    let model = model();
    let whole = forward(&model, hidden(&input())).unwrap();
    assert_close(&stepped(&model, &[(Phase::Prefill, LENGTHS)]), &whole);
}

#[test]
fn a_chunked_prefill_and_decoding_are_a_forward() {
    let model = model();
    let whole = forward(&model, hidden(&input())).unwrap();
    let mut steps = vec![(Phase::Prefill, [4, 2]), (Phase::Prefill, [5, 4])];
    steps.extend([(Phase::Decode, [1, 1]); 3]);
    steps.push((Phase::Decode, [1, 0]));
    assert_close(&stepped(&model, &steps), &whole);
}

#[test]
fn a_consumer_needs_its_source() {
    for (consumer, source) in [(1, 0), (4, 3)] {
        let at = LAYERS[consumer];
        assert_eq!(at.kv_source.or(at.topk_source), Some(source));
        let mut others = model();
        others.remove(source);
        let error = forward(&others, hidden(&input())).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("no layer before this one"), "{said}");
    }
}

#[test]
fn an_attention_that_can_not_be_loaded_is_named() {
    let weights = checkpoint("layers.4.self_attn.o_proj.weight");
    match SmallSharedLayer::<B>::load_all(&weights, &DEVICE) {
        Err(error @ Error::Layer { index: 4, .. }) => {
            let said = error.to_string();
            assert!(said.starts_with("attention 4 (`picked`): "), "{said}");
            assert!(said.contains("o_proj.weight"), "{said}");
        }
        other => panic!("{other:?}"),
    }
    assert!(SmallSharedLayer::<B>::load(&weights, 3, &DEVICE).is_ok());
    let error = SmallSharedLayer::<B>::load(&weights, NUM_HIDDEN_LAYERS, &DEVICE).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NoLayer {
                index: 6,
                layers: 6
            }
        ),
        "{error}"
    );
}
