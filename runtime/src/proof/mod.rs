//! The equivalences that generated tests state: one layer computed in two ways that mathematics says are the same.
//!
//! Each function takes loaded layers and a [`Sample`], and returns `Err` with the largest difference and where it is. A
//! generated test is three lines:
//!
//! ```text
//! let layer = proof::load::<Layer<Cpu<f64>>, _>(SEED)?;
//! proof::stepwise_equals_forward(&layer, &Sample::twin(SEED))
//! ```
//!
//! | function | phases | says |
//! |---|---|---|
//! | [`forward_is_deterministic`] | forward | the same input twice gives the same bits |
//! | [`packed_equals_separate`] | forward | packed sequences do not see each other |
//! | [`padded_equals_unpadded`] | forward | padding, on either side, changes no real row |
//! | [`padding_is_refused`] | forward | a layer generated without padding says so |
//! | [`stepwise_equals_forward`] | forward, decode | token by token = all at once |
//! | [`prefill_equals_forward`] | forward, prefill | with a cache = without |
//! | [`chunked_equals_one_shot`] | prefill | a prompt in chunks, merged by log-sum-exp = in one call |
//! | [`decode_equals_prefill`] | prefill, decode | the two phases' forms compute the same |
//! | [`ragged_prefill_equals_alone`], [`ragged_decode_equals_alone`] | prefill or decode | requests of a batch do not see each other |
//! | [`prefill_reads_only_what_was_written`], [`decode_reads_only_what_was_written`] | prefill or decode | what lies in free slots changes no bit |
//! | [`mixed_equals_prefill_alone`], [`mixed_equals_decode_alone`] | mixed, prefill or decode | a batch in two forms = each request alone in either |
//! | [`mixed_reads_only_what_was_written`] | mixed | what lies in free slots changes no bit |
//! | [`same_forward`], [`same_prefill`], [`same_decode`], [`same_mixed`] | two layers | absorbed = expanded, fused = unfused, paged = contiguous |
//! | [`handed_forward`], [`handed_prefill`], [`handed_decode`], [`handed_mixed`] | a layer and its sources | latents or a selection of another layer = the same ones of its own |
//! | [`contexts_packed_equal_separate`] | forward | a sequence sees its own context only |
//! | [`training_forward_equals_forward`] | train, forward | the same output, whether or not something is kept |
//! | [`gradients_are_finite_differences`], [`indexer_gradients_are_finite_differences`] | train | gradients are those of the function |
//! | [`split_backward_equals_whole`] | train | the weights' gradients apart = all at once, to the bit |
//! | [`identical_gradients`], [`same_gradients`] | two layers | recomputed = kept, to the bit; absorbed = expanded |
//! | [`indexer_is_walled_off`] | train | no gradient crosses the wall between an indexer and the layer |
//! | [`qk_clip_scales_logits`] | train | a head's logits fall by exactly its factor |
//!
//! In every proof over a cache the cache is full of NaN at first and its blocks are handed out in a shuffled order, with
//! spare ones between; positions start far from 0.

mod alone;
mod cached;
mod difference;
mod handed;
mod mixed;
mod pairs;
mod sample;
mod session;
mod training;
mod whole;

pub use alone::{
    decode_reads_only_what_was_written, prefill_reads_only_what_was_written,
    ragged_decode_equals_alone, ragged_prefill_equals_alone,
};
pub use cached::{
    chunked_equals_one_shot, decode_equals_prefill, prefill_equals_forward, stepwise_equals_forward,
};
pub use difference::{Failure, Mismatch, Verdict, tolerance};
pub use handed::{
    contexts_packed_equal_separate, handed_decode, handed_forward, handed_mixed, handed_prefill,
};
pub use mixed::{
    mixed_equals_decode_alone, mixed_equals_prefill_alone, mixed_reads_only_what_was_written,
};
pub use pairs::{load, load_pair, same_decode, same_forward, same_mixed, same_prefill};
pub use sample::Sample;
pub use training::{
    gradients_are_finite_differences, identical_gradients,
    indexer_gradients_are_finite_differences, indexer_is_walled_off, qk_clip_scales_logits,
    same_gradients, split_backward_equals_whole, training_forward_equals_forward,
};
pub use whole::{
    forward_is_deterministic, packed_equals_separate, padded_equals_unpadded, padding_is_refused,
};

pub(crate) use difference::difference;
pub(crate) use sample::Request;
pub(crate) use session::{Blocks, Session};

use crate::{Backend, CacheElement};

/// A backend that proofs run on: its device needs no choosing, and a cache can store its elements as they are.
pub trait ProofBackend: Backend<Device: Default, Elem: CacheElement> {}
impl<B: Backend<Device: Default, Elem: CacheElement>> ProofBackend for B {}

#[cfg(test)]
pub(crate) mod tests;
