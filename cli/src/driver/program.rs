//! The crate that holds generated layers, and the program that it becomes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mla_codegen::cuda::{CEILINGS, kernel_text, symbol};
use mla_codegen::{Kernels, Options, Origin};
use mla_spec::{Checked, DType, Phase};
use sha2::{Digest, Sha256};

use super::job::{Job, JobFile, Report, Summary};
use super::kept::{KeptCrate, Kind, hex};
use super::variant;
use crate::args::Backend;
use crate::failure::Failure;
use crate::folder::{self, Files};
use crate::talk;

/// Names a program that was compiled elsewhere, with at least these layers: for machines that have no Rust.
pub(super) const COMPILED: &str = "MLA_GEN_PROGRAM";

/// Layers to be compiled into one program.
#[derive(Debug)]
pub(crate) struct Program {
    /// By module name.
    layers: BTreeMap<String, Layer>,
    backend: Backend,
    timed: bool,
}

#[derive(Debug)]
struct Layer {
    text: String,
    /// What `main` registers it with.
    registration: String,
}

/// A layer of a program: its key, and how it lays out rotated elements.
#[derive(Debug, Clone)]
pub(crate) struct Added {
    pub(crate) key: String,
    pub(crate) rope: super::job::Layout,
}

/// A compiled program.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    path: PathBuf,
}

impl Program {
    /// A program without layers yet, whose layers will run on a backend.
    pub(crate) fn on(backend: Backend) -> Self {
        Self {
            layers: BTreeMap::new(),
            backend,
            timed: false,
        }
    }

    /// The same, whose layers are timed: they show no intermediate values.
    pub(crate) fn timed(self) -> Self {
        Self {
            timed: true,
            ..self
        }
    }

    /// Adds a layer, once however often it is asked for: layers are the same where their text is.
    pub(crate) fn add(&mut self, checked: &Checked) -> Added {
        let origin = Origin {
            spec: checked.layer.name.clone(),
            command: None,
        };
        let phases = &checked.build.phases;
        let trained = phases.contains(&Phase::Train);
        let options = Options {
            // What a backward pass is held against are gradients
            probes: !self.timed && !trained,
            tests: false,
            kernels: match self.backend {
                Backend::Cpu => Kernels::ByTargets,
                Backend::Cuda => Kernels::Always,
            },
            ..Options::new(origin)
        };
        let text = mla_codegen::emit_module_text(checked, &options);
        let element = element(checked);
        let backend = match self.backend {
            Backend::Cpu => "Cpu",
            Backend::Cuda => "Cuda",
        };
        let key = format!("layer_{}", &digest([text.as_str(), element, backend])[..12]);
        let add = match checked.layer.qk_clip {
            Some(_) if trained => "add_clipped",
            None if trained => "add_train",
            _ if phases.contains(&Phase::Prefill) => "add",
            _ => "add_forward",
        };
        let name = &checked.layer.name;
        let registration = format!(
            "registry.{add}::<{key}::{name}<mla_runtime::{backend}<{element}>>, _>(\"{key}\");"
        );
        self.layers
            .entry(key.clone())
            .or_insert(Layer { text, registration });
        Added {
            key,
            rope: variant::rope_layout(checked),
        }
    }

    /// Compiles the program, or finds it compiled.
    pub(crate) fn compile(&self) -> Result<Compiled, Failure> {
        if let Some(path) = std::env::var_os(COMPILED) {
            return Ok(Compiled { path: path.into() });
        }
        let kept = KeptCrate {
            kind: Kind::Program,
            sources: self.sources(),
            features: match self.backend {
                Backend::Cpu => "\"proof\"",
                Backend::Cuda => "\"cuda\", \"proof\"",
            },
            message: format!(
                "compiling {}",
                crate::talk::counted(self.layers.len(), "generated layer")
            ),
        };
        Ok(Compiled {
            path: kept.compile()?,
        })
    }

    /// `main.rs` and a file per layer.
    fn sources(&self) -> Files {
        let mut files: BTreeMap<String, String> = self
            .layers
            .iter()
            .map(|(key, layer)| (format!("{key}.rs"), layer.text.clone()))
            .collect();
        let modules: String = self
            .layers
            .keys()
            .map(|key| format!("mod {key};\n"))
            .collect();
        let registrations: String = self
            .layers
            .values()
            .map(|layer| format!("        {}\n", layer.registration))
            .collect();
        let (ceilings, measured) = self.ceilings();
        let main = format!(
            "// {} {}: generated layers, ready to be given jobs.\n\n\
             {modules}\n\
             fn main() -> std::process::ExitCode {{\n    \
             mla_runtime::harness::main(|registry| {{\n{registrations}{measured}    }})\n}}\n{ceilings}",
            folder::MARKER,
            env!("CARGO_PKG_VERSION"),
        );
        files.insert("main.rs".to_owned(), main);
        folder::texts(files)
    }

    /// The kernels that measure a device, and how they are handed over; nothing where nobody asks.
    fn ceilings(&self) -> (String, &'static str) {
        if !self.timed || self.backend == Backend::Cpu {
            return (String::new(), "");
        }
        let texts = CEILINGS
            .iter()
            .filter_map(|&(unit, dims)| Some((symbol(unit, dims), kernel_text(unit, dims)?)));
        let list = format!("\n{}", kernel_list("CEILINGS", texts));
        (list, "        registry.measure_with(CEILINGS);\n")
    }
}

impl Compiled {
    /// Copies the program to a file.
    pub(crate) fn copy_to(&self, file: &Path) -> Result<(), Failure> {
        std::fs::copy(&self.path, file)
            .map(drop)
            .map_err(|error| Failure::write(file, error))
    }

    /// Does the jobs. Reports are in the jobs' order; where the program dies there are those of the jobs before.
    pub(crate) fn run(&self, jobs: &[Job], message: String) -> (Vec<Report>, Option<Failure>) {
        match self.answer(jobs, message) {
            Err(failure) => (Vec::new(), Some(failure)),
            Ok((reports, _)) if reports.len() == jobs.len() => (reports, None),
            Ok((reports, mut output)) => {
                let job = jobs.get(reports.len()).map_or("", |job| job.name.as_str());
                let problem = format!("stopped at `{job}` ({})", output.status);
                let failure = self.failed(problem, std::mem::take(&mut output.stderr));
                (reports, Some(failure))
            }
        }
    }

    fn answer(&self, jobs: &[Job], message: String) -> Result<(Vec<Report>, Output), Failure> {
        let room =
            tempfile::tempdir().map_err(|error| Failure::write(&std::env::temp_dir(), error))?;
        let (input, summary) = (
            room.path().join("jobs.json"),
            room.path().join("summary.json"),
        );
        let file = JobFile {
            summary: summary.clone(),
            jobs,
        };
        let text = serde_json::to_vec(&file).map_err(|error| Failure::write(&input, error))?;
        std::fs::write(&input, text).map_err(|error| Failure::write(&input, error))?;
        let output = talk::progress(message, || Command::new(&self.path).arg(&input).output());
        let output = output
            .map_err(|error| self.failed(format!("can't be started: {error}"), Vec::new()))?;
        let answer = std::fs::read(&summary)
            .ok()
            .and_then(|text| serde_json::from_slice::<Summary>(&text).ok());
        match answer {
            Some(summary) => Ok((summary.reports, output)),
            None => Err(self.failed(format!("gave no answer ({})", output.status), output.stderr)),
        }
    }

    fn failed(&self, problem: String, stderr: Vec<u8>) -> Failure {
        Failure::Program {
            message: format!("the compiled program `{}` {problem}", self.path.display()),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }
}

/// The constant `name`: kernels, each a name and a text.
pub(super) fn kernel_list(name: &str, kernels: impl Iterator<Item = (String, String)>) -> String {
    let sources: String = kernels
        .map(|(name, text)| format!("    mla_runtime::KernelSource::new({name:?}, {text:?}),\n"))
        .collect();
    format!("const {name}: &[mla_runtime::KernelSource] = &[\n{sources}];\n")
}

/// What a layer computes in, as Rust names it.
pub(super) fn element(checked: &Checked) -> &'static str {
    match checked.build.dtype {
        DType::F32 => "f32",
        DType::F64 => "f64",
        DType::Bf16 => "mla_runtime::bf16",
    }
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}
