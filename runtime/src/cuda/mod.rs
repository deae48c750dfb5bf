//! The CUDA backend.

mod driver;
