//! How a checkpoint's tensors differ from a layer's.

use std::fmt;

use super::naming::Naming;
use super::stored::DType;

/// Everything in which the tensors below a prefix differ from what a layer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightSet {
    /// Where the tensors came from: a path, or what made them.
    pub source: String,
    /// The prefix, with its final dot; empty for a whole checkpoint.
    pub prefix: String,
    /// The system whose names the tensors have, and in whose names the mistakes are listed.
    pub naming: Naming,
    /// The differences, in the order of the layer's list; left-over tensors come last.
    pub mistakes: Vec<Mistake>,
    /// What may help.
    pub remedy: Option<String>,
}

impl fmt::Display for WeightSet {
    /// One line for the whole, one per mistake, one for the remedy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the tensors below `{}` in {} are not the layer's",
            self.prefix, self.source
        )?;
        if self.naming != Naming::HuggingFace {
            write!(f, " under {}'s names", self.naming)?;
        }
        for mistake in &self.mistakes {
            write!(f, "\n  {mistake}")?;
        }
        match &self.remedy {
            Some(remedy) => write!(f, "\n  help: {remedy}"),
            None => Ok(()),
        }
    }
}

/// One difference between what a layer needs and what a checkpoint has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mistake {
    /// The layer needs it, the checkpoint lacks it.
    Missing {
        /// Full name.
        tensor: String,
        /// The shape that the layer needs.
        wanted: Vec<usize>,
    },
    /// The checkpoint has it, the layer has no use for it.
    Extra {
        /// Full name.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// Both have it, in different shapes.
    Misshapen {
        /// Full name.
        tensor: String,
        /// The shape in the checkpoint.
        found: Vec<usize>,
        /// The shape that the layer needs.
        wanted: Vec<usize>,
    },
    /// The scales of an fp8 weight are not one per block of it.
    Scales {
        /// Full name.
        tensor: String,
        /// Their shape.
        found: Vec<usize>,
        /// The weight's.
        weight: Vec<usize>,
    },
    /// It is quantised in a way that is not read, or it holds scales of no fp8 weight.
    Quantised {
        /// Full name.
        tensor: String,
        /// Its element type.
        dtype: DType,
    },
    /// Its elements are of a type that no weight has.
    Unsupported {
        /// Full name.
        tensor: String,
        /// Its element type.
        dtype: DType,
    },
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { tensor, wanted } => write!(f, "missing `{tensor}`, wanted {wanted:?}"),
            Self::Extra { tensor, found } => write!(
                f,
                "left over `{tensor}`, {found:?}: the layer has no such tensor"
            ),
            Self::Misshapen {
                tensor,
                found,
                wanted,
            } => {
                write!(
                    f,
                    "misshapen `{tensor}`: found {found:?}, wanted {wanted:?}"
                )
            }
            Self::Scales {
                tensor,
                found,
                weight,
            } => write!(
                f,
                "scales `{tensor}`, {found:?}, are not one per block of a weight {weight:?}"
            ),
            Self::Quantised { tensor, dtype } => {
                write!(
                    f,
                    "quantised tensor `{tensor}` ({dtype}): only matrices of F8_E4M3 with one scale per block are read"
                )
            }
            Self::Unsupported { tensor, dtype } => {
                write!(
                    f,
                    "unsupported tensor `{tensor}` ({dtype}): wanted F32, BF16, F16 or F64"
                )
            }
        }
    }
}
