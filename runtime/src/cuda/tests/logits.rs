//! An indexer's logits with Hopper's tensor cores: against f64, and what is chosen by them against what the CPU chooses.

mod selections;

use std::ops::Range;

use half::bf16;

use super::super::{AskedLogits, GivenKeys, logits_of};
use super::{
    Backend, CPU, Cpu, Cuda, CudaBuffer, CudaDevice, CudaOptions, Dice, Shape, hopper, hopper_for,
    own_hopper,
};
use crate::backend::{BytesIndexing, Indexing, Pages, QueryRounding, Sight};
use crate::cache::{AnyScale, ByteFormat, EntryShape, IndexFp8, PowerOfTwo};
use crate::narrow::E4m3;

/// What is multiplied, and how keys lie: as rows that all queries share, or in pages of so many.
#[derive(Debug, Clone, Copy)]
struct Case {
    heads: usize,
    width: usize,
    in_codes: bool,
    page: Option<usize>,
    /// Queries of each request.
    new: usize,
    /// Keys of each request; of rows, there is one.
    lengths: &'static [usize],
}

const SCALE: f64 = 0.37;
/// What the output holds before.
const NOTHING: f32 = -12345.0;

/// Numbers in memory, and what they say.
struct Numbers {
    bytes: Vec<u8>,
    said: Vec<f64>,
}

impl Numbers {
    fn random(dice: &mut Dice, count: usize, in_codes: bool) -> Self {
        let mut numbers = Self {
            bytes: Vec::new(),
            said: Vec::new(),
        };
        for _ in 0..count {
            let x = dice.real();
            if in_codes {
                let code = E4m3::encode(x as f32);
                numbers.bytes.push(code.0);
                numbers.said.push(f64::from(code.decode()));
            } else {
                let x = bf16::from_f64(x);
                numbers.bytes.extend(x.to_bits().to_le_bytes());
                numbers.said.push(x.to_f64());
            }
        }
        numbers
    }
}

/// A question, and its answer by plain loops.
struct Question {
    case: Case,
    q: Numbers,
    k: Numbers,
    k_scales: Vec<f32>,
    weights: Vec<f32>,
    lists: Vec<Vec<u32>>,
    wanted: Vec<Range<usize>>,
}

impl Question {
    fn new(dice: &mut Dice, case: Case) -> Self {
        let Case {
            heads,
            width,
            in_codes,
            page,
            new,
            lengths,
        } = case;
        let rows = new * lengths.len();
        // Blocks in an order of their own, one of nobody before them
        let page = page.unwrap_or(lengths[0]);
        let blocks = lengths.iter().map(|length| length.div_ceil(page));
        let count: usize = 1 + blocks.clone().sum::<usize>();
        let mut free: Vec<u32> = (1..count as u32).rev().collect();
        let lists = blocks.map(|blocks| free.split_off(free.len() - blocks));
        let lists = lists.collect();
        let keys = if case.page.is_some() {
            count * page
        } else {
            page
        };
        let wanted = (0..rows).map(|row| {
            let end = lengths[row / new] + 1 + row % new;
            let end = end.saturating_sub(new);
            // Some want none, and some not the first
            match row % 5 {
                3 => end..end,
                4 => end / 3..end,
                _ => 0..end,
            }
        });
        Self {
            case,
            q: Numbers::random(dice, rows * heads * width, in_codes),
            k: Numbers::random(dice, keys * width, in_codes),
            k_scales: (0..keys).map(|_| 0.1 + dice.real().abs() as f32).collect(),
            weights: dice.values(rows * heads),
            lists,
            wanted: wanted.collect(),
        }
    }

    /// Blocks of codes have their scales behind them.
    fn memory(&self) -> Vec<u8> {
        let Case {
            width,
            in_codes,
            page,
            ..
        } = self.case;
        let (Some(page), true) = (page, in_codes) else {
            return self.k.bytes.clone();
        };
        let blocks = self.k.bytes.chunks(page * width);
        let blocks = blocks.zip(self.k_scales.chunks(page));
        blocks
            .flat_map(|(codes, scales)| [codes, bytemuck::cast_slice(scales)].concat())
            .collect()
    }

    /// The logit, and how large what it is the sum of is.
    fn logit(&self, row: usize, key: usize) -> [f64; 2] {
        let Case {
            heads,
            width,
            in_codes,
            page,
            new,
            ..
        } = self.case;
        let slot = match page {
            Some(page) => self.lists[row / new][key / page] as usize * page + key % page,
            None => key,
        };
        let k = &self.k.said[slot * width..][..width];
        let factor = SCALE
            * if in_codes {
                f64::from(self.k_scales[slot])
            } else {
                1.0
            };
        let mut sums = [0.0, 0.0];
        for head in 0..heads {
            let q = &self.q.said[(row * heads + head) * width..][..width];
            let product: f64 = q.iter().zip(k).map(|(x, y)| x * y).sum();
            let weighed = product * f64::from(self.weights[row * heads + head]) * factor;
            sums[0] += if product > 0.0 { weighed } else { 0.0 };
            sums[1] += weighed.abs();
        }
        sums
    }

    fn found(&self, device: &CudaDevice) -> Result<Vec<f32>, &'static str> {
        let Case {
            heads, width, page, ..
        } = self.case;
        let upload = |bytes: &[u8]| -> CudaBuffer<u8> { device.upload(bytes).expect("room") };
        let (q, k) = (upload(&self.q.bytes), upload(&self.memory()));
        let scales = device.upload(&self.k_scales).expect("room");
        let weights = device.upload(&self.weights).expect("room");
        let rows = self.wanted.len();
        let columns = self.columns();
        let out = device.upload(&vec![NOTHING; rows * columns]).expect("room");
        let asked = AskedLogits {
            q: q.at(),
            in_codes: self.case.in_codes,
            shape: [rows, heads, width],
            strides: [heads * width, width],
            weights: weights.at(),
            scale: SCALE,
            wanted: self.wanted.clone(),
            out: out.at(),
            out_stride: columns,
        };
        let keys = self.k_scales.len();
        let lists: Vec<&[u32]> = self.lists.iter().map(Vec::as_slice).collect();
        let given = match page {
            Some(page) => GivenKeys::Pages {
                at: k.at(),
                pages: keys / page,
                page,
                lists: &lists,
            },
            None => GivenKeys::Rows {
                at: k.at(),
                scales: scales.at(),
                rows: keys,
                stride: width,
            },
        };
        logits_of(device, &asked, &given).expect("runs")?;
        Ok(device.download(&out).expect("values"))
    }

    fn columns(&self) -> usize {
        self.case.lengths.iter().max().map_or(0, |most| most + 3)
    }

    #[track_caller]
    fn check(&self, device: &CudaDevice) {
        let found = self.found(device).expect("a kernel");
        for (row, found) in found.chunks(self.columns()).enumerate() {
            for (key, &found) in found.iter().enumerate() {
                if !self.wanted[row].contains(&key) {
                    assert_eq!(found, NOTHING, "{:?}: row {row}, key {key}", self.case);
                    continue;
                }
                let [wanted, size] = self.logit(row, key);
                // Tensor cores add up products of codes less exactly than f32 does
                let off = if device.is_emulated() { 1e-5 } else { 1e-3 };
                let near = (f64::from(found) - wanted).abs() <= off * size;
                assert!(
                    near,
                    "{:?}: row {row}, key {key}: {found} for {wanted}",
                    self.case
                );
            }
        }
        let again = self.found(device).expect("a kernel");
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found), bits(&again), "{:?}", self.case);
    }
}

fn check_all(cases: &[Case]) {
    let dice = &mut Dice::new();
    for (i, &case) in cases.iter().enumerate() {
        Question::new(dice, case).check(&hopper_for(i));
    }
}

#[test]
fn queries_that_share_rows_of_keys() {
    let case = Case {
        heads: 64,
        width: 128,
        in_codes: true,
        page: None,
        new: 11,
        lengths: &[300],
    };
    check_all(&[
        case,
        Case {
            new: 1,
            lengths: &[129],
            ..case
        },
        Case {
            heads: 32,
            width: 64,
            ..case
        },
        Case {
            heads: 16,
            in_codes: false,
            ..case
        },
        Case {
            heads: 8,
            width: 64,
            in_codes: false,
            new: 17,
            lengths: &[70],
            ..case
        },
    ]);
}

#[test]
fn requests_over_pages_of_any_size() {
    let case = Case {
        heads: 64,
        width: 128,
        in_codes: true,
        page: Some(64),
        new: 1,
        lengths: &[700, 1, 64, 65],
    };
    let sizes = [8, 16, 64, 128].map(|page| Case {
        page: Some(page),
        ..case
    });
    check_all(&sizes);
    check_all(&[
        Case { new: 2, ..case },
        Case {
            new: 3,
            lengths: &[200, 3, 65],
            ..case
        },
        Case {
            new: 4,
            lengths: &[130, 64],
            ..case
        },
        Case {
            heads: 32,
            new: 4,
            page: Some(8),
            lengths: &[130, 64],
            ..case
        },
        Case {
            heads: 16,
            width: 64,
            page: Some(16),
            ..case
        },
        Case {
            heads: 8,
            in_codes: false,
            page: Some(128),
            new: 2,
            ..case
        },
        Case {
            in_codes: false,
            page: Some(192),
            ..case
        },
    ]);
}

/// Numbers of bf16 leave room for few stages, and each block has several rounds of them.
#[test]
fn stages_are_filled_again_in_turn() {
    let case = Case {
        heads: 64,
        width: 128,
        in_codes: false,
        page: None,
        new: 3,
        lengths: &[16 * 18 * 64],
    };
    let question = Question::new(&mut Dice::new(), case);
    for seed in [1, 3] {
        question.check(&hopper_for(seed));
    }
}

#[test]
fn who_has_no_kernel_is_told_why() {
    let dice = &mut Dice::new();
    let case = Case {
        heads: 64,
        width: 128,
        in_codes: true,
        page: Some(12),
        new: 1,
        lengths: &[40],
    };
    let mut told = |case, device: &CudaDevice| {
        let found = Question::new(dice, case).found(device);
        found.expect_err("there is no such kernel")
    };
    assert!(told(case, &hopper()).contains("pages"));
    assert!(told(Case { heads: 12, ..case }, &hopper()).contains("sizes"));
    let any = CudaDevice::emulated(CudaOptions::default());
    assert!(told(case, &any).contains("Hopper"));
}

// ---- What is chosen ----
