//! A layer with all that a page needs to know of it.

use mla_spec::Checked;

use super::measured::Measured;
use crate::plan::machine::H200;
use crate::plan::{Program, program};
use crate::report::floor::{self, PhaseFloor};
use crate::report::{Report, report};

/// A layer that a page shows.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The layer.
    pub checked: &'a Checked,
    /// Where its spec stands.
    pub source: &'a str,
    /// What was timed of it.
    pub measured: &'a [Measured],
}

/// A layer, planned and counted.
pub(super) struct Layer<'a> {
    pub(super) checked: &'a Checked,
    pub(super) source: &'a str,
    pub(super) measured: &'a [Measured],
    pub(super) report: Report,
    pub(super) program: Program,
    /// The same in bf16, which roofs are measured in.
    pub(super) in_bf16: Program,
    pub(super) floors: Vec<PhaseFloor>,
}

impl<'a> Layer<'a> {
    pub(super) fn of(subject: &Subject<'a>) -> Self {
        let Subject {
            checked,
            source,
            measured,
        } = *subject;
        Self {
            checked,
            source,
            measured,
            report: report(checked),
            program: program(checked),
            in_bf16: program(&floor::in_bf16(checked)),
            floors: floor::floors(checked, &H200),
        }
    }
}
