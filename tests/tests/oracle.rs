//! Committed layers against the oracle.

use std::path::Path;

use mla_spec::{Checked, Sources, check, read};

fn model(name: &str) -> Checked {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../spec/models")
        .join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(path).expect("the model spec is readable");
    let document =
        read::yaml(&mut Sources::default(), name, &text).expect("the spec is well-formed");
    check::check(&document).0.expect("the spec is valid")
}

macro_rules! layers {
    ($($module:ident::$layer:ident = $spec:literal;)+) => {
        $(mod $module {
            use mla_generated::$module::$layer;
            use mla_spec::Phase;
            type F64 = mla_runtime::Cpu<f64>;
            use mla_tests::against_oracle::{cached_is_the_oracles, forward_is_the_oracles};

            use super::model;

            #[test]
            fn forward() {
                forward_is_the_oracles::<$layer<F64>, F64>($spec, &model($spec));
            }

            #[test]
            fn prefill() {
                cached_is_the_oracles::<$layer<F64>, F64>($spec, &model($spec), Phase::Prefill);
            }

            #[test]
            fn decode() {
                cached_is_the_oracles::<$layer<F64>, F64>($spec, &model($spec), Phase::Decode);
            }
        })+
    };
}

layers! {
    odd_small::OddSmallAttention = "odd-small";
    nope_odd::NopeOddAttention = "nope-odd";
    moonlight::MoonlightAttention = "moonlight";
}
