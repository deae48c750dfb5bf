//! `weights`: how the weights of projections lie in memory.

use super::phases::Phases;
use crate::build::{Phase, WeightStore};
use crate::check::About;
use crate::check::codes;
use crate::check::value::Table;
use crate::check::words::{Others, Words};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::span::Span;

#[rustfmt::skip] // a table
const STORES: Words<'static, WeightStore> = Words {
    choices: &[
        ("numbers", WeightStore::Numbers),
        ("fp8_blocks", WeightStore::Fp8Blocks),
    ],
    aliases: &[
        ("fp8", "fp8_blocks"),
        ("fp8_e4m3", "fp8_blocks"),
        ("fp8_block128", "fp8_blocks"),
        ("blockwise_fp8", "fp8_blocks"),
        ("bf16", "numbers"),
        ("f32", "numbers"),
    ],
    others: Some(&Others {
        code: codes::WEIGHTS_LATER,
        verdict: "is not in this release",
        label: "known, but not yet a form of weights",
        words: &[
            ("fp8_tensorwise", SCALES),
            ("fp8_per_tensor", SCALES),
            ("per_tensor", SCALES),
            ("tensorwise", SCALES),
            ("fp8_per_channel", SCALES),
            ("per_channel", SCALES),
            ("rowwise", SCALES),
            ("fp8_e5m2", CODES),
            ("mxfp8", CODES),
            ("int8", CODES),
            ("int4", CODES),
            ("fp4", CODES),
            ("mxfp4", CODES),
            ("nvfp4", CODES),
            ("awq", CODES),
            ("gptq", CODES),
        ],
    }),
};

const SCALES: &str = "write `fp8_blocks` or `numbers`, or wait: scales of whole tensors or rows are not in this release";
const CODES: &str =
    "write `fp8_blocks` or `numbers`, or wait: weights in this form are not in this release";

/// Reads the key.
pub(super) fn read(
    table: &mut Table<'_>,
    phases: &Phases,
    about: &About,
    out: &mut Diagnostics,
) -> Option<WeightStore> {
    let store = table.stated("weights", |field| field.word(&STORES, out));
    if let Some((coded, _)) = store.given()
        && coded.value == WeightStore::Fp8Blocks
    {
        refuse_training(coded.span, phases, out);
        refuse_norm_inside(coded.span, about, out);
    }
    store
        .and_then(|store| Some(store.value))
        .or(WeightStore::default())
}

/// A step of training changes a weight by less than lies between two codes, and would be rounded away.
fn refuse_training(coded: Span, phases: &Phases, out: &mut Diagnostics) {
    let Some(train) = phases.find(&[Phase::Train]) else {
        return;
    };
    let message = "`weights: fp8_blocks` keeps weights as codes, and `train` changes them by less than a code can say";
    let trained = Diagnostic::error(
        codes::CODED_IN_TRAINING,
        message,
        coded,
        "a code has 3 bits behind its leading one",
    );
    out.push(
        trained
            .and(train.span, "adds small steps to weights")
            .help("write `weights: numbers`, or remove `train` from `phases`"),
    );
}

/// Of the projections that may hold a norm, `linear_kv_up_proj` is always numbers; the query's is the other.
fn refuse_norm_inside(coded: Span, about: &About, out: &mut Diagnostics) {
    let Some(inside) = about.query_norm_inside else {
        return;
    };
    let message =
        "`weights: fp8_blocks` codes projections alone, and `linear_q_up_proj` has a norm inside";
    let one = Diagnostic::error(
        codes::CODED_WITH_NORM,
        message,
        coded,
        "would code its matrix",
    );
    out.push(one.and(inside, "norm and projection in one module").help(
        "write `ColumnParallelLinear` for the projection, and the norm in `q_layernorm`, or write `weights: numbers`",
    ));
}
