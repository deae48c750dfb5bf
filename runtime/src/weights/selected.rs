//! The tensors of one layer.

use std::collections::BTreeMap;

use super::stored::Stored;
use crate::{Error, Result, Scalar};

/// A layer's tensors, proved by [`Weights::exactly`](super::Weights::exactly) to be complete, well shaped and of a type
/// that converts to every element type.
#[derive(Debug, Clone)]
pub struct Selected<'w> {
    source: &'w str,
    prefix: String,
    tensors: BTreeMap<&'static str, Stored>,
}

impl<'w> Selected<'w> {
    /// `tensors` of `source` by their names below `prefix`.
    pub(super) fn new(
        source: &'w str,
        prefix: String,
        tensors: BTreeMap<&'static str, Stored>,
    ) -> Self {
        Self {
            source,
            prefix,
            tensors,
        }
    }

    /// The prefix, with its final dot; empty where the layer is the whole checkpoint.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether the layer has a tensor called `name` below the prefix.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Shape and values of `name`, row-major, each value rounded once from its stored type to `S`.
    ///
    /// # Errors
    /// `name` is not one of the layer's tensors.
    pub fn read<S: Scalar>(&self, name: &str) -> Result<(Vec<usize>, Vec<S>)> {
        let stored = self.stored(name)?;
        let values = stored
            .floats()
            .ok_or_else(|| self.refused(name, format!("{} can't be converted", stored.dtype)))?;
        Ok((stored.shape.clone(), values))
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        let missing = || {
            self.refused(
                name,
                format!(
                    "the layer that was loaded from {} has no such tensor",
                    self.source
                ),
            )
        };
        self.tensors.get(name).ok_or_else(missing)
    }

    fn refused(&self, name: &str, reason: String) -> Error {
        Error::Tensor {
            name: format!("{}{name}", self.prefix),
            reason,
        }
    }
}
