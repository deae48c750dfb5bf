//! The proofs hold for a right layer and fail for wrong ones.

pub(crate) mod layer;
mod right;
mod wrong;
