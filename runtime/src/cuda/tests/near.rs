//! How near an answer in bf16 is to that in f64.

use half::bf16;

use super::{Cpu, Cuda, CudaBuffer, CudaDevice, Number};
use crate::backend::{AttentionParts, Backend};
use crate::element::Scalar;

/// Probabilities are rounded to bf16 before values are added: each line of `width` values of the output is as near as that. How much lines, of
/// their length, and logits may be off is given.
#[track_caller]
pub(super) fn assert_near(
    device: &CudaDevice,
    wanted: &AttentionParts<Cpu<f64>>,
    found: &AttentionParts<Cuda<bf16>>,
    width: usize,
    [line_off, off]: [f64; 2],
    what: &str,
) {
    let out = device.download(&found.out).expect("values");
    let out: Vec<f64> = out.into_iter().map(Scalar::to_f64).collect();
    assert_lines_near(&wanted.out, &out, width, line_off, what);
    for (part, found, wanted) in [
        ("lse", &found.lse, &wanted.lse),
        ("max", &found.max_logit, &wanted.max_logit),
    ] {
        let found = device.download(found).expect("values");
        for (line, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            let found = found.to_f64();
            let near = found == *wanted || (found - wanted).abs() <= off;
            assert!(near, "{part} {line}: {found} for {wanted} in {what}");
        }
    }
}

/// The same of an output alone.
#[track_caller]
pub(super) fn assert_lines_near(wanted: &[f64], found: &[f64], width: usize, off: f64, what: &str) {
    assert_eq!(wanted.len(), found.len(), "{what}");
    let lines = found.chunks(width).zip(wanted.chunks(width));
    for (line, (found, wanted)) in lines.enumerate() {
        let size: f64 = wanted.iter().map(|x| x * x).sum();
        let apart: f64 = found
            .iter()
            .zip(wanted)
            .map(|(x, y)| (x - y) * (x - y))
            .sum();
        // What is no number is not below either
        let near = apart.sqrt() <= off * size.sqrt();
        assert!(near, "line {line}: {apart} of {size} in {what}");
    }
}

/// An output that was rounded where it was computed, against the one that is rounded behind it: the same bits.
#[track_caller]
pub(super) fn assert_rounded<T: Number>(
    device: &CudaDevice,
    whole: AttentionParts<Cuda<T>>,
    found: &CudaBuffer<T>,
    what: &str,
) {
    let wanted = Cuda::<T>::round(device, whole.out).expect("runs");
    let wanted = device.download(&wanted).expect("values");
    assert!(wanted.iter().any(|x| x.to_f64() != 0.0), "{what}");
    assert!(device.download(found).expect("values") == wanted, "{what}");
}
