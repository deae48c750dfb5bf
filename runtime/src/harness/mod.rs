//! The driver of the programs that `mla-gen run` and `mla-gen verify` write, compile and start.
//!
//! Such a program consists of generated layers and a `main` that lists them:
//!
//! ```text
//! fn main() -> std::process::ExitCode {
//!     mla_runtime::harness::main(|registry| {
//!         registry.add::<deepseek_v3::DeepSeekV3Attention<Cpu<f32>>, _>("deepseek_v3.f32");
//!     })
//! }
//! ```
//!
//! It reads one [`JobFile`](job::JobFile), does the jobs one after another, writes each one's tensors as safetensors and all
//! their [`Report`](report::Report)s as JSON. It judges nothing: whoever started it compares. A job that fails, or even
//! panics, becomes a report with an error, and the next one is done. Progress goes to stderr.

mod bench;
mod cached;
mod case;
mod clock;
mod error;
mod forward;
mod given;
mod grad;
pub mod job;
mod outputs;
mod recorder;
mod registry;
pub mod report;
mod run;
mod trained;
#[cfg(feature = "cuda")]
pub mod tune;

pub use clock::Clocked;
pub use error::DriveError;
pub use registry::Registry;
pub use run::main;

#[cfg(test)]
mod tests;
