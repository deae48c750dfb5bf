//! An indexer's logits with Hopper's tensor cores: against f64, and what is chosen by them against what the CPU chooses.

use std::ops::Range;

use half::bf16;

use super::super::{AskedLogits, GivenKeys, logits_of};
use super::{
    Backend, CPU, Cpu, Cuda, CudaBuffer, CudaDevice, CudaOptions, Dice, Shape, hopper, hopper_for,
    own_hopper,
};
use crate::backend::{BytesIndexing, Indexing, Pages, Sight};
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

/// Kernels of selections, without the one that scores on any GPU.
fn without_scores() -> CudaDevice {
    let device = own_hopper(CudaOptions::default());
    device.provide(|unit, dims| match unit {
        "index_scores" => None,
        _ => mla_codegen::cuda::kernel_text(unit, dims),
    });
    device
}

/// Requests with new tokens and keys, in blocks of a cache or one after the other.
struct Requests {
    page: Option<usize>,
    sizes: &'static [[usize; 2]],
}

impl Requests {
    fn rows(&self) -> usize {
        self.sizes.iter().map(|[new, _]| new).sum()
    }

    fn slots(&self) -> usize {
        let slots = |keys: usize| self.page.map_or(keys, |page| keys.next_multiple_of(page));
        self.sizes.iter().map(|&[_, keys]| slots(keys)).sum()
    }

    fn sights(&self) -> Vec<Sight<'static>> {
        let (mut row, mut first_row) = (0, 0);
        let sight = |&[new, keys]: &[usize; 2]| {
            let queries = row..row + new;
            row += new;
            let first = if self.page.is_some() { 0 } else { first_row };
            first_row += keys;
            let visible = (0..new).map(|i| 0..keys + 1 + i - new).collect();
            Sight::new(queries, (first, 0), visible, Vec::new())
        };
        self.sizes.iter().map(sight).collect()
    }

    /// Blocks in falling order.
    fn pages(&self) -> Option<Pages> {
        let page = self.page?;
        let mut left = (self.slots() / page) as u32;
        let list = |&[_, keys]: &[usize; 2]| {
            let list = (0..keys.div_ceil(page)).map(|_| {
                left -= 1;
                left
            });
            list.collect()
        };
        Some(Pages::new(page, self.sizes.iter().map(list).collect()))
    }
}

/// Products of these are the same in every order, and many are equal.
fn whole(dice: &mut Dice) -> f64 {
    dice.below(5) as f64 - 2.0
}

const SHAPE: [usize; 2] = [8, 64];
const MOST: usize = 20;

#[test]
fn keys_of_bf16_are_chosen_as_by_plain_loops() {
    let device = without_scores();
    let dice = &mut Dice::new();
    for requests in [
        Requests {
            page: None,
            sizes: &[[9, 150], [1, 30], [3, 3]],
        },
        Requests {
            page: Some(64),
            sizes: &[[1, 300], [1, 5], [1, 64]],
        },
        Requests {
            page: Some(8),
            sizes: &[[2, 131], [12, 40]],
        },
    ] {
        let [heads, width] = SHAPE;
        let of_q = Shape {
            rows: requests.rows(),
            heads,
            width,
            head_stride: width,
            row_stride: heads * width + 8,
            offset: 16,
        };
        let of_k = Shape {
            rows: requests.slots(),
            heads: 1,
            width,
            head_stride: width,
            row_stride: width + 8,
            offset: 8,
        };
        let mut values =
            |len: usize| -> Vec<bf16> { (0..len).map(|_| bf16::from_f64(whole(dice))).collect() };
        let (q, k) = (values(of_q.len()), values(of_k.len()));
        let weights: Vec<f32> = values(of_q.rows * heads)
            .into_iter()
            .map(f32::from)
            .collect();
        let (sights, pages) = (requests.sights(), requests.pages());
        macro_rules! asked {
            ($q:expr, $k:expr, $weights:expr) => {
                Indexing {
                    q: of_q.of($q),
                    weights: $weights,
                    k: of_k.of($k),
                    sights: &sights,
                    pages: pages.as_ref(),
                    scale: 0.5,
                    relu: true,
                    initial: 2,
                    local: 3,
                }
            };
        }
        let upload = |values: &[bf16]| device.upload(values).expect("room");
        let (on_q, on_k) = (upload(&q), upload(&k));
        let on_weights = device.upload(&weights).expect("room");
        let asked = asked!(&on_q, &on_k, &on_weights);
        let found = Cuda::<bf16>::index_select(&device, &asked, MOST).expect("runs");
        let wanted = Cpu::<bf16>::index_select(&CPU, &asked!(&q, &k, &weights), MOST);
        let found = device.download(&found).expect("values");
        assert_eq!(found, wanted.expect("runs"), "{:?}", requests.sizes);
    }
}

/// What is chosen of a cache of codes, and what plain loops choose of the numbers that those say.
fn check_codes<F: ByteFormat>(format: F, requests: &Requests) {
    let device = without_scores();
    let dice = &mut Dice::new();
    let [heads, width] = SHAPE;
    let page = requests.page.expect("caches of bytes have pages");
    let shape = EntryShape {
        latent: width,
        rope: 0,
        blocks: requests.slots() / page,
        page,
    };
    let layout = F::layout(width, 0);
    let mut bytes = vec![0; shape.blocks * layout.block_bytes(page)];
    let mut k: Vec<bf16> = Vec::new();
    for slot in 0..shape.slots() {
        // The largest is a power of two: so are scales that are, and codes are exact
        let mut key: Vec<f32> = (0..width).map(|_| whole(dice) as f32).collect();
        key[0] = 448.0;
        let (data, scales) = layout.place(slot, page);
        let (mut codes, mut factors) = (vec![0; data.len()], vec![0; scales.len()]);
        format.encode(&key, &[], &mut codes, &mut factors);
        let mut said = vec![0.0; width];
        format.decode(&codes, &factors, &mut said, &mut []);
        bytes[data].copy_from_slice(&codes);
        bytes[scales].copy_from_slice(&factors);
        k.extend(said.into_iter().map(bf16::from_f32));
    }
    let of_q = Shape {
        rows: requests.rows(),
        heads,
        width,
        head_stride: width,
        row_stride: heads * width,
        offset: 0,
    };
    let of_k = Shape {
        rows: shape.slots(),
        heads: 1,
        ..of_q
    };
    let of_k = Shape {
        row_stride: width,
        ..of_k
    };
    let q: Vec<bf16> = (0..of_q.len())
        .map(|_| bf16::from_f64(whole(dice)))
        .collect();
    let weights: Vec<f32> = (0..of_q.rows * heads).map(|_| whole(dice) as f32).collect();
    let (sights, pages) = (requests.sights(), requests.pages().expect("pages"));
    let (on_q, on_bytes) = (device.upload(&q), device.upload(&bytes));
    let (on_q, on_bytes) = (on_q.expect("room"), on_bytes.expect("room"));
    let on_weights = device.upload(&weights).expect("room");
    let asked = BytesIndexing {
        q: of_q.of(&on_q),
        weights: &on_weights,
        sights: &sights,
        pages: &pages,
        scale: 0.5,
        relu: true,
        initial: 0,
        local: 1,
    };
    let found = Cuda::<bf16>::index_select_bytes(&device, format, &on_bytes, shape, &asked, MOST);
    let found = found.expect("runs").expect("a kernel");
    let plain = Indexing {
        q: of_q.of(&q),
        weights: &weights,
        k: of_k.of(&k),
        sights: &sights,
        pages: Some(&pages),
        scale: 0.5,
        relu: true,
        initial: 0,
        local: 1,
    };
    let wanted = Cpu::<bf16>::index_select(&CPU, &plain, MOST).expect("runs");
    assert_eq!(device.download(&found).expect("values"), wanted);
}

#[test]
fn keys_in_codes_are_chosen_by_what_they_say() {
    for requests in [
        Requests {
            page: Some(64),
            sizes: &[[1, 300], [1, 5], [1, 64]],
        },
        Requests {
            page: Some(8),
            sizes: &[[2, 131], [12, 40]],
        },
    ] {
        check_codes(IndexFp8::<PowerOfTwo>::default(), &requests);
        check_codes(IndexFp8::<AnyScale>::default(), &requests);
    }
}

#[test]
fn a_recorded_step_chooses_among_more_keys() {
    let device = without_scores();
    let dice = &mut Dice::new();
    let [heads, width] = SHAPE;
    let mut graph = super::super::CudaGraph::new(&device);
    let slots = 512;
    let mut values =
        |len: usize| -> Vec<bf16> { (0..len).map(|_| bf16::from_f64(whole(dice))).collect() };
    let (q, k) = (values(2 * heads * width), values(slots * width));
    let weights: Vec<f32> = values(2 * heads).into_iter().map(f32::from).collect();
    let of = |rows, heads| Shape {
        rows,
        heads,
        width,
        head_stride: width,
        row_stride: heads * width,
        offset: 0,
    };
    let upload = |values: &[bf16]| device.upload(values).expect("room");
    let (on_q, on_k) = (upload(&q), upload(&k));
    let on_weights = device.upload(&weights).expect("room");
    let pages = Pages::new(64, vec![vec![6, 1, 3, 7], vec![5, 0, 2, 4]]);
    for (keys, recordings) in [([100, 90], 1), ([101, 91], 1), ([164, 250], 1)] {
        let sight = |(row, &keys): (usize, &usize)| {
            let visible = std::iter::once(0..keys).collect();
            Sight::new(row..row + 1, (0, 0), visible, Vec::new())
        };
        let sights: Vec<Sight<'_>> = keys.iter().enumerate().map(sight).collect();
        macro_rules! asked {
            ($q:expr, $k:expr, $weights:expr) => {
                Indexing {
                    q: of(2, heads).of($q),
                    weights: $weights,
                    k: of(slots, 1).of($k),
                    sights: &sights,
                    pages: Some(&pages),
                    scale: 0.5,
                    relu: true,
                    initial: 0,
                    local: 0,
                }
            };
        }
        let asked = asked!(&on_q, &on_k, &on_weights);
        let found = graph.run(|| Cuda::<bf16>::index_select(&device, &asked, MOST));
        let wanted = Cpu::<bf16>::index_select(&CPU, &asked!(&q, &k, &weights), MOST);
        let found = device.download(&found.expect("runs")).expect("values");
        assert_eq!(found, wanted.expect("runs"), "{keys:?}");
        assert_eq!(graph.recordings(), recordings, "{keys:?}");
    }
}
