//! The ABI as a C program uses it: on a GPU where there is one, otherwise on the host emulating one, where the device's memory is the
//! host's.

mod capture;
mod chunked;
mod layers;
mod logits;
mod operations;
mod row_gradients;

#[allow(dead_code, reason = "the other tests of this crate use all of it")]
#[path = "../../../tests/sample/mod.rs"]
mod sample;

use std::ffi::{CStr, CString, c_void};
use std::ptr;

use bytemuck::Pod;

use super::tensor::DTYPES;
use super::{CNamedTensor, CTensor};
use crate::cuda::{Cuda, CudaBuffer, CudaDevice, ForeignStream};
use crate::element::Scalar;

type B = Cuda<f32>;

/// Whatever kernels there are, made when they are asked for.
fn with_any_kernels(device: &CudaDevice) -> crate::Result<()> {
    device.provide(mla_codegen::cuda::kernel_text);
    Ok(())
}

crate::export_layer!(sample::SampleAttention<crate::Cuda<f32>> as "SampleAttention" in f32: forward, cache, prefill, decode;
    prepared by with_any_kernels);

use mla_exported::Exported;

/// The default stream.
const STREAM: *mut c_void = ptr::null_mut();

/// A library's device.
struct Device(*const super::Device<Exported>);

impl Device {
    fn open() -> Self {
        let ordinal = if CudaDevice::gpu(0).is_ok() { 0 } else { -1 };
        let mut device = ptr::null();
        // SAFETY: it may be written
        worked(unsafe { mla_device_open(ordinal, &mut device) });
        Self(device)
    }

    /// The same one, as Rust has it.
    fn own(&self) -> &CudaDevice {
        // SAFETY: it is not freed before `self` is dropped
        unsafe { &(*self.0).device }
    }

    /// Values in its memory, once they are there.
    fn put<S: Pod>(&self, values: &[S]) -> CudaBuffer<S> {
        let buffer = self.own().upload(values).expect("room");
        self.own().synchronize().expect("an upload");
        buffer
    }

    /// Overwrites values.
    fn overwrite<S: Pod>(&self, buffer: &CudaBuffer<S>, values: &[S]) {
        let new = self.put(values);
        self.own().copy_to(&new, buffer).expect("a copy");
        self.own().synchronize().expect("a copy");
    }

    /// Values, once the default stream has come to its end.
    fn get<S: Pod>(&self, buffer: &CudaBuffer<S>) -> Vec<S> {
        let download = || self.own().download(buffer);
        // SAFETY: there is a default stream
        unsafe { self.own().between(ForeignStream(0), download) }.expect("values")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: opened in `open`
        worked(unsafe { mla_device_free(self.0) });
    }
}

/// A tensor as C has it, and what it points to.
struct Described {
    tensor: CTensor,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

fn described<S: Pod>(
    buffer: &CudaBuffer<S>,
    dtype: &str,
    shape: &[usize],
    strides: &[usize],
) -> Described {
    let signed = |sizes: &[usize]| sizes.iter().map(|&size| size as i64).collect::<Vec<_>>();
    let known = DTYPES.iter().position(|&(name, _)| name == dtype);
    let mut made = Described {
        tensor: CTensor {
            data: buffer.at() as usize as *mut c_void,
            dtype: known.expect("a number type") as i32,
            rank: shape.len() as i32,
            shape: ptr::null(),
            strides: ptr::null(),
        },
        shape: signed(shape),
        strides: signed(strides),
    };
    made.tensor.shape = made.shape.as_ptr();
    if !strides.is_empty() {
        made.tensor.strides = made.strides.as_ptr();
    }
    made
}

/// A tensor without gaps.
fn tight<S: Scalar>(buffer: &CudaBuffer<S>, shape: &[usize]) -> Described {
    described(buffer, S::NAME, shape, &[])
}

#[track_caller]
fn worked(status: i32) {
    assert_eq!(status, 0, "{}", message());
}

/// Asserts that a call was refused with a message that has these parts.
#[track_caller]
fn refused(status: i32, parts: &[&str]) {
    assert_ne!(status, 0, "wanted to be refused: {parts:?}");
    for part in parts {
        assert!(message().contains(part), "{}: no {part}", message());
    }
}

fn message() -> String {
    // SAFETY: it ends with a 0 and is the thread's own
    let message = unsafe { CStr::from_ptr(mla_last_error()) };
    message.to_string_lossy().into_owned()
}

/// Numbers between -1 and 1, the same in every run.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    crate::weights::generator::Recipe::for_hidden_states(seed).values("numbers", count)
}

/// Names for C, kept.
fn c_text(text: &str) -> CString {
    CString::new(text).expect("no 0 inside")
}
