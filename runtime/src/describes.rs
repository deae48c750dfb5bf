//! A description that knows its layer.

use crate::Backend;

/// Implemented by `#[derive(MlaLayer)]`, which keeps the struct it stands on as the layer's description and writes the layer
/// beside it.
pub trait Describes {
    /// The generated layer.
    type Layer<B: Backend>;
}
