//! `mla-gen check SPEC…`

use crate::args::Check;
use crate::failure::Failure;
use crate::source::{self, Described};
use crate::talk;

/// Checks every spec, whatever became of the ones before. One that is refused counts more than one that can't be read.
pub(crate) fn check(args: &Check) -> Result<(), Failure> {
    let mut codes = Vec::new();
    for path in &args.specs {
        match source::described(path, &args.config) {
            Ok(described) => talk::status("accepted", &said(&described)),
            Err(failure) if args.specs.len() == 1 => return Err(failure),
            Err(failure) => {
                talk::failure(&failure);
                codes.push(failure.code());
            }
        }
    }
    let refused = codes.iter().find(|code| **code == 3);
    match refused.or(codes.first()) {
        None => Ok(()),
        Some(&code) => {
            let summary = format!(
                "{} of {} failed",
                codes.len(),
                source::counted(args.specs.len(), "spec")
            );
            Err(Failure::Several { code, summary })
        }
    }
}

/// The spec, and what it describes.
fn said(described: &Described) -> String {
    match described {
        Described::Layer(spec) => format!("`{}`: {}", spec.shown, spec.checked.layer.name),
        Described::Model(shown, model) => format!(
            "`{shown}`: {}, {}, {} of them different",
            model.name,
            source::counted(model.indices.len(), "attention"),
            model.layers.len()
        ),
    }
}
