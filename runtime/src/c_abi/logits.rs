//! An indexer's logits over the caller's queries and keys, as steps.

use std::ops::Range;

use super::Library;
use super::arguments::{check_request, lists_of_blocks};
use super::calls::Device;
use super::fault::{Fault, guarded};
use super::pointers::{array, handed_out, handle, named};
use super::step::Step;
use super::tensor::{CTensor, Given};
use crate::cuda::{AskedLogits, CudaDevice, GivenKeys, logits_of};
use crate::error::Error;

/// Bytes of a key's scale.
const SCALE: usize = size_of::<f32>();

/// `mla_step_index_logits`.
///
/// # Safety
/// `mla.h`'s contract.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub unsafe fn index_logits<L: Library>(
    device: *const Device<L>,
    q: *const CTensor,
    k: *const CTensor,
    k_scale: *const CTensor,
    weights: *const CTensor,
    starts: *const i64,
    ends: *const i64,
    scale: f64,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = &unsafe { handle("device", device)? }.device;
        // SAFETY: as above
        let queries = unsafe { Queries::read(q, weights, out)? };
        // SAFETY: as above
        let k = unsafe { Given::read("k", k)? };
        k.of_type(queries.q.dtype)?;
        let keys = k.rows()?;
        queries.expect_width(&k, keys.width)?;
        let scales = match queries.in_codes() {
            // SAFETY: as above
            true => unsafe { scales_of(k_scale, keys.rows)? },
            false if k_scale.is_null() => 0,
            false => {
                return Err(Fault::argument(
                    "k_scale",
                    "is no null, and keys are no codes",
                ));
            }
        };
        let rows = queries.shape[0];
        // SAFETY: as above
        let (starts, ends) =
            unsafe { (array("starts", starts, rows)?, array("ends", ends, rows)?) };
        let limits = starts.iter().zip(ends).enumerate();
        let wanted = limits
            .map(|(row, (&start, &end))| between(row, start, end, keys.rows.min(queries.columns)));
        let wanted = wanted.collect::<Result<_, _>>()?;
        let given = GivenKeys::Rows {
            at: k.at,
            scales,
            rows: keys.rows,
            stride: keys.row_stride,
        };
        let record = || queries.record(device, wanted, scale, &given);
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// `mla_step_index_logits_paged`.
///
/// # Safety
/// `mla.h`'s contract.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub unsafe fn index_logits_paged<L: Library>(
    device: *const Device<L>,
    q: *const CTensor,
    cache: *const CTensor,
    weights: *const CTensor,
    blocks: *const u32,
    blocks_each: i64,
    lengths: *const i64,
    scale: f64,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = &unsafe { handle("device", device)? }.device;
        // SAFETY: as above
        let queries = unsafe { Queries::read(q, weights, out)? };
        // SAFETY: as above
        let cache = unsafe { Given::read("cache", cache)? };
        let [pages, page] = queries.pages_of(&cache)?;
        let &[requests, new, _, _] = &queries.q.shape[..] else {
            return Err(queries.q.refused(format!(
                "has shape {:?}, wanted [requests, new, heads, width]",
                queries.q.shape
            )));
        };
        let each = named("blocks_each", "it", blocks_each)?;
        // SAFETY: as above
        let lists = unsafe { lists_of_blocks(blocks, each, requests)? };
        // SAFETY: as above
        let lengths = unsafe { array("lengths", lengths, requests)? };
        let mut wanted = Vec::new();
        for (i, (list, &length)) in lists.iter().zip(lengths).enumerate() {
            check_request(i, list, length, [new, pages, page])?;
            let length = length as usize;
            if length > queries.columns || i32::try_from(length).is_err() {
                return Err(Fault::argument(
                    format!("lengths[{i}]"),
                    format!(
                        "is {length}, a row of `out` has {} columns",
                        queries.columns
                    ),
                ));
            }
            // A new token sees itself and those before it
            wanted.extend((0..new).map(|token| 0..length - new + 1 + token));
        }
        let given = GivenKeys::Pages {
            at: cache.at,
            pages,
            page,
            lists: &lists,
        };
        let record = || queries.record(device, wanted, scale, &given);
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// Queries, what their heads are weighed by, and where their logits go.
struct Queries {
    q: Given,
    weights: Given,
    out: Given,
    /// Rows, heads, width.
    shape: [usize; 3],
    strides: [usize; 2],
    /// Logits that a row has room for, and from one row to the next.
    columns: usize,
    out_stride: usize,
}

impl Queries {
    /// # Safety
    /// `mla.h`'s contract.
    unsafe fn read(
        q: *const CTensor,
        weights: *const CTensor,
        out: *const CTensor,
    ) -> Result<Self, Fault> {
        // SAFETY: this function's contract
        let q = unsafe { Given::read("q", q)? };
        // SAFETY: as above
        let weights = unsafe { Given::read("weights", weights)? };
        // SAFETY: as above
        let out = unsafe { Given::read("out", out)? };
        if !["e4m3", "bf16"].contains(&q.dtype) {
            return Err(q.refused(format!("holds {}, wanted e4m3 or bf16", q.dtype)));
        }
        weights.of_type("f32")?;
        weights.without_gaps()?;
        out.of_type("f32")?;
        let (lines, weighing, into) = (q.heads()?, weights.rows()?, out.rows()?);
        if (weighing.rows, weighing.width) != (lines.rows, lines.heads) {
            return Err(weights.refused(format!(
                "has shape {:?}, wanted a number for each of {} rows and {} heads",
                weights.shape, lines.rows, lines.heads
            )));
        }
        if into.rows != lines.rows {
            return Err(out.refused(format!(
                "has shape {:?}, wanted a row for each of {} queries",
                out.shape, lines.rows
            )));
        }
        Ok(Self {
            shape: [lines.rows, lines.heads, lines.width],
            strides: [lines.row_stride, lines.head_stride],
            columns: into.width,
            out_stride: into.row_stride,
            q,
            weights,
            out,
        })
    }

    fn in_codes(&self) -> bool {
        self.q.dtype == "e4m3"
    }

    fn expect_width(&self, keys: &Given, width: usize) -> Result<(), Fault> {
        let own = self.shape[2];
        if width == own {
            return Ok(());
        }
        Err(keys.refused(format!(
            "has shape {:?}, wanted keys as wide as a query, {own}",
            keys.shape
        )))
    }

    /// How many pages a cache has, and how many keys a page: of bf16, or of bytes, codes of a page and then their scales.
    fn pages_of(&self, cache: &Given) -> Result<[usize; 2], Fault> {
        cache.without_gaps()?;
        let width = self.shape[2];
        let refused = |wanted: String| {
            let shape = &cache.shape;
            Err(cache.refused(format!("has shape {shape:?}, wanted [pages, {wanted}]")))
        };
        if !self.in_codes() {
            cache.of_type("bf16")?;
            return match cache.shape[..] {
                [pages, page, .., last]
                    if last == width && cache.shape[2..].iter().product::<usize>() == width =>
                {
                    Ok([pages, page])
                }
                _ => refused(format!("page, (1,) {width}]")),
            };
        }
        cache.of_type("u8")?;
        let [pages, rest @ ..] = &cache.shape[..] else {
            return refused("bytes]".to_owned());
        };
        let (bytes, each) = (rest.iter().product::<usize>(), width + SCALE);
        if rest.is_empty() || !bytes.is_multiple_of(each) {
            return refused(format!("..] with {each} bytes for each key of a page"));
        }
        Ok([*pages, bytes / each])
    }

    /// Writes the logits down.
    fn record(
        &self,
        device: &CudaDevice,
        wanted: Vec<Range<usize>>,
        scale: f64,
        given: &GivenKeys<'_>,
    ) -> Result<Step, Fault> {
        let asked = AskedLogits {
            q: self.q.at,
            in_codes: self.in_codes(),
            shape: self.shape,
            strides: self.strides,
            weights: self.weights.at,
            scale,
            wanted,
            out: self.out.at,
            out_stride: self.out_stride,
        };
        Step::record(device, Vec::new(), || {
            let done = logits_of(device, &asked, given)?;
            done.map_err(|reason| {
                Fault::Runtime(Error::Device(format!(
                    "no kernel for these logits: {reason}"
                )))
            })
        })
    }
}

/// Where a scale for each key stands.
///
/// # Safety
/// `mla.h`'s contract.
unsafe fn scales_of(scales: *const CTensor, keys: usize) -> Result<u64, Fault> {
    // SAFETY: this function's contract
    let scales = unsafe { Given::read("k_scale", scales)? };
    scales.of_type("f32")?;
    scales.without_gaps()?;
    let count: usize = scales.shape.iter().product();
    if count != keys {
        return Err(scales.refused(format!(
            "has shape {:?}, wanted a scale for each of {keys} keys",
            scales.shape
        )));
    }
    Ok(scales.at)
}

/// The keys of a row, of as many as there are and as there is room for.
fn between(row: usize, start: i64, end: i64, most: usize) -> Result<Range<usize>, Fault> {
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    match range.filter(|&(start, end)| start <= end && end <= most) {
        Some((start, end)) => Ok(start..end),
        None => Err(Fault::argument(
            format!("ends[{row}]"),
            format!(
                "is {end}, behind a start of {start}, wanted up to the {most} keys and columns that there are"
            ),
        )),
    }
}
