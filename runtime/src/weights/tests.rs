//! Checkpoints, good and hostile.

mod files;
mod fp8;
mod generated;
mod hostile;
mod naming;
mod selection;
mod sharded;
