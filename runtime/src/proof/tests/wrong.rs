//! Each proof catches the mistake that it is there for.

use super::layer::{forgetful, unpacked, unpadded, unscaled, usual};
use crate::proof::{self, Failure, Sample, Verdict};
use crate::{Cpu, Result};

/// The message of a failed comparison.
fn mismatch(verdict: Verdict) -> String {
    match verdict {
        Err(failure @ Failure::Mismatch(_)) => failure.to_string(),
        other => panic!("wanted a mismatch, found {other:?}"),
    }
}

#[test]
fn a_wrong_scale_in_one_form_is_seen() -> Result<(), Failure> {
    let (layer, right) =
        proof::load_pair::<unscaled::Small<Cpu<f64>>, usual::Small<Cpu<f64>>, _>(3)?;
    let sample = Sample::twin(3);
    let message = mismatch(proof::stepwise_equals_forward(&layer, &sample));
    assert!(
        message.starts_with("token by token = all at once: request "),
        "{message}"
    );
    mismatch(proof::decode_equals_prefill(&layer, &sample));
    let message = mismatch(proof::same_decode(
        "absorbed = expanded",
        &layer,
        &right,
        &sample,
    ));
    assert!(
        message.starts_with("decode, absorbed = expanded: "),
        "{message}"
    );
    proof::prefill_equals_forward(&layer, &sample)
}

#[test]
fn forgotten_context_is_seen() -> Result<(), Failure> {
    let layer = proof::load::<forgetful::Small<Cpu<f64>>, _>(3)?;
    mismatch(proof::chunked_equals_one_shot(&layer, &Sample::twin(3)));
    proof::prefill_equals_forward(&layer, &Sample::twin(3))
}

#[test]
fn attention_across_packed_sequences_is_seen() -> Result<(), Failure> {
    let layer = proof::load::<unpacked::Small<Cpu<f64>>, _>(3)?;
    mismatch(proof::packed_equals_separate(&layer, &Sample::twin(3)));
    mismatch(proof::padded_equals_unpadded(&layer, &Sample::twin(3)));
    Ok(())
}

#[test]
fn padding_that_should_be_refused_is_seen() -> Result<(), Failure> {
    let layer = proof::load::<unpadded::Small<Cpu<f64>>, _>(3)?;
    let verdict = proof::padding_is_refused(&layer, &Sample::twin(3));
    assert!(
        matches!(verdict, Err(Failure::Accepted { .. })),
        "{verdict:?}"
    );
    Ok(())
}

#[test]
fn not_a_number_is_never_close() {
    let same = |found: f64| {
        proof::difference::expect_close("x", &[vec![1.0, found]], &[vec![1.0, 2.0]], 2, 1e9)
    };
    assert!(same(5.0).is_ok());
    let message = mismatch(same(f64::NAN));
    assert!(
        message.contains("request 0, token 0, column 1: found NaN"),
        "{message}"
    );
    assert!(proof::difference::expect_close("x", &[vec![1.0]], &[vec![1.0, 2.0]], 2, 1e9).is_err());
    assert!(proof::difference::expect_close("x", &[vec![]], &[vec![]], 2, 0.0).is_ok());
}
