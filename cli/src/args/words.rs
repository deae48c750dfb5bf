//! The words that options take.

use clap::ValueEnum;
use clap::builder::PossibleValue;
use mla_spec::Activation;

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
    /// Any number of new tokens per request, each request in its own form
    Mixed,
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

/// What a layer runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Backend {
    /// The CPU
    #[default]
    Cpu,
    /// The first GPU; where there is none, the host emulates one, thread by thread
    Cuda,
}

/// A system whose configs are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// Hugging Face transformers: config.json
    Hf,
    /// Megatron-LM: a command line
    Megatron,
    /// MaxText: a model's YAML
    Maxtext,
}

/// For whom something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MessageFormat {
    /// For people
    Human,
    /// For programs
    Json,
}

/// What a backward pass computes again instead of keeping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recompute {
    /// Nothing.
    Nothing,
    /// This part of the layer.
    Part(Activation),
    /// Every part.
    All,
}

impl ValueEnum for Recompute {
    fn value_variants<'a>() -> &'a [Self] {
        const PARTS: usize = Activation::ALL.len();
        static ALL: [Recompute; PARTS + 2] = {
            let mut all = [Recompute::Nothing; PARTS + 2];
            let mut i = 0;
            while i < PARTS {
                all[i + 1] = Recompute::Part(Activation::ALL[i]);
                i += 1;
            }
            all[PARTS + 1] = Recompute::All;
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.word()))
    }
}

impl Recompute {
    /// As it is written on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Recompute::Nothing => "none",
            Recompute::Part(part) => part.word(),
            Recompute::All => "all",
        }
    }
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
            Phase::Mixed => mla_spec::Phase::Mixed,
            Phase::Train => mla_spec::Phase::Train,
        }
    }
}

impl From<mla_spec::Form> for Form {
    fn from(form: mla_spec::Form) -> Self {
        match form {
            mla_spec::Form::Mha => Form::Mha,
            mla_spec::Form::Mqa => Form::Mqa,
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

impl From<System> for mla_spec::import::System {
    fn from(system: System) -> Self {
        match system {
            System::Hf => Self::HuggingFace,
            System::Megatron => Self::Megatron,
            System::Maxtext => Self::MaxText,
        }
    }
}
