//! Golden cases: what a folder holds, how a layer is run on it, and how close the numbers come.

mod case;
mod compare;
mod runs;
mod table;

pub(crate) use case::{Case, Manifest, name};
pub(crate) use compare::{Row, Verdict, compare};
pub(crate) use runs::{Run, runs};
pub(crate) use table::table;
