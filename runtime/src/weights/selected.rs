//! The tensors of one layer.

use std::collections::BTreeMap;

use super::coded::CodedTensor;
use super::naming::{Form, Naming};
use super::source::Source;
use crate::{Error, Result, Scalar};

/// A layer's tensors, proved by [`Weights::exactly`](super::Weights::exactly) to be complete, well shaped and of a type
/// that converts to every element type.
#[derive(Debug, Clone)]
pub struct Selected<'w> {
    source: &'w str,
    prefix: String,
    naming: Naming,
    tensors: BTreeMap<&'static str, Source>,
}

impl<'w> Selected<'w> {
    /// `tensors` of `source` by their names below `prefix`.
    pub(super) fn new(
        source: &'w str,
        prefix: String,
        naming: Naming,
        tensors: BTreeMap<&'static str, Source>,
    ) -> Self {
        Self {
            source,
            prefix,
            naming,
            tensors,
        }
    }

    /// The prefix, with its final dot; empty where the layer is the whole checkpoint.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The system that named the tensors. Here they have Hugging Face's names all the same.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// Whether the layer has a tensor called `name` below the prefix.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Shape and values of `name`, row-major, each value rounded once from its stored type to `S`. An fp8 value's product with
    /// its block's scale is rounded to `f32` before, as everywhere else.
    ///
    /// # Errors
    /// `name` is not one of the layer's tensors, or it is stored in one tensor with others, group by group.
    pub fn read<S: Scalar>(&self, name: &str) -> Result<(Vec<usize>, Vec<S>)> {
        let source = self.source_of(name)?;
        let values = source
            .read()
            .ok_or_else(|| self.stands_in_groups(name, source))?;
        Ok((source.shape.clone(), values))
    }

    /// What [`read`](Self::read) reads, codes with their scales apart.
    pub(crate) fn coded(&self, name: &str) -> Result<CodedTensor> {
        let source = self.source_of(name)?;
        source
            .coded()
            .ok_or_else(|| self.stands_in_groups(name, source))
    }

    /// Shape and values of the one tensor that holds exactly the tensors `names` in this order, group by group (features
    /// R-05); `None` where the checkpoint has no such tensor.
    ///
    /// # Errors
    /// One of `names` is not one of the layer's tensors.
    pub fn read_grouped<S: Scalar>(&self, names: &[&str]) -> Result<Option<(Vec<usize>, Vec<S>)>> {
        let whole = self.grouped(names)?;
        Ok(whole.and_then(|source| Some((source.stored.shape.clone(), source.whole()?))))
    }

    /// What [`read_grouped`](Self::read_grouped) reads, codes with their scales apart.
    pub(crate) fn coded_grouped(&self, names: &[&str]) -> Result<Option<CodedTensor>> {
        Ok(self.grouped(names)?.and_then(Source::whole_coded))
    }

    /// The one tensor that holds exactly the tensors `names` in this order, group by group.
    fn grouped(&self, names: &[&str]) -> Result<Option<&Source>> {
        let mut whole: Option<&Source> = None;
        let mut rows = 0;
        for name in names {
            let source = self.source_of(name)?;
            let next = whole.is_none_or(|whole| whole.name == source.name)
                && matches!(source.form, Form::Grouped { first, .. } if first == rows);
            if !next {
                return Ok(None);
            }
            rows += source.shape.first().copied().unwrap_or(0);
            whole = Some(source);
        }
        // The first few parts are not the tensor
        Ok(whole.filter(|source| source.stored.shape.first() == Some(&rows)))
    }

    fn stands_in_groups(&self, name: &str, source: &Source) -> Error {
        let reason = format!(
            "its rows stand group by group among others in `{}`, and are read with them or not at all",
            source.name
        );
        self.refused(name, reason)
    }

    fn source_of(&self, name: &str) -> Result<&Source> {
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
