//! Single operations over a caller's memory, as steps: what engines and benchmarks compare kernels by.
//!
//! They are the operations that layers themselves are made of ([`Backend`]), with the kernels that the library brings along, and
//! nothing is copied on the way in. Attention sums in the accumulation type and is rounded to the caller's tensor behind that.

use super::Library;
use super::arguments::{check_request, lists_of_blocks, sequences_of};
use super::calls::Device;
use super::fault::{Fault, guarded};
use super::latents::{Latents, Stored, counts_of};
use super::pointers::{array, handed_out, handle, named};
use super::step::Step;
use super::tensor::{CTensor, Given, Lines};
use crate::attention::narrowed;
use crate::backend::{Attention, Chosen, Pages};
use crate::cuda::{Cuda, CudaBuffer, CudaDevice, CudaElement, attend_to};
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
        let record = || {
            latents.asked::<L::Elem, _>(device, &segments, scale, |attention| {
                let pages = Some(&pages);
                let attention = Attention { pages, ..attention };
                record(device, &attention, &latents.out)
            })
        };
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
    counts: *const CTensor,
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
        // SAFETY: as above
        let counts = unsafe { counts_of(counts, device, rows)? };
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
        let lists = (selection, counts.as_ref());
        let record = || match latents.stored {
            Stored::Elements => latents.record_lists::<L::Elem>(device, &segments, lists, scale),
            Stored::DsMla => latents.record_codes::<L::Elem>(device, &segments, lists, scale),
        };
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
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
