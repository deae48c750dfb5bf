//! Two layers of one spec, in different forms: the same weights give the same outputs.

use super::ProofBackend;
use super::cached::{Call, chunks, close, decode, fed, prefill};
use super::difference::{Failure, Verdict, expect_close, tolerance};
use super::mixed::mixed;
use super::sample::Sample;
use super::whole::separately;
use crate::{Caches, Decode, Forward, KvCache, Load, Mixed, Prefill, Result, Weights};

/// Where proofs put a layer's weights.
const PREFIX: &str = "layer";

/// A layer with random weights.
///
/// # Errors
/// The layer refuses them.
pub fn load<L: Load<B>, B: ProofBackend>(seed: u64) -> Result<L, Failure> {
    let weights = Weights::random(PREFIX, L::TENSORS, seed)?;
    Ok(L::load(&weights, PREFIX, &B::Device::default())?)
}

/// Two layers with the same random weights. Their tensors have to be the same set: a fused projection is loaded from the
/// checkpoint's separate ones.
///
/// # Errors
/// One of the layers refuses them.
pub fn load_pair<L: Load<B>, M: Load<B>, B: ProofBackend>(seed: u64) -> Result<(L, M), Failure> {
    let weights = Weights::random(PREFIX, L::TENSORS, seed)?;
    let device = B::Device::default();
    Ok((
        L::load(&weights, PREFIX, &device)?,
        M::load(&weights, PREFIX, &device)?,
    ))
}

/// `forward` of two layers is the same. `what` names the pair, e.g. "fused = unfused".
///
/// # Errors
/// It is not.
pub fn same_forward<L: Forward<B>, M: Forward<B>, B: ProofBackend>(
    what: &str,
    layer: &L,
    sibling: &M,
    sample: &Sample,
) -> Verdict {
    let requests = sample.requests(L::HIDDEN_SIZE, None);
    let (found, wanted) = (
        separately(layer, &requests)?,
        separately(sibling, &requests)?,
    );
    let relative = tolerance::<B::Elem, B::Elem>(L::HIDDEN_SIZE);
    expect_close(
        &format!("forward, {what}"),
        &found,
        &wanted,
        L::HIDDEN_SIZE,
        relative,
    )
}

/// `prefill` of two layers, in the same chunks, is the same.
///
/// # Errors
/// It is not.
pub fn same_prefill<L: Prefill<B>, M: Prefill<B>, B: ProofBackend>(
    what: &str,
    layer: &L,
    sibling: &M,
    sample: &Sample,
) -> Verdict {
    same_cached(
        &format!("prefill, {what}"),
        (layer, prefill),
        (sibling, prefill),
        sample,
    )
}

/// `decode` of two layers, in the same chunks, is the same.
///
/// # Errors
/// It is not.
pub fn same_decode<L: Decode<B>, M: Decode<B>, B: ProofBackend>(
    what: &str,
    layer: &L,
    sibling: &M,
    sample: &Sample,
) -> Verdict {
    same_cached(
        &format!("decode, {what}"),
        (layer, decode),
        (sibling, decode),
        sample,
    )
}

/// `mixed` of two layers, in the same chunks, is the same.
///
/// # Errors
/// It is not.
pub fn same_mixed<L: Mixed<B>, M: Mixed<B>, B: ProofBackend>(
    what: &str,
    layer: &L,
    sibling: &M,
    sample: &Sample,
) -> Verdict {
    same_cached(
        &format!("mixed, {what}"),
        (layer, mixed),
        (sibling, mixed),
        sample,
    )
}

fn same_cached<L: Caches<B>, M: Caches<B>, B: ProofBackend>(
    what: &str,
    (layer, call): (&L, Call<L, B>),
    (sibling, sibling_call): (&M, Call<M, B>),
    sample: &Sample,
) -> Verdict {
    // Either cache's pages are crossed: the longer one decides
    let page = L::Cache::<B::Elem, B::Elem>::PAGE_SIZE.max(M::Cache::<B::Elem, B::Elem>::PAGE_SIZE);
    let requests = sample.requests(L::HIDDEN_SIZE, page);
    let plan = chunks(&requests, sample.dice());
    let found = fed(layer, sample, &requests, &plan, call)?;
    let wanted = fed(sibling, sample, &requests, &plan, sibling_call)?;
    close::<L, B>(what, &found, &wanted)
}
