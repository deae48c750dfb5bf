//! Single operations over a caller's memory, as steps: what engines and benchmarks compare kernels by.
//!
//! They are the operations that layers themselves are made of ([`Backend`]), with the kernels that the library brings along, and
//! nothing is copied on the way in. Attention sums in the accumulation type and is rounded to the caller's tensor behind that.

use super::Library;
use super::arguments::{check_request, lists_of_blocks, sequences_of};
use super::calls::Device;
use super::fault::{Fault, guarded};
use super::pointers::{array, handed_out, handle, named};
use super::step::Step;
use super::tensor::{CTensor, Given, Lines};
use crate::attention::narrowed;
use crate::backend::{Attention, BytesAttention, Chosen, Pages};
use crate::cache::{AnyScale, ByteFormat, EntryShape, Fp8DsMla};
use crate::cuda::{Cuda, CudaBuffer, CudaDevice, CudaElement, attend_bytes_to, attend_to};
use crate::segments::{Segment, Segments};
use crate::{Batch, Padding, Sequence, Softmax, Visibility};

/// `mla_step_attend_paged`.
///
/// # Safety
/// `mla.h`'s contract.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub unsafe fn attend_paged<L: Library>(
    device: *const Device<L>,
    q: *const CTensor,
    cache: *const CTensor,
    latent: i64,
    blocks: *const u32,
    blocks_each: i64,
    lengths: *const i64,
    scale: f64,
    causal: i32,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = &unsafe { handle("device", device)? }.device;
        // SAFETY: as above
        let latents = unsafe { Latents::read::<L::Elem>(q, "cache", cache, latent, out)? };
        let (&[requests, new, ..], &[pages, page, ..]) =
            (&latents.q.shape[..], &latents.entries.shape[..])
        else {
            return Err(latents.q.refused("wanted [requests, new, heads, width]"));
        };
        if latents.q.shape.len() != 4 || latents.entries.shape.len() < 3 {
            return Err(latents.q.refused(format!(
                "has shape {:?} and `cache` {:?}, wanted [requests, new, heads, width] and [pages, page, width]",
                latents.q.shape, latents.entries.shape
            )));
        }
        let each = named("blocks_each", "it", blocks_each)?;
        // SAFETY: as above
        let tables = unsafe { lists_of_blocks(blocks, each, requests)? };
        // SAFETY: as above
        let lengths = unsafe { array("lengths", lengths, requests)? };
        for (i, (table, &length)) in tables.iter().zip(lengths).enumerate() {
            check_request(i, table, length, [new, pages, page])?;
        }
        let sequences: Vec<Sequence<'_>> = tables
            .iter()
            .zip(lengths)
            .map(|(blocks, &length)| Sequence {
                cached: length as usize - new,
                new,
                blocks,
            })
            .collect();
        let batch = Batch::new(&sequences)?;
        let keys = lengths.iter().enumerate();
        let keys = keys.map(|(i, &length)| (i, 0..length as usize, 0));
        let segments = batch.against(visibility(causal), keys, pages * page)?;
        // Requests without new tokens have no segment
        let tables = match new {
            0 => Vec::new(),
            _ => tables.iter().map(|table| table.to_vec()).collect(),
        };
        let pages = Pages::new(page, tables);
        let record = || latents.record::<L::Elem>(device, &segments, Some(&pages), None, scale);
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// `mla_step_attend_selected`.
///
/// # Safety
/// `mla.h`'s contract.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub unsafe fn attend_selected<L: Library>(
    device: *const Device<L>,
    q: *const CTensor,
    entries: *const CTensor,
    latent: i64,
    indices: *const CTensor,
    scale: f64,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = &unsafe { handle("device", device)? }.device;
        // SAFETY: as above
        let latents = unsafe { Latents::read::<L::Elem>(q, "entries", entries, latent, out)? };
        // SAFETY: as above
        let indices = unsafe { Given::read("indices", indices)? };
        indices.of_type("i32")?;
        indices.without_gaps()?;
        let (rows, keys) = (latents.q.heads()?.rows, latents.entries.rows()?.rows);
        let chosen = indices.rows()?;
        if chosen.rows != rows {
            return Err(indices.refused(format!(
                "has shape {:?}, wanted a list for each of {rows} queries",
                indices.shape
            )));
        }
        // Every query sees all entries: the indices say which
        let whole = Segment {
            queries: 0..rows,
            keys: 0..keys,
            first_query: 0,
            first_key: 0,
            sequence: 0,
            shift: 0,
            line: (0, 0),
        };
        let segments = Segments::new(vec![whole], Visibility::FULL, rows, keys);
        // SAFETY: as above
        let indices: CudaBuffer<i32> =
            unsafe { CudaBuffer::borrowed(device, indices.at, indices.span) };
        let selection = Chosen {
            indices: &indices,
            width: chosen.width,
        };
        let record = || match latents.stored {
            Stored::Elements => {
                latents.record::<L::Elem>(device, &segments, None, Some(selection), scale)
            }
            Stored::DsMla => latents.record_codes::<L::Elem>(device, &segments, selection, scale),
        };
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// What entries of a latent cache are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// Elements of the layer.
    Elements,
    /// Bytes, as [`Fp8DsMla`] lays them out.
    DsMla,
}

/// Absorbed queries, the entries of a latent cache, and where the result goes.
struct Latents {
    q: Given,
    entries: Given,
    stored: Stored,
    out: Given,
    latent: usize,
}

impl Latents {
    /// # Safety
    /// `mla.h`'s contract.
    unsafe fn read<T: CudaElement>(
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
    fn record_codes<T: CudaElement>(
        &self,
        device: &CudaDevice,
        segments: &Segments,
        selection: Chosen<'_, Cuda<T>>,
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
        let coding = Fp8DsMla::<AnyScale>::default().coding();
        Step::record(device, Vec::new(), || {
            // SAFETY: as above
            let out = unsafe { self.out.buffer::<T>(device) };
            match attend_bytes_to(device, coding, &entries, shape, &attention, &out)? {
                true => Ok(()),
                false => Err(self.entries.refused(
                    "holds entries of bytes: of those the chosen are read by a Hopper GPU, in a library in bf16 and for latents of 512",
                )),
            }
        })
    }

    /// Writes attention down.
    fn record<T: CudaElement>(
        &self,
        device: &CudaDevice,
        segments: &Segments,
        pages: Option<&Pages>,
        selection: Option<Chosen<'_, Cuda<T>>>,
        scale: f64,
    ) -> Result<Step, Fault> {
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
            pages,
            selection,
            softmax: Softmax::scaled(scale).checked(queries.heads, segments)?,
        };
        record(device, &attention, &self.out)
    }
}

/// `mla_step_attend_rows`.
///
/// # Safety
/// `mla.h`'s contract.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub unsafe fn attend_rows<L: Library>(
    device: *const Device<L>,
    q: *const CTensor,
    k: *const CTensor,
    k_shared: *const CTensor,
    v: *const CTensor,
    ends: *const u32,
    sequences: i64,
    scale: f64,
    causal: i32,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = &unsafe { handle("device", device)? }.device;
        // SAFETY: as above
        let rows = unsafe { Rows::read::<L::Elem>(q, k, k_shared, v, out)? };
        // SAFETY: as above
        let segments = unsafe { rows.segments(ends, sequences, causal, Padding::Allowed)? };
        let record = || rows.record::<L::Elem>(device, &segments, scale);
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// Queries, and keys and values that are rows; perhaps a second part of keys, which the last columns of queries meet.
pub(super) struct Rows {
    pub(super) q: Given,
    pub(super) k: Given,
    pub(super) k_shared: Option<Given>,
    pub(super) v: Given,
    pub(super) out: Given,
}

impl Rows {
    /// # Safety
    /// `mla.h`'s contract.
    pub(super) unsafe fn read<T: CudaElement>(
        q: *const CTensor,
        k: *const CTensor,
        k_shared: *const CTensor,
        v: *const CTensor,
        out: *const CTensor,
    ) -> Result<Self, Fault> {
        // SAFETY: this function's contract
        let read = |name, tensor: *const CTensor| unsafe { Given::read(name, tensor) };
        let rows = Self {
            q: read("q", q)?,
            k: read("k", k)?,
            k_shared: match k_shared.is_null() {
                true => None,
                false => Some(read("k_shared", k_shared)?),
            },
            v: read("v", v)?,
            out: read("out", out)?,
        };
        let keys = [&rows.k, &rows.v].into_iter().chain(&rows.k_shared);
        for given in keys.clone().chain([&rows.q, &rows.out]) {
            given.of_type(T::NAME)?;
        }
        let queries = rows.q.heads()?;
        for given in keys {
            let lines = given.heads()?;
            let shared = lines.heads > 0 && queries.heads.is_multiple_of(lines.heads);
            if lines.rows != queries.rows || !shared {
                return Err(given.refused(format!(
                    "has shape {:?}, wanted {} rows of heads that divide {}",
                    given.shape, queries.rows, queries.heads
                )));
            }
        }
        if rows.key()? + rows.shared()? != queries.width {
            return Err(rows.k.refused(format!(
                "has shape {:?}, wanted keys as wide as `q`, {}, `k_shared` included",
                rows.k.shape, queries.width
            )));
        }
        check_out(&rows.out, queries, rows.v.heads()?.width)?;
        Ok(rows)
    }

    /// Who sees whom.
    ///
    /// # Safety
    /// `mla.h`'s contract.
    pub(super) unsafe fn segments(
        &self,
        ends: *const u32,
        sequences: i64,
        causal: i32,
        padding: Padding,
    ) -> Result<Segments, Fault> {
        let queries = self.q.heads()?.rows;
        // SAFETY: this function's contract
        let mask = unsafe { sequences_of(ends, sequences, queries)? };
        Ok(mask.segments(queries, visibility(causal), padding)?)
    }

    /// Width of keys' own part.
    fn key(&self) -> Result<usize, Fault> {
        Ok(self.k.heads()?.width)
    }

    /// Width of keys' second part.
    fn shared(&self) -> Result<usize, Fault> {
        self.k_shared
            .as_ref()
            .map_or(Ok(0), |shared| Ok(shared.heads()?.width))
    }

    /// Writes attention down.
    fn record<T: CudaElement>(
        &self,
        device: &CudaDevice,
        segments: &Segments,
        scale: f64,
    ) -> Result<Step, Fault> {
        self.asked(device, segments, scale, |attention| {
            record::<T>(device, &attention, &self.out)
        })
    }

    /// Calls `then` with the question of attention.
    pub(super) fn asked<T: CudaElement, R>(
        &self,
        device: &CudaDevice,
        segments: &Segments,
        scale: f64,
        then: impl FnOnce(Attention<'_, Cuda<T>, T>) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        let (key, shared) = (self.key()?, self.shared()?);
        // Without a second part, keys' own stands for it, without width
        let second = self.k_shared.as_ref().unwrap_or(&self.k);
        // SAFETY: the caller's memory is there whenever the step runs, as `mla.h` demands
        let buffers =
            unsafe { [&self.q, &self.k, second, &self.v].map(|given| given.buffer::<T>(device)) };
        let queries = self.q.heads()?.of(&buffers[0]);
        let attention = Attention {
            q: narrowed(queries, 0, key),
            q_rope: narrowed(queries, key, shared),
            k: self.k.heads()?.of(&buffers[1]),
            k_rope: narrowed(second.heads()?.of(&buffers[2]), 0, shared),
            v: self.v.heads()?.of(&buffers[3]),
            segments,
            pages: None,
            selection: None,
            softmax: Softmax::scaled(scale).checked(queries.heads, segments)?,
        };
        then(attention)
    }
}

fn visibility(causal: i32) -> Visibility {
    match causal {
        0 => Visibility::FULL,
        _ => Visibility::CAUSAL,
    }
}

/// Refuses a result of another shape than `[rows, heads, width]`, or with gaps.
pub(super) fn check_out(out: &Given, queries: Lines, width: usize) -> Result<(), Fault> {
    let lines = out.heads()?;
    if (lines.rows, lines.heads, lines.width) != (queries.rows, queries.heads, width) {
        return Err(out.refused(format!(
            "has shape {:?}, wanted [.., {}, {width}] with {} rows",
            out.shape, queries.heads, queries.rows
        )));
    }
    out.without_gaps()
}

/// Writes attention down, rounded to where it is wanted.
fn record<T: CudaElement>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, T>,
    out: &Given,
) -> Result<Step, Fault> {
    Step::record(device, Vec::new(), || {
        // SAFETY: the caller's memory is there whenever the step runs, as `mla.h` demands
        let out = unsafe { out.buffer::<T>(device) };
        Ok(attend_to(device, attention, &out)?)
    })
}
