//! How far a tensor is from what it should be.

use crate::args::DType;
use crate::tensors::Tensor;

use super::case::Closeness;

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// How the layer was built and run: one cell for each of the table's first columns.
    pub(crate) way: [String; 3],
    pub(crate) tensor: String,
    pub(crate) verdict: Verdict,
}

/// What came of one comparison.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Error and tolerance where they are closest to each other, or furthest apart.
    Measured {
        error: f64,
        tolerance: f64,
        /// Where that is; `None` where nothing differs, or where all elements count as one.
        worst: Option<Worst>,
    },
    /// There was nothing to measure.
    Broken(String),
}

/// An element.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Worst {
    pub(crate) at: Vec<usize>,
    pub(crate) found: f64,
    pub(crate) wanted: f64,
}

impl Verdict {
    /// Nothing differs, and nothing may.
    pub(crate) const SAME: Self = Self::Measured {
        error: 0.0,
        tolerance: 0.0,
        worst: None,
    };

    /// Whether the error is within the tolerance. A NaN never is.
    pub(crate) fn passed(&self) -> bool {
        matches!(self, Verdict::Measured { error, tolerance, .. } if error <= tolerance)
    }
}

/// What a tensor is held to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// `|x - ref| <= atol + rtol |ref|`, element by element.
    Elements { rtol: f64, atol: f64 },
    /// `RMS(x - ref) / RMS(ref)`.
    RelativeRms(f64),
    /// The same bits.
    Bits,
}

/// What a case asks of a tensor in arithmetic of this type, whose values are `wanted`; `None` where it asks nothing.
pub(super) fn rule(closeness: Closeness, dtype: DType, wanted: &Tensor) -> Option<Rule> {
    match dtype {
        DType::Bf16 => closeness.bf16_rel_rms.map(Rule::RelativeRms),
        DType::F32 | DType::F64 => Some(Rule::Elements {
            rtol: closeness.rtol,
            atol: match closeness.atol_over_rms {
                0.0 => closeness.atol, // also where a value is infinite
                over => closeness.atol + over * rms(&wanted.values),
            },
        }),
    }
}

fn rms(values: &[f64]) -> f64 {
    let squares: f64 = values.iter().map(|value| value * value).sum();
    (squares / values.len().max(1) as f64).sqrt()
}

/// Compares two tensors. `rows` says which rows of `[batch * seq]` count; `None` for all, or where the tensor has no rows.
pub(super) fn measure(
    name: &str,
    found: &Tensor,
    wanted: &Tensor,
    rule: Rule,
    rows: Option<&[bool]>,
) -> Verdict {
    if found.shape != wanted.shape {
        return Verdict::Broken(format!(
            "has shape {:?}, wanted {:?}",
            found.shape, wanted.shape
        ));
    }
    let counts = |index: usize| match (rows, row_of(name, &wanted.shape, index)) {
        (Some(rows), Some(row)) => rows.get(row).copied().unwrap_or(false),
        _ => true,
    };
    let pairs = found.values.iter().zip(&wanted.values).enumerate();
    let pairs = pairs
        .filter(|(index, _)| counts(*index))
        .map(|(index, (x, reference))| (index, *x, *reference));
    if let Rule::RelativeRms(tolerance) = rule {
        return Verdict::Measured {
            error: relative_rms(pairs),
            tolerance,
            worst: None,
        };
    }
    let (error, tolerance, worst) = worst(pairs, rule);
    Verdict::Measured {
        error,
        tolerance,
        worst: worst.map(|index| Worst {
            at: place(index, &wanted.shape),
            found: found.values[index],
            wanted: wanted.values[index],
        }),
    }
}

/// The element whose error takes up most of its tolerance: both, and which it is.
fn worst(pairs: impl Iterator<Item = (usize, f64, f64)>, rule: Rule) -> (f64, f64, Option<usize>) {
    let (rtol, atol) = match rule {
        Rule::Elements { rtol, atol } => (rtol, atol),
        Rule::RelativeRms(_) | Rule::Bits => (0.0, 0.0),
    };
    let (mut taken, mut worst) = (0.0, (0.0, atol, None));
    for (index, x, reference) in pairs {
        let same = match rule {
            Rule::Bits => x.to_bits() == reference.to_bits(),
            _ => x == reference, // also where both are the same infinity
        };
        if same {
            continue;
        }
        // Zeros of either sign are 0 apart, and not the same bits
        let error = (x - reference).abs().max(f64::MIN_POSITIVE);
        let error = if (x - reference).is_nan() {
            f64::NAN
        } else {
            error
        };
        let tolerance = atol + rtol * reference.abs();
        if error.is_nan() || tolerance.is_nan() {
            return (f64::NAN, tolerance, Some(index));
        }
        // Infinite where nothing may differ
        let share = error / tolerance;
        if worst.2.is_none() || share > taken || (share == taken && error > worst.0) {
            (taken, worst) = (share, (error, tolerance, Some(index)));
        }
    }
    worst
}

fn relative_rms(pairs: impl Iterator<Item = (usize, f64, f64)>) -> f64 {
    let (error, reference) = pairs.fold((0.0, 0.0), |(error, sum), (_, x, reference)| {
        (error + (x - reference).powi(2), sum + reference.powi(2))
    });
    if error == 0.0 {
        0.0
    } else {
        (error / reference).sqrt()
    }
}

/// Where an element stands in a tensor.
fn place(index: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = index;
    let mut place: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&dim| {
            let at = rest % dim.max(1);
            rest /= dim.max(1);
            at
        })
        .collect();
    place.reverse();
    place
}

/// Which row of `[batch * seq]` an element belongs to; `None` for a tensor without rows.
fn row_of(name: &str, shape: &[usize], index: usize) -> Option<usize> {
    match (name, shape) {
        ("mid.max_logit", _) => None,
        ("mid.q" | "mid.lse", &[_, heads, seq, ..]) => {
            let width: usize = shape[3..].iter().product();
            let token = index / width.max(1);
            Some(token / (heads * seq).max(1) * seq + token % seq.max(1))
        }
        (_, &[_, _, ..]) => Some(index / shape[2..].iter().product::<usize>().max(1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], values: &[f64]) -> Tensor {
        Tensor {
            shape: shape.to_vec(),
            values: values.to_vec(),
        }
    }

    const RULE: Rule = Rule::Elements {
        rtol: 0.1,
        atol: 0.01,
    };

    #[test]
    fn the_worst_element_is_shown() {
        let (found, wanted) = (
            tensor(&[1, 1, 3], &[1.05, 10.5, 0.0]),
            tensor(&[1, 1, 3], &[1.0, 10.0, 0.0]),
        );
        let verdict = measure("output", &found, &wanted, RULE, None);
        let Verdict::Measured {
            error,
            tolerance,
            worst: Some(worst),
        } = &verdict
        else {
            panic!("{verdict:?}")
        };
        assert!((error - 0.5).abs() < 1e-9 && (tolerance - 1.01).abs() < 1e-9 && verdict.passed());
        assert_eq!(worst.at, [0, 0, 1]);
        assert_eq!((worst.found, worst.wanted), (10.5, 10.0));
    }

    #[test]
    fn places_count_the_last_axis_first() {
        assert_eq!(place(0, &[2, 3, 4]), [0, 0, 0]);
        assert_eq!(place(17, &[2, 3, 4]), [1, 1, 1]);
        assert_eq!(place(2, &[3]), [2]);
    }

    #[test]
    fn where_nothing_may_differ_the_largest_difference_is_shown() {
        let exact = Rule::Elements {
            rtol: 0.0,
            atol: 0.0,
        };
        let (found, wanted) = (
            tensor(&[3], &[1.0, 3.0, 1.0]),
            tensor(&[3], &[1.0, 1.0, 0.0]),
        );
        for rule in [exact, Rule::Bits] {
            let verdict = measure("x", &found, &wanted, rule, None);
            let Verdict::Measured { error, worst, .. } = &verdict else {
                panic!("{verdict:?}")
            };
            assert_eq!((*error, worst.clone().unwrap().at), (2.0, vec![1]));
            assert!(!verdict.passed());
            assert!(measure("x", &wanted, &wanted, rule, None).passed());
        }
        let (plus, minus) = (tensor(&[1], &[0.0]), tensor(&[1], &[-0.0]));
        assert!(measure("x", &plus, &minus, exact, None).passed());
        assert!(!measure("x", &plus, &minus, Rule::Bits, None).passed());
    }

    #[test]
    fn a_tolerance_may_follow_the_size_of_a_tensor() {
        let closeness = Closeness {
            rtol: 0.0,
            atol: 0.5,
            atol_over_rms: 0.1,
            bf16_rel_rms: None,
        };
        let wanted = tensor(&[2], &[3.0, -3.0]);
        let Some(Rule::Elements { atol, .. }) = rule(closeness, DType::F32, &wanted) else {
            panic!()
        };
        assert!((atol - 0.8).abs() < 1e-12);
        assert!(rule(closeness, DType::Bf16, &wanted).is_none());
        let fixed = Closeness {
            atol_over_rms: 0.0,
            ..closeness
        };
        let infinite = tensor(&[1], &[f64::NEG_INFINITY]);
        let Some(Rule::Elements { atol, .. }) = rule(fixed, DType::F32, &infinite) else {
            panic!()
        };
        assert_eq!(atol, 0.5);
    }

    #[test]
    fn what_is_not_a_number_never_passes() {
        for bad in [f64::NAN, f64::INFINITY] {
            for rule in [RULE, Rule::Bits, Rule::RelativeRms(1.0)] {
                let (found, wanted) = (tensor(&[1, 1, 1], &[bad]), tensor(&[1, 1, 1], &[1.0]));
                let verdict = measure("output", &found, &wanted, rule, None);
                assert!(!verdict.passed(), "{verdict:?}");
            }
        }
        assert!(
            !measure(
                "output",
                &tensor(&[1, 1], &[0.0]),
                &tensor(&[1], &[0.0]),
                RULE,
                None
            )
            .passed()
        );
    }

    #[test]
    fn padded_rows_are_passed_over_wherever_the_rows_are() {
        // two requests of three tokens, the first token of the second one padded
        let rows = [true, true, true, false, true, true];
        for (name, shape) in [
            ("output", vec![2, 3, 2]),
            ("mid.q", vec![2, 4, 3, 5]),
            ("mid.lse", vec![2, 4, 3]),
        ] {
            let count: usize = shape.iter().product();
            let wanted = tensor(&shape, &vec![1.0; count]);
            let mut wrong = 0;
            for index in 0..count {
                let mut found = wanted.clone();
                found.values[index] = 9.0;
                wrong += usize::from(!measure(name, &found, &wanted, RULE, Some(&rows)).passed());
            }
            assert_eq!(wrong, count / 6 * 5, "{name}");
        }
        assert_eq!(
            row_of("mid.q", &[2, 4, 3, 5], (4 * 3 + 3) * 5 + 1),
            Some(3),
            "batch 1, head 1, token 0"
        );
    }
}
