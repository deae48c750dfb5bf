//! A golden case: a layer, its weights, inputs and numbers, as `tests/golden/README.md` says.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mla_codegen::plan::interpret::{Extras, Piece, SharedKv, Weights};
use mla_spec::{Checked, Sources, check, import};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A tensor as numbers.
pub(crate) struct Numbers {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

pub(crate) type Tensors = BTreeMap<String, Numbers>;

/// The folders of all cases.
pub(crate) fn cases() -> Vec<PathBuf> {
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

pub(crate) fn tensors(path: &Path) -> Tensors {
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

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) manifest: Value,
    pub(crate) checked: Checked,
    pub(crate) weights: Weights,
    pub(crate) io: Tensors,
}

/// What a case gives a layer besides hidden states.
#[derive(Default)]
pub(crate) struct Given {
    pub(crate) selection: Option<Vec<Vec<usize>>>,
    pub(crate) shared_kv: Option<SharedKv>,
}

impl Given {
    pub(crate) fn extras(&self) -> Extras<'_> {
        Extras {
            selection: self.selection.as_deref(),
            shared_kv: self.shared_kv.as_ref(),
            ..Extras::default()
        }
    }
}

impl Case {
    pub(crate) fn read(folder: &Path) -> Self {
        let text = |file| std::fs::read_to_string(folder.join(file)).expect("the file is readable");
        let manifest: Value =
            serde_json::from_str(&text("manifest.json")).expect("the manifest is JSON");
        let checked = imported(folder, &manifest, &text("config.json"));
        let stored = match manifest["weights"].as_str() {
            Some("generated") => generated(&manifest),
            _ => tensors(&folder.join("weights.safetensors")),
        };
        let prefix = manifest["weight_prefix"]
            .as_str()
            .expect("a prefix")
            .to_owned();
        let weights = stored.into_iter().filter_map(|(name, numbers)| {
            let name = match name.strip_prefix(&prefix)? {
                "gate_proj.weight" => "g_proj.weight", // hy_v4's name for it
                name => name,
            };
            Some((name.to_owned(), numbers.values))
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

    /// Batch and sequence length.
    pub(crate) fn shape(&self) -> (usize, usize) {
        let shape = &self.io["hidden_states"].shape;
        (shape[0], shape[1])
    }

    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.io.contains_key(tensor)
    }

    pub(crate) fn positions(&self) -> Vec<u32> {
        let positions = self.io["position_ids"].values.iter();
        positions.map(|position| *position as u32).collect()
    }

    /// Rows of each sequence: all of a batch row, its real tokens, or the runs of one segment id.
    pub(crate) fn sequences(&self) -> Vec<Range<usize>> {
        let (batch, seq) = self.shape();
        let ids = self.io.get("segment_ids").or(self.io.get("attention_mask"));
        let id = |row: usize| ids.map_or(1.0, |ids| ids.values[row]);
        let mut sequences: Vec<Range<usize>> = Vec::new();
        for row in (0..batch * seq).filter(|&row| self.has("segment_ids") || id(row) != 0.0) {
            match sequences.last_mut() {
                Some(last) if row % seq != 0 && last.end == row && id(row) == id(row - 1) => {
                    last.end += 1
                }
                _ => sequences.push(row..row + 1),
            }
        }
        sequences
    }

    /// Where each row's sequence begins, as a column of the case's `[b, s, s]` tensors; `None` for padding.
    pub(crate) fn first_columns(&self) -> Vec<Option<usize>> {
        let (batch, seq) = self.shape();
        let mut first = vec![None; batch * seq];
        for sequence in self.sequences() {
            let start = sequence.start % seq;
            first[sequence].fill(Some(start));
        }
        first
    }

    /// What other layers made.
    pub(crate) fn given(&self) -> Given {
        let selection = self.io.get("prev_topk_indices").map(|picked| {
            let width = picked.shape[2];
            let of_row = |(row, first): (usize, &Option<usize>)| {
                let mut indices: Vec<usize> = picked.values[row * width..][..width]
                    .iter()
                    .filter(|column| **column >= 0.0)
                    .map(|column| *column as usize - first.unwrap_or(0))
                    .collect();
                indices.sort_unstable();
                indices
            };
            self.first_columns()
                .iter()
                .enumerate()
                .map(of_row)
                .collect()
        });
        let values = |tensor: &str| {
            let numbers = self.io.get(tensor);
            numbers.map_or_else(Vec::new, |numbers| numbers.values.clone())
        };
        let shared_kv = self.has("shared_kv.kv_latent").then(|| SharedKv {
            latent: values("shared_kv.kv_latent"),
            k_rope: values("shared_kv.k_pe"),
        });
        Given {
            selection,
            shared_kv,
        }
    }

    /// The calls of the case's cached run: which rows each brings, request by request.
    pub(crate) fn calls(&self) -> Vec<(Vec<Piece>, Vec<usize>)> {
        let (batch, seq) = self.shape();
        let first = self.first_columns();
        let mut columns = 0;
        let chunks = self.io["decode.chunks"].values.iter();
        let call = |chunk: &f64| {
            let range = columns..columns + *chunk as usize;
            columns = range.end;
            let (mut pieces, mut rows) = (Vec::new(), Vec::new());
            for request in 0..batch {
                let own = range.clone().map(|column| request * seq + column);
                let real: Vec<usize> = own.filter(|&row| first[row].is_some()).collect();
                pieces.push(Piece {
                    request,
                    tokens: real.len(),
                });
                rows.extend(real);
            }
            (pieces, rows)
        };
        chunks.map(call).collect()
    }
}

fn imported(folder: &Path, manifest: &Value, config: &str) -> Checked {
    let options = import::Options {
        layer: layer(manifest),
        ..Default::default()
    };
    let imported = import::hf(&mut Sources::default(), "config.json", config, &options);
    let imported =
        imported.unwrap_or_else(|diagnostics| panic!("{}: {diagnostics:#?}", folder.display()));
    let (checked, diagnostics) = check::check(&imported.document);
    checked.unwrap_or_else(|| panic!("{}: {diagnostics:#?}", folder.display()))
}

fn layer(manifest: &Value) -> Option<u32> {
    manifest["layer_idx"]
        .as_u64()
        .and_then(|layer| u32::try_from(layer).ok())
}
