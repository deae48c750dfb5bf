//! `mla-gen import CONFIG`: another system's config as a spec, or a spec as another system's config.

use mla_spec::{import, write};

use crate::args::Import;
use crate::failure::Failure;
use crate::{folder, source, talk};

/// Prints a config as a YAML spec, a comment behind each inferred value, or as another system's config; lints go to stderr.
pub(crate) fn import(args: &Import) -> Result<(), Failure> {
    let options = import::Options {
        layer: args.options.layer,
        strict: args.options.strict,
        name: args.name.clone(),
    };
    let text = match args.to {
        Some(system) => source::exported(read(args, &options)?, system.into())?,
        None if args.model => model(args, &options)?,
        None => layer(args, &options)?,
    };
    match &args.output {
        None => talk::data(&text),
        Some(file) => {
            folder::write_new(file, &text, args.force)?;
            talk::status("wrote", &format!("`{}`", file.display()));
            Ok(())
        }
    }
}

/// What is written as another system's config: a config, or a spec of our own.
fn read(args: &Import, options: &import::Options) -> Result<source::Spec, Failure> {
    match args.from {
        None => source::spec(&args.config, &args.options),
        from => {
            let spec = source::config(&args.config, from.map(Into::into), options)?;
            talk::plain(&spec.warnings.text);
            Ok(spec)
        }
    }
}

fn layer(args: &Import, options: &import::Options) -> Result<String, Failure> {
    let spec = source::config(&args.config, args.from.map(Into::into), options)?;
    talk::plain(&spec.warnings.text);
    let comments = spec.imported.map(|imported| {
        let header = format!(
            "layer {} (tensors below `{}`).",
            imported.layer, imported.weight_prefix
        );
        headed(imported.comments, &spec.shown, &header)
    });
    Ok(write::yaml(&spec.document, &comments.unwrap_or_default()))
}

fn model(args: &Import, options: &import::Options) -> Result<String, Failure> {
    let model = source::model_config(&args.config, options)?;
    talk::plain(&model.warnings.text);
    let header = format!("every layer (tensors below `{}`).", model.imported.prefix);
    let comments = headed(model.imported.comments, &model.shown, &header);
    Ok(write::yaml(&model.imported.document, &comments))
}

/// Says above everything else where a spec comes from.
fn headed(mut comments: write::Comments, shown: &str, what: &str) -> write::Comments {
    let header = format!(
        "Imported by mla-gen {} from `{shown}`, {what}",
        env!("CARGO_PKG_VERSION")
    );
    let above = comments.0.entry(String::new()).or_default();
    *above = if above.is_empty() {
        header
    } else {
        format!("{header}\n{above}")
    };
    comments
}
