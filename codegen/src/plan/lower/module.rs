//! Modules, as the lowerings write them down.

use mla_spec::NormKind;

use crate::plan::formulas::norm_name;
use crate::plan::{Dim, LinearParams, Module, ModuleKind, NormParams, Rows};

/// A linear of one HF module.
pub(super) fn linear(
    (slot, symbol): (&'static str, &str),
    source: &'static str,
    (input, output): (Dim, Dim),
    bias: bool,
) -> Module {
    let with_bias = if bias { ", with a bias" } else { "" };
    Module {
        slot,
        kind: ModuleKind::Linear(LinearParams {
            input,
            output,
            rows: Rows::Stacked(vec![(source, output)]),
            bias,
        }),
        doc: format!("{symbol}, HF `{source}`{with_bias}."),
    }
}

/// A norm of its own.
pub(super) fn norm(
    (slot, of): (&'static str, &str),
    source: &'static str,
    (eps_name, eps): (&'static str, f64),
    (kind, width, rank): (NormKind, Dim, Option<Dim>),
) -> Module {
    Module {
        slot,
        kind: ModuleKind::Norm(NormParams {
            kind,
            width,
            rank,
            eps,
            eps_name,
            source,
        }),
        doc: format!("{} of {of}, HF `{source}`.", norm_name(kind)),
    }
}
