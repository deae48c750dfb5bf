//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "\
exit codes:
  0  success
  1  a check failed
  2  usage
  3  a spec or config was refused
  4  I/O
  5  cargo or the compiled program failed

stdout is data, stderr is talk; NO_COLOR is respected.";

/// Compiles a declarative attention layer spec to Rust.
///
/// `mla-gen SPEC` is short for `mla-gen build SPEC`. SPEC is a YAML spec, or a Hugging Face `config.json` or the folder
/// that holds it; `-` reads stdin.
#[derive(Debug, Parser)]
#[command(name = "mla-gen", version, after_help = EXIT_CODES, arg_required_else_help = true,
    override_usage = "mla-gen [BUILD OPTIONS] <SPEC>\n       mla-gen <COMMAND> [OPTIONS]")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads a command line whose first word may be left out: a bare spec is built.
    pub(crate) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut words: Vec<OsString> = words.into_iter().collect();
        let ours = ["help", "-h", "--help", "-V", "--version"];
        let command = Self::command();
        let is_known = |word: &OsString| {
            word.to_str()
                .is_some_and(|word| ours.contains(&word) || command.find_subcommand(word).is_some())
        };
        if words.get(1).is_some_and(|first| !is_known(first)) {
            words.insert(1, "build".into());
        }
        Self::try_parse_from(words)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write the Rust module that a spec describes
    Build(Build),
    /// Check specs and show everything that is wrong with them
    Check(Check),
    /// Say what a spec costs and what became of it: sizes, parameters, caches, FLOPs and bytes per op, forms, passes
    Show(Show),
    /// Print a Hugging Face config as a YAML spec
    Import(Import),
    /// Explain a diagnostic code, such as MLA0103
    Explain(Explain),
    /// Write a commented spec to start from
    Init(Init),
    /// Compile a spec and run the generated layer
    Run(Run),
    /// Compile golden cases' configs and compare the generated layers with the recorded numbers
    Verify(Verify),
    /// Print a shell's completion script
    Completions(Completions),
}

/// Where a `config.json`, or a model, may stand.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FromConfig {
    /// Layer of a config.json [default: the first MLA layer], or attention of a model, counted from 0
    #[arg(long, value_name = "N")]
    pub(crate) layer: Option<u32>,
    /// Refuse a config.json with any key that was not reviewed
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// YAML spec, config.json, or `-`
    pub(crate) spec: PathBuf,
    /// Folder to write [default: a folder named after the layer or model in snake case]
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Write a crate: Cargo.toml and lib.rs beside the module
    #[arg(long = "crate")]
    pub(crate) package: bool,
    /// Write nothing; print how the folder differs from what would be written, and exit with 1 if it does
    #[arg(long)]
    pub(crate) check: bool,
    /// What to write, or to print where no folder is given
    #[arg(long, value_name = "WHAT")]
    pub(crate) emit: Option<Emit>,
    /// Write into a folder that mla-gen did not write
    #[arg(long)]
    pub(crate) force: bool,
    /// Force the form of every phase, whatever the spec's `build.form` says
    #[arg(long)]
    pub(crate) form: Option<Form>,
    /// With --crate: the folder of the mla-runtime crate to depend on
    #[arg(long, value_name = "PATH", requires = "package")]
    pub(crate) runtime: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) config: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// YAML specs or config.json files
    #[arg(required = true)]
    pub(crate) specs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) config: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// YAML spec of a layer or a model, config.json, or `-`
    pub(crate) spec: PathBuf,
    /// Only this phase [default: all that the spec asks for]
    #[arg(long)]
    pub(crate) phase: Option<Phase>,
    /// Force the form of every phase, whatever the spec's `build.form` says
    #[arg(long)]
    pub(crate) form: Option<Form>,
    /// Find the cheapest `build.recompute` with which training keeps at most so many bytes per token
    #[arg(long, value_name = "BYTES")]
    pub(crate) budget: Option<u64>,
    /// Of a config.json: every attention layer, as a table
    #[arg(long, conflicts_with = "layer")]
    pub(crate) model: bool,
    #[command(flatten)]
    pub(crate) config: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// config.json, or the folder that holds it
    pub(crate) config: PathBuf,
    /// Name of the layer or model [default: the family's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Import every attention layer, as one spec with a `model` section
    #[arg(long, conflicts_with = "layer")]
    pub(crate) model: bool,
    /// File to write instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Overwrite FILE
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) from: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Code of a diagnostic: MLA0103, or 103
    pub(crate) code: String,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// File to write; `-` prints it
    #[arg(default_value = "attention.yaml")]
    pub(crate) file: PathBuf,
    /// Overwrite FILE
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// YAML spec, config.json, or `-`
    pub(crate) spec: PathBuf,
    /// Checkpoint: a safetensors file, an index or a folder [default: random weights]
    #[arg(long, value_name = "W")]
    pub(crate) weights: Option<PathBuf>,
    /// Prefix of the layer's tensors, with or without its final dot [default: a config's own, else none]
    #[arg(long, value_name = "P", requires = "weights")]
    pub(crate) prefix: Option<String>,
    /// Inputs: a safetensors file with `hidden_states` and what belongs to it
    #[arg(long, conflicts_with_all = ["batch", "prompt", "steps"])]
    pub(crate) io: Option<PathBuf>,
    /// forward: all tokens at once; cached: in chunks through a cache [default: both]
    #[arg(long)]
    pub(crate) mode: Option<Mode>,
    /// Tokens per call of a cached run, such as 25,1,1
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) chunks: Option<Vec<u32>>,
    /// Tokens per page of the cache; 0 for a contiguous one [default: the spec's]
    #[arg(long)]
    pub(crate) page: Option<u32>,
    /// Form of every phase [default: the spec's]
    #[arg(long)]
    pub(crate) form: Option<Form>,
    /// Arithmetic and cache [default: the spec's]
    #[arg(long)]
    pub(crate) dtype: Option<DType>,
    /// Where the output tensors go
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Requests of a random input
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: u32,
    /// Tokens of a random input before the first decode step [default: 128, or what --chunks add up to]
    #[arg(long)]
    pub(crate) prompt: Option<u32>,
    /// Decode steps of a random input [default: 16, or 0 where --chunks are given]
    #[arg(long)]
    pub(crate) steps: Option<u32>,
    /// Seed of random inputs and weights
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) config: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Folders with config.json, manifest.json, io.safetensors and weights
    #[arg(required = true, value_name = "CASE")]
    pub(crate) cases: Vec<PathBuf>,
    /// forward or cached [default: both]
    #[arg(long)]
    pub(crate) mode: Option<Mode>,
    /// mha or mqa [default: both]
    #[arg(long)]
    pub(crate) form: Option<Form>,
    /// Arithmetic and cache; bf16 is compared by the manifest's `bf16_rel_rms`
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: DType,
    /// Columns per call of a cached run [default: the case's, else all but two and then one at a time]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) chunks: Option<Vec<u32>>,
    /// Tokens per page of the paged cache; 0 leaves it out
    #[arg(long, default_value_t = 7)]
    pub(crate) page: u32,
    /// Folder that gets CASE/out.safetensors
    #[arg(long, value_name = "D")]
    pub(crate) out_dir: Option<PathBuf>,
    /// Layer of the config, counted from 0 [default: the manifest's layer_idx]
    #[arg(long, value_name = "N")]
    pub(crate) layer: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// What `build` emits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Emit {
    /// The plan of each phase, and what each pass changed
    Plan,
    /// mod.rs
    Rust,
    /// tests.rs
    Tests,
    /// Plan, module and tests
    All,
}

/// How attention is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Expanded: keys and values per head
    Mha,
    /// Absorbed: one latent for all heads
    Mqa,
}

/// A function of the generated layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Phase {
    /// Whole sequences, no cache
    Forward,
    /// Many new tokens per request
    Prefill,
    /// Few new tokens per request
    Decode,
    /// Whole sequences, forward and backward
    Train,
}

/// How a layer is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// All at once, without a cache
    Forward,
    /// In chunks, with one
    Cached,
}

/// Element type of arithmetic and cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DType {
    /// IEEE binary32
    F32,
    /// bfloat16, accumulated in f32
    Bf16,
    /// IEEE binary64
    F64,
}

impl Form {
    /// As it is written on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Form::Mha => "mha",
            Form::Mqa => "mqa",
        }
    }
}

impl DType {
    /// As it is written on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F64 => "f64",
        }
    }
}

impl From<DType> for mla_spec::DType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => mla_spec::DType::F32,
            DType::Bf16 => mla_spec::DType::Bf16,
            DType::F64 => mla_spec::DType::F64,
        }
    }
}

impl From<Phase> for mla_spec::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Forward => mla_spec::Phase::Forward,
            Phase::Prefill => mla_spec::Phase::Prefill,
            Phase::Decode => mla_spec::Phase::Decode,
            Phase::Train => mla_spec::Phase::Train,
        }
    }
}

impl From<Form> for mla_spec::Form {
    fn from(form: Form) -> Self {
        match form {
            Form::Mha => mla_spec::Form::Mha,
            Form::Mqa => mla_spec::Form::Mqa,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Command {
        Cli::read(line.split(' ').map(OsString::from))
            .unwrap()
            .command
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bare_spec_is_a_build() {
        for line in [
            "mla-gen spec.yaml --force",
            "mla-gen --force spec.yaml",
            "mla-gen build spec.yaml --force",
        ] {
            let Command::Build(build) = read(line) else {
                panic!("{line}")
            };
            assert!(
                build.force && build.spec.as_os_str() == "spec.yaml",
                "{line}"
            );
        }
        assert!(
            matches!(read("mla-gen -"), Command::Build(build) if build.spec.as_os_str() == "-")
        );
        assert!(
            matches!(read("mla-gen check a.yaml b.yaml"), Command::Check(check) if check.specs.len() == 2)
        );
    }

    #[test]
    fn chunks_are_positive_numbers() {
        let Command::Run(run) = read("mla-gen run a.yaml --chunks 25,1,1") else {
            panic!()
        };
        assert_eq!(run.chunks, Some(vec![25, 1, 1]));
        assert!(
            Cli::read(
                "mla-gen run a.yaml --chunks 25,0"
                    .split(' ')
                    .map(OsString::from)
            )
            .is_err()
        );
    }
}
