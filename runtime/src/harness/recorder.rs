//! Collects what a layer's probes record during one call.

use crate::Probe;

/// One recorded tensor; its first axis is the call's rows.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub(super) name: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f64>,
}

/// Keeps tensors, or declines them.
#[derive(Debug)]
pub(super) struct Recorder {
    wanted: bool,
    pub(super) tensors: Vec<Recorded>,
}

impl Recorder {
    /// A recorder that keeps tensors if `wanted`; where not, layers don't even copy them.
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            tensors: Vec::new(),
        }
    }
}

impl Probe for Recorder {
    fn record(&mut self, name: &'static str, shape: &[usize], values: Vec<f64>) {
        self.tensors.push(Recorded {
            name,
            shape: shape.to_vec(),
            values,
        });
    }

    fn is_recording(&self) -> bool {
        self.wanted
    }
}
