//! Selections that are scored by these kernels, against plain loops.

use super::*;

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

/// What queries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Numbers.
    Numbers,
    /// Numbers that are rounded as keys are, and that this changes nothing of.
    Codes,
    /// Others.
    Rounded,
}

/// What is chosen of a cache of codes, and what plain loops choose of the numbers that those say.
fn check_codes<F: ByteFormat>(format: F, requests: &Requests, queries: Asks) {
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
    let off = if queries == Asks::Rounded { 0.4 } else { 0.0 };
    let mut q: Vec<bf16> = (0..of_q.len())
        .map(|_| bf16::from_f64(whole(dice).clamp(-6.0, 6.0) + off))
        .collect();
    // The scale of 7 is a power of two
    q.iter_mut()
        .step_by(width)
        .for_each(|first| *first = bf16::from_f64(7.0));
    let weights: Vec<f32> = (0..of_q.rows * heads).map(|_| whole(dice) as f32).collect();
    let (sights, pages) = (requests.sights(), requests.pages().expect("pages"));
    let given = q.clone();
    if queries == Asks::Rounded {
        for head in q.chunks_mut(width) {
            let numbers: Vec<f32> = head.iter().map(|x| x.to_f32()).collect();
            let (mut codes, mut scales) = (vec![0; layout.data], vec![0; layout.scales]);
            format.encode(&numbers, &[], &mut codes, &mut scales);
            let mut said = vec![0.0; width];
            format.decode(&codes, &scales, &mut said, &mut []);
            for (number, said) in head.iter_mut().zip(said) {
                *number = bf16::from_f32(said);
            }
        }
        assert!(q != given);
    }
    let (on_q, on_bytes) = (device.upload(&given), device.upload(&bytes));
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
        rounding: (queries != Asks::Numbers).then_some(QueryRounding {
            rotation: None,
            transformed: false,
        }),
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
    let found = device.download(&found).expect("values");
    if queries != Asks::Rounded || device.is_emulated() {
        assert_eq!(found, wanted, "{queries:?}");
        return;
    }
    // Tensor cores add codes of many sizes less exactly
    let same = found.iter().filter(|key| wanted.contains(key)).count();
    assert!(same * 10 >= wanted.len() * 9, "{same} of {}", wanted.len());
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
        for queries in [Asks::Numbers, Asks::Codes, Asks::Rounded] {
            check_codes(IndexFp8::<PowerOfTwo>::default(), &requests, queries);
            check_codes(IndexFp8::<AnyScale>::default(), &requests, queries);
        }
    }
}

#[test]
fn a_recorded_step_chooses_among_more_keys() {
    let device = without_scores();
    let dice = &mut Dice::new();
    let [heads, width] = SHAPE;
    let mut graph = crate::CudaGraph::new(&device);
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
