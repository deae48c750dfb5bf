//! Checkpoints, good and hostile.

mod files;
mod generated;
mod hostile;
mod selection;
mod sharded;
