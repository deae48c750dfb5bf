//! What was timed, as a page shows it. The door that reads such numbers says what they are.

use mla_spec::Phase;

use crate::report::work::Work;

/// A call of a layer's function that was timed.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Which function: of training, `forward_train`.
    pub phase: Phase,
    /// With `backward` behind it.
    pub with_backward: bool,
    /// How large the call was, in words.
    pub what: String,
    /// How long it took.
    pub seconds: f64,
    /// What it had to do.
    pub work: Work,
    /// Each of its kernels, where they were timed.
    pub kernels: Vec<Kernel>,
    /// Where it ran, if that device's ceilings are known.
    pub device: Option<Device>,
}

/// Launches of one kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// How many launches.
    pub count: usize,
    /// How long all of them took.
    pub seconds: f64,
    /// What they had to do.
    pub work: Work,
}

/// What a device was measured to reach.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Bytes a second that are read from memory.
    pub read: f64,
    /// Floating-point operations a second of large products.
    pub products: f64,
}
