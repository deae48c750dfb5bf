//! Attention in every form and with everything that may stand around its softmax, against plain `f64` loops.

mod cached;
mod forward;
mod gradients;
mod plain;
mod problem;
mod softmax;
