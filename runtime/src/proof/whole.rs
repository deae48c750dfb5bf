//! Proofs about `forward`: whole sequences, no cache.

use super::ProofBackend;
use super::difference::{Failure, Verdict, expect_close, tolerance};
use super::sample::{Request, Sample};
use crate::{Error, Extras, Forward, Mask, NoProbe, Result, Scalar, Tensor};

/// The same input twice gives the same bits.
///
/// # Errors
/// It does not.
pub fn forward_is_deterministic<L: Forward<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    let requests = sample.requests(L::HIDDEN_SIZE, None);
    let (once, again) = (separately(layer, &requests)?, separately(layer, &requests)?);
    expect_close("the same input twice", &once, &again, L::HIDDEN_SIZE, 0.0)
}

/// Sequences packed into one row, by segment ids and by cumulative lengths, give what each gives alone.
///
/// # Errors
/// They do not.
pub fn packed_equals_separate<L: Forward<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    let requests = sample.requests(L::HIDDEN_SIZE, None);
    let alone = separately(layer, &requests)?;
    let (mut hidden, mut positions, mut ids, mut ends) =
        (Vec::new(), Vec::new(), Vec::new(), vec![0]);
    for (id, request) in (1..).zip(&requests) {
        hidden.extend_from_slice(&request.hidden);
        positions.extend_from_slice(&request.positions);
        ids.resize(positions.len(), id);
        ends.push(positions.len() as u32);
    }
    let masks = [
        (
            "packed by segment ids = separate",
            Mask::segment_ids(1, ids.len(), &ids),
        ),
        (
            "packed by cumulative lengths = separate",
            Mask::cu_seqlens(&ends),
        ),
    ];
    for (what, mask) in masks {
        let mut values = forward(layer, &hidden, &positions, &mask)?.into_iter();
        let packed: Vec<Vec<f64>> = requests
            .iter()
            .map(|request| values.by_ref().take(request.hidden.len()).collect())
            .collect();
        expect_close(
            what,
            &packed,
            &alone,
            L::HIDDEN_SIZE,
            tolerance::<B::Elem, B::Elem>(L::HIDDEN_SIZE),
        )?;
    }
    Ok(())
}

/// Sequences padded to one length, on the left and on the right, give what each gives alone; NaN in padded rows stays there.
///
/// For layers generated with padding.
///
/// # Errors
/// They do not.
pub fn padded_equals_unpadded<L: Forward<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    let requests = sample.requests(L::HIDDEN_SIZE, None);
    let alone = separately(layer, &requests)?;
    let longest = requests.iter().map(Request::tokens).max().unwrap_or(0);
    for (what, left) in [
        ("padded on the left = unpadded", true),
        ("padded on the right = unpadded", false),
    ] {
        let (mut hidden, mut positions, mut real) = (Vec::new(), Vec::new(), Vec::new());
        let mut starts = Vec::new();
        for request in &requests {
            let padding = longest - request.tokens();
            let before = if left { padding } else { 0 };
            starts.push((real.len() + before) * L::HIDDEN_SIZE);
            hidden.resize(hidden.len() + before * L::HIDDEN_SIZE, f64::NAN);
            hidden.extend_from_slice(&request.hidden);
            hidden.resize(hidden.len() + (padding - before) * L::HIDDEN_SIZE, f64::NAN);
            for (pad, count) in [
                (true, before),
                (false, request.tokens()),
                (true, padding - before),
            ] {
                real.resize(real.len() + count, !pad);
                if pad {
                    positions.resize(positions.len() + count, 0);
                } else {
                    positions.extend_from_slice(&request.positions);
                }
            }
        }
        let mask = Mask::padded(requests.len(), longest, &real);
        let values = forward(layer, &hidden, &positions, &mask)?;
        let padded: Vec<Vec<f64>> = starts
            .iter()
            .zip(&requests)
            .map(|(&start, request)| values[start..start + request.hidden.len()].to_vec())
            .collect();
        expect_close(
            what,
            &padded,
            &alone,
            L::HIDDEN_SIZE,
            tolerance::<B::Elem, B::Elem>(L::HIDDEN_SIZE),
        )?;
    }
    Ok(())
}

/// A layer generated without padding refuses a mask that has some, rather than attend to it.
///
/// # Errors
/// It computes.
pub fn padding_is_refused<L: Forward<B>, B: ProofBackend>(layer: &L, sample: &Sample) -> Verdict {
    let requests = sample.requests(L::HIDDEN_SIZE, None);
    let Some(request) = requests.iter().max_by_key(|request| request.tokens()) else {
        return Ok(());
    };
    let mut real = vec![true; request.tokens()];
    if let Some(first) = real.first_mut() {
        *first = false;
    }
    match forward(
        layer,
        &request.hidden,
        &request.positions,
        &Mask::padded(1, real.len(), &real),
    ) {
        Err(Error::BadMask(_)) => Ok(()),
        Err(other) => Err(other.into()),
        Ok(_) => Err(Failure::Accepted {
            what: "a padded row",
        }),
    }
}

/// Each request by itself.
pub(super) fn separately<L: Forward<B>, B: ProofBackend>(
    layer: &L,
    requests: &[Request],
) -> Result<Vec<Vec<f64>>> {
    requests
        .iter()
        .map(|request| {
            forward(
                layer,
                &request.hidden,
                &request.positions,
                &Mask::dense(1, request.tokens()),
            )
        })
        .collect()
}

fn forward<L: Forward<B>, B: ProofBackend>(
    layer: &L,
    hidden: &[f64],
    positions: &[u32],
    mask: &Mask,
) -> Result<Vec<f64>> {
    let hidden = hidden
        .iter()
        .map(|&value| B::Elem::from_f64(value))
        .collect();
    let hidden = Tensor::from_vec(&B::Device::default(), hidden, L::HIDDEN_SIZE)?;
    let out = layer
        .forward_erased(
            &hidden,
            positions,
            mask,
            &mut Extras::default(),
            &mut NoProbe,
        )?
        .to_vec()?;
    Ok(out.into_iter().map(Scalar::to_f64).collect())
}
