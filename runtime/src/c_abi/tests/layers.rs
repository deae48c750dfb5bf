//! Layers through the ABI against the same layers through Rust, bit for bit.

use std::ptr;

use super::super::{CBatch, Cache, Layer, Step};
use super::sample::{HIDDEN_SIZE, SampleAttention, TENSORS};
use super::*;
use crate::{Batch, Extras, Forward, Load, Mask, NoProbe, Sequence, Tensor, Weights};
use crate::{Decode, Prefill};

/// From one row to the next in strided tensors.
const STRIDE: usize = HIDDEN_SIZE + 3;
pub(super) const ROWS: usize = 7;
/// Two sequences.
const ENDS: [u32; 3] = [0, 4, 7];
const POSITIONS: [u32; ROWS] = [0, 1, 2, 3, 0, 1, 2];

/// The layer of both, whose tensors the ABI gets from the device: matrices transposed, so that they come with strides.
pub(super) fn layers(device: &Device) -> (SampleAttention<B>, *const Layer<Exported>) {
    let values = |i: usize, shape: &[usize]| numbers(shape.iter().product(), 100 + i as u64);
    let tensors = TENSORS.iter().enumerate().map(|(i, tensor)| {
        (
            tensor.name,
            (tensor.shape.to_vec(), values(i, tensor.shape)),
        )
    });
    let weights = Weights::from_tensors(tensors).expect("weights");
    let ours = Load::<B>::load(&weights, "", device.own()).expect("a layer");

    let mut buffers = Vec::new();
    let mut named = Vec::new();
    for (i, tensor) in TENSORS.iter().enumerate() {
        let mut values = values(i, tensor.shape);
        let mut strides = vec![1];
        if let &[rows, columns] = tensor.shape {
            values = (0..values.len())
                .map(|at| values[at % rows * columns + at / rows])
                .collect();
            strides = vec![1, rows];
        }
        let buffer = device.put(&values);
        named.push((
            c_text(tensor.name),
            described(&buffer, "f32", tensor.shape, &strides),
        ));
        buffers.push(buffer);
    }
    let tensors: Vec<CNamedTensor> = named
        .iter()
        .map(|(name, made)| CNamedTensor {
            name: name.as_ptr(),
            tensor: made.tensor,
        })
        .collect();
    let mut layer = ptr::null();
    let count = tensors.len() as i64;
    // SAFETY: the tensors are described as they are
    worked(unsafe {
        mla_layer_from_tensors(device.0, tensors.as_ptr(), count, STREAM, &mut layer)
    });
    (ours, layer)
}

/// Rows with gaps behind them.
fn spread(values: &[f32]) -> Vec<f32> {
    let rows = values.chunks_exact(HIDDEN_SIZE);
    rows.flat_map(|row| [row, &[f32::NAN; 3]].concat())
        .collect()
}

/// The rows, and whether the gaps are as they were.
fn gathered(values: &[f32]) -> (Vec<u32>, bool) {
    let rows = values.chunks_exact(STRIDE);
    let gaps = rows
        .clone()
        .all(|row| row[HIDDEN_SIZE..].iter().all(|gap| gap.is_nan()));
    (
        rows.flat_map(|row| row[..HIDDEN_SIZE].iter().map(|x| x.to_bits()))
            .collect(),
        gaps,
    )
}

fn strided(buffer: &CudaBuffer<f32>, rows: usize) -> Described {
    described(buffer, "f32", &[rows, HIDDEN_SIZE], &[STRIDE, 1])
}

fn bits(tensor: &Tensor<B>) -> Vec<u32> {
    let values = tensor.to_vec().expect("values");
    values.into_iter().map(f32::to_bits).collect()
}

fn forward(layer: &SampleAttention<B>, device: &Device, hidden: &[f32]) -> Vec<u32> {
    let hidden = Tensor::from_vec(device.own(), hidden.to_vec(), HIDDEN_SIZE).expect("rows");
    let mask = Mask::cu_seqlens(&ENDS);
    let (mut extras, mut probe) = (Extras::default(), NoProbe);
    let out = layer.forward_erased(&hidden, &POSITIONS, &mask, &mut extras, &mut probe);
    bits(&out.expect("an output"))
}

#[test]
fn whole_sequences_with_strides() {
    let device = Device::open();
    let (ours, layer) = layers(&device);
    let hidden = numbers(ROWS * HIDDEN_SIZE, 1);
    let wanted = forward(&ours, &device, &hidden);
    let x = device.put(&spread(&hidden));
    let out = device.put(&[f32::NAN; ROWS * STRIDE]);
    let (x, y) = (strided(&x, ROWS), strided(&out, ROWS));
    // SAFETY: everything is as it is described
    worked(unsafe {
        let (positions, ends) = (POSITIONS.as_ptr(), ENDS.as_ptr());
        mla_forward(layer, STREAM, &x.tensor, positions, ends, 2, &y.tensor)
    });
    let (found, gaps) = gathered(&device.get(&out));
    assert_eq!(found, wanted);
    assert!(gaps, "something was written between rows");
    // SAFETY: made above
    worked(unsafe { mla_layer_free(layer) });
}

#[test]
fn a_step_runs_again_with_what_its_tensors_hold_then() {
    let device = Device::open();
    let (ours, layer) = layers(&device);
    let x = device.put(&[0_f32; ROWS * STRIDE]);
    let out = device.put(&[f32::NAN; ROWS * STRIDE]);
    let (given, wanted_at) = (strided(&x, ROWS), strided(&out, ROWS));
    let mut step: *const Step = ptr::null();
    // SAFETY: everything is as it is described
    worked(unsafe {
        let (positions, ends) = (POSITIONS.as_ptr(), ENDS.as_ptr());
        mla_step_forward(
            layer,
            &given.tensor,
            positions,
            ends,
            2,
            &wanted_at.tensor,
            &mut step,
        )
    });
    // The step keeps what it needs
    // SAFETY: made above
    worked(unsafe { mla_layer_free(layer) });
    assert!(
        device.get(&out).iter().all(|x| x.is_nan()),
        "it ran when it was made"
    );
    for seed in [5, 6] {
        let hidden = numbers(ROWS * HIDDEN_SIZE, seed);
        device.overwrite(&x, &spread(&hidden));
        // SAFETY: the tensors are still there
        worked(unsafe { mla_step_run(step, STREAM) });
        let (found, gaps) = gathered(&device.get(&out));
        assert_eq!(found, forward(&ours, &device, &hidden), "seed {seed}");
        assert!(gaps);
    }
    // SAFETY: made above
    worked(unsafe { mla_step_free(step) });
}

/// Two requests of 3 and 6 cached tokens, with some new ones each.
struct Requests {
    cached: [i64; 2],
    added: [i64; 2],
    counts: [i64; 2],
    blocks: [u32; 5],
}

impl Requests {
    fn new(cached: [i64; 2], added: [i64; 2]) -> Self {
        Self {
            cached,
            added,
            counts: [2, 3],
            blocks: [4, 1, 0, 5, 2],
        }
    }

    fn of_c(&self) -> CBatch {
        CBatch {
            requests: 2,
            cached: self.cached.as_ptr(),
            added: self.added.as_ptr(),
            block_counts: self.counts.as_ptr(),
            blocks: self.blocks.as_ptr(),
            positions: ptr::null(),
        }
    }

    fn of_rust(&self) -> Batch {
        let blocks = [&self.blocks[..2], &self.blocks[2..]];
        let sequences = [0, 1].map(|i| Sequence {
            cached: self.cached[i] as usize,
            new: self.added[i] as usize,
            blocks: blocks[i],
        });
        Batch::new(&sequences).expect("a batch")
    }

    fn rows(&self) -> usize {
        self.added.iter().sum::<i64>() as usize
    }
}

#[test]
fn cached_phases() {
    let device = Device::open();
    let (ours, layer) = layers(&device);
    let mut cache = sample::Cache::<B>::with_blocks(device.own(), 6, 5).expect("a cache");
    let mut c_cache: *const Cache<Exported> = ptr::null();
    // SAFETY: it may be written
    worked(unsafe { mla_cache_new(device.0, 6, 5, &mut c_cache) });
    let (mut extras, mut probe) = (Extras::default(), NoProbe);

    let prompts = Requests::new([0, 0], [3, 6]);
    let hidden = numbers(prompts.rows() * HIDDEN_SIZE, 7);
    let x = Tensor::from_vec(device.own(), hidden.clone(), HIDDEN_SIZE).expect("rows");
    let batch = prompts.of_rust();
    let wanted = ours.prefill_erased::<f32, f32>(&mut cache, &batch, &x, &mut extras, &mut probe);
    let (x, out) = (device.put(&hidden), device.put(&vec![0_f32; hidden.len()]));
    let shape = [prompts.rows(), HIDDEN_SIZE];
    // SAFETY: everything is as it is described
    worked(unsafe {
        let (x, y) = (tight(&x, &shape), tight(&out, &shape));
        mla_prefill(
            layer,
            c_cache,
            STREAM,
            &prompts.of_c(),
            &x.tensor,
            &y.tensor,
        )
    });
    let found: Vec<u32> = device.get(&out).iter().map(|x| x.to_bits()).collect();
    assert_eq!(found, bits(&wanted.expect("a prompt")));

    // A step of decode, at once and written down
    let steps = Requests::new([3, 6], [1, 1]);
    let hidden = numbers(2 * HIDDEN_SIZE, 8);
    let x = Tensor::from_vec(device.own(), hidden.clone(), HIDDEN_SIZE).expect("rows");
    let batch = steps.of_rust();
    let wanted = ours.decode_erased::<f32, f32>(&mut cache, &batch, &x, &mut extras, &mut probe);
    let wanted = bits(&wanted.expect("a step"));
    let (x, out) = (device.put(&hidden), device.put(&[0_f32; 2 * HIDDEN_SIZE]));
    let shape = [2, 1, HIDDEN_SIZE];
    let mut step: *const Step = ptr::null();
    for (written_down, in_place) in [(false, false), (true, false), (false, true), (true, true)] {
        device.overwrite(&x, &hidden);
        device.overwrite(&out, &[0_f32; 2 * HIDDEN_SIZE]);
        let out = if in_place { &x } else { &out };
        let (x, y) = (tight(&x, &shape), tight(out, &shape));
        let batch = steps.of_c();
        // SAFETY: everything is as it is described
        unsafe {
            if written_down {
                worked(mla_step_decode(
                    layer, c_cache, &batch, &x.tensor, &y.tensor, &mut step,
                ));
                worked(mla_step_run(step, STREAM));
                worked(mla_step_free(step));
            } else {
                worked(mla_decode(
                    layer, c_cache, STREAM, &batch, &x.tensor, &y.tensor,
                ));
            }
        }
        let found: Vec<u32> = device.get(out).iter().map(|x| x.to_bits()).collect();
        assert_eq!(
            found, wanted,
            "written down: {written_down}, in place: {in_place}"
        );
    }
    // SAFETY: made above
    unsafe {
        worked(mla_cache_free(c_cache));
        worked(mla_layer_free(layer));
    }
}

#[test]
fn a_library_says_what_it_holds() {
    let mut found = std::mem::MaybeUninit::uninit();
    // SAFETY: it may be written, and was
    let found = unsafe {
        worked(mla_describe(found.as_mut_ptr()));
        found.assume_init()
    };
    // SAFETY: a name ends with a 0
    let name = unsafe { CStr::from_ptr(found.name) };
    assert_eq!(name.to_str(), Ok("SampleAttention"));
    assert_eq!(
        (found.hidden_size, found.dtype, found.phases),
        (HIDDEN_SIZE as i64, 0, 7)
    );
}

#[test]
fn arguments_that_are_seen_to_be_wrong_are_named() {
    let device = Device::open();
    let (_, layer) = layers(&device);
    let x = device.put(&[0_f32; ROWS * STRIDE]);
    let good = tight(&x, &[ROWS, HIDDEN_SIZE]);
    let forward = |hidden: *const CTensor, positions: *const u32, out: *const CTensor| {
        // SAFETY: what is null or wrong is refused before it is used
        unsafe { mla_forward(layer, STREAM, hidden, positions, ptr::null(), 0, out) }
    };
    let fine = POSITIONS.as_ptr();
    refused(
        forward(ptr::null(), fine, &good.tensor),
        &["`hidden`: is null"],
    );
    refused(
        forward(&good.tensor, ptr::null(), &good.tensor),
        &["`positions`: is null"],
    );
    refused(
        forward(&good.tensor, fine, ptr::null()),
        &["`out`: is null"],
    );
    let of = |change: &dyn Fn(&mut CTensor)| {
        let mut changed = good.tensor;
        change(&mut changed);
        changed
    };
    for (changed, parts) in [
        (
            of(&|x| x.data = ptr::null_mut()),
            ["`hidden`", "data is null"],
        ),
        (of(&|x| x.dtype = 1), ["`hidden`", "holds bf16, wanted f32"]),
        (of(&|x| x.dtype = 99), ["`hidden`", "dtype 99"]),
        (of(&|x| x.rank = -1), ["`hidden`", "rank -1"]),
        (of(&|x| x.rank = 1), ["`hidden`", "wanted 1 rows of 20"]),
        (
            of(&|x| x.shape = ptr::null()),
            ["`hidden.shape`", "is null"],
        ),
        (
            of(&|x| x.data = x.data.wrapping_byte_add(1)),
            ["`hidden`", "no multiple"],
        ),
    ] {
        refused(forward(&changed, fine, &good.tensor), &parts);
    }
    let wide = tight(&x, &[ROWS, HIDDEN_SIZE + 1]);
    refused(
        forward(&wide.tensor, fine, &good.tensor),
        &["`hidden`", "wanted 7 rows of 20"],
    );
    let short = tight(&x, &[ROWS - 1, HIDDEN_SIZE]);
    refused(
        forward(&good.tensor, fine, &short.tensor),
        &["`out`", "wanted 7 rows of 20"],
    );
    let across = described(&x, "f32", &[ROWS, HIDDEN_SIZE], &[1, ROWS]);
    refused(
        forward(&across.tensor, fine, &good.tensor),
        &["`hidden`", "side by side"],
    );
    let folded = described(&x, "f32", &[ROWS, HIDDEN_SIZE], &[0, 1]);
    refused(
        forward(&good.tensor, fine, &folded.tensor),
        &["`out`", "rows overlap"],
    );
    // SAFETY: as above
    refused(
        unsafe {
            mla_forward(
                ptr::null(),
                STREAM,
                &good.tensor,
                fine,
                ptr::null(),
                0,
                &good.tensor,
            )
        },
        &["`layer`: is null"],
    );
    // What the layer itself refuses keeps its message
    let ends = [0_u32, 9];
    // SAFETY: as above
    refused(
        unsafe {
            mla_forward(
                layer,
                STREAM,
                &good.tensor,
                fine,
                ends.as_ptr(),
                1,
                &good.tensor,
            )
        },
        &["`cu_seqlens` ends at 9, but there are 7 rows"],
    );
    // SAFETY: made by `layers`
    worked(unsafe { mla_layer_free(layer) });
}

#[test]
fn a_layer_wants_exactly_its_tensors() {
    let device = Device::open();
    let x = device.put(&[0_f32; 4]);
    let made = tight(&x, &[2, 2]);
    let name = c_text("stranger.weight");
    let tensor = CNamedTensor {
        name: name.as_ptr(),
        tensor: made.tensor,
    };
    let mut layer: *const Layer<Exported> = ptr::null();
    // SAFETY: the tensor is as it is described, and paths are texts or null
    unsafe {
        let status = mla_layer_from_tensors(device.0, &tensor, 1, STREAM, &mut layer);
        refused(
            status,
            &["missing `q_a_proj.weight`", "left over `stranger.weight`"],
        );
        assert!(layer.is_null());
        let path = c_text("/nowhere/at/all");
        let status = mla_layer_open(device.0, path.as_ptr(), c"".as_ptr(), &mut layer);
        refused(status, &["/nowhere/at/all"]);
        let status = mla_layer_open(device.0, ptr::null(), c"".as_ptr(), &mut layer);
        refused(status, &["`path`: is null"]);
        let status = mla_layer_open(device.0, path.as_ptr(), c"".as_ptr(), ptr::null_mut());
        refused(status, &["`layer`: is null"]);
        refused(mla_device_open(-7, &mut ptr::null()), &["`ordinal`: is -7"]);
        // Nothing is freed without complaint
        worked(mla_layer_free(ptr::null()));
    }
}
