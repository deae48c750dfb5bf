//! Every option of the language: its layer is generated, compiled, proved by its own tests, and compared with the oracle.

/// The layers of [`mla_tests::language`].
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "generated modules, of which tests use a part"
)]
mod layers {
    include!(concat!(env!("OUT_DIR"), "/language.rs"));
}

/// The same layers, trained.
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "generated modules, of which tests use a part"
)]
mod trained_layers {
    include!(concat!(env!("OUT_DIR"), "/trained.rs"));
}

use mla_runtime::{Cpu, Cuda};
use mla_spec::{Checked, Phase};
use mla_tests::against_oracle::{
    cached_is_the_oracles, forward_is_the_oracles, mixed_is_the_oracles, training_is_the_oracles,
};
use mla_tests::language::{language, trained};

fn layer(name: &str) -> Checked {
    let found = language().into_iter().find(|(known, _)| known == name);
    found.expect("a layer of the language").1
}

/// Layers that need nothing but hidden states, by their phases, on the backend `Here`.
macro_rules! alone {
    (forward: $($forward:ident)+; all phases: $($all:ident)+; mixed: $($mixed:ident)+;) => {
        mod forward {
            use super::*;
            $(#[test]
            fn $forward() {
                let name = stringify!($forward);
                forward_is_the_oracles::<layers::$forward::Layer<Here>, Here>(name, &layer(name));
            })+
            $(#[test]
            fn $all() {
                let name = stringify!($all);
                forward_is_the_oracles::<layers::$all::Layer<Here>, Here>(name, &layer(name));
            })+
        }

        mod train {
            use super::*;
            $(#[test]
            fn $forward() {
                let name = stringify!($forward);
                let checked = trained(name, &layer(name));
                training_is_the_oracles::<trained_layers::$forward::Layer<Here>, Here>(name, &checked);
            })+
            $(#[test]
            fn $all() {
                let name = stringify!($all);
                let checked = trained(name, &layer(name));
                training_is_the_oracles::<trained_layers::$all::Layer<Here>, Here>(name, &checked);
            })+
        }

        mod prefill {
            use super::*;
            $(#[test]
            fn $all() {
                let name = stringify!($all);
                cached_is_the_oracles::<layers::$all::Layer<Here>, Here>(name, &layer(name), Phase::Prefill);
            })+
        }

        mod decode {
            use super::*;
            $(#[test]
            fn $all() {
                let name = stringify!($all);
                cached_is_the_oracles::<layers::$all::Layer<Here>, Here>(name, &layer(name), Phase::Decode);
            })+
        }

        mod mixed {
            use super::*;
            $(#[test]
            fn $mixed() {
                let name = stringify!($mixed);
                let mixes = mixed_is_the_oracles::<layers::$mixed::Layer<Here>, Here>(name, &layer(name));
                assert!(mixes, "{name}: no call has requests of both forms");
            })+
        }
    };
}

macro_rules! everything_alone {
    () => {
        alone! {
            forward:
                longrope dynamic two_sided sparse_expanded;
            all phases:
                plain llama4_scale log_position latent_scales latent_scale gate_per_head
                gate_per_element gate_fused gated_norms llama3 soft_cap off_by_one window chunk gives_kv
                sparse sparse_rich sparse_pooled fp8 fp8_ds_mla fp8_model1 mxfp8 grouped grouped_normed
                grouped_l2 grouped_gate grouped_sink grouped_flash grouped_nope;
            mixed:
                plain llama4_scale log_position latent_scales latent_scale gate_per_head
                gate_per_element gate_fused gated_norms llama3 soft_cap off_by_one window chunk gives_kv
                fp8 mxfp8;
        }
    };
}

mod on_the_cpu {
    use super::*;

    type Here = Cpu<f64>;

    everything_alone!();
}

/// On a GPU where there is one, otherwise on the host emulating one. Layers bring all their kernels along.
mod on_cuda {
    use super::*;

    type Here = Cuda<f64>;

    everything_alone!();
}
