//! Parameters of layers: out of working weights and back, into checkpoints and back, and what optimisers need.

mod files;
mod layers;
mod sets;
mod working;
