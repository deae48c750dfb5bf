//! The door for build scripts.

use std::fmt;
use std::path::{Path, PathBuf};

use mla_spec::{Body, Checked, CheckedModel, Diagnostics, Severity, Sources};

use crate::emit::{Options, Origin, emit_module_text, model_text, tests_module};
use crate::files::module_name;

/// Compiles a spec from a build script.
///
/// ```no_run
/// // build.rs
/// mla_codegen::Builder::new().spec("specs/my-attention.yaml").compile();
/// ```
///
/// The layer `MyAttention` is written to `OUT_DIR/my_attention.rs`, to be included in a module:
///
/// ```ignore
/// pub mod attention {
///     include!(concat!(env!("OUT_DIR"), "/my_attention.rs"));
/// }
/// ```
///
/// The layers of a model are modules inside its file.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    spec: Option<PathBuf>,
    runtime: Option<String>,
    tests: bool,
    manifest_dir: Option<PathBuf>,
    out_dir: Option<PathBuf>,
}

/// Why nothing was compiled.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// [`Builder::spec`] was not called.
    NoSpec,
    /// An environment variable that cargo sets for build scripts is missing.
    NotABuildScript {
        /// Which.
        variable: &'static str,
    },
    /// The spec can't be read, or the module not written.
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The spec is wrong.
    Refused {
        /// Every diagnostic, rendered with the lines it is about.
        rendered: String,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpec => write!(f, "no spec was named: call `Builder::spec`"),
            Self::NotABuildScript { variable } => {
                write!(
                    f,
                    "`{variable}` is not set, wanted to run in a build script"
                )
            }
            Self::Io { path, source } => write!(f, "`{}`: {source}", path.display()),
            Self::Refused { rendered } => f.write_str(rendered.trim_end()),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::NoSpec | Self::NotABuildScript { .. } | Self::Refused { .. } => None,
        }
    }
}

impl Builder {
    /// A builder that knows no spec yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The YAML spec, relative to the package's folder.
    pub fn spec(mut self, path: impl Into<PathBuf>) -> Self {
        self.spec = Some(path.into());
        self
    }

    /// Path of the runtime crate where the module is included; `mla_runtime` unless said otherwise.
    pub fn runtime(mut self, path: impl Into<String>) -> Self {
        self.runtime = Some(path.into());
        self
    }

    /// Whether the layer's tests are in the file, as a module `tests`. They need `mla-runtime` with its feature `proof` among
    /// the dev-dependencies. No unless said otherwise.
    pub fn tests(mut self, tests: bool) -> Self {
        self.tests = tests;
        self
    }

    /// The package's folder, instead of `CARGO_MANIFEST_DIR`.
    pub fn manifest_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.manifest_dir = Some(path.into());
        self
    }

    /// Where the module is written, instead of `OUT_DIR`.
    pub fn out_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(path.into());
        self
    }

    /// Compiles the spec, and tells cargo to run the build script again when the spec changes. Where that fails, says why on
    /// stderr and ends the build script.
    pub fn compile(&self) -> PathBuf {
        self.try_compile().unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(1)
        })
    }

    /// As [`compile`](Self::compile), but the caller says what happens where it fails. Returns the module's path.
    ///
    /// # Errors
    /// No spec was named, it can't be read or is wrong, or the module can't be written.
    pub fn try_compile(&self) -> Result<PathBuf, BuildError> {
        let spec = self.spec.as_deref().ok_or(BuildError::NoSpec)?;
        let manifest_dir = folder(self.manifest_dir.as_deref(), "CARGO_MANIFEST_DIR")?;
        let out_dir = folder(self.out_dir.as_deref(), "OUT_DIR")?;
        let path = manifest_dir.join(spec);
        println!("cargo:rerun-if-changed={}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|source| BuildError::Io {
            path: path.clone(),
            source,
        })?;
        let described = described(&spec.display().to_string(), &text)?;
        let module = out_dir.join(format!("{}.rs", module_name(described.name())));
        write_if_changed(&module, &self.text(spec, &described)).map_err(|source| {
            BuildError::Io {
                path: module.clone(),
                source,
            }
        })?;
        Ok(module)
    }

    /// The module's text without inner documentation, which an included file can't have.
    fn text(&self, spec: &Path, described: &Described) -> String {
        let origin = Origin {
            spec: spec.display().to_string(),
            command: None,
        };
        let mut options = Options::new(origin);
        if let Some(runtime) = &self.runtime {
            options.runtime.clone_from(runtime);
        }
        options.tests = self.tests;
        let text = match described {
            Described::Model(model) => model_text(model, &options),
            Described::Layer(checked) if self.tests => {
                emit_module_text(checked, &options) + &tests_module(checked, &options)
            }
            Described::Layer(checked) => emit_module_text(checked, &options),
        };
        let lines = text
            .lines()
            .map(|line| match line.trim_start().strip_prefix("//!") {
                Some(doc) => format!("//{doc}\n"),
                None => format!("{line}\n"),
            });
        lines.collect()
    }
}

fn folder(given: Option<&Path>, variable: &'static str) -> Result<PathBuf, BuildError> {
    match given {
        Some(path) => Ok(path.to_owned()),
        None => std::env::var_os(variable)
            .map(PathBuf::from)
            .ok_or(BuildError::NotABuildScript { variable }),
    }
}

/// What a spec describes.
enum Described {
    Layer(Box<Checked>),
    Model(Box<CheckedModel>),
}

impl Described {
    fn name(&self) -> &str {
        match self {
            Self::Layer(checked) => &checked.layer.name,
            Self::Model(model) => &model.name,
        }
    }
}

/// The layer or the model of a spec. Warnings go to cargo.
fn described(name: &str, text: &str) -> Result<Described, BuildError> {
    let mut sources = Sources::default();
    let (described, found) = match mla_spec::read::yaml(&mut sources, name, text) {
        Ok(document) if matches!(document.body, Body::Model(_)) => {
            let (model, found) = mla_spec::check_model(&document);
            (model.map(Box::new).map(Described::Model), found)
        }
        Ok(document) => {
            let (checked, found) = mla_spec::check(&document);
            (checked.map(Box::new).map(Described::Layer), found)
        }
        Err(found) => (None, found),
    };
    for line in warnings(name, &found) {
        println!("cargo:warning={line}");
    }
    described.ok_or_else(|| BuildError::Refused {
        rendered: mla_spec::render::text(&found, &sources, false),
    })
}

/// One line for each warning: cargo takes no more.
fn warnings(name: &str, found: &Diagnostics) -> Vec<String> {
    found
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Warning)
        .map(|diagnostic| {
            let message: String = diagnostic
                .message
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            format!("{name}: {message} [{}]", diagnostic.code)
        })
        .collect()
}

/// Writes `text` unless the file holds it already, so that nothing is built again for nothing.
fn write_if_changed(path: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::read(path).is_ok_and(|held| held == text.as_bytes()) {
        return Ok(());
    }
    std::fs::write(path, text)
}
