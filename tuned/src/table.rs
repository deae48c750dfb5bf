//! Tables: what was measured on one GPU with one state of the kernels.

use std::collections::BTreeMap;

use crate::{Line, Shape};

/// The tables that there are.
const TABLES: [&str; 1] = [include_str!("tables/nvidia-h200.tsv")];

/// Measured shapes of one GPU. It is text, one shape a line, so that a change of what runs is seen in a diff.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    gpu: String,
    kernels: String,
    lines: BTreeMap<Shape, Line>,
}

impl Table {
    /// A table of nothing yet. `kernels` is a digest of the kernels that are measured.
    pub fn empty(gpu: &str, kernels: &str) -> Self {
        Self {
            gpu: gpu.to_owned(),
            kernels: kernels.to_owned(),
            lines: BTreeMap::new(),
        }
    }

    /// The table of a GPU, by its name, if there is one.
    pub fn of_gpu(gpu: &str) -> Option<Self> {
        tables().find(|table| table.gpu == gpu)
    }

    /// The GPU's table with what these kernels did there before, or an empty one: times of other kernels say nothing of these.
    pub fn to_go_on_with(gpu: &str, kernels: &str) -> Self {
        Self::of_gpu(gpu)
            .filter(|table| table.kernels == kernels)
            .unwrap_or_else(|| Self::empty(gpu, kernels))
    }

    /// The GPU's name, as its driver tells it.
    pub fn gpu(&self) -> &str {
        &self.gpu
    }

    /// The digest of the kernels that were measured.
    pub fn kernels(&self) -> &str {
        &self.kernels
    }

    /// What was measured of a shape.
    pub fn find(&self, shape: &Shape) -> Option<&Line> {
        self.lines.get(shape)
    }

    /// All shapes, in order.
    pub fn lines(&self) -> impl Iterator<Item = (&Shape, &Line)> {
        self.lines.iter()
    }

    /// Notes what was measured of a shape, in place of what was there; returns that.
    pub fn insert(&mut self, shape: Shape, line: Line) -> Option<Line> {
        self.lines.insert(shape, line)
    }
}

/// All tables.
pub fn tables() -> impl Iterator<Item = Table> {
    // That each of them can be read a test sees to
    TABLES.iter().filter_map(|text| Table::read(text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_that_there_are_can_be_read_and_are_as_written() {
        for text in TABLES {
            let table = Table::read(text).unwrap_or_else(|reason| panic!("{reason}"));
            assert_eq!(table.to_string(), text);
            assert_eq!(Table::of_gpu(table.gpu()), Some(table));
        }
        assert_eq!(tables().count(), TABLES.len());
        assert_eq!(Table::of_gpu("some other GPU"), None);
    }

    #[test]
    fn measuring_goes_on_from_what_the_same_kernels_did() {
        let known = tables().next().expect("a table");
        let (gpu, kernels) = (known.gpu(), known.kernels());
        assert_eq!(Table::to_go_on_with(gpu, kernels), known);
        let changed = Table::to_go_on_with(gpu, "0000000000000000");
        assert_eq!(changed, Table::empty(gpu, "0000000000000000"));
    }
}
