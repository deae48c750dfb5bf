//! Specs as they come in: YAML, or another system's config.

use std::io::Read;
use std::path::{Path, PathBuf};

use mla_spec::import::System;
use mla_spec::{
    Body, Checked, CheckedModel, Diagnostics, Document, Layer, Sources, check, check_model, export,
    import, read,
};

use crate::args::FromConfig;
use crate::failure::Failure;
use crate::findings::{self, Findings};
use crate::talk;

/// A spec that was accepted.
#[derive(Debug)]
pub(crate) struct Spec {
    /// How messages and headers name it.
    pub(crate) shown: String,
    /// What was read; the whole model's where the layer is one of a model's.
    pub(crate) document: Document,
    pub(crate) checked: Checked,
    /// Present where it was imported from a config, or is one of a model's.
    pub(crate) imported: Option<FromCheckpoint>,
    /// Warnings.
    pub(crate) warnings: Findings,
    /// Where its values are written.
    pub(crate) sources: Sources,
}

/// What a config, or the model around it, says beyond the layer.
#[derive(Debug)]
pub(crate) struct FromCheckpoint {
    /// Which layer it is, counted from 0.
    pub(crate) layer: u32,
    /// `model.layers.0.self_attn`.
    pub(crate) weight_prefix: String,
    pub(crate) comments: mla_spec::write::Comments,
}

/// A whole model that was imported.
#[derive(Debug)]
pub(crate) struct Model {
    /// How messages name its config.
    pub(crate) shown: String,
    pub(crate) imported: import::ImportedModel,
    /// Warnings.
    pub(crate) warnings: Findings,
}

/// What a spec describes.
#[derive(Debug)]
pub(crate) enum Described {
    /// One layer.
    Layer(Box<Spec>),
    /// A model: how messages name the spec, and the layers.
    Model(String, Box<CheckedModel>),
}

impl Described {
    /// How messages and headers name the spec.
    pub(crate) fn shown(&self) -> &str {
        match self {
            Self::Layer(spec) => &spec.shown,
            Self::Model(shown, _) => shown,
        }
    }

    /// Name of the layer or model.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Layer(spec) => &spec.checked.layer.name,
            Self::Model(_, model) => &model.name,
        }
    }

    /// The layers that are generated.
    pub(crate) fn layers(&self) -> Vec<&Checked> {
        match self {
            Self::Layer(spec) => vec![&spec.checked],
            Self::Model(_, model) => {
                let layers = model.layers.iter();
                layers.map(|layer| &layer.checked).collect()
            }
        }
    }

    /// The same, to be changed.
    pub(crate) fn layers_mut(&mut self) -> Vec<&mut Checked> {
        match self {
            Self::Layer(spec) => vec![&mut spec.checked],
            Self::Model(_, model) => {
                let layers = model.layers.iter_mut();
                layers.map(|layer| &mut layer.checked).collect()
            }
        }
    }
}

/// Reads and checks a spec of a layer or of a model; its warnings go to stderr. `--layer` makes a layer of a model.
pub(crate) fn described(path: &Path, config: &FromConfig) -> Result<Described, Failure> {
    let (described, warnings) = with_warnings(path, config)?;
    talk::plain(&warnings.text);
    Ok(described)
}

/// Reads and checks a spec of a layer; its warnings go to stderr.
pub(crate) fn spec(path: &Path, config: &FromConfig) -> Result<Spec, Failure> {
    let spec = quiet(path, config)?;
    talk::plain(&spec.warnings.text);
    Ok(spec)
}

/// Reads and checks a spec of a layer.
pub(crate) fn quiet(path: &Path, config: &FromConfig) -> Result<Spec, Failure> {
    match with_warnings(path, config)? {
        (Described::Layer(spec), _) => Ok(*spec),
        (Described::Model(shown, model), _) => Err(Failure::Usage(format!(
            "`{shown}` is a model, and one layer is wanted: choose an attention with `--layer`, 0 to {}",
            model.indices.len().saturating_sub(1)
        ))),
    }
}

/// Reads and checks a spec of a layer or of a model; says nothing yet.
pub(crate) fn with_warnings(
    path: &Path,
    config: &FromConfig,
) -> Result<(Described, Findings), Failure> {
    let (shown, text) = text(path)?;
    let spec = if let Some(system) = system_of(path, &text) {
        let options = import::Options {
            layer: config.layer,
            strict: config.strict,
            name: None,
        };
        from_config(shown, &text, system, &options)?
    } else {
        if config.strict {
            let message = format!("`--strict` goes with a config, and `{shown}` is a spec");
            return Err(Failure::Usage(message));
        }
        let mut sources = Sources::default();
        let document = match read::yaml(&mut sources, &shown, &text) {
            Ok(document) => document,
            Err(found) => return Err(refused(&shown, &found, &sources)),
        };
        if matches!(document.body, Body::Model(_)) {
            return from_model(shown, document, sources, config.layer);
        }
        from_layer(shown, document, sources, config.layer)?
    };
    let warnings = spec.warnings.clone();
    Ok((Described::Layer(Box::new(spec)), warnings))
}

/// Reads a config, and refuses anything else. Where nobody says whose it is and its keys don't tell, it is a `config.json`.
pub(crate) fn config(
    path: &Path,
    from: Option<System>,
    options: &import::Options,
) -> Result<Spec, Failure> {
    let (shown, text) = text(path)?;
    let system = from.or_else(|| system_of(path, &text));
    let system = system.unwrap_or(System::HuggingFace);
    from_config(shown, &text, system, options)
}

/// Reads every attention layer of a `config.json`, and refuses anything else.
pub(crate) fn model_config(path: &Path, options: &import::Options) -> Result<Model, Failure> {
    let (shown, text) = text(path)?;
    if let Some(other) = system_of(path, &text).filter(|system| *system != System::HuggingFace) {
        return Err(Failure::Usage(format!(
            "`{shown}` is {}'s, and whole models are read of a config.json alone: leave out `--model`",
            other.name()
        )));
    }
    let mut sources = Sources::default();
    let imported = match import::hf_model(&mut sources, &shown, &text, options) {
        Ok(imported) => imported,
        Err(found) => return Err(refused(&shown, &found, &sources)),
    };
    let warnings = Findings::of(&imported.lints, &sources);
    Ok(Model {
        shown,
        imported,
        warnings,
    })
}

/// A layer as another system's config. What is laid out or scheduled otherwise there goes to stderr.
pub(crate) fn exported(mut spec: Spec, system: System) -> Result<String, Failure> {
    let exported = export::layer(system, &mut spec.sources, &spec.document, &spec.checked)
        .map_err(|found| refused(&spec.shown, &found, &spec.sources))?;
    talk::plain(&Findings::of(&exported.lints, &spec.sources).text);
    Ok(exported.text)
}

/// Reads another system's recompute options (MaxText's, Megatron-Core's) as a schedule of a layer.
pub(crate) fn schedule(path: &Path, layer: &Layer) -> Result<import::Recomputed, Failure> {
    let (shown, text) = text(path)?;
    let mut sources = Sources::default();
    let found = import::recompute(&mut sources, &shown, &text, layer)
        .map_err(|found| refused(&shown, &found, &sources))?;
    talk::plain(&Findings::of(&found.lints, &sources).text);
    Ok(found)
}

fn from_layer(
    shown: String,
    document: Document,
    sources: Sources,
    layer: Option<u32>,
) -> Result<Spec, Failure> {
    if layer.is_some() {
        return Err(Failure::Usage(format!(
            "`--layer` goes with a config or a model, and `{shown}` is a layer"
        )));
    }
    let (checked, found) = check(&document);
    let Some(checked) = checked else {
        return Err(refused(&shown, &found, &sources));
    };
    let warnings = Findings::of(&found, &sources);
    Ok(Spec {
        shown,
        document,
        checked,
        imported: None,
        warnings,
        sources,
    })
}

/// A model, or the attention of it that is asked for.
fn from_model(
    shown: String,
    document: Document,
    sources: Sources,
    layer: Option<u32>,
) -> Result<(Described, Findings), Failure> {
    let (model, found) = check_model(&document);
    let Some(model) = model else {
        return Err(refused(&shown, &found, &sources));
    };
    let warnings = Findings::of(&found, &sources);
    let Some(index) = layer else {
        return Ok((Described::Model(shown, Box::new(model)), warnings));
    };
    let Some(layer) = model.layer(index as usize) else {
        return Err(Failure::Usage(format!(
            "`{shown}` has {}, counted from 0, and no layer {index}",
            talk::counted(model.indices.len(), "attention")
        )));
    };
    let from = FromCheckpoint {
        layer: index,
        weight_prefix: model.prefix_of(index as usize),
        comments: mla_spec::write::Comments::default(),
    };
    let spec = Spec {
        shown,
        document,
        checked: layer.checked.clone(),
        imported: Some(from),
        warnings: warnings.clone(),
        sources,
    };
    Ok((Described::Layer(Box::new(spec)), warnings))
}

fn from_config(
    shown: String,
    text: &str,
    system: System,
    options: &import::Options,
) -> Result<Spec, Failure> {
    let mut sources = Sources::default();
    let imported = match import::layer(system, &mut sources, &shown, text, options) {
        Ok(imported) => imported,
        Err(found) => return Err(refused(&shown, &found, &sources)),
    };
    let (checked, mut found) = check(&imported.document);
    found.extend(imported.lints);
    let Some(checked) = checked else {
        return Err(refused(&shown, &found, &sources));
    };
    let warnings = Findings::of(&found, &sources);
    let from = FromCheckpoint {
        layer: imported.layer,
        weight_prefix: imported.weight_prefix,
        comments: imported.comments,
    };
    Ok(Spec {
        shown,
        document: imported.document,
        checked,
        imported: Some(from),
        warnings,
        sources,
    })
}

/// The file behind a path: of a folder its `config.json`, and none behind `-`.
pub(crate) fn file(path: &Path) -> Option<PathBuf> {
    if path == Path::new("-") {
        return None;
    }
    Some(match path.is_dir() {
        true => path.join("config.json"),
        false => path.to_owned(),
    })
}

/// The text behind a path: a file, or stdin.
fn text(path: &Path) -> Result<(String, String), Failure> {
    let Some(file) = file(path) else {
        let mut bytes = Vec::new();
        let shown = "<stdin>".to_owned();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::read(Path::new(&shown), error))?;
        return decoded(&PathBuf::from(&shown), bytes).map(|text| (shown, text));
    };
    let bytes = std::fs::read(&file).map_err(|error| missing(&file, error))?;
    Ok((file.display().to_string(), decoded(&file, bytes)?))
}

fn decoded(path: &Path, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        Failure::read(
            path,
            format!(
                "it is no UTF-8 text (byte {})",
                error.utf8_error().valid_up_to()
            ),
        )
    })
}

/// A file that can't be read; a misspelt subcommand looks like one.
fn missing(path: &Path, error: std::io::Error) -> Failure {
    const COMMANDS: [&str; 10] = [
        "build",
        "check",
        "diff",
        "show",
        "import",
        "explain",
        "init",
        "run",
        "verify",
        "completions",
    ];
    let word = path
        .to_str()
        .filter(|word| !word.contains(['/', '.', '\\']));
    match word.and_then(|word| mla_spec::suggest::suggest(word, COMMANDS)) {
        Some(command) => Failure::Usage(format!(
            "`{}` is neither a command nor a spec; did you mean `mla-gen {command}`?",
            path.display()
        )),
        None => Failure::read(path, error),
    }
}

/// Whose config a text is; `None` for a spec.
fn system_of(path: &Path, text: &str) -> Option<System> {
    match is_config(path, text) {
        true => Some(System::HuggingFace),
        false => System::of(text).filter(|system| *system != System::HuggingFace),
    }
}

/// Whether a text is a `config.json` rather than a spec: an object in JSON that has no key of a spec.
fn is_config(path: &Path, text: &str) -> bool {
    if path
        .extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
    {
        return false;
    }
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(serde_json::Value::Object(keys)) => !["mla", "module", "submodules", "model"]
            .iter()
            .any(|key| keys.contains_key(*key)),
        Ok(_) => is_json(path),
        Err(_) => {
            is_json(path) || text.trim_start().starts_with('{') && text.contains("\"model_type\"")
        }
    }
}

fn is_json(path: &Path) -> bool {
    path.is_dir()
        || path
            .extension()
            .is_some_and(|extension| extension == "json")
}

fn refused(shown: &str, found: &Diagnostics, sources: &Sources) -> Failure {
    Failure::Refused {
        findings: Findings::of(found, sources),
        summary: findings::summary(shown, found),
    }
}

#[cfg(test)]
mod tests {
    use super::is_config;
    use std::path::Path;

    #[test]
    fn configs_and_specs_are_told_apart_by_what_they_hold() {
        let config = r#"{"model_type": "deepseek_v3"}"#;
        let spec = r#"{"mla": 1, "name": "A"}"#;
        for path in ["config.json", "config", "-"] {
            assert!(is_config(Path::new(path), config), "{path}");
            assert!(!is_config(Path::new(path), spec), "{path}");
        }
        assert!(!is_config(Path::new("a.yaml"), config));
        assert!(is_config(Path::new("broken.json"), "{"));
        assert!(is_config(
            Path::new("-"),
            r#"{"model_type": "deepseek_v3","#
        ));
        assert!(!is_config(Path::new("-"), "mla: 1\n"));
        assert!(!is_config(Path::new("a"), "{ mla: 1 }"));
    }
}
