//! Kernels against the CPU's own loops, on the same random windows: on a GPU where there is one, otherwise on the host emulating one.

mod attention;
mod attention_backward;
mod bytes;
mod ceilings;
mod compile;
mod decode;
mod flash;
mod flash_backward;
mod gradients;
mod index_loss;
mod indexing;
mod instructions;
mod logits;
mod near;
mod parameters;
mod pointwise;
mod products;
mod prologue;
mod random;
mod sass;
mod tensor_core;
mod topk;

use std::any::TypeId;
use std::ops::Range;
use std::sync::OnceLock;

use half::bf16;

use super::driver::Emulator;
use super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement, CudaOptions};
use crate::backend::{Backend, Strided};
use crate::cpu::CpuElement;
use crate::element::Scalar;
use crate::segments::Segment;
use crate::{Cpu, CpuDevice};

/// The device, with kernels for any sizes.
pub(super) fn device() -> CudaDevice {
    let device = CudaDevice::shared();
    device.provide(mla_codegen::cuda::kernel_text);
    device
}

/// One that runs kernels that are written for Hopper: a GPU where there is such a one, otherwise the host emulating one.
pub(super) fn hopper() -> CudaDevice {
    static DEVICE: OnceLock<CudaDevice> = OnceLock::new();
    let own = || own_hopper(CudaOptions::default());
    let shared = device();
    match shared.is_hopper() {
        true => shared,
        false => DEVICE.get_or_init(own).clone(),
    }
}

/// The same, which no other test uses.
pub(super) fn own_hopper(options: CudaOptions) -> CudaDevice {
    let any = CudaDevice::any(options);
    let device = match any.is_hopper() {
        true => any,
        false => CudaDevice::emulated_hopper(options),
    };
    device.provide(mla_codegen::cuda::kernel_text);
    device
}

/// The same. The host does copies and products late in every other case: then those have no results who did not wait for them.
pub(super) fn hopper_for(case: usize) -> CudaDevice {
    let device = hopper();
    if !device.is_emulated() || case.is_multiple_of(2) {
        return device;
    }
    let emulator = Emulator::of_late_hopper(case as u32);
    let device = CudaDevice::over(Box::new(emulator), CudaOptions::default());
    device.provide(mla_codegen::cuda::kernel_text);
    device
}

/// The device, where it is a Hopper GPU: for what takes the host too long.
pub(super) fn hopper_gpu() -> Option<CudaDevice> {
    let device = device();
    if device.is_hopper() {
        return Some(device);
    }
    eprintln!("skipped: {device:?} is no Hopper GPU");
    None
}

/// One whose kernels check indices that come from tables.
pub(super) fn checked_device() -> CudaDevice {
    let device = CudaDevice::any(CudaOptions {
        checked: true,
        ..CudaOptions::default()
    });
    device.provide(mla_codegen::cuda::kernel_text);
    device
}

/// One on which a row's results do not depend on the rows beside it.
pub(super) fn batch_invariant_device() -> CudaDevice {
    let device = CudaDevice::any(CudaOptions {
        batch_invariant: true,
        ..CudaOptions::default()
    });
    device.provide(mla_codegen::cuda::kernel_text);
    device
}

pub(super) const CPU: CpuDevice = CpuDevice::new();

/// A segment of a sequence, whose last tokens ask.
pub(super) fn segment(sequence: usize, queries: Range<usize>, keys: Range<usize>) -> Segment {
    Segment {
        shift: keys.len() as i64 - queries.len() as i64,
        queries,
        keys,
        first_query: 0,
        first_key: 0,
        sequence,
        line: (0, 0),
    }
}

/// The same random numbers in every run.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new() -> Self {
        Self(1)
    }

    /// A number of a range, by SplitMix64.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }

    /// A number between -2 and 2.
    pub(super) fn real(&mut self) -> f64 {
        self.below(1 << 20) as f64 / f64::from(1 << 18) - 2.0
    }

    pub(super) fn values<S: Scalar>(&mut self, len: usize) -> Vec<S> {
        (0..len).map(|_| S::from_f64(self.real())).collect()
    }
}

/// Values in the memory of both.
pub(super) struct Both<S> {
    pub(super) cpu: Vec<S>,
    pub(super) cuda: CudaBuffer<S>,
}

impl<S: Scalar> Both<S> {
    pub(super) fn of(values: Vec<S>) -> Self {
        let cuda = device().upload(&values).expect("room on the device");
        Self { cpu: values, cuda }
    }

    pub(super) fn random(dice: &mut Dice, len: usize) -> Self {
        Self::of(dice.values(len))
    }
}

/// A window's shape and place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
    /// From one head to the next.
    pub(super) head_stride: usize,
    /// From one row to the next.
    pub(super) row_stride: usize,
    pub(super) offset: usize,
}

impl Shape {
    /// Some rows and heads of `width`, with gaps between.
    pub(super) fn random(dice: &mut Dice, rows: usize, heads: usize, width: usize) -> Self {
        let head_stride = width + dice.below(4);
        Self {
            rows,
            heads,
            width,
            head_stride,
            row_stride: head_stride * heads + dice.below(4),
            offset: dice.below(5),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.offset + self.rows * self.row_stride
    }

    pub(super) fn of<B: Backend, S: Scalar>(self, buffer: &B::Buffer<S>) -> Strided<'_, B, S> {
        Strided {
            buffer,
            offset: self.offset,
            rows: self.rows,
            heads: self.heads,
            width: self.width,
            row_stride: self.row_stride,
            head_stride: self.head_stride,
        }
    }
}

/// How far two results may be apart, beside their largest value: some roundings of the type.
pub(super) fn tolerance<S: Scalar>() -> f64 {
    match S::NAME {
        "f64" => 1e-13,
        "f32" => 1e-5,
        _ => 2e-2,
    }
}

#[track_caller]
pub(super) fn assert_same<S: Scalar>(what: &str, found: &CudaBuffer<S>, wanted: &[S]) {
    let found = device().download(found).expect("values");
    assert_near::<S>(what, &found, wanted);
}

#[track_caller]
pub(super) fn assert_near<S: Scalar>(what: &str, found: &[S], wanted: &[S]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let finite = wanted
        .iter()
        .map(|value| value.to_f64().abs())
        .filter(|value| value.is_finite());
    // What is made of numbers around 1 and cancels to 0 has their roundings
    let largest = finite.fold(1e-2, f64::max);
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let (found, wanted) = (found.to_f64(), wanted.to_f64());
        let same = found == wanted || (found.is_nan() && wanted.is_nan());
        assert!(
            same || (found - wanted).abs() <= tolerance::<S>() * largest,
            "{what} in {}: value {i} is {found}, wanted {wanted}",
            S::NAME
        );
    }
}

/// What both backends compute in.
pub(super) trait Number: CpuElement + CudaElement {}
impl<T: CpuElement + CudaElement> Number for T {}

/// What a type is tested with: the host, which compiles a text for each size and type and runs it slowly, has time for `few` where it isn't f32.
pub(super) fn of_type<T: Number, S>(few: usize, all: &[S]) -> &[S] {
    match device().is_emulated() && TypeId::of::<T>() != TypeId::of::<f32>() {
        true => &all[..few],
        false => all,
    }
}

/// Runs a test in each number type.
macro_rules! in_each_type {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            cases::$name::<f64>();
            cases::$name::<f32>();
            cases::$name::<half::bf16>();
        })+
    };
}
pub(super) use in_each_type;

#[test]
fn a_graph_runs_again_with_other_values() {
    let device = device();
    let mut graph = super::CudaGraph::new(&device);
    let doubled = |values: &[f32]| {
        // Room that a command has used is not where a later upload goes: that comes before all commands
        let x = device.upload(&vec![100.0; values.len()])?;
        <Cuda<f32> as Backend>::round(&device, x).map(drop)?;
        let mut x = device.upload(values)?;
        <Cuda<f32> as Backend>::scale(&device, &mut x, 2.0)?;
        Ok(x)
    };
    for (values, recordings) in [
        (vec![1.0, 2.0], 1),
        (vec![3.0, 4.0], 1),
        (vec![5.0], 2),
        (vec![6.0], 2),
    ] {
        let x = graph.run(|| doubled(&values)).expect("it runs");
        let wanted: Vec<f32> = values.iter().map(|x| 2.0 * x).collect();
        assert_eq!(device.download(&x).expect("values"), wanted);
        assert_eq!(graph.recordings(), recordings, "{values:?}");
    }
}

#[test]
fn what_a_graph_would_wait_for_is_refused() {
    let device = device();
    let x = device.upload(&[bf16::ONE]).expect("room");
    let error = super::CudaGraph::new(&device)
        .run(|| device.download(&x))
        .expect_err("a wait");
    assert!(error.to_string().contains("a graph can't wait"), "{error}");
    assert_eq!(device.download(&x).expect("usable afterwards"), [bf16::ONE]);
}

#[test]
fn kernels_that_nobody_brought_are_named() {
    let device = CudaDevice::emulated(CudaOptions::default());
    let mut x = device.upload(&[1.0_f32]).expect("room");
    let error = <Cuda<f32> as Backend>::silu(&device, &mut x).expect_err("no kernels");
    assert!(
        error.to_string().contains("no kernels `pointwise`"),
        "{error}"
    );
    assert!(error.to_string().contains("sm_90a"), "{error}");
}

#[test]
fn an_index_out_of_range_is_reported_and_the_device_goes_on() {
    use crate::backend::Place;
    let device = checked_device();
    let cache = device.upload(&[1.0_f32, 2.0]).expect("room");
    let place = Place {
        stride: 1,
        offset: 0,
        head_stride: 0,
    };
    let error =
        <Cuda<f32> as Backend>::gather(&device, &cache, &[1, 7], place, 1).expect_err("slot 7");
    assert!(
        error.to_string().contains("index 7 is not below 2"),
        "{error}"
    );
    let found = <Cuda<f32> as Backend>::gather(&device, &cache, &[1, 0], place, 1).expect("slots");
    assert_eq!(device.download(&found).expect("values"), [2.0, 1.0]);
}
