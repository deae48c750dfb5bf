//! Proofs about layers that attend to what others made: latents, selections, a context.

use super::ProofBackend;
use super::cached::{Exact, chunks, close};
use super::difference::{Verdict, expect_close, tolerance};
use super::sample::{Request, Sample};
use super::session::{Blocks, Session};
use crate::{
    Batch, Caches, Decode, Extras, Forward, KvCache, Mask, Mixed, NoProbe, Prefill, Result, Scalar,
    Tensor,
};

/// `forward` of a layer that is handed latents or a selection gives what the layer gives that makes them itself and hands them out.
///
/// # Errors
/// It does not.
pub fn handed_forward<O: Forward<B>, L: Forward<B>, B: ProofBackend>(
    own: &O,
    layer: &L,
    sample: &Sample,
) -> Verdict {
    let requests = sample.requests(L::HIDDEN_SIZE, None);
    let (mut wanted, mut found) = (Vec::new(), Vec::new());
    for request in &requests {
        let hidden = tensor::<B>(&request.hidden, L::HIDDEN_SIZE)?;
        let mask = Mask::dense(1, request.tokens());
        let mut extras = Extras::default();
        let positions = &request.positions;
        let out = own.forward_erased(&hidden, positions, &mask, &mut extras, &mut NoProbe)?;
        wanted.push(values(&out)?);
        let out = layer.forward_erased(&hidden, positions, &mask, &mut extras, &mut NoProbe)?;
        found.push(values(&out)?);
    }
    let accepted = tolerance::<B::Elem, B::Elem>(L::HIDDEN_SIZE);
    expect_close(
        "forward, handed = made",
        &found,
        &wanted,
        L::HIDDEN_SIZE,
        accepted,
    )
}

/// A cached phase of a layer, with what it is handed.
type Handed<L, B> =
    fn(&L, &mut Exact<L, B>, &Batch, &Tensor<B>, &mut Extras<'_, B>) -> Result<Tensor<B>>;

/// `prefill` of a layer that is handed latents or a selection gives what the layer gives that makes them itself. `source` is the layer
/// whose cache holds the latents; where they are the layer's own, any will do.
///
/// # Errors
/// It does not.
pub fn handed_prefill<O: Prefill<B>, S: Prefill<B>, L: Prefill<B>, B: ProofBackend>(
    own: &O,
    source: &S,
    layer: &L,
    sample: &Sample,
) -> Verdict {
    handed_cached(
        "prefill, handed = made",
        (own, prefill),
        (source, prefill),
        (layer, prefill),
        sample,
    )
}

/// As [`handed_prefill`], of `decode`.
///
/// # Errors
/// It does not.
pub fn handed_decode<O: Decode<B>, S: Decode<B>, L: Decode<B>, B: ProofBackend>(
    own: &O,
    source: &S,
    layer: &L,
    sample: &Sample,
) -> Verdict {
    handed_cached(
        "decode, handed = made",
        (own, decode),
        (source, decode),
        (layer, decode),
        sample,
    )
}

/// As [`handed_prefill`], of `mixed`.
///
/// # Errors
/// It does not.
pub fn handed_mixed<O: Mixed<B>, S: Mixed<B>, L: Mixed<B>, B: ProofBackend>(
    own: &O,
    source: &S,
    layer: &L,
    sample: &Sample,
) -> Verdict {
    handed_cached(
        "mixed, handed = made",
        (own, mixed),
        (source, mixed),
        (layer, mixed),
        sample,
    )
}

/// All three layers get the same batches, over the same blocks of caches of their own.
fn handed_cached<O: Caches<B>, S: Caches<B>, L: Caches<B>, B: ProofBackend>(
    what: &str,
    (own, call_own): (&O, Handed<O, B>),
    (source, call_source): (&S, Handed<S, B>),
    (layer, call): (&L, Handed<L, B>),
    sample: &Sample,
) -> Verdict {
    let requests = sample.requests(L::HIDDEN_SIZE, Exact::<O, B>::PAGE_SIZE);
    let plan = chunks(&requests, sample.dice());
    let device = B::Device::default();
    let blocks = Blocks {
        dice: sample.dice(),
        spare: 2,
        fill: f64::NAN,
    };
    let mut session = Session::<O, B, B::Elem, B::Elem>::new(own, &device, &requests, blocks)?;
    let (count, tokens) = session.room();
    let mut source_cache = Exact::<S, B>::with_blocks(&device, count, tokens)?;
    let mut cache = Exact::<L, B>::with_blocks(&device, count, tokens)?;
    let mut found = vec![Vec::new(); requests.len()];
    let mut wanted = vec![Vec::new(); requests.len()];
    for new in &plan {
        let mut handed = Vec::new();
        let made = session.step(new, |own, own_cache, batch, hidden| {
            let mut extras = Extras::default();
            let made = call_own(own, own_cache, batch, hidden, &mut extras)?;
            call_source(
                source,
                &mut source_cache,
                batch,
                hidden,
                &mut Extras::default(),
            )?;
            extras.source = Some(&source_cache);
            let out = call(layer, &mut cache, batch, hidden, &mut extras)?;
            handed = values(&out)?;
            Ok(made)
        })?;
        let mut handed = handed.into_iter();
        for (i, made) in made.into_iter().enumerate() {
            found[i].extend(handed.by_ref().take(made.len()));
            wanted[i].extend(made);
        }
    }
    close::<L, B>(what, &found, &wanted)
}

fn prefill<L: Prefill<B>, B: ProofBackend>(
    layer: &L,
    cache: &mut Exact<L, B>,
    batch: &Batch,
    hidden: &Tensor<B>,
    extras: &mut Extras<'_, B>,
) -> Result<Tensor<B>> {
    layer.prefill_erased(cache, batch, hidden, extras, &mut NoProbe)
}

fn decode<L: Decode<B>, B: ProofBackend>(
    layer: &L,
    cache: &mut Exact<L, B>,
    batch: &Batch,
    hidden: &Tensor<B>,
    extras: &mut Extras<'_, B>,
) -> Result<Tensor<B>> {
    layer.decode_erased(cache, batch, hidden, extras, &mut NoProbe)
}

fn mixed<L: Mixed<B>, B: ProofBackend>(
    layer: &L,
    cache: &mut Exact<L, B>,
    batch: &Batch,
    hidden: &Tensor<B>,
    extras: &mut Extras<'_, B>,
) -> Result<Tensor<B>> {
    layer.mixed_erased(cache, batch, hidden, extras, &mut NoProbe)
}

/// Attention from sequences packed into one row to contexts packed into another gives what each sequence and its context give alone.
/// `context_width` is the contexts' width.
///
/// # Errors
/// It does not.
pub fn contexts_packed_equal_separate<L: Forward<B>, B: ProofBackend>(
    layer: &L,
    context_width: usize,
    sample: &Sample,
) -> Verdict {
    let requests = sample.requests(L::HIDDEN_SIZE, None);
    let mut contexts = sample.requests(context_width, None);
    contexts.reverse(); // so that a context is not as long as its sequence
    let mut alone = Vec::new();
    for (request, context) in requests.iter().zip(&contexts) {
        alone.push(across(layer, &[request], &[context], context_width)?);
    }
    let own: Vec<&Request> = requests.iter().collect();
    let other: Vec<&Request> = contexts.iter().collect();
    let mut packed = across(layer, &own, &other, context_width)?.into_iter();
    let packed: Vec<Vec<f64>> = requests
        .iter()
        .map(|request| packed.by_ref().take(request.hidden.len()).collect())
        .collect();
    let accepted = tolerance::<B::Elem, B::Elem>(L::HIDDEN_SIZE);
    expect_close(
        "packed contexts = separate ones",
        &packed,
        &alone,
        L::HIDDEN_SIZE,
        accepted,
    )
}

/// Sequences that attend to contexts, each to its own.
fn across<L: Forward<B>, B: ProofBackend>(
    layer: &L,
    requests: &[&Request],
    contexts: &[&Request],
    context_width: usize,
) -> Result<Vec<f64>> {
    let rows = |all: &[&Request]| -> Vec<f64> {
        all.iter()
            .flat_map(|request| request.hidden.clone())
            .collect()
    };
    let positions: Vec<u32> = requests
        .iter()
        .flat_map(|request| request.positions.clone())
        .collect();
    let hidden = tensor::<B>(&rows(requests), L::HIDDEN_SIZE)?;
    let context = tensor::<B>(&rows(contexts), context_width)?;
    let context_mask = packed(contexts);
    let mut extras = Extras {
        context: Some(&context),
        context_mask: Some(&context_mask),
        ..Extras::default()
    };
    let mask = packed(requests);
    let out = layer.forward_erased(&hidden, &positions, &mask, &mut extras, &mut NoProbe)?;
    values(&out)
}

/// Requests one after the other.
fn packed(requests: &[&Request]) -> Mask {
    let mut ends = vec![0_u32];
    for request in requests {
        let last = ends.last().copied().unwrap_or(0);
        ends.push(last + request.tokens() as u32);
    }
    Mask::cu_seqlens(&ends)
}

fn tensor<B: ProofBackend>(values: &[f64], width: usize) -> Result<Tensor<B>> {
    let values = values
        .iter()
        .map(|&value| B::Elem::from_f64(value))
        .collect();
    Tensor::from_vec(&B::Device::default(), values, width)
}

fn values<B: ProofBackend>(tensor: &Tensor<B>) -> Result<Vec<f64>> {
    Ok(tensor.to_vec()?.into_iter().map(Scalar::to_f64).collect())
}
