//! `mla-gen check SPEC…`

use crate::args::Check;
use crate::failure::Failure;
use crate::source;
use crate::talk;

/// Checks every spec, whatever became of the ones before. One that is refused counts more than one that can't be read.
pub(crate) fn check(args: &Check) -> Result<(), Failure> {
    let mut codes = Vec::new();
    for path in &args.specs {
        match source::spec(path, &args.config) {
            Ok(spec) => talk::status(
                "accepted",
                &format!("`{}`: {}", spec.shown, spec.checked.layer.name),
            ),
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
