//! Proofs that requests do not touch each other, nor what lies beside them in the cache.

use super::ProofBackend;
use super::cached::{Call, chunks, close, decode, fed, prefill, requests};
use super::difference::{Verdict, expect_close};
use super::sample::{Request, Sample};
use super::session::{Blocks, Session};
use crate::{Caches, Decode, Prefill, Result};

/// `prefill` of a ragged batch gives what each request gives in batches of its own.
///
/// # Errors
/// It does not.
pub fn ragged_prefill_equals_alone<L: Prefill<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    ragged_equals_alone(
        layer,
        sample,
        "prefill of a ragged batch = of each request alone",
        prefill,
    )
}

/// `decode` of a ragged batch, several new tokens per request included, gives what each request gives in batches of its own.
///
/// # Errors
/// It does not.
pub fn ragged_decode_equals_alone<L: Decode<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    ragged_equals_alone(
        layer,
        sample,
        "decode of a ragged batch = of each request alone",
        decode,
    )
}

/// `prefill` gives the same bits whatever lies in free slots and in other blocks.
///
/// # Errors
/// It does not.
pub fn prefill_reads_only_what_was_written<L: Prefill<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    reads_only_what_was_written(
        layer,
        sample,
        "prefill with NaN in free slots = with zeros",
        prefill,
    )
}

/// `decode` gives the same bits whatever lies in free slots and in other blocks.
///
/// # Errors
/// It does not.
pub fn decode_reads_only_what_was_written<L: Decode<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    reads_only_what_was_written(
        layer,
        sample,
        "decode with NaN in free slots = with zeros",
        decode,
    )
}

fn ragged_equals_alone<L: Caches<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
    what: &str,
    call: Call<L, B>,
) -> Verdict {
    let requests = requests::<L, B>(sample);
    let plan = chunks(&requests, sample.dice());
    let ragged = fed(layer, sample, &requests, &plan, call)?;
    let alone = alone(layer, sample, &requests, &plan, call)?;
    close::<L, B>(what, &ragged, &alone)
}

/// Outputs of `requests` fed by `plan`, each in batches and a cache of its own.
pub(super) fn alone<L: Caches<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
    requests: &[Request],
    plan: &[Vec<usize>],
    call: Call<L, B>,
) -> Result<Vec<Vec<f64>>> {
    let mut alone = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        let plan: Vec<Vec<usize>> = plan
            .iter()
            .filter(|step| step[i] > 0)
            .map(|step| vec![step[i]])
            .collect();
        alone.extend(fed(
            layer,
            sample,
            std::slice::from_ref(request),
            &plan,
            call,
        )?);
    }
    Ok(alone)
}

pub(super) fn reads_only_what_was_written<L: Caches<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
    what: &str,
    call: Call<L, B>,
) -> Verdict {
    let requests = requests::<L, B>(sample);
    let plan = chunks(&requests, sample.dice());
    let run = |fill| {
        let blocks = Blocks {
            dice: sample.dice(),
            spare: 3,
            fill,
        };
        Session::<L, B, B::Elem, B::Elem>::new(layer, &B::Device::default(), &requests, blocks)?
            .feed(&plan, call)
    };
    expect_close(what, &run(f64::NAN)?, &run(0.0)?, L::HIDDEN_SIZE, 0.0)
}
