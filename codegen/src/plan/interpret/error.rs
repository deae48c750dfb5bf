//! What the oracle refuses.

use std::fmt;

use mla_spec::Phase;

/// Why a program was not run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A tensor of the program is not among the weights.
    MissingTensor(String),
    /// A tensor among the weights is not the program's.
    ExtraTensor(String),
    /// Something has another number of elements.
    WrongLength {
        /// What.
        what: String,
        /// How many it has.
        found: usize,
        /// How many it should have.
        wanted: usize,
    },
    /// The program was planned without this phase.
    NoSuchPhase(Phase),
    /// A request that the cache has no room for, or that a call names twice.
    BadRequest(usize),
    /// The program wants something that the call was not given.
    MissingExtra(&'static str),
    /// The plan itself is wrong: a bug of a pass.
    BadPlan(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingTensor(name) => write!(f, "the tensor `{name}` is missing"),
            Self::ExtraTensor(name) => write!(
                f,
                "there is a tensor `{name}`, which the layer does not have"
            ),
            Self::WrongLength {
                what,
                found,
                wanted,
            } => write!(f, "`{what}` has {found} elements, wanted {wanted}"),
            Self::NoSuchPhase(phase) => write!(f, "the program has no phase {phase:?}"),
            Self::BadRequest(request) => write!(
                f,
                "request {request} is not in the cache, or twice in the call"
            ),
            Self::MissingExtra(what) => {
                write!(f, "the layer wants `{what}`, which the call does not give")
            }
            Self::BadPlan(what) => write!(f, "the plan is wrong: {what}"),
        }
    }
}

impl std::error::Error for Error {}
