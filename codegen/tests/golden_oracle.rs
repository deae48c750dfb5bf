//! The oracle against layers that other people's code computed in `f64`: the cases in `tests/golden`.

mod golden_case;

use golden_case::{Case, cases};
use mla_codegen::plan::interpret::{Cache, Oracle, Run};
use mla_codegen::plan::{ProbeMode, Program, program_with};
use mla_spec::{CacheKind, Form, FormChoice, Indexer, LightningIndexer, Phase, RopeLayout};

/// What is stored in f32: half a unit in the last place, and what cancels before it.
const SINGLE: (f64, f64) = (1e-6, 1e-6);
/// What is stored in f64.
const DOUBLE: (f64, f64) = (0.0, 1e-9);

/// Order of the axes of a stored tensor.
#[derive(Clone, Copy)]
enum Axes {
    /// `[b, s, width]`.
    Rows,
    /// `[b, H, s, dim]`.
    HeadsFirst { heads: usize },
}

impl Case {
    fn program(&self, kind: CacheKind, form: Form) -> Program {
        let mut checked = self.checked.clone();
        checked.build.form = FormChoice::Forced(form);
        checked.build.cache.kind = kind;
        if self.manifest["rope"]["style"] != "none" {
            checked.build.cache.rope_layout = Some(self.layout());
        }
        let program = program_with(&checked, ProbeMode::Keep);
        let wanted = self.manifest["softmax_scale"].as_f64().expect("a scale");
        assert!(
            (program.softmax_scale.value / wanted - 1.0).abs() < 1e-14,
            "{}: softmax scale",
            self.name
        );
        program
    }

    /// How the case stores rotated parts.
    fn layout(&self) -> RopeLayout {
        if self.manifest["rope"]["layout_of_mid_q_and_k_pe"] == "halves" {
            RopeLayout::Half
        } else {
            RopeLayout::Interleaved
        }
    }

    fn run(&self, form: Form) -> Run {
        let program = self.program(CacheKind::Latent, form);
        let oracle = Oracle::new(&program, &self.weights)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let given = self.given();
        let run = oracle.forward_with(
            &self.io["hidden_states"].values,
            &self.positions(),
            &self.sequences(),
            given.extras(),
        );
        run.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Compares the rows of sequences. `axes` says how the file's tensor is laid out.
    fn compare(&self, what: &str, found: &[f64], axes: Axes, (rtol, atol): (f64, f64)) {
        let Some(wanted) = self.io.get(what) else {
            return;
        };
        let (batch, seq) = self.shape();
        let width = found.len() / (batch * seq);
        for row in self.sequences().into_iter().flatten() {
            for column in 0..width {
                let place = match axes {
                    Axes::Rows => row * width + column,
                    Axes::HeadsFirst { heads } => {
                        let (dim, b, s) = (width / heads, row / seq, row % seq);
                        ((b * heads + column / dim) * seq + s) * dim + column % dim
                    }
                };
                let (found, wanted) = (found[row * width + column], wanted.values[place]);
                assert!(
                    (found - wanted).abs() <= atol + rtol * wanted.abs(),
                    "{}: {what}, row {row}, column {column}: found {found}, wanted {wanted}",
                    self.name
                );
            }
        }
    }

    fn compare_probe(&self, run: &Run, what: &str, axes: Axes) {
        if self.has(what) {
            let found = run.probes.get(what);
            let found = found.unwrap_or_else(|| panic!("{}: {what} is not probed", self.name));
            self.compare(what, found, axes, SINGLE);
        }
    }

    /// The largest logit of each head over all rows of sequences, where the case has it.
    fn compare_max_logits(&self, run: &Run, heads: usize) {
        let Some(wanted) = self.io.get("mid.max_logit") else {
            return;
        };
        for (head, wanted) in wanted.values.iter().enumerate() {
            let rows = self.sequences().into_iter().flatten();
            let logits = rows.map(|row| run.probes["mid.max_logit"][row * heads + head]);
            let found = logits.fold(f64::NEG_INFINITY, f64::max);
            let close = (found - wanted).abs() <= 1e-6 + 1e-6 * wanted.abs();
            assert!(
                close,
                "{}: mid.max_logit, head {head}: found {found}, wanted {wanted}",
                self.name
            );
        }
    }

    /// The picked keys exactly, and the scores behind them.
    fn compare_indexer(&self, run: &Run) {
        let (batch, seq) = self.shape();
        let wanted = self
            .io
            .get("indexer.selected")
            .or(self.io.get("prev_selected"));
        let Some(wanted) = wanted else {
            return;
        };
        let lists = &run.probes[SELECTION];
        let width = lists.len() / (batch * seq);
        for (row, first) in self.first_columns().into_iter().enumerate() {
            let Some(first) = first else { continue };
            let mut found = vec![0.0; seq];
            for index in lists[row * width..][..width]
                .iter()
                .filter(|index| **index >= 0.0)
            {
                found[first + *index as usize] += 1.0;
            }
            assert_eq!(
                found,
                wanted.values[row * seq..][..seq],
                "{}: the selection of row {row}",
                self.name
            );
            for what in ["indexer.scores", "indexer.pool_scores"] {
                self.compare_scores(what, row, first, &run.scores);
            }
        }
    }

    fn compare_scores(&self, what: &str, row: usize, first: usize, scores: &[Vec<f64>]) {
        let Some(wanted) = self.io.get(what) else {
            return;
        };
        // Pools are counted from the sequence's first token, keys from the case's first column
        let first = if what == "indexer.scores" { first } else { 0 };
        let width = wanted.shape[2];
        for (index, found) in scores[row].iter().enumerate() {
            let wanted = wanted.values[row * width + first + index];
            let close = (found - wanted).abs() <= 1e-6 + 1e-6 * wanted.abs();
            assert!(
                close || *found == wanted,
                "{}: {what}, row {row}, key {index}: found {found}, wanted {wanted}",
                self.name
            );
        }
    }

    /// The case's tokens call by call: outputs, then what is cached.
    fn compare_cached(&self, phase: Phase, kind: CacheKind, form: Form) {
        let program = self.program(kind, form);
        let oracle = Oracle::new(&program, &self.weights).expect("the weights fit");
        let (batch, seq) = self.shape();
        let width = self.checked.layer.hidden_size() as usize;
        let mut cache = Cache::new(batch);
        let mut output = vec![0.0; batch * seq * width];
        for (pieces, rows) in self.calls() {
            let hidden = &self.io["hidden_states"].values;
            let row = |row: &usize| &hidden[row * width..][..width];
            let hidden = rows.iter().flat_map(row).copied().collect::<Vec<_>>();
            let run = oracle
                .cached(phase, &mut cache, &pieces, &hidden)
                .unwrap_or_else(|error| panic!("{}: {error}", self.name));
            for (i, row) in rows.iter().enumerate() {
                output[row * width..][..width].copy_from_slice(&run.output[i * width..][..width]);
            }
        }
        self.compare("output_f64", &output, Axes::Rows, DOUBLE);
        self.compare("output", &output, Axes::Rows, SINGLE);
        if kind == CacheKind::Latent {
            self.compare_cache(&cache);
        }
    }

    fn compare_cache(&self, cache: &Cache) {
        let (batch, seq) = self.shape();
        let spread = |of: &dyn Fn(usize) -> Vec<f64>| {
            let mut all = Vec::new();
            for (request, rows) in self.sequences().into_iter().enumerate() {
                let values = of(request);
                let width = values.len() / rows.len();
                all.resize(batch * seq * width, 0.0);
                all[rows.start * width..rows.end * width].copy_from_slice(&values);
            }
            all
        };
        let latent = spread(&|request| cache.latent_rows(request).0);
        self.compare("cache.kv_latent", &latent, Axes::Rows, SINGLE);
        let k_rope = spread(&|request| cache.latent_rows(request).1);
        self.compare("cache.k_pe", &k_rope, Axes::Rows, SINGLE);
        if let Some(Indexer::Lightning(indexer)) = self.checked.layer.indexer() {
            let dim = indexer.head_dim as usize;
            let key = spread(&|request| self.index_keys(indexer, &cache.index_rows(request)));
            self.compare("cache.indexer_k", &key, Axes::Rows, SINGLE);
            let entry = if indexer.pool.is_some() { 2 * dim } else { dim };
            let gates = |request| {
                let rows = cache.index_rows(request);
                let gate = |row: &[f64]| row[dim..].to_vec();
                rows.chunks(entry).flat_map(gate).collect::<Vec<f64>>()
            };
            self.compare("cache.indexer_gate", &spread(&gates), Axes::Rows, SINGLE);
        }
    }

    /// Cached indexer keys as the case stores them: halves, also where pairs are neighbours.
    fn index_keys(&self, indexer: &LightningIndexer, rows: &[f64]) -> Vec<f64> {
        let dim = indexer.head_dim as usize;
        let entry = if indexer.pool.is_some() { 2 * dim } else { dim };
        let rotated = self.checked.layer.rotated_dim() as usize;
        let is_paired = indexer
            .rope
            .is_some_and(|rope| rope.layout == RopeLayout::Interleaved);
        let stored = |row: &[f64]| {
            let mut key = row[..dim].to_vec();
            if is_paired {
                for pair in 0..rotated / 2 {
                    key[pair] = row[2 * pair];
                    key[pair + rotated / 2] = row[2 * pair + 1];
                }
            }
            key
        };
        rows.chunks(entry).flat_map(stored).collect()
    }
}

/// The probe of what an indexer picked.
const SELECTION: &str = "indexer.selection";

#[test]
fn every_case_is_computed_as_others_compute_it() {
    let cases = cases();
    if cases.is_empty() {
        println!("skipped: there is no case in tests/golden");
        return;
    }
    for folder in cases {
        let case = Case::read(&folder);
        let heads = case.checked.layer.num_attention_heads() as usize;
        for form in [Form::Mha, Form::Mqa] {
            let run = case.run(form);
            case.compare("output_f64", &run.output, Axes::Rows, DOUBLE);
            case.compare("output", &run.output, Axes::Rows, SINGLE);
            for what in ["mid.attn_raw", "mid.attn_out"] {
                case.compare_probe(&run, what, Axes::Rows);
            }
            if !case.has("shared_kv.kv_latent") {
                case.compare_probe(&run, "mid.kv_latent", Axes::Rows);
                case.compare_probe(&run, "mid.k_pe", Axes::Rows);
            }
            for what in ["mid.q", "mid.lse"] {
                case.compare_probe(&run, what, Axes::HeadsFirst { heads });
            }
            case.compare_max_logits(&run, heads);
            case.compare_indexer(&run);
        }
    }
}

#[test]
fn every_case_is_computed_through_caches_too() {
    for folder in cases() {
        let case = Case::read(&folder);
        if !case.has("decode.chunks") {
            continue;
        }
        for phase in [Phase::Prefill, Phase::Decode] {
            for (kind, form) in [
                (CacheKind::Latent, Form::Mha),
                (CacheKind::Latent, Form::Mqa),
                (CacheKind::Naive, Form::Mha),
            ] {
                case.compare_cached(phase, kind, form);
            }
        }
    }
}
