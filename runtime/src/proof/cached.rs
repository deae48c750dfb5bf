//! Proofs that a cache changes nothing: however tokens are cut into calls, the outputs are the same.

use super::ProofBackend;
use super::difference::{Verdict, expect_close, tolerance};
use super::sample::{Dice, Request, Sample};
use super::session::{Blocks, Session};
use super::whole::separately;
use crate::{Batch, Caches, Decode, Extras, Forward, KvCache, NoProbe, Prefill, Result, Tensor};

/// A layer's cache that stores what the backend computes.
pub(super) type Exact<L, B> =
    <L as Caches<B>>::Cache<<B as crate::Backend>::Elem, <B as crate::Backend>::Elem>;

/// A cached phase of a layer, as a function.
pub(super) type Call<L, B> = fn(&L, &mut Exact<L, B>, &Batch, &Tensor<B>) -> Result<Tensor<B>>;

/// `decode`, one new token per request and call, gives what `forward` gives.
///
/// # Errors
/// It does not.
pub fn stepwise_equals_forward<L: Forward<B> + Decode<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    let requests = requests::<L, B>(sample);
    let wanted = separately(layer, &requests)?;
    let found = fed(layer, sample, &requests, &singles(&requests), decode)?;
    close::<L, B>("token by token = all at once", &found, &wanted)
}

/// `prefill` in one call gives what `forward` gives.
///
/// # Errors
/// It does not.
pub fn prefill_equals_forward<L: Forward<B> + Prefill<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    let requests = requests::<L, B>(sample);
    let wanted = separately(layer, &requests)?;
    let found = fed(layer, sample, &requests, &one_shot(&requests), prefill)?;
    close::<L, B>("prefill = forward", &found, &wanted)
}

/// `prefill` in chunks, of different lengths for each request and some of them empty, gives what it gives in one call.
///
/// # Errors
/// It does not.
pub fn chunked_equals_one_shot<L: Prefill<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    let requests = requests::<L, B>(sample);
    let wanted = fed(layer, sample, &requests, &one_shot(&requests), prefill)?;
    let found = fed(
        layer,
        sample,
        &requests,
        &chunks(&requests, sample.dice()),
        prefill,
    )?;
    close::<L, B>("prefill in chunks = in one call", &found, &wanted)
}

/// `decode` gives what `prefill` gives for the same batches, several new tokens per request included.
///
/// # Errors
/// It does not.
pub fn decode_equals_prefill<L: Prefill<B> + Decode<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    let requests = requests::<L, B>(sample);
    let plan = chunks(&requests, sample.dice());
    let wanted = fed(layer, sample, &requests, &plan, prefill)?;
    let found = fed(layer, sample, &requests, &plan, decode)?;
    close::<L, B>("decode = prefill", &found, &wanted)
}

/// The sample's requests, long enough to cross the pages of the layer's cache.
pub(super) fn requests<L: Caches<B>, B: ProofBackend>(sample: &Sample) -> Vec<Request> {
    sample.requests(L::HIDDEN_SIZE, Exact::<L, B>::PAGE_SIZE)
}

/// Outputs of `requests` fed by `plan`, into a cache full of NaN with shuffled blocks.
pub(super) fn fed<L: Caches<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
    requests: &[Request],
    plan: &[Vec<usize>],
    call: Call<L, B>,
) -> Result<Vec<Vec<f64>>> {
    let blocks = Blocks {
        dice: sample.dice(),
        spare: 2,
        fill: f64::NAN,
    };
    Session::<L, B, B::Elem, B::Elem>::new(layer, &B::Device::default(), requests, blocks)?
        .feed(plan, call)
}

/// [`Prefill::prefill_erased`] without a probe and with an exact cache.
pub(super) fn prefill<L: Prefill<B>, B: ProofBackend>(
    layer: &L,
    cache: &mut Exact<L, B>,
    batch: &Batch,
    hidden: &Tensor<B>,
) -> Result<Tensor<B>> {
    layer.prefill_erased(cache, batch, hidden, &mut Extras::default(), &mut NoProbe)
}

/// [`Decode::decode_erased`] without a probe and with an exact cache.
pub(super) fn decode<L: Decode<B>, B: ProofBackend>(
    layer: &L,
    cache: &mut Exact<L, B>,
    batch: &Batch,
    hidden: &Tensor<B>,
) -> Result<Tensor<B>> {
    layer.decode_erased(cache, batch, hidden, &mut Extras::default(), &mut NoProbe)
}

/// All tokens in one call.
pub(super) fn one_shot(requests: &[Request]) -> Vec<Vec<usize>> {
    vec![requests.iter().map(Request::tokens).collect()]
}

/// One token per request and call, none where a request has no more.
pub(super) fn singles(requests: &[Request]) -> Vec<Vec<usize>> {
    let longest = requests.iter().map(Request::tokens).max().unwrap_or(0);
    (0..longest)
        .map(|step| {
            requests
                .iter()
                .map(|request| usize::from(step < request.tokens()))
                .collect()
        })
        .collect()
}

/// Pieces of each request's own lengths; a request may get no token while others do.
pub(super) fn chunks(requests: &[Request], mut dice: Dice) -> Vec<Vec<usize>> {
    let pieces: Vec<Vec<usize>> = requests
        .iter()
        .map(|request| {
            let mut pieces = dice.pieces(request.tokens(), 9);
            pieces.insert(dice.below(pieces.len() + 1), 0);
            pieces
        })
        .collect();
    let steps = pieces.iter().map(Vec::len).max().unwrap_or(0);
    let step = |step: usize| {
        pieces
            .iter()
            .map(|pieces| pieces.get(step).copied().unwrap_or(0))
            .collect()
    };
    (0..steps).map(step).collect()
}

/// Compares outputs within the tolerance of the backend's element type.
pub(super) fn close<L: Caches<B>, B: ProofBackend>(
    what: &str,
    found: &[Vec<f64>],
    wanted: &[Vec<f64>],
) -> Verdict {
    expect_close(
        what,
        found,
        wanted,
        L::HIDDEN_SIZE,
        tolerance::<B::Elem, B::Elem>(L::HIDDEN_SIZE),
    )
}
