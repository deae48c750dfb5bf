//! What can go wrong at run time.

use std::path::PathBuf;

use crate::consistency::ReplicasDiffer;
use crate::weights::WeightSet;

/// The result of every operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation was refused. Nothing was changed when one of these comes back from a cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor does not have the shape that its use needs.
    #[error("{what} has shape {found:?}, wanted {wanted:?}")]
    ShapeMismatch {
        /// The tensor.
        what: String,
        /// The shape it has.
        found: Vec<usize>,
        /// The shape it should have.
        wanted: Vec<usize>,
    },
    /// A count of rows, positions, tokens or elements is not what it should be.
    #[error("{what}: found {found}, wanted {wanted}")]
    CountMismatch {
        /// What was counted.
        what: &'static str,
        /// The count found.
        found: usize,
        /// The count wanted.
        wanted: usize,
    },
    /// Sizes multiply to more than this machine can address.
    #[error("{what} does not fit in memory: its size overflows")]
    Overflow {
        /// What is too large.
        what: &'static str,
    },
    /// A batch contradicts itself or the cache.
    #[error("batch: {0}")]
    BadBatch(String),
    /// A mask contradicts itself, the tensor it masks, or what the layer was generated for.
    #[error("mask: {0}")]
    BadMask(String),
    /// A selection of keys is no such thing, or not one of what it is used on.
    #[error("selection: {0}")]
    BadSelection(String),
    /// A cache cannot be built or used as asked.
    #[error("cache: {0}")]
    BadCache(String),
    /// A layer's function lacks an argument that only some layers take.
    #[error("{0}")]
    MissingExtra(String),
    /// A constant of the layer is unusable.
    #[error("{0}")]
    BadConstant(String),
    /// The set of tensors below a prefix is not the one that the layer needs.
    #[error("{0}")]
    WeightSet(Box<WeightSet>),
    /// A file of weights is broken, or not of a kind that can be read.
    #[error("{path}: {reason}", path = path.display())]
    WeightFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// One tensor cannot be read.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// The tensor's full name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing a file failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A model has no attention of an index.
    #[error("the model has {layers} attentions, counted from 0, and no attention {index}")]
    NoLayer {
        /// Which was asked for.
        index: usize,
        /// How many there are.
        layers: usize,
    },
    /// One of a model's attentions was refused.
    #[error("attention {index} (`{module}`): {source}")]
    Layer {
        /// Which, counted from 0 in the order in which they run.
        index: usize,
        /// The module that holds its layer.
        module: &'static str,
        /// Why.
        source: Box<Error>,
    },
    /// Replicas that should hold the same weights don't.
    #[error("{0}")]
    Replicas(Box<ReplicasDiffer>),
    /// The device refused.
    #[error("device: {0}")]
    Device(String),
}

impl Error {
    /// A [`Error::ShapeMismatch`].
    pub(crate) fn shape(what: impl Into<String>, found: &[usize], wanted: &[usize]) -> Self {
        Self::ShapeMismatch {
            what: what.into(),
            found: found.to_vec(),
            wanted: wanted.to_vec(),
        }
    }
}

/// Refuses a count that is not the wanted one.
pub(crate) fn expect_count(what: &'static str, found: usize, wanted: usize) -> Result<()> {
    if found == wanted {
        Ok(())
    } else {
        Err(Error::CountMismatch {
            what,
            found,
            wanted,
        })
    }
}

/// The product of sizes, or [`Error::Overflow`].
pub(crate) fn product(what: &'static str, sizes: &[usize]) -> Result<usize> {
    sizes
        .iter()
        .try_fold(1_usize, |all, &size| all.checked_mul(size))
        .ok_or(Error::Overflow { what })
}

/// Refuses a number that is not finite.
pub(crate) fn finite(what: &'static str, number: f64) -> Result<f64> {
    if number.is_finite() {
        Ok(number)
    } else {
        Err(Error::BadConstant(format!(
            "{what} is {number}, wanted a finite number"
        )))
    }
}
