//! cuBLASLt's algorithms, by what sets them apart.

use std::mem::MaybeUninit;

use cudarc::cublaslt::sys::{
    self, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulAlgoConfigAttributes_t as Config,
    cublasLtMatmulHeuristicResult_t, cublasLtReductionScheme_t, cublasStatus_t,
};

use super::described::{Described, Preference, data_type, sums_of};
use super::layouts::Product;
use super::{OrRefused, WORKSPACE};
use crate::error::{Error, Result};

/// How many algorithms are asked for.
const PROPOSALS: usize = 8;

/// A sum is made in one.
pub(super) const WHOLE: u32 = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32;

/// A sum may be made in parts, if these are held as wide as sums are, side by side, and added in one order.
pub(super) const IN_ORDER: u32 =
    cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;

/// What tells one algorithm from another: what it is called in a table, how the library knows it, and its bytes.
const ATTRIBUTES: [(&str, Config, usize); Attributes::COUNT] = [
    ("algorithm", Config::CUBLASLT_ALGO_CONFIG_ID, 4),
    ("tile", Config::CUBLASLT_ALGO_CONFIG_TILE_ID, 4),
    ("stages", Config::CUBLASLT_ALGO_CONFIG_STAGES_ID, 4),
    ("splits", Config::CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 4),
    (
        "reduction",
        Config::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
        4,
    ),
    ("swizzle", Config::CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 4),
    ("custom", Config::CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 4),
    ("inner", Config::CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, 2),
    ("cluster", Config::CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, 2),
];

/// All that sets an algorithm apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes([u32; Self::COUNT]);

impl Attributes {
    pub(super) const COUNT: usize = 9;
    const SPLITS: usize = 3;
    const REDUCTION: usize = 4;

    /// What they are called.
    pub(super) fn names() -> [&'static str; Self::COUNT] {
        ATTRIBUTES.map(|(name, _, _)| name)
    }

    /// Numbers in the order of their names.
    ///
    /// # Errors
    /// One of them is out of its range, or the sums would depend on chance or be rounded on the way.
    pub(super) fn new(numbers: [u32; Self::COUNT]) -> std::result::Result<Self, String> {
        for (number, (name, _, bytes)) in numbers.into_iter().zip(ATTRIBUTES) {
            if bytes == 2 && u16::try_from(number).is_err() {
                return Err(format!("`{name}` is {number}, and has 16 bits only"));
            }
        }
        let reduction = numbers[Self::REDUCTION];
        if ![WHOLE, IN_ORDER].contains(&reduction) {
            return Err(format!(
                "`reduction` is {reduction}: {WHOLE} (none) and {IN_ORDER} (in the type of sums) give the same bits in every run"
            ));
        }
        Ok(Self(numbers))
    }

    /// Those of an algorithm; `None` where the library does not tell, or a table may not hold them.
    pub(super) fn of(algorithm: &cublasLtMatmulAlgo_t) -> Option<Self> {
        let mut numbers = [0; Self::COUNT];
        for (number, (_, attribute, bytes)) in numbers.iter_mut().zip(ATTRIBUTES) {
            *number = attribute_of(algorithm, attribute, bytes)?;
        }
        Self::new(numbers).ok()
    }

    /// Numbers in the order of their names.
    pub(super) fn numbers(&self) -> &[u32; Self::COUNT] {
        &self.0
    }

    /// The algorithm, for products of these types.
    ///
    /// # Errors
    /// The library has none like that.
    pub(super) fn algorithm(
        &self,
        handle: cublasLtHandle_t,
        product: &Product,
    ) -> Result<cublasLtMatmulAlgo_t> {
        let (sums, scales) = sums_of(product);
        let (factors, out) = (data_type(product.factors), data_type(product.sum));
        let mut algorithm = MaybeUninit::zeroed();
        // SAFETY: the library writes an algorithm there; numbers, of which any may be, fill one
        let mut algorithm = unsafe {
            sys::cublasLtMatmulAlgoInit(
                handle,
                sums,
                data_type(scales),
                factors,
                factors,
                out,
                out,
                self.0[0] as i32,
                algorithm.as_mut_ptr(),
            )
            .result()
            .map(|()| algorithm.assume_init())
        }
        .or_refused(|| format!("taking algorithm {}", self.0[0]))?;
        for (number, (name, attribute, bytes)) in self.0.into_iter().zip(ATTRIBUTES).skip(1) {
            // What an algorithm has anyway it need not be able to take
            if attribute_of(&algorithm, attribute, bytes) == Some(number) {
                continue;
            }
            // SAFETY: the lower bytes of a number are the number, on the hosts that CUDA has
            unsafe {
                sys::cublasLtMatmulAlgoConfigSetAttribute(
                    &mut algorithm,
                    attribute,
                    (&raw const number).cast(),
                    bytes,
                )
            }
            .result()
            .or_refused(|| format!("setting `{name}` to {number}"))?;
        }
        Ok(algorithm)
    }
}

/// Whether an algorithm makes each sum in one.
pub(super) fn sums_in_one(algorithm: &cublasLtMatmulAlgo_t) -> bool {
    let [splits, reduction] = [Attributes::SPLITS, Attributes::REDUCTION].map(|at| {
        let (_, attribute, bytes) = ATTRIBUTES[at];
        attribute_of(algorithm, attribute, bytes)
    });
    splits.is_some_and(|splits| splits <= 1) && reduction == Some(WHOLE)
}

/// One of an algorithm's attributes, if it has it.
fn attribute_of(algorithm: &cublasLtMatmulAlgo_t, attribute: Config, bytes: usize) -> Option<u32> {
    let (mut number, mut written) = (0_u32, 0);
    // SAFETY: there is room for `bytes`, which are the lower ones of a number that is 0 otherwise
    unsafe {
        sys::cublasLtMatmulAlgoConfigGetAttribute(
            algorithm,
            attribute,
            (&raw mut number).cast(),
            bytes,
            &mut written,
        )
    }
    .result()
    .ok()?;
    (written == bytes).then_some(number)
}

/// The algorithms that the library proposes, the best first, whose parts of sums are added as one of `reductions` does.
///
/// # Errors
/// It has none.
pub(super) fn proposals(
    handle: cublasLtHandle_t,
    described: &Described,
    aligned: [u32; 3],
    reductions: u32,
) -> Result<Vec<cublasLtMatmulAlgo_t>> {
    let preference = Preference::new(aligned, reductions)?;
    let mut proposals =
        [const { MaybeUninit::<cublasLtMatmulHeuristicResult_t>::uninit() }; PROPOSALS];
    let mut count = 0;
    // SAFETY: all of them are alive, and there is room for as many proposals as are asked for
    unsafe {
        sys::cublasLtMatmulAlgoGetHeuristic(
            handle,
            described.product.0,
            described.left.0,
            described.right.0,
            described.out.0,
            described.out.0,
            preference.0,
            PROPOSALS as i32,
            proposals.as_mut_ptr().cast(),
            &mut count,
        )
    }
    .result()
    .or_refused(|| "choosing an algorithm")?;
    let algorithms: Vec<_> = proposals
        .iter()
        .take(usize::try_from(count).unwrap_or(0))
        // SAFETY: the library has written as many as it says
        .map(|proposal| unsafe { proposal.assume_init_ref() })
        .filter(|proposal| is_usable(proposal))
        .map(|proposal| proposal.algo)
        .collect();
    if algorithms.is_empty() {
        return Err(Error::Device("cuBLASLt has no algorithm".to_owned()));
    }
    Ok(algorithms)
}

/// Whether an algorithm makes a product within our memory for parts of sums.
pub(super) fn suits(
    handle: cublasLtHandle_t,
    described: &Described,
    algorithm: &cublasLtMatmulAlgo_t,
) -> bool {
    let mut result = MaybeUninit::<cublasLtMatmulHeuristicResult_t>::zeroed();
    // SAFETY: all of them are alive, and there is room for the result, of which any numbers are one
    let (status, result) = unsafe {
        let status = sys::cublasLtMatmulAlgoCheck(
            handle,
            described.product.0,
            described.left.0,
            described.right.0,
            described.out.0,
            described.out.0,
            algorithm,
            result.as_mut_ptr(),
        );
        (status, result.assume_init())
    };
    status.result().is_ok() && is_usable(&result)
}

fn is_usable(found: &cublasLtMatmulHeuristicResult_t) -> bool {
    found.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS && found.workspaceSize <= WORKSPACE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_gives_the_same_bits_is_an_algorithm() {
        let with = |at: usize, number: u32| {
            let mut numbers = [1, 2, 3, 4, 0, 5, 6, 7, 8];
            numbers[at] = number;
            Attributes::new(numbers)
        };
        assert!(with(Attributes::REDUCTION, IN_ORDER).is_ok());
        for reduction in [1, 4, 7] {
            let error = with(Attributes::REDUCTION, reduction).expect_err("no order");
            assert!(error.contains("`reduction`"), "{error}");
        }
        let error = with(8, 1 << 16).expect_err("too large");
        assert!(error.contains("`cluster` is 65536"), "{error}");
    }
}
