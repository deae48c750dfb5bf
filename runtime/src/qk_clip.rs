//! QK-clip (features N-01 to N-07, MuonClip in arXiv:2507.20534): weights whose logits grow too large are scaled down after a step.
//!
//! Head `h`, whose largest logit of a step was `s_h`, has the factor `η_h = min(1, τ_c / s_h)`. Its query rows are scaled by `η^α` and its
//! own key rows by `η^(1 - α)`; query rows that meet a key shared by all heads are scaled by `η` alone, since that key must stay what it is
//! for the others. Every part of the old logit then appears in the new one times `η`.
//!
//! ```text
//! forward ─▶ per-head maxima ─ MaxLogits::merge ─▶ QkClip::factors ─▶ heads, grouped ─▶ RowFactors ─ scale_rows ─▶ weights, masters
//! ```

use crate::backend::{Accum, Backend};
use crate::consistency::Replicas;
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count, product};
use crate::linear::Linear;
use crate::norm::{LayerNormLinear, Norm};
use crate::parameters::{LinearParameters, NormLinearParameters, ParameterOps};

/// When weights are clipped, and how a factor is shared out (features N-01).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QkClip {
    /// `τ_c`: the largest logit that is let be, above 0.
    pub threshold: f64,
    /// `α`: the queries' share of the factor, from 0 to 1; the rest is the keys'.
    pub alpha: f64,
}

impl QkClip {
    /// `η_h = min(1, τ_c / s_h)` for each head's largest logit `s_h`, softmax scale included; 1 where that is not above 0, and where the
    /// head saw nothing (-∞).
    ///
    /// # Errors
    /// When a largest logit is a NaN or +∞, which no factor mends, or the constants are out of range.
    pub fn factors(&self, max_logits: &[f64]) -> Result<Vec<f64>> {
        let Self { threshold, alpha } = *self;
        if !(threshold > 0.0 && threshold.is_finite()) {
            return Err(Error::BadConstant(format!(
                "QK-clip's threshold is {threshold}, wanted a finite number above 0"
            )));
        }
        if !(0.0..=1.0).contains(&alpha) {
            return Err(Error::BadConstant(format!(
                "QK-clip's alpha is {alpha}, wanted 0 to 1"
            )));
        }
        let factor = |(head, &largest): (usize, &f64)| {
            if largest.is_nan() || largest == f64::INFINITY {
                return Err(Error::BadConstant(format!(
                    "the largest logit of head {head} is {largest}: no factor brings it down to {threshold}"
                )));
            }
            Ok(if largest > threshold {
                threshold / largest
            } else {
                1.0
            })
        };
        max_logits.iter().enumerate().map(factor).collect()
    }
}

/// The largest logit of each head over everything that a step saw (features N-02): micro-batches, and replicas.
#[derive(Debug, Clone, PartialEq)]
pub struct MaxLogits {
    per_head: Vec<f64>,
}

impl MaxLogits {
    /// Nothing seen: -∞ for each head.
    pub fn new(heads: usize) -> Self {
        Self {
            per_head: vec![f64::NEG_INFINITY; heads],
        }
    }

    /// One value per head.
    pub fn as_slice(&self) -> &[f64] {
        &self.per_head
    }

    /// Takes in another micro-batch's maxima. A NaN stays one: it tells that a forward pass went wrong.
    ///
    /// # Errors
    /// When there is not one per head; nothing is changed then.
    pub fn merge(&mut self, other: &[f64]) -> Result<()> {
        expect_count("largest logits", other.len(), self.per_head.len())?;
        for (mine, &other) in self.per_head.iter_mut().zip(other) {
            if other > *mine || other.is_nan() {
                *mine = other;
            }
        }
        Ok(())
    }

    /// Takes in the maxima of all replicas; all of them hold the same afterwards.
    ///
    /// # Errors
    /// When the replicas can't be reached, or one has another number of heads.
    pub fn merge_replicas(&mut self, replicas: &(impl Replicas + ?Sized)) -> Result<()> {
        let mine: Vec<u8> = self
            .per_head
            .iter()
            .flat_map(|largest| largest.to_le_bytes())
            .collect();
        let all = replicas.all_gather(&mine)?;
        expect_count("replicas that answered", all.len(), replicas.size())?;
        let mut merged = Self::new(self.per_head.len());
        for bytes in all {
            let (values, rest) = bytes.as_chunks::<8>();
            expect_count("bytes behind the largest logits", rest.len(), 0)?;
            let values: Vec<f64> = values.iter().map(|&b| f64::from_le_bytes(b)).collect();
            merged.merge(&values)?;
        }
        *self = merged;
        Ok(())
    }

    /// Forgets what was seen: what a step does once its weights are clipped.
    pub fn reset(&mut self) {
        self.per_head.fill(f64::NEG_INFINITY);
    }
}

impl From<Vec<f64>> for MaxLogits {
    fn from(per_head: Vec<f64>) -> Self {
        Self { per_head }
    }
}

impl AsRef<[f64]> for MaxLogits {
    fn as_ref(&self) -> &[f64] {
        &self.per_head
    }
}

/// One factor per row of a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct RowFactors {
    factors: Vec<f64>,
}

impl RowFactors {
    /// One value per row.
    pub fn as_slice(&self) -> &[f64] {
        &self.factors
    }

    /// Whether they change nothing.
    pub fn are_one(&self) -> bool {
        self.factors.iter().all(|&factor| factor == 1.0)
    }
}

/// Row factors of a weight whose rows stand head by head, each head's in `parts` of so many rows, which are scaled by `η_h` to so much:
///
/// | weight | parts |
/// |---|---|
/// | `q_proj`, `q_b_proj` | nope rows `α`, rope rows 1 |
/// | the same with a gate in it | nope rows `α`, rope rows 1, gate rows 0 |
/// | `kv_b_proj` | key rows `1 - α`, value rows 0 |
///
/// # Errors
/// When the rows are too many to count, or an exponent is negative or no number.
pub fn heads(factors: &[f64], parts: &[(usize, f64)]) -> Result<RowFactors> {
    let mut rows_per_head = 0_usize;
    for &(rows, exponent) in parts {
        if !(exponent >= 0.0 && exponent.is_finite()) {
            return Err(Error::BadConstant(format!(
                "rows are scaled by a factor to the {exponent}, wanted at least 0"
            )));
        }
        rows_per_head = rows_per_head.checked_add(rows).ok_or(Error::Overflow {
            what: "row factors",
        })?;
    }
    let mut rows = Vec::with_capacity(product("row factors", &[factors.len(), rows_per_head])?);
    for &factor in factors {
        for &(count, exponent) in parts {
            rows.extend(std::iter::repeat_n(power(factor, exponent), count));
        }
    }
    Ok(RowFactors { factors: rows })
}

/// Row factors of a weight whose rows stand group by group (features R-05, N-06), each group's in `parts`: `linear_qkv` has query rows `α`,
/// gate rows 0, key rows `1 - α` and value rows 0; `linear_kv` key rows `1 - α` and value rows 0. A group's factor is [`of_groups`]'.
///
/// # Errors
/// As [`heads`] and [`of_groups`].
pub fn grouped(factors: &[f64], groups: usize, parts: &[(usize, f64)]) -> Result<RowFactors> {
    heads(&of_groups(factors, groups)?, parts)
}

/// Row factors of a weight that holds every query head, head by head, whose keys stand elsewhere, one head per group: `linear_q` of a cross
/// attention. A head has its group's factor, since the group's keys are scaled by that one.
///
/// # Errors
/// As [`heads`] and [`of_groups`].
pub fn query_heads(factors: &[f64], groups: usize, parts: &[(usize, f64)]) -> Result<RowFactors> {
    let per_group = of_groups(factors, groups)?;
    let spread: Vec<f64> = per_group
        .iter()
        .flat_map(|&factor| std::iter::repeat_n(factor, factors.len() / groups))
        .collect();
    heads(&spread, parts)
}

/// The factor of each group of query heads that share a key head: that of the largest logit among them, the smallest factor
/// (features N-06).
///
/// # Errors
/// When heads are not a whole number per group.
pub fn of_groups(factors: &[f64], groups: usize) -> Result<Vec<f64>> {
    if factors.is_empty() && groups == 0 {
        return Ok(Vec::new());
    }
    if groups == 0 || factors.is_empty() || !factors.len().is_multiple_of(groups) {
        return Err(Error::BadConstant(format!(
            "{} heads are not a whole number for each of {groups} groups",
            factors.len()
        )));
    }
    let smallest = |heads: &[f64]| heads.iter().copied().fold(1.0, f64::min);
    Ok(factors
        .chunks(factors.len() / groups)
        .map(smallest)
        .collect())
}

/// `factor^exponent`, exact for the exponents 0 and 1 and the factor 1.
fn power(factor: f64, exponent: f64) -> f64 {
    if exponent == 0.0 {
        1.0
    } else if exponent == 1.0 {
        factor
    } else {
        factor.powf(exponent)
    }
}

impl<B: Backend, const IN: usize, const OUT: usize> Linear<B, IN, OUT> {
    /// Multiplies each row of the weight, and the bias with it, by its factor. Products are formed in the accumulation type and rounded
    /// once.
    ///
    /// # Errors
    /// When there is not one factor per row, or the device refuses.
    pub fn scale_rows(&mut self, rows: &RowFactors) -> Result<()> {
        let Some(factors) = on_device::<B>(&self.device, rows, OUT)? else {
            return Ok(());
        };
        B::scale_parts(&self.device, &mut self.weight, &factors, IN)?;
        match &mut self.bias {
            Some(bias) => B::scale_parts(&self.device, bias, &factors, 1),
            None => Ok(()),
        }
    }
}

impl<B: Backend, N: Norm<B, IN>, const IN: usize, const OUT: usize> LayerNormLinear<B, N, IN, OUT> {
    /// As [`Linear::scale_rows`], on the linear; the norm in front of it is let be.
    ///
    /// # Errors
    /// As [`Linear::scale_rows`].
    pub fn scale_rows(&mut self, rows: &RowFactors) -> Result<()> {
        self.linear.scale_rows(rows)
    }
}

impl<B: Backend, const IN: usize, const OUT: usize> LinearParameters<B, IN, OUT> {
    /// As [`Linear::scale_rows`], on master weights.
    ///
    /// # Errors
    /// As [`Linear::scale_rows`].
    pub fn scale_rows(&mut self, rows: &RowFactors) -> Result<()> {
        let device = &self.weight.device;
        let Some(factors) = on_device::<B>(device, rows, OUT)? else {
            return Ok(());
        };
        B::Parameters::scale_rows(device, &mut self.weight.values, &factors, IN)?;
        match &mut self.bias {
            Some(bias) => B::Parameters::scale_rows(device, &mut bias.values, &factors, 1),
            None => Ok(()),
        }
    }
}

impl<N, B: Backend, const IN: usize, const OUT: usize>
    NormLinearParameters<N, LinearParameters<B, IN, OUT>>
{
    /// As [`Linear::scale_rows`], on the linear's master weights.
    ///
    /// # Errors
    /// As [`Linear::scale_rows`].
    pub fn scale_rows(&mut self, rows: &RowFactors) -> Result<()> {
        self.linear.scale_rows(rows)
    }
}

/// The factors on a device; `None` where they change nothing.
fn on_device<B: Backend>(
    device: &B::Device,
    rows: &RowFactors,
    out: usize,
) -> Result<Option<B::Buffer<Accum<B>>>> {
    expect_count("row factors", rows.factors.len(), out)?;
    if rows.are_one() {
        return Ok(None);
    }
    let factors = rows.factors.iter().map(|&factor| Scalar::from_f64(factor));
    B::upload(device, factors.collect()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIP: QkClip = QkClip {
        threshold: 100.0,
        alpha: 0.5,
    };

    #[test]
    fn only_logits_above_the_threshold_are_clipped() {
        let largest = [400.0, 100.0, 99.0, 0.0, -5.0, f64::NEG_INFINITY];
        assert_eq!(
            CLIP.factors(&largest).unwrap(),
            [0.25, 1.0, 1.0, 1.0, 1.0, 1.0]
        );
    }

    #[test]
    fn what_no_factor_mends_is_refused() {
        for largest in [f64::NAN, f64::INFINITY] {
            let error = CLIP.factors(&[1.0, largest]).unwrap_err().to_string();
            assert!(error.contains("head 1"), "{error}");
        }
        for (threshold, alpha) in [(0.0, 0.5), (f64::NAN, 0.5), (1.0, 1.5), (1.0, f64::NAN)] {
            assert!(QkClip { threshold, alpha }.factors(&[1.0]).is_err());
        }
    }

    #[test]
    fn parts_of_a_head_share_its_factor_out() {
        let rows = heads(&[0.25, 1.0], &[(2, 0.5), (1, 1.0), (1, 0.0), (0, 0.5)]).unwrap();
        assert_eq!(rows.as_slice(), [0.5, 0.5, 0.25, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert!(!rows.are_one());
        assert!(heads(&[1.0; 3], &[(4, 0.3)]).unwrap().are_one());
        assert!(heads(&[0.5], &[(1, -1.0)]).is_err());
        assert!(heads(&[0.5; 2], &[(usize::MAX, 1.0)]).is_err());
    }

    #[test]
    fn a_group_has_the_factor_of_its_largest_logit() {
        let factors = [1.0, 0.25, 1.0, 0.81];
        assert_eq!(of_groups(&factors, 2).unwrap(), [0.25, 0.81]);
        let qkv = grouped(&factors, 2, &[(2, 0.5), (1, 0.5), (1, 0.0)]).unwrap();
        assert_eq!(qkv.as_slice(), [0.5, 0.5, 0.5, 1.0, 0.9, 0.9, 0.9, 1.0]);
        // The same queries in a weight of their own
        let q = query_heads(&factors, 2, &[(1, 0.5)]).unwrap();
        assert_eq!(q.as_slice(), [0.5, 0.5, 0.9, 0.9]);
        assert!(of_groups(&factors, 3).is_err());
        assert!(of_groups(&factors, 0).is_err());
        assert!(of_groups(&[], 2).is_err());
        assert!(of_groups(&[], 0).unwrap().is_empty());
    }

    #[test]
    fn maxima_grow_over_micro_batches_until_they_are_reset() {
        let mut seen = MaxLogits::new(2);
        seen.merge(&[1.0, f64::NEG_INFINITY]).unwrap();
        seen.merge(&[0.5, -3.0]).unwrap();
        assert_eq!(seen.as_slice(), [1.0, -3.0]);
        assert!(seen.merge(&[1.0]).is_err());
        seen.merge(&[f64::NAN, 7.0]).unwrap();
        seen.merge(&[2.0, 6.0]).unwrap();
        assert!(seen.as_slice()[0].is_nan());
        assert_eq!(seen.as_slice()[1], 7.0);
        seen.reset();
        assert_eq!(seen, MaxLogits::new(2));
    }
}
