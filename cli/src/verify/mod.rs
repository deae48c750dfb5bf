//! Golden cases: what a folder holds, how a layer is run on it, and how close the numbers come.

mod case;
mod golden;
mod gradients;
mod measure;
mod outputs;
mod passes;
mod runs;
mod table;
mod trial;

pub(crate) use case::{Case, Manifest, name};
pub(crate) use gradients::Gradients;
pub(crate) use measure::Row;
pub(crate) use outputs::Outputs;
pub(crate) use table::table;
pub(crate) use trial::Trial;
