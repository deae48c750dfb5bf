//! `mla-gen import CONFIG`

use mla_spec::{import, write};

use crate::args::Import;
use crate::failure::Failure;
use crate::{folder, source, talk};

/// Prints a config as a YAML spec, a comment behind each inferred value; lints go to stderr.
pub(crate) fn import(args: &Import) -> Result<(), Failure> {
    let options = import::Options {
        layer: args.from.layer,
        strict: args.from.strict,
        name: args.name.clone(),
    };
    let spec = source::config(&args.config, &options)?;
    talk::plain(&spec.warnings);
    let mut comments = spec.imported.map(|imported| {
        let mut comments = imported.comments;
        let header = format!(
            "Imported by mla-gen {} from `{}`, layer {} (tensors below `{}`).",
            env!("CARGO_PKG_VERSION"),
            spec.shown,
            imported.layer,
            imported.weight_prefix
        );
        let above = comments.0.entry(String::new()).or_default();
        *above = if above.is_empty() {
            header
        } else {
            format!("{header}\n{above}")
        };
        comments
    });
    let text = write::yaml(&spec.document, &comments.take().unwrap_or_default());
    match &args.output {
        None => talk::data(&text),
        Some(file) => {
            folder::write_new(file, &text, args.force)?;
            talk::status("wrote", &format!("`{}`", file.display()));
            Ok(())
        }
    }
}
