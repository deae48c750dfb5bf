//! Proofs that a batch in two forms gives what each of its requests gives alone, in either form.

use super::ProofBackend;
use super::alone::{alone, reads_only_what_was_written};
use super::cached::{Call, Exact, chunks, close, decode, fed, prefill, requests};
use super::difference::Verdict;
use super::sample::Sample;
use crate::{Batch, Decode, Error, Extras, Mixed, NoProbe, Prefill, Result, Sequence, Tensor};

/// `mixed` of a ragged batch gives what `prefill` of each request alone gives.
///
/// # Errors
/// It does not, or no batch of the sample has requests of both forms.
pub fn mixed_equals_prefill_alone<L: Mixed<B> + Prefill<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    mixed_equals_alone(
        layer,
        sample,
        "mixed = prefill of each request alone",
        prefill,
    )
}

/// `mixed` of a ragged batch gives what `decode` of each request alone gives, in calls of as many new tokens.
///
/// # Errors
/// It does not, or no batch of the sample has requests of both forms.
pub fn mixed_equals_decode_alone<L: Mixed<B> + Decode<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    mixed_equals_alone(
        layer,
        sample,
        "mixed = decode of each request alone",
        decode,
    )
}

/// `mixed` gives the same bits whatever lies in free slots and in other blocks.
///
/// # Errors
/// It does not.
pub fn mixed_reads_only_what_was_written<L: Mixed<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    let what = "mixed with NaN in free slots = with zeros";
    reads_only_what_was_written(layer, sample, what, mixed)
}

fn mixed_equals_alone<L: Mixed<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
    what: &str,
    call: Call<L, B>,
) -> Verdict {
    let requests = requests::<L, B>(sample);
    let plan = chunks(&requests, sample.dice());
    if !some_step_mixes(&plan, L::MHA_FROM)? {
        let message = "no step of the sample has requests of both forms, so that nothing is mixed";
        return Err(Error::BadBatch(message.to_owned()).into());
    }
    let found = fed(layer, sample, &requests, &plan, mixed)?;
    let wanted = alone(layer, sample, &requests, &plan, call)?;
    close::<L, B>(what, &found, &wanted)
}

/// Whether some requests of a step take one form and some the other.
fn some_step_mixes(plan: &[Vec<usize>], mha_from: &[(usize, usize)]) -> Result<bool> {
    let mut cached = vec![0; plan.first().map_or(0, Vec::len)];
    for step in plan {
        let sequences = cached.iter().zip(step).map(|(&cached, &new)| Sequence {
            cached,
            new,
            blocks: &[],
        });
        let batch = Batch::new(&sequences.collect::<Vec<_>>())?;
        if batch.forms(mha_from)?.are_mixed() {
            return Ok(true);
        }
        for (cached, new) in cached.iter_mut().zip(step) {
            *cached += new;
        }
    }
    Ok(false)
}

/// [`Mixed::mixed_erased`] without a probe and with an exact cache.
pub(super) fn mixed<L: Mixed<B>, B: ProofBackend>(
    layer: &L,
    cache: &mut Exact<L, B>,
    batch: &Batch,
    hidden: &Tensor<B>,
) -> Result<Tensor<B>> {
    layer.mixed_erased(cache, batch, hidden, &mut Extras::default(), &mut NoProbe)
}
