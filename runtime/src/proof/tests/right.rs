//! Right layers pass, in every form and cache, in f64 and f32.

use super::layer::{naive, swapped, usual};
use crate::proof::{self, ProofBackend, Sample, Verdict};
use crate::{Cpu, Decode, Forward, Prefill};

/// Every proof that speaks of one layer and holds whatever its mask.
fn all<L: Forward<B> + Prefill<B> + Decode<B>, B: ProofBackend>(sample: &Sample) -> Verdict {
    let layer = proof::load::<L, B>(7)?;
    proof::forward_is_deterministic(&layer, sample)?;
    proof::packed_equals_separate(&layer, sample)?;
    proof::stepwise_equals_forward(&layer, sample)?;
    proof::prefill_equals_forward(&layer, sample)?;
    proof::chunked_equals_one_shot(&layer, sample)?;
    proof::decode_equals_prefill(&layer, sample)?;
    proof::ragged_prefill_equals_alone(&layer, sample)?;
    proof::ragged_decode_equals_alone(&layer, sample)?;
    proof::prefill_reads_only_what_was_written(&layer, sample)?;
    proof::decode_reads_only_what_was_written(&layer, sample)
}

#[test]
fn a_right_layer_passes_in_f64() -> Verdict {
    for seed in 0..4 {
        all::<usual::Small<Cpu<f64>>, _>(&Sample::twin(seed))?;
        all::<swapped::Small<Cpu<f64>>, _>(&Sample::twin(seed))?;
        all::<naive::Small<Cpu<f64>>, _>(&Sample::twin(seed))?;
    }
    Ok(())
}

#[test]
fn a_right_layer_passes_in_f32() -> Verdict {
    for seed in 0..4 {
        all::<usual::Small<Cpu<f32>>, _>(&Sample::short(seed))?;
        all::<swapped::Small<Cpu<f32>>, _>(&Sample::twin(seed))?;
        all::<naive::Small<Cpu<f32>>, _>(&Sample::short(seed))?;
    }
    Ok(())
}

#[test]
fn padding_is_right_where_it_is_allowed_and_refused_elsewhere() -> Verdict {
    for seed in 0..4 {
        let sample = Sample::twin(seed);
        proof::padded_equals_unpadded(&proof::load::<swapped::Small<Cpu<f64>>, _>(seed)?, &sample)?;
        proof::padding_is_refused(&proof::load::<usual::Small<Cpu<f64>>, _>(seed)?, &sample)?;
    }
    Ok(())
}

#[test]
fn siblings_agree() -> Verdict {
    for seed in 0..4 {
        let sample = Sample::twin(seed);
        let (a, b) = proof::load_pair::<usual::Small<Cpu<f64>>, swapped::Small<Cpu<f64>>, _>(seed)?;
        proof::same_forward("paged = contiguous", &a, &b, &sample)?;
        proof::same_prefill("expanded = absorbed", &a, &b, &sample)?;
        proof::same_decode("absorbed = expanded", &a, &b, &sample)?;
        let (a, b) = proof::load_pair::<usual::Small<Cpu<f64>>, naive::Small<Cpu<f64>>, _>(seed)?;
        proof::same_decode("latent = naive", &a, &b, &sample)?;
    }
    Ok(())
}

#[test]
fn samples_follow_from_their_seed_and_cross_pages() {
    assert_eq!(Sample::twin(1), Sample::twin(1));
    assert_ne!(Sample::twin(1), Sample::twin(2));
    for seed in 0..20 {
        let tokens = |page| -> Vec<usize> {
            Sample::twin(seed)
                .requests(2, page)
                .iter()
                .map(|request| request.tokens())
                .collect()
        };
        assert!(
            tokens(Some(64))[0] == 67 && tokens(None).contains(&1),
            "{:?}",
            tokens(Some(64))
        );
        let short: usize = Sample::short(seed)
            .requests(2, Some(64))
            .iter()
            .map(|request| request.tokens())
            .sum();
        assert_eq!(short, 8);
    }
}
