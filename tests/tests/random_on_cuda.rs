//! A hundred random layers on a GPU, against the oracle. They bring their kernels along.

use mla_runtime::Cuda;
use mla_spec::Phase;
use mla_tests::against_oracle::{
    cached_is_the_oracles, forward_is_the_oracles, training_is_the_oracles,
};
use mla_tests::random_spec::checked;

type Here = Cuda<f64>;

/// Generated layers, of which tests use a part.
#[allow(dead_code, missing_docs, unreachable_pub)]
mod layers {
    use super::*;

    include!(concat!(env!("OUT_DIR"), "/random.rs"));
}
