//! `pipeline_stages`: which decoder layers run together.

use crate::check::codes;
use crate::check::value::Table;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::span::{Span, Spanned};

/// The first layer of each later stage, ascending.
pub(super) struct Stages {
    later: Vec<Spanned<u32>>,
}

impl Stages {
    /// Reads the list. Where an entry is wrong nothing is known of stages.
    pub(super) fn read(
        table: &mut Table<'_>,
        layers: Option<Spanned<u32>>,
        out: &mut Diagnostics,
    ) -> Self {
        let mut later: Vec<Spanned<u32>> = Vec::new();
        let mut right = true;
        let Some(field) = table.take("pipeline_stages") else {
            return Self { later };
        };
        for item in field.list(out).unwrap_or_default() {
            let Some(first) = field.item(item).integer(1, u32::MAX, out) else {
                right = false;
                continue;
            };
            if let Some(layers) = layers.filter(|layers| first.value >= layers.value) {
                right = false;
                let message = format!(
                    "a stage can't start at layer {} of {} layers",
                    first.value, layers.value
                );
                let label = "behind the last layer";
                let outside = Diagnostic::error(codes::STAGES, message, first.span, label);
                out.push(
                    outside
                        .and(layers.span, "counted from 0")
                        .help("list the first layer of every stage but the first"),
                );
            } else if let Some(earlier) = later.last().filter(|last| last.value >= first.value) {
                right = false;
                let message = format!(
                    "a stage that starts at layer {} can't follow one that starts at {}",
                    first.value, earlier.value
                );
                let label = "not behind the stage before";
                let unsorted = Diagnostic::error(codes::STAGES, message, first.span, label);
                out.push(
                    unsorted
                        .and(earlier.span, "the stage before")
                        .help("list the first layers in ascending order, each once"),
                );
            } else {
                later.push(first);
            }
        }
        if !right {
            later.clear();
        }
        Self { later }
    }

    /// The stage of a decoder layer.
    pub(super) fn of(&self, layer: u32) -> u32 {
        let started = self.later.iter().filter(|first| first.value <= layer);
        u32::try_from(started.count()).unwrap_or(u32::MAX)
    }

    /// Where it says that a stage starts; none for the first.
    pub(super) fn span(&self, stage: u32) -> Option<Span> {
        let at = usize::try_from(stage).ok()?.checked_sub(1)?;
        self.later.get(at).map(|first| first.span)
    }

    /// The first layer of each stage, 0 included.
    pub(super) fn starts(&self) -> Vec<u32> {
        std::iter::once(0)
            .chain(self.later.iter().map(|first| first.value))
            .collect()
    }
}
