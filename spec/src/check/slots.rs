//! The slots of a module with submodules: which are there, under which name, and which are missing.

use super::codes;
use super::text::{listed, quoted};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{ModuleSpec, Submodule};
use crate::reference::Section;
use crate::span::Span;
use crate::suggest::suggest;

/// The slots that a module may have.
pub(super) struct Known {
    /// Name of the module.
    pub(super) module: &'static str,
    /// Its slots.
    pub(super) slots: &'static Section,
    /// Other systems' slots and names of weights: the slot that is meant, where it is one, and what to do.
    pub(super) foreign: &'static [(&'static str, Option<&'static str>, &'static str)],
}

impl Known {
    fn names(&self) -> Vec<&'static str> {
        self.slots.keys().map(|key| key.name).collect()
    }
}

/// What of them is filled.
pub(super) struct Slots<'a> {
    spec: &'a ModuleSpec,
    module: &'static str,
    /// Slots that are there under a wrong name.
    expected: Vec<&'static str>,
    missing: Vec<&'static str>,
}

impl<'a> Slots<'a> {
    /// Refuses unknown slots and slots filled twice; remembers the slots that the unknown ones probably mean.
    pub(super) fn read(spec: &'a ModuleSpec, known: &Known, out: &mut Diagnostics) -> Self {
        let mut expected = Vec::new();
        for (index, submodule) in spec.submodules.iter().enumerate() {
            if known.names().contains(&submodule.slot.value.as_str()) {
                refuse_again(&spec.submodules[..index], submodule, out);
            } else {
                expected.extend(refuse_unknown(submodule, known, out));
            }
        }
        Self {
            spec,
            module: known.module,
            expected,
            missing: Vec::new(),
        }
    }

    pub(super) fn get(&self, slot: &str) -> Option<&'a Submodule> {
        self.spec.submodule(slot)
    }

    /// As [`Slots::get`]; [`Slots::finish`] reports the slot where it is missing.
    pub(super) fn require(&mut self, slot: &'static str) -> Option<&'a Submodule> {
        let found = self.get(slot);
        if found.is_none() && !self.is_expected(slot) {
            self.missing.push(slot);
        }
        found
    }

    /// Whether a slot is there under a wrong name, so that its absence needs no report of its own.
    pub(super) fn is_expected(&self, slot: &str) -> bool {
        self.expected.contains(&slot)
    }

    /// Where what is missing is reported.
    pub(super) fn anchor(&self) -> Span {
        self.spec.module.span
    }

    /// Reports the required slots that are not there.
    pub(super) fn finish(self, out: &mut Diagnostics) {
        if self.missing.is_empty() {
            return;
        }
        let names = listed(&self.missing);
        let (what, it) = if self.missing.len() == 1 {
            ("slot", "it")
        } else {
            ("slots", "them")
        };
        let message = format!("`{}` lacks the {what} {names}", self.module);
        let label = format!("needs {names}");
        let missing = Diagnostic::error(codes::MISSING_SLOT, message, self.anchor(), label);
        out.push(missing.help(format!("add {it} to `submodules`")));
    }
}

fn refuse_again(earlier: &[Submodule], submodule: &Submodule, out: &mut Diagnostics) {
    let slot = &submodule.slot;
    let Some(first) = earlier.iter().find(|earlier| earlier.slot == *slot) else {
        return;
    };
    let message = format!("the slot `{}` is filled twice", quoted(&slot.value));
    let twice = Diagnostic::error(codes::UNKNOWN_SLOT, message, slot.span, "filled again here");
    out.push(
        twice
            .and(first.slot.span, "first filled here")
            .help("keep one of them"),
    );
}

/// Refuses a slot; answers the one that it probably means.
fn refuse_unknown(
    submodule: &Submodule,
    known: &Known,
    out: &mut Diagnostics,
) -> Option<&'static str> {
    let name = submodule.slot.value.as_str();
    let message = format!("`{}` has no slot `{}`", known.module, quoted(name));
    let span = submodule.slot.span;
    let unknown = Diagnostic::error(codes::UNKNOWN_SLOT, message, span, "not known here");
    let foreign = known.foreign.iter().find(|(foreign, ..)| *foreign == name);
    let near = match foreign {
        Some((_, ours, _)) => *ours,
        None => suggest(name, known.names()),
    };
    out.push(match (foreign, near) {
        (Some((.., remedy)), _) => unknown.help(*remedy),
        (None, Some(near)) => unknown.help(format!("did you mean `{near}`?")),
        (None, None) => unknown.help(format!(
            "remove it; the slots are {}",
            listed(&known.names())
        )),
    });
    near
}
