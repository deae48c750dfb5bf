//! How configs are imported, and what comes out, whatever system they are of.

use super::assemble::{self, Comments};
use super::recompute;
use crate::build::{Build, Phase};
use crate::check::check;
use crate::diagnostic::Diagnostics;
use crate::document::{Document, ModuleSpec};
use crate::layer::Layer;
use crate::node::Entry;
use crate::write;

/// How a config is imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The layer to import, counted from 0; `None` for the first MLA layer.
    pub layer: Option<u32>,
    /// Whether a key that was not reviewed is an error even where nothing in it has to do with attention.
    pub strict: bool,
    /// Name of the generated layer; `None` for the family's.
    pub name: Option<String>,
}

/// A config in our language.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The spec. It has passed [`check`](crate::check()); values that were read carry their place in the config.
    pub document: Document,
    /// Why each value that was not simply read is what it is.
    pub comments: write::Comments,
    /// Warnings: what is known to go wrong with configs like this one.
    pub lints: Diagnostics,
    /// The layer that was imported, counted from 0.
    pub layer: u32,
    /// Where its weights are in the checkpoint: `model.layers.0.self_attn`, without final dot.
    pub weight_prefix: String,
}

/// What a reader made of a config, not yet proved.
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) spec: ModuleSpec,
    pub(super) build: Build,
    /// Whether keys are picked.
    pub(super) sparse: bool,
    /// The system's options about what a training step computes again: they are read once the layer is known.
    pub(super) schedule: Vec<Entry>,
    pub(super) comments: Comments,
    pub(super) layer: u32,
    pub(super) weight_prefix: String,
}

impl Draft {
    fn document(&self) -> Document {
        let build = assemble::build(&self.build, self.sparse);
        assemble::document(self.name.clone(), self.spec.clone(), build)
    }

    /// Puts what the options say into the build section.
    fn read_schedule(&mut self, layer: &Layer) -> Diagnostics {
        if self.schedule.is_empty() {
            return Diagnostics::new();
        }
        match recompute::of_entries(&self.schedule, layer) {
            Ok(found) => {
                if !self.build.phases.contains(&Phase::Train) {
                    self.build.phases.push(Phase::Train);
                }
                self.build.recompute = found.recompute;
                self.build.offload = found.offload;
                found.lints
            }
            Err(found) => found,
        }
    }
}

/// Checks what came out of a config, unless something was refused before.
pub(super) fn proved(
    draft: Option<Draft>,
    mut lints: Diagnostics,
) -> Result<Imported, Diagnostics> {
    let Some(mut draft) = draft.filter(|_| !lints.has_errors()) else {
        return Err(lints);
    };
    let (checked, mut found) = check(&draft.document());
    if let Some(checked) = checked.filter(|_| !found.has_errors()) {
        lints.extend(draft.read_schedule(&checked.layer));
        found = check(&draft.document()).1;
    }
    if lints.has_errors() || found.has_errors() {
        lints.extend(found);
        return Err(lints);
    }
    Ok(Imported {
        document: draft.document(),
        comments: draft.comments.all,
        lints,
        layer: draft.layer,
        weight_prefix: draft.weight_prefix,
    })
}
