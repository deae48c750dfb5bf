//! How close a run's tensors come to a case's.

use mla_spec::{Indexer, RopeLayout};

use super::case::{Case, Closeness};
use super::runs::Run;
use crate::args::DType;
use crate::driver::job::Mode;
use crate::tensors::{Tensor, TensorFile};

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) run: Run,
    pub(crate) tensor: String,
    pub(crate) verdict: Verdict,
}

/// What came of one comparison.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// Error and tolerance where they are closest to each other, or furthest apart.
    Measured { error: f64, tolerance: f64 },
    /// There was nothing to measure.
    Broken(String),
}

impl Verdict {
    /// Whether the error is within the tolerance. A NaN never is.
    pub(crate) fn passed(&self) -> bool {
        matches!(self, Verdict::Measured { error, tolerance } if error <= tolerance)
    }
}

/// What a tensor is held to.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// `|x - ref| <= atol + rtol |ref|`, element by element.
    Elements { rtol: f64, atol: f64 },
    /// `RMS(x - ref) / RMS(ref)`.
    RelativeRms(f64),
}

/// Compares what a run wrote with what the case expects, tensor by tensor.
pub(crate) fn compare(case: &Case, run: Run, found: &TensorFile, dtype: DType) -> Vec<Row> {
    let rows = case.rows();
    let compared = case
        .manifest
        .compare
        .iter()
        .map(|(name, closeness)| (name.as_str(), *closeness));
    let mut table: Vec<Row> = compared
        .chain(cache_tensors(case, run, found))
        .filter_map(|(name, closeness)| {
            let rule = rule(name, closeness, dtype)?;
            let verdict = match (found.get(name), case.io.get(name)) {
                (Some(found), Some(wanted)) => {
                    measure(name, &found, &wanted, rule, rows.as_deref())
                }
                (_, None) => Verdict::Broken("the case has no such tensor".to_owned()),
                // Scores of pools have no probe: what they pick is compared
                (None, Some(_)) if name == "indexer.pool_scores" => return None,
                (None, Some(_)) => Verdict::Broken("the run did not write it".to_owned()),
            };
            Some(Row {
                run,
                tensor: name.to_owned(),
                verdict,
            })
        })
        .collect();
    if table.is_empty() {
        let verdict =
            Verdict::Broken("the manifest says nothing about it for this dtype".to_owned());
        table.push(Row {
            run,
            tensor: "output".to_owned(),
            verdict,
        });
    }
    // What a layer is for comes first
    table.sort_by_key(|row| row.tensor != "output");
    table
}

/// The cache's tensors, as close as the values that were written to it.
fn cache_tensors<'a>(case: &'a Case, run: Run, found: &TensorFile) -> Vec<(&'a str, Closeness)> {
    if run.mode != Mode::Cached {
        return Vec::new();
    }
    [
        ("cache.kv_latent", "mid.kv_latent"),
        ("cache.k_pe", "mid.k_pe"),
        ("cache.indexer_k", "mid.k_pe"),
    ]
    .into_iter()
    .filter(|(name, _)| {
        let compared = case.manifest.compare.contains_key(*name);
        let like_ours = *name != "cache.indexer_k" || caches_index_as_cases_do(case);
        found.get(name).is_some() && case.io.get(name).is_some() && !compared && like_ours
    })
    .filter_map(|(name, written)| Some((name, *case.manifest.compare.get(written)?)))
    .collect()
}

/// Whether an indexer's keys lie in a cache as in a case: rotated as halves or not at all, and not beside what pools them.
fn caches_index_as_cases_do(case: &Case) -> bool {
    match case.spec.checked.layer.indexer() {
        Some(Indexer::Lightning(indexer)) => {
            let turned = indexer.rope.map(|rope| rope.layout);
            indexer.pool.is_none() && turned != Some(RopeLayout::Interleaved)
        }
        _ => false,
    }
}

fn rule(name: &str, closeness: Closeness, dtype: DType) -> Option<Rule> {
    match dtype {
        // A set is met or missed
        DType::F32 | DType::F64 if name == "indexer.selected" => Some(Rule::Elements {
            rtol: 0.0,
            atol: 0.0,
        }),
        DType::Bf16 => closeness.bf16_rel_rms.map(Rule::RelativeRms),
        DType::F32 | DType::F64 => Some(Rule::Elements {
            rtol: closeness.rtol,
            atol: closeness.atol,
        }),
    }
}

fn measure(
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
        .map(|(_, (x, reference))| (*x, *reference));
    match rule {
        Rule::Elements { rtol, atol } => worst(pairs, rtol, atol),
        Rule::RelativeRms(tolerance) => Verdict::Measured {
            error: relative_rms(pairs),
            tolerance,
        },
    }
}

/// The element whose error takes up most of its tolerance.
fn worst(pairs: impl Iterator<Item = (f64, f64)>, rtol: f64, atol: f64) -> Verdict {
    let mut worst = (0.0, atol);
    for (x, reference) in pairs {
        let (error, tolerance) = ((x - reference).abs(), atol + rtol * reference.abs());
        if x == reference {
            continue; // also where both are the same infinity
        }
        if error.is_nan() || tolerance.is_nan() {
            return Verdict::Measured {
                error: f64::NAN,
                tolerance,
            };
        }
        if error * worst.1 > worst.0 * tolerance {
            worst = (error, tolerance);
        }
    }
    Verdict::Measured {
        error: worst.0,
        tolerance: worst.1,
    }
}

fn relative_rms(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (error, reference) = pairs.fold((0.0, 0.0), |(error, sum), (x, reference)| {
        (error + (x - reference).powi(2), sum + reference.powi(2))
    });
    if error == 0.0 {
        0.0
    } else {
        (error / reference).sqrt()
    }
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
        let Verdict::Measured { error, tolerance } = verdict else {
            panic!("{verdict:?}")
        };
        assert!((error - 0.5).abs() < 1e-9 && (tolerance - 1.01).abs() < 1e-9 && verdict.passed());
    }

    #[test]
    fn what_is_not_a_number_never_passes() {
        for bad in [f64::NAN, f64::INFINITY] {
            let verdict = measure(
                "output",
                &tensor(&[1, 1, 1], &[bad]),
                &tensor(&[1, 1, 1], &[1.0]),
                RULE,
                None,
            );
            assert!(!verdict.passed(), "{verdict:?}");
            let rms = Rule::RelativeRms(1.0);
            assert!(
                !measure(
                    "output",
                    &tensor(&[1, 1, 1], &[bad]),
                    &tensor(&[1, 1, 1], &[1.0]),
                    rms,
                    None
                )
                .passed()
            );
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
