//! Outputs, and what stands between: how close a run's tensors come to a case's.

use std::path::Path;

use mla_spec::{Indexer, RopeLayout};

use super::case::{Case, Closeness};
use super::measure::{Row, Rule, Verdict, measure, rule};
use super::runs::{Run, runs};
use super::trial::{Trial, written};
use crate::args::{DType, Verify};
use crate::driver::Program;
use crate::driver::job::{Grad, Input, Job, Mode, Report, Rope, Stored};
use crate::failure::Failure;
use crate::tensors::TensorFile;

/// Verifies outputs.
pub(crate) struct Outputs<'a> {
    pub(crate) args: &'a Verify,
}

impl Outputs<'_> {
    /// In which ways a case is run.
    fn ways(&self, case: &Case) -> Vec<Run> {
        let cut = self.args.chunks.is_some() || case.io.get("decode.chunks").is_some();
        runs(self.args, &case.spec.checked.layer, cut)
    }
}

impl Trial for Outputs<'_> {
    type Subject = Case;

    const COLUMNS: [&'static str; 3] = ["mode", "form", "cache"];
    const ABOUT: &'static str = "";
    const WANTED: &'static str = "an output";

    fn load(&self, folder: &Path) -> Result<Option<Case>, Failure> {
        Case::load(folder, self.args.layer).map(Some)
    }

    fn case<'a>(&self, case: &'a Case) -> &'a Case {
        case
    }

    fn jobs(&self, case: &Case, program: &mut Program, room: &Path) -> Vec<Job> {
        let padded = case.rows().is_some();
        let chunks = self
            .args
            .chunks
            .as_ref()
            .map(|chunks| chunks.iter().map(|chunk| *chunk as usize).collect());
        let job = |(i, run): (usize, Run)| {
            let layer = program.add(&run.variant().of(&case.spec.checked, padded));
            Job {
                name: format!("{} {}", case.name, i + 1),
                layer: layer.key,
                weights: case.weights.clone(),
                input: Input::Io {
                    path: case.io_path.clone(),
                },
                modes: vec![run.mode],
                chunks: chunks.clone(),
                cache: Stored::Exact,
                rope: Rope {
                    found: layer.rope,
                    wanted: case.manifest.rope_layout(),
                },
                grad: Grad::default(),
                bench: Vec::new(),
                out: Some(room.join(&case.name).join(format!("{i}.safetensors"))),
            }
        };
        self.ways(case).into_iter().enumerate().map(job).collect()
    }

    fn judge(&self, case: &Case, reports: &[Result<Report, String>]) -> Vec<Row> {
        let mut rows = Vec::new();
        for (run, report) in self.ways(case).into_iter().zip(reports) {
            match written(report) {
                Ok((_, _, file)) => rows.extend(compare(case, run, &file, self.args.dtype)),
                Err(problem) => rows.push(Row {
                    way: run.cells(),
                    tensor: "output".to_owned(),
                    verdict: Verdict::Broken(problem),
                }),
            }
        }
        rows
    }
}

/// Compares what a run wrote with what the case expects, tensor by tensor.
fn compare(case: &Case, run: Run, found: &TensorFile, dtype: DType) -> Vec<Row> {
    let rows = case.rows();
    let compared = case
        .manifest
        .compare
        .iter()
        .map(|(name, closeness)| (name.as_str(), *closeness));
    let mut table: Vec<Row> = compared
        .chain(cache_tensors(case, run, found))
        .filter_map(|(name, closeness)| {
            let verdict = match (found.get(name), case.io.get(name)) {
                (Some(found), Some(wanted)) => {
                    let rule = match (name, dtype) {
                        // A set is met or missed
                        ("indexer.selected", DType::F32 | DType::F64) => Rule::Bits,
                        _ => rule(closeness, dtype, &wanted)?,
                    };
                    measure(name, &found, &wanted, rule, rows.as_deref())
                }
                (_, None) => Verdict::Broken("the case has no such tensor".to_owned()),
                // Scores of pools have no probe: what they pick is compared
                (None, Some(_)) if name == "indexer.pool_scores" => return None,
                (None, Some(_)) => Verdict::Broken("the run did not write it".to_owned()),
            };
            Some(Row {
                way: run.cells(),
                tensor: name.to_owned(),
                verdict,
            })
        })
        .collect();
    if table.is_empty() {
        let verdict =
            Verdict::Broken("the manifest says nothing about it for this dtype".to_owned());
        table.push(Row {
            way: run.cells(),
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
