//! The command line.

mod words;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::commands::Shape;

pub(crate) use words::{Backend, DType, Emit, Form, MessageFormat, Mode, Phase, Recompute, System};

const EXIT_CODES: &str = "\
exit codes:
  0  success
  1  a check failed
  2  usage
  3  a spec or config was refused
  4  I/O
  5  cargo or the compiled program failed

stdout is data, stderr is talk; NO_COLOR is respected.";

/// How many times what it allows the output a manifest allows gradients in bf16.
pub(crate) const BF16_GRADIENTS: f64 = 2.0;

/// Compiles a declarative attention layer spec to Rust.
///
/// `mla-gen SPEC` is short for `mla-gen build SPEC`. SPEC is a YAML spec, or another system's config: a Hugging Face
/// `config.json` or the folder that holds it, Megatron-LM's arguments, a MaxText model's YAML; `-` reads stdin.
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
    /// Print another system's config as a YAML spec, or a spec as another system's config
    ///
    /// Read are Hugging Face's `config.json`, Megatron-LM's arguments (its command line as it stands in a script, or its YAML) and MaxText's
    /// model YAML. What such a system is known to do otherwise than its config looks like, or to pass over, is a warning.
    Import(Import),
    /// Say what differs between two specs or configs: in mathematics, layout, schedule and weights
    ///
    /// Exits with 1 where the mathematics differ, with 0 otherwise. Numbers such as frequencies and the softmax scale are derived before they are
    /// compared, so that two ways to say the same are no difference.
    Diff(Diff),
    /// Explain a diagnostic code, such as MLA0103, or a key of the language, such as rope.layout
    Explain(Explain),
    /// Write a commented spec to start from
    Init(Init),
    /// Compile a spec and run the generated layer
    Run(Run),
    /// Compile golden cases' configs and compare the generated layers with the recorded numbers
    Verify(Verify),
    /// Compile a spec and time the generated layer, on a GPU each of its kernels too
    Bench(Bench),
    /// Compile a layer's CUDA kernels and list what they take: registers, shared memory, spills. Needs NVRTC, and no GPU
    Kernels(Kernels),
    /// Measure on a GPU which kernel decode over cached latents is fastest with, and write a table of it. Needs a Hopper GPU
    ///
    /// Kernels whose floors are far above the best one's are left out; each of the rest is timed for a batch of 128 requests over 8192 cached tokens
    /// and for one alone, or smaller ones where memory does not suffice. A kernel overrides the model's choice where it is more than 2 % faster on
    /// the whole, and slower by more in neither.
    ///
    /// The table holds all times, to be reviewed. In a checkout it belongs into `tuned/src/tables/`: whatever is compiled from then on goes by it on
    /// GPUs of that name, and `mla-gen kernels` says where it overrides the model.
    Tune(Tune),
    /// Print a shell's completion script
    Completions(Completions),
}

/// Where a `config.json`, or a model, may stand.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FromConfig {
    /// Layer of a config [default: the first MLA layer], or attention of a model, counted from 0
    #[arg(long, value_name = "N")]
    pub(crate) layer: Option<u32>,
    /// Refuse a config with any key that was not reviewed
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
    /// Write no module: compile the layer, with its CUDA kernels, to a shared library with a C ABI, and write mla.h beside it
    #[arg(long, value_name = "FILE.so", conflicts_with_all = ["output", "package", "check", "emit", "force", "cubin"])]
    pub(crate) shared: Option<PathBuf>,
    /// With --shared: arithmetic and cache [default: the spec's]
    #[arg(long, requires = "shared")]
    pub(crate) dtype: Option<DType>,
    /// Write into a folder that mla-gen did not write
    #[arg(long)]
    pub(crate) force: bool,
    /// Force the form of every phase, whatever the spec's `build.form` says
    #[arg(long)]
    pub(crate) form: Option<Form>,
    /// Compile the layer's CUDA kernels ahead of time, for the GPUs among the spec's targets: where it then runs, no compiler is needed
    #[arg(long)]
    pub(crate) cubin: bool,
    /// With --cubin: architectures to compile for instead, such as sm_90a
    #[arg(long, value_name = "ARCH", value_delimiter = ',', requires = "cubin")]
    pub(crate) arch: Vec<String>,
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
    /// Check again whenever one of the files changes, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// Print diagnostics to stderr for people, or to stdout for programs: `json` is rustc's, an object to a line
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) message_format: MessageFormat,
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
    /// Take `build.recompute` and `build.offload` from a mapping of MaxText's (remat_policy, mla_q, …) or Megatron-Core's (recompute_modules, …) options
    #[arg(long, value_name = "FILE")]
    pub(crate) schedule: Option<PathBuf>,
    /// Find the cheapest `build.recompute` with which training keeps at most so many bytes per token
    #[arg(long, value_name = "BYTES")]
    pub(crate) budget: Option<u64>,
    /// Of a config.json: every attention layer, as a table
    #[arg(long, conflicts_with = "layer")]
    pub(crate) model: bool,
    /// Write a page instead, one file that loads nothing: the layer's dataflow drawn, its numbers, its rooflines, its memory; `-` prints it
    #[arg(long, value_name = "FILE.html", conflicts_with_all = ["budget", "model"])]
    pub(crate) html: Option<PathBuf>,
    /// With --html: a second layer, drawn and counted beside the first, with what differs marked
    #[arg(long, value_name = "SPEC", requires = "html")]
    pub(crate) against: Option<PathBuf>,
    /// With --html: what `mla-gen bench SPEC --json FILE` timed, shown under the roofs; given again, what was timed of --against's layer
    #[arg(long, value_name = "FILE", requires = "html")]
    pub(crate) bench: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) config: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Kernels {
    /// YAML spec of a layer, config.json, or `-`
    pub(crate) spec: PathBuf,
    /// The GPU's architecture, as its machine code is called
    #[arg(long, default_value = "sm_90a")]
    pub(crate) arch: String,
    /// Arithmetic and cache [default: the spec's]
    #[arg(long)]
    pub(crate) dtype: Option<DType>,
    #[command(flatten)]
    pub(crate) config: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// config.json or the folder that holds it, a script with Megatron's flags, or YAML; with --to also a spec
    pub(crate) config: PathBuf,
    /// Whose config it is [default: as its keys tell, else hf]
    #[arg(long, value_name = "SYSTEM")]
    pub(crate) from: Option<System>,
    /// Print the layer as this system's config instead of as a spec
    #[arg(long, value_name = "SYSTEM", conflicts_with_all = ["model", "name"])]
    pub(crate) to: Option<System>,
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
    pub(crate) options: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// Spec or config
    #[arg(value_name = "A")]
    pub(crate) left: PathBuf,
    /// Spec or config that it is compared with
    #[arg(value_name = "B")]
    pub(crate) right: PathBuf,
    /// How differences are printed
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) message_format: MessageFormat,
    #[command(flatten)]
    pub(crate) config: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Code of a diagnostic: MLA0103, or 103; or a key, with as much of its path as tells it from others: layout, rope.layout
    #[arg(value_name = "CODE|KEY")]
    pub(crate) word: String,
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
    /// Train instead: one forward and one backward pass
    ///
    /// The layer is built with the phase `train`, whether its spec lists that or not. The gradient of its output is the input's
    /// `grad_output`, or random. Printed are times, what is kept in between, and the norm of each gradient; checked is that gradients are
    /// finite, and that `backward_input` and `backward_dw` give the bits of `backward`. What --out writes can be given to --io again.
    #[arg(long, conflicts_with_all = ["mode", "chunks", "page", "steps"])]
    pub(crate) grad: bool,
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
    /// What the layer runs on
    #[arg(long, default_value = "cpu")]
    pub(crate) backend: Backend,
    /// Where the output tensors go; with --grad also the inputs and the gradients
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
    /// Compare gradients instead of outputs, where a case has any; --help says what is run
    ///
    /// What a case's files ask for is run in each form, and each run does its backward pass twice, whole and as `backward_input` and
    /// `backward_dw`, which must agree to the bit:
    ///
    /// grads.safetensors: `grad.*` of `sum(output * grad_output)`, with everything kept; then with each part of the layer computed again,
    /// alone and all together, which must give the same bits. A latent layer has up to 8 such schedules in 2 forms.
    ///
    /// qkclip.safetensors: a step of QK-clip: largest logits, factors, clipped weights, and the output that they give.
    ///
    /// indexer_loss.safetensors: an indexer's loss and its gradients in both stages, dense and sparse, with everything kept and with
    /// everything computed again.
    ///
    /// Each of these is a layer to be compiled, once for all cases of one config. --form and --recompute ask for fewer.
    #[arg(long, conflicts_with_all = ["mode", "chunks", "page"])]
    pub(crate) grad: bool,
    /// With --grad: what is computed again, one run for each; what a layer lacks is passed over [default: each]
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "grad")]
    pub(crate) recompute: Option<Vec<Recompute>>,
    /// forward or cached [default: both]
    #[arg(long)]
    pub(crate) mode: Option<Mode>,
    /// mha or mqa [default: both]
    #[arg(long)]
    pub(crate) form: Option<Form>,
    /// Arithmetic and cache; bf16 is compared by the manifest's `bf16_rel_rms`, gradients by twice the output's
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: DType,
    /// Compile the cases' layers into FILE and run nothing: `MLA_GEN_PROGRAM=FILE` makes `verify` use it, on machines without Rust
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) compile_to: Option<PathBuf>,
    /// What layers run on
    #[arg(long, default_value = "cpu")]
    pub(crate) backend: Backend,
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

/// Calls are sized `[REQUESTSx]NEW[+CACHED]`: 64x1+8192 is one new token for each of 64 requests with 8192 cached tokens. Options that size
/// calls can be given several times; without any, the spec's phases are timed at sizes that suit the backend. Weights, inputs and caches are
/// random.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// YAML spec of a layer, config.json, or `-`
    pub(crate) spec: PathBuf,
    /// What the layer runs on
    #[arg(long, default_value = "cpu")]
    pub(crate) backend: Backend,
    /// Time `forward`: whole sequences, no cache
    #[arg(long, value_name = "SIZE")]
    pub(crate) forward: Vec<Shape>,
    /// Time `prefill`
    #[arg(long, value_name = "SIZE")]
    pub(crate) prefill: Vec<Shape>,
    /// Time `decode`
    #[arg(long, value_name = "SIZE")]
    pub(crate) decode: Vec<Shape>,
    /// Time `forward_train`, alone and with `backward` behind it
    #[arg(long, value_name = "SIZE")]
    pub(crate) train: Vec<Shape>,
    /// Arithmetic and cache [default: the spec's]
    #[arg(long)]
    pub(crate) dtype: Option<DType>,
    /// Form of every phase [default: the spec's]
    #[arg(long)]
    pub(crate) form: Option<Form>,
    /// File that gets what was timed
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Compile the layer into FILE and time nothing: `MLA_GEN_PROGRAM=FILE` makes `bench` use it, on machines without Rust
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) compile_to: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) config: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Tune {
    /// YAML specs of layers, or config.json files
    #[arg(required = true, value_name = "SPEC")]
    pub(crate) specs: Vec<PathBuf>,
    /// New tokens of each request
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2,4", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) new: Vec<u32>,
    /// Over how many ranks the layer's heads are spread
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ranks: Vec<u32>,
    /// Arithmetic and cache [default: the spec's]
    #[arg(long)]
    pub(crate) dtype: Option<DType>,
    /// File that gets the table [default: stdout]; one that is there has to be a table
    #[arg(short, long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Compile what measures into FILE and measure nothing: `MLA_GEN_PROGRAM=FILE` makes `tune` use it, on machines without Rust
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) compile_to: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) config: FromConfig,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use mla_spec::Activation;

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
    fn parts_are_called_as_specs_call_them() {
        let Command::Verify(verify) =
            read("mla-gen verify --grad --recompute none,core_attn,all a")
        else {
            panic!()
        };
        let core = Recompute::Part(Activation::CoreAttn);
        let wanted = vec![Recompute::Nothing, core, Recompute::All];
        assert_eq!(verify.recompute, Some(wanted));
        for wrong in [
            "--recompute none a",
            "--grad --recompute core a",
            "--grad --page 3 a",
        ] {
            let words = format!("mla-gen verify {wrong}");
            assert!(Cli::read(words.split(' ').map(OsString::from)).is_err());
        }
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
