//! The proofs hold for a right layer and fail for wrong ones.

mod layer;
mod right;
mod wrong;
