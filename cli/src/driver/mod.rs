//! Generated layers, compiled and run: the crate that holds them, the cache that it is compiled in, the jobs that it is given.
//!
//! A [`Program`] is one crate with any number of layers, emitted with probes. It is compiled once per digest of its text and of
//! the runtime's sources, and run as a subprocess; what it answers is judged by whoever asked. A [`library`] is compiled and kept
//! in the same way.

mod cargo;
mod home;
pub(crate) mod job;
mod kept;
pub(crate) mod library;
mod program;
pub(crate) mod tuning;
pub(crate) mod variant;

pub(crate) use program::{Added, Compiled, Program};
pub(crate) use variant::{CacheChoice, Training, Variant, hands_on};
