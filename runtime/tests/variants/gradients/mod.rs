//! Gradients of every form: against differences of the forward function in `f64`, and against each other.

mod absorbed;
mod asked;
mod clean;
mod difference;
mod edges;
mod index_case;
mod indexer;
mod same;
