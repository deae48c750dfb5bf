//! The oracle against layers that other people's code computed in `f64`: the cases in `tests/golden`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mla_codegen::plan::interpret::{Oracle, Run, Weights};
use mla_codegen::plan::{ProbeMode, program_with};
use mla_spec::{Checked, Form, FormChoice, RopeLayout, Sources, check, import};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A tensor as numbers.
struct Numbers {
    shape: Vec<usize>,
    values: Vec<f64>,
}

type Tensors = BTreeMap<String, Numbers>;

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let entries = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let mut cases: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.join("manifest.json").is_file())
        .collect();
    cases.sort();
    cases
}

fn tensors(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).expect("the file is readable");
    let file = SafeTensors::deserialize(&bytes).expect("the file is safetensors");
    let numbers = file.iter().map(|(name, view)| {
        let values = match view.dtype() {
            Dtype::F64 => wide(view.data(), f64::from_le_bytes),
            Dtype::F32 => wide(view.data(), |bytes| f64::from(f32::from_le_bytes(bytes))),
            Dtype::BF16 => wide(view.data(), |bytes| bf16(u16::from_le_bytes(bytes))),
            Dtype::I64 => wide(view.data(), |bytes| i64::from_le_bytes(bytes) as f64),
            Dtype::I32 => wide(view.data(), |bytes| f64::from(i32::from_le_bytes(bytes))),
            Dtype::U8 => wide(view.data(), |[byte]| f64::from(byte)),
            other => panic!("{name} is stored as {other:?}"),
        };
        (
            name.to_owned(),
            Numbers {
                shape: view.shape().to_vec(),
                values,
            },
        )
    });
    numbers.collect()
}

fn wide<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.chunks_exact(N)
        .map(|chunk| number(std::array::from_fn(|i| chunk[i])))
        .collect()
}

fn bf16(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// The generator that the cases' README defines, for a case without a weight file.
fn generated(manifest: &Value) -> Tensors {
    let generator = &manifest["generator"];
    let seed = generator["seed"].as_u64().expect("a seed");
    let tensors = generator["tensors"].as_object().expect("tensors");
    let of = |(name, spec): (&String, &Value)| {
        let shape: Vec<usize> = spec["shape"]
            .as_array()
            .expect("a shape")
            .iter()
            .filter_map(Value::as_u64)
            .map(|size| size as usize)
            .collect();
        let (base, amp) = (
            spec["base"].as_f64().expect("a base"),
            spec["amp"].as_f64().expect("an amplitude"),
        );
        let fnv = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        });
        let key = fnv ^ splitmix(seed);
        let value = |i: u64| {
            let bits = splitmix(key.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            let u = (bits >> 40) as f64 / f64::from(1u32 << 23) - 1.0;
            rounded_to_bf16((base + amp * u) as f32)
        };
        let count: usize = shape.iter().product();
        (
            name.clone(),
            Numbers {
                shape,
                values: (0..count as u64).map(value).collect(),
            },
        )
    };
    tensors.iter().map(of).collect()
}

fn splitmix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Round to nearest, ties to even, of a finite number.
fn rounded_to_bf16(value: f32) -> f64 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    bf16((rounded >> 16) as u16)
}

struct Case {
    name: String,
    manifest: Value,
    checked: Checked,
    weights: Weights,
    io: Tensors,
}

impl Case {
    fn read(folder: &Path) -> Self {
        let text = |file| std::fs::read_to_string(folder.join(file)).expect("the file is readable");
        let manifest: Value =
            serde_json::from_str(&text("manifest.json")).expect("the manifest is JSON");
        let options = import::Options {
            layer: layer(&manifest),
            ..Default::default()
        };
        let imported = import::hf(
            &mut Sources::default(),
            "config.json",
            &text("config.json"),
            &options,
        );
        let imported =
            imported.unwrap_or_else(|diagnostics| panic!("{}: {diagnostics:#?}", folder.display()));
        let (checked, diagnostics) = check::check(&imported.document);
        let checked = checked.unwrap_or_else(|| panic!("{}: {diagnostics:#?}", folder.display()));
        let stored = match manifest["weights"].as_str() {
            Some("generated") => generated(&manifest),
            _ => tensors(&folder.join("weights.safetensors")),
        };
        let prefix = manifest["weight_prefix"]
            .as_str()
            .expect("a prefix")
            .to_owned();
        let weights = stored.into_iter().filter_map(|(name, numbers)| {
            Some((name.strip_prefix(&prefix)?.to_owned(), numbers.values))
        });
        Self {
            name: folder
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            checked,
            weights: weights.collect(),
            io: tensors(&folder.join("io.safetensors")),
            manifest,
        }
    }

    fn shape(&self) -> (usize, usize) {
        let shape = &self.io["hidden_states"].shape;
        (shape[0], shape[1])
    }

    /// Rows of each sequence: all of a batch row, its real tokens, or the runs of one segment id.
    fn sequences(&self) -> Vec<Range<usize>> {
        let (batch, seq) = self.shape();
        let ids = self.io.get("segment_ids").or(self.io.get("attention_mask"));
        let id = |row: usize| ids.map_or(1.0, |ids| ids.values[row]);
        let mut sequences: Vec<Range<usize>> = Vec::new();
        for row in
            (0..batch * seq).filter(|&row| self.io.contains_key("segment_ids") || id(row) != 0.0)
        {
            match sequences.last_mut() {
                Some(last) if row % seq != 0 && last.end == row && id(row) == id(row - 1) => {
                    last.end += 1
                }
                _ => sequences.push(row..row + 1),
            }
        }
        sequences
    }

    fn run(&self, form: Form) -> Run {
        let mut checked = self.checked.clone();
        checked.build.form = FormChoice::Forced(form);
        if self.manifest["rope"]["style"] != "none" {
            let halves = self.manifest["rope"]["layout_of_mid_q_and_k_pe"] == "halves";
            checked.build.cache.rope_layout = Some(if halves {
                RopeLayout::Half
            } else {
                RopeLayout::Interleaved
            });
        }
        let program = program_with(&checked, ProbeMode::Keep);
        let wanted = self.manifest["softmax_scale"].as_f64().expect("a scale");
        assert!(
            (program.softmax_scale.value / wanted - 1.0).abs() < 1e-14,
            "{}: softmax scale",
            self.name
        );
        let positions: Vec<u32> = self.io["position_ids"]
            .values
            .iter()
            .map(|position| *position as u32)
            .collect();
        let oracle = Oracle::new(&program, &self.weights)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        oracle
            .forward(
                &self.io["hidden_states"].values,
                &positions,
                &self.sequences(),
            )
            .expect("forward runs")
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
}

impl Case {
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
}

/// Order of the axes of a stored tensor.
enum Axes {
    /// `[b, s, width]`.
    Rows,
    /// `[b, H, s, dim]`.
    HeadsFirst { heads: usize },
}

fn layer(manifest: &Value) -> Option<u32> {
    manifest["layer_idx"]
        .as_u64()
        .and_then(|layer| u32::try_from(layer).ok())
}

#[test]
fn every_dense_case_is_computed_as_others_compute_it() {
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
            case.compare("output_f64", &run.output, Axes::Rows, (0.0, 1e-9));
            // The rest is stored in f32: half a unit in the last place, and what cancels before it.
            let single = (1e-6, 1e-6);
            case.compare("output", &run.output, Axes::Rows, single);
            case.compare(
                "mid.kv_latent",
                &run.probes["mid.kv_latent"],
                Axes::Rows,
                single,
            );
            case.compare(
                "mid.attn_out",
                &run.probes["mid.attn_out"],
                Axes::Rows,
                single,
            );
            case.compare("mid.k_pe", &run.probes["mid.k_pe"], Axes::Rows, single);
            case.compare(
                "mid.q",
                &run.probes["mid.q"],
                Axes::HeadsFirst { heads },
                single,
            );
            case.compare(
                "mid.lse",
                &run.probes["mid.lse"],
                Axes::HeadsFirst { heads },
                single,
            );
            case.compare_max_logits(&run, heads);
        }
    }
}
