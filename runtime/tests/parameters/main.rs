//! Parameters of layers: out of working weights and back, into checkpoints and back, and what optimisers need.

mod clip;
mod files;
mod layers;
mod replicas;
mod sets;
mod working;
