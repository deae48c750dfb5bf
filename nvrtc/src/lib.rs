//! From CUDA C++ to cubins, without a driver, without headers and without a toolkit: NVIDIA's run-time compiler is one library, which
//! `pip install nvidia-cuda-nvrtc` brings.
//!
//! It is looked for in the folder that `MLA_NVRTC_DIR` names, or else in the active Python environment, below `CUDA_HOME`, and where the
//! system looks for libraries.

mod compiler;
mod cubin_cache;
pub mod libraries;
mod report;
mod sass;

pub use compiler::{Compiled, Version, compile, options, present, version};
pub use cubin_cache::{CubinCache, Key};
pub use report::{FunctionReport, Report, Warning, report};
pub use sass::{Disassembly, disassemble, disassembles};

/// A text to be compiled, and what for.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// A name for messages, e.g. `norm_512.cu`.
    pub name: &'a str,
    /// CUDA C++ that includes nothing.
    pub text: &'a str,
    /// Macros: the number types that the text leaves open.
    pub defines: &'a [(&'static str, &'a str)],
    /// Whether indices from tables are checked: `MLA_CHECKED`.
    pub checked: bool,
}

/// Why there is no cubin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub(crate) String);

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
