//! Absorbed queries and the entries of a latent cache, as callers give them.

use super::fault::Fault;
use super::operations::check_out;
use super::pointers::named;
use super::step::Step;
use super::tensor::{CTensor, Given};
use crate::Softmax;
use crate::attention::narrowed;
use crate::backend::{Attention, BytesAttention, Chosen};
use crate::cache::{AnyScale, ByteFormat, EntryShape, Fp8DsMla};
use crate::cuda::{Cuda, CudaBuffer, CudaDevice, CudaElement, attend_bytes_to, attend_counted_to};
use crate::segments::Segments;

/// How many entries of each list count, where the caller says so.
///
/// # Safety
/// `mla.h`'s contract.
pub(super) unsafe fn counts_of(
    counts: *const CTensor,
    device: &CudaDevice,
    rows: usize,
) -> Result<Option<CudaBuffer<i32>>, Fault> {
    if counts.is_null() {
        return Ok(None);
    }
    // SAFETY: this function's contract
    let counts = unsafe { Given::read("counts", counts)? };
    counts.of_type("i32")?;
    counts.without_gaps()?;
    if counts.span != rows {
        return Err(counts.refused(format!(
            "has shape {:?}, wanted a count for each of {rows} queries",
            counts.shape
        )));
    }
    // SAFETY: the caller's memory is there whenever the step runs, as `mla.h` demands
    Ok(Some(unsafe {
        CudaBuffer::borrowed(device, counts.at, counts.span)
    }))
}

/// Lists of chosen entries, and where some of them do not count, how many do.
pub(super) type Lists<'a, T> = (Chosen<'a, Cuda<T>>, Option<&'a CudaBuffer<i32>>);

/// What entries of a latent cache are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// Elements of the layer.
    Elements,
    /// Bytes, as [`Fp8DsMla`] lays them out.
    DsMla,
}

/// Absorbed queries, the entries of a latent cache, and where the result goes.
pub(super) struct Latents {
    pub(super) q: Given,
    pub(super) entries: Given,
    pub(super) stored: Stored,
    pub(super) out: Given,
    latent: usize,
}

impl Latents {
    /// # Safety
    /// `mla.h`'s contract.
    pub(super) unsafe fn read<T: CudaElement>(
        q: *const CTensor,
        name: &str,
        entries: *const CTensor,
        latent: i64,
        out: *const CTensor,
    ) -> Result<Self, Fault> {
        // SAFETY: this function's contract, here and below
        let q = unsafe { Given::read("q", q)? };
        // SAFETY: as above
        let entries = unsafe { Given::read(name, entries)? };
        // SAFETY: as above
        let out = unsafe { Given::read("out", out)? };
        let (queries, keys) = (q.heads()?, entries.rows()?);
        let latent = named("latent", "it", latent)?;
        if latent == 0 || latent > queries.width {
            return Err(Fault::argument(
                "latent",
                format!(
                    "is {latent}, wanted 1 to the {} that a query is wide",
                    queries.width
                ),
            ));
        }
        for given in [&q, &out] {
            given.of_type(T::NAME)?;
        }
        let stored = match entries.dtype {
            "u8" => Stored::DsMla,
            _ => Stored::Elements,
        };
        let wanted = match stored {
            Stored::Elements => {
                entries.of_type(T::NAME)?;
                queries.width
            }
            Stored::DsMla => Fp8DsMla::<AnyScale>::layout(latent, queries.width - latent).data,
        };
        if keys.width != wanted {
            return Err(entries.refused(format!(
                "has shape {:?} of {}, wanted entries of {wanted}, as wide as a query of {}",
                entries.shape, entries.dtype, queries.width
            )));
        }
        check_out(&out, queries, latent)?;
        Ok(Self {
            q,
            entries,
            stored,
            out,
            latent,
        })
    }

    /// Writes attention to chosen entries of bytes down.
    pub(super) fn record_codes<T: CudaElement>(
        &self,
        device: &CudaDevice,
        segments: &Segments,
        (selection, counts): Lists<'_, T>,
        scale: f64,
    ) -> Result<Step, Fault> {
        self.entries.without_gaps()?;
        // SAFETY: the caller's memory is there whenever the step runs, as `mla.h` demands
        let (q, entries) = unsafe {
            (
                self.q.buffer::<T>(device),
                self.entries.buffer::<u8>(device),
            )
        };
        let queries = self.q.heads()?.of(&q);
        let (latent, rope) = (self.latent, queries.width - self.latent);
        let attention = BytesAttention {
            q: narrowed(queries, 0, latent),
            q_rope: narrowed(queries, latent, rope),
            segments,
            pages: None,
            selection: Some(selection),
            softmax: Softmax::scaled(scale).checked(queries.heads, segments)?,
        };
        let shape = EntryShape {
            latent,
            rope,
            blocks: 1,
            page: segments.keys(),
        };
        let format = Fp8DsMla::<AnyScale>::default();
        Step::record(device, Vec::new(), || {
            // SAFETY: as above
            let out = unsafe { self.out.buffer::<T>(device) };
            match attend_bytes_to(device, format, &entries, shape, &attention, counts, &out)? {
                true => Ok(()),
                false => Err(self.entries.refused(
                    "holds entries of bytes: of those the chosen are read by a Hopper GPU, in a library in bf16 and for latents of 512",
                )),
            }
        })
    }

    /// Writes attention to chosen entries of elements down.
    pub(super) fn record_lists<T: CudaElement>(
        &self,
        device: &CudaDevice,
        segments: &Segments,
        (selection, counts): Lists<'_, T>,
        scale: f64,
    ) -> Result<Step, Fault> {
        self.asked(device, segments, scale, |attention| {
            let attention = Attention {
                selection: Some(selection),
                ..attention
            };
            Step::record(device, Vec::new(), || {
                // SAFETY: the caller's memory is there whenever the step runs, as `mla.h` demands
                let out = unsafe { self.out.buffer::<T>(device) };
                Ok(attend_counted_to(device, &attention, counts, &out)?)
            })
        })
    }

    /// Calls `then` with the question of attention to all entries.
    pub(super) fn asked<T: CudaElement, R>(
        &self,
        device: &CudaDevice,
        segments: &Segments,
        scale: f64,
        then: impl FnOnce(Attention<'_, Cuda<T>, T>) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        // SAFETY: the caller's memory is there whenever the step runs, as `mla.h` demands
        let (q, entries) =
            unsafe { (self.q.buffer::<T>(device), self.entries.buffer::<T>(device)) };
        let queries = self.q.heads()?.of(&q);
        let entries = self.entries.rows()?.of(&entries);
        let (latent, rope) = (self.latent, queries.width - self.latent);
        let attention = Attention {
            q: narrowed(queries, 0, latent),
            q_rope: narrowed(queries, latent, rope),
            k: narrowed(entries, 0, latent),
            k_rope: narrowed(entries, latent, rope),
            v: narrowed(entries, 0, latent),
            segments,
            pages: None,
            selection: None,
            softmax: Softmax::scaled(scale).checked(queries.heads, segments)?,
        };
        then(attention)
    }
}
