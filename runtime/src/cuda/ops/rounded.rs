//! Attention whose output is wanted in elements. Kernels with tensor cores write them; what another kernel gives is rounded behind it.

use super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::attention::{by_any_gpu, by_tensor_cores};
use super::decode::{self, Codes};
use super::output::Output;
use super::pointwise::{end_lists, narrow_to};
use super::widened::Widened;
use crate::backend::{Attention, BytesAttention, Chosen};
use crate::cache::{ByteFormat, EntryShape};
use crate::element::Scalar;
use crate::error::Result;

/// Attention over all segments, rounded to elements.
pub(super) fn attend_rounded<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
) -> Result<CudaBuffer<T>> {
    let out = device.room(attention.q.rows * attention.q.heads * attention.v.width)?;
    attend_to(device, attention, &out)?;
    Ok(out)
}

/// The same, to elements that there are, all of which are written.
pub(crate) fn attend_to<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    out: &CudaBuffer<T>,
) -> Result<()> {
    let lse = device.room(attention.q.rows * attention.q.heads)?;
    attend_with_lse(device, attention, out, &lse)
}

/// The same, and the log-sum-exp of each row and head.
pub(crate) fn attend_with_lse<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    out: &CudaBuffer<T>,
    lse: &CudaBuffer<Accum<T>>,
) -> Result<()> {
    let lines = attention.q.rows * attention.q.heads;
    let max_logit = device.room(lines)?;
    let rounded = Output::rounded(out, [lse, &max_logit]);
    if lines == 0 || by_tensor_cores(device, attention, rounded)? {
        return Ok(());
    }
    let wide = device.room(lines * attention.v.width)?;
    by_any_gpu(device, attention, [&wide, lse, &max_logit])?;
    narrow_to::<T>(device, &wide, out)
}

/// Attention to the first entries of each list, rounded to elements that there are. `counts`: `[queries]`, how many of its list those are; `None`: all.
pub(crate) fn attend_counted_to<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    counts: Option<&CudaBuffer<i32>>,
    out: &CudaBuffer<T>,
) -> Result<()> {
    let (Some(counts), Some(chosen)) = (counts, attention.selection) else {
        return attend_to(device, attention, out);
    };
    let lines = attention.q.rows * attention.q.heads;
    let of_lines = [device.room(lines)?, device.room(lines)?];
    let rounded = Output::rounded(out, of_lines.each_ref());
    if lines == 0 || decode::attend_to_lists(device, attention, Some(counts), rounded)? {
        return Ok(());
    }
    let indices = &end_lists(device, chosen, counts)?;
    let attention = Attention {
        selection: Some(Chosen { indices, ..chosen }),
        ..*attention
    };
    attend_to(device, &attention, out)
}

/// Absorbed attention over a cache of bytes, rounded to elements, where there is a kernel that reads them.
pub(super) fn attend_bytes_rounded<T: CudaElement, F: ByteFormat>(
    device: &CudaDevice,
    format: F,
    bytes: &CudaBuffer<u8>,
    shape: EntryShape,
    attention: &BytesAttention<'_, Cuda<T>>,
) -> Result<Option<CudaBuffer<T>>> {
    let lines = attention.q.rows * attention.q.heads;
    let Some(codes) = Codes::of(format.coding(), bytes, shape).filter(|_| lines > 0) else {
        return Ok(None);
    };
    if let Some(widened) = Widened::of(device, format, bytes, shape, attention)? {
        return attend_rounded(device, &widened.asked(attention)).map(Some);
    }
    let given = decode::attend_codes(device, &codes, attention, None, || {
        let out = device.room(lines * shape.latent)?;
        let of_lines = [device.room(lines)?, device.room(lines)?];
        let output = Output::rounded(&out, of_lines.each_ref());
        Ok(((out, of_lines), output))
    })?;
    Ok(given.map(|(out, _)| out))
}

/// The same, to elements that there are, all of which are written; says whether there is such a kernel, and does nothing where there is none. `counts`: entries
/// of each list of chosen keys that count.
pub(crate) fn attend_bytes_to<T: CudaElement, F: ByteFormat>(
    device: &CudaDevice,
    format: F,
    bytes: &CudaBuffer<u8>,
    shape: EntryShape,
    attention: &BytesAttention<'_, Cuda<T>>,
    counts: Option<&CudaBuffer<i32>>,
    out: &CudaBuffer<T>,
) -> Result<bool> {
    let lines = attention.q.rows * attention.q.heads;
    let Some(codes) = Codes::of(format.coding(), bytes, shape) else {
        return Ok(false);
    };
    if lines == 0 {
        return Ok(true);
    }
    if let Some(widened) = Widened::of(device, format, bytes, shape, attention)? {
        attend_counted_to(device, &widened.asked(attention), counts, out)?;
        return Ok(true);
    }
    let done = decode::attend_codes(device, &codes, attention, counts, || {
        let of_lines = [device.room(lines)?, device.room(lines)?];
        let output = Output::rounded(out, of_lines.each_ref());
        Ok((of_lines, output))
    })?;
    Ok(done.is_some())
}
