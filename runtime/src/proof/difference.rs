//! How far two results may be apart, and what is said when they are further.

use std::fmt;

use crate::{CacheFormat, Error, Scalar};

/// What a proof returns.
pub type Verdict = Result<(), Failure>;

/// Why a proof failed.
#[non_exhaustive]
pub enum Failure {
    /// Two results that should be equal are not.
    Mismatch(Mismatch),
    /// The layer refused to compute.
    Refused(Error),
    /// The layer computed what it should have refused.
    Accepted {
        /// What.
        what: &'static str,
    },
}

/// Where two results differ most.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// What was compared.
    pub what: String,
    /// Which request or sequence.
    pub request: usize,
    /// Its token.
    pub token: usize,
    /// The column.
    pub column: usize,
    /// One value.
    pub found: f64,
    /// The other value.
    pub wanted: f64,
    /// How far apart they may be.
    pub tolerance: f64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            request,
            token,
            column,
            found,
            wanted,
            tolerance,
        } = self;
        write!(
            f,
            "{what}: request {request}, token {token}, column {column}: found {found:e}, wanted {wanted:e}, {:e} apart where {tolerance:e} is allowed",
            (found - wanted).abs()
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::Refused(error) => write!(f, "the layer refused: {error}"),
            Self::Accepted { what } => write!(f, "the layer computed with {what}, wanted an error"),
        }
    }
}

/// As [`Display`](fmt::Display): the test harness prints a failed test's error with `{:?}`.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(error) => Some(error),
            Self::Mismatch(_) | Self::Accepted { .. } => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// How far apart two ways to compute a layer may be, as a fraction of the result's root mean square.
///
/// Each way rounds every sum over up to `width` terms, and rounding errors of a sum grow with the root of its length; five
/// such sums stand one behind the other. 64 · ε · √width covers that for the largest of many elements (ε is half the
/// distance from 1 to the next number). In `f64` that would be far below what any mistake makes, so one round figure
/// stands for all widths: 1e-10. `bf16` rounds every intermediate value: there it is 0.1 whatever the width. A cache's
/// format counts as much as the arithmetic's: e4m3 moves a value by up to 1/16 and e5m2 by up to 1/8, which averaging over many
/// keys makes a quarter and a half of the root mean square at most.
pub fn tolerance<T: Scalar, F: CacheFormat>(width: usize) -> f64 {
    let of = |name: &str| match name {
        "f64" => 1e-10,
        "f32" => 64.0 * 2f64.powi(-24) * (width as f64).sqrt(),
        "f16" => 0.02,
        "fp8_e5m2" => 0.5,
        name if name.contains("fp8") => 0.25,
        _ => 0.1,
    };
    of(T::NAME).max(of(F::NAME))
}

/// Where two equally long results differ most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Difference {
    /// Flat index; 0 where there is nothing.
    pub(crate) at: usize,
    /// NaN or an infinity where either result has one.
    pub(crate) error: f64,
    /// Root mean square of the second result.
    pub(crate) rms: f64,
}

pub(crate) fn root_mean_square(values: &[f64]) -> f64 {
    let squares: f64 = values.iter().map(|value| value * value).sum();
    (squares / values.len().max(1) as f64).sqrt()
}

/// Compares `found` with `wanted`. Elements that one of them lacks count as NaN.
pub(crate) fn difference(found: &[f64], wanted: &[f64]) -> Difference {
    let rms = root_mean_square(wanted);
    let mut worst = Difference {
        at: 0,
        error: 0.0,
        rms,
    };
    if found.len() != wanted.len() {
        return Difference {
            error: f64::NAN,
            ..worst
        };
    }
    for (at, (a, b)) in found.iter().zip(wanted).enumerate() {
        let error = (a - b).abs();
        if error.is_nan() {
            return Difference { at, error, rms };
        }
        if error > worst.error {
            worst = Difference { at, error, rms };
        }
    }
    worst
}

/// Compares results request by request, each `[tokens, width]`; `relative` is a fraction of the root mean square over all.
pub(crate) fn expect_close(
    what: &str,
    found: &[Vec<f64>],
    wanted: &[Vec<f64>],
    width: usize,
    relative: f64,
) -> Verdict {
    let tolerance = relative * root_mean_square(&wanted.concat());
    expect_within(what, found, wanted, width, tolerance)
}

/// As [`expect_close`], where no element may be further than `tolerance` from the other.
pub(crate) fn expect_within(
    what: &str,
    found: &[Vec<f64>],
    wanted: &[Vec<f64>],
    width: usize,
    tolerance: f64,
) -> Verdict {
    for (request, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let worst = difference(found, wanted);
        // Not `error > tolerance`: NaN has to fail
        if worst.error <= tolerance {
            continue;
        }
        return Err(Failure::Mismatch(Mismatch {
            what: what.to_owned(),
            request,
            token: worst.at / width.max(1),
            column: worst.at % width.max(1),
            found: found.get(worst.at).copied().unwrap_or(f64::NAN),
            wanted: wanted.get(worst.at).copied().unwrap_or(f64::NAN),
            tolerance,
        }));
    }
    Ok(())
}
