//! Prefill over a latent cache as a single operation: what a layer's `prefill` does between its projections.

use super::Library;
use super::calls::Device;
use super::fault::{Fault, guarded};
use super::operations::check_out;
use super::pointers::{array, handed_out, handle, named};
use super::step::Step;
use super::tensor::{CTensor, Given};
use crate::attention::narrowed;
use crate::backend::{Attention, AttentionParts, Backend, Parts, PartsMut, Strided};
use crate::cache::{Chunk, Chunks, Entries, EntryShape, Geometry};
use crate::cuda::{Cuda, CudaBuffer, CudaDevice, CudaElement, attend_to, narrow_to};
use crate::element::Scalar;
use crate::error::Result as Done;
use crate::{Batch, Sequence, Softmax, Visibility};

/// `mla_step_attend_chunked`.
///
/// # Safety
/// `mla.h`'s contract.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub unsafe fn attend_chunked<L: Library>(
    device: *const Device<L>,
    q: *const CTensor,
    cache: *const CTensor,
    blocks: *const u32,
    block_count: i64,
    cached: i64,
    latents: *const CTensor,
    k_rope: *const CTensor,
    w_kv: *const CTensor,
    chunk: i64,
    scale: f64,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = &unsafe { handle("device", device)? }.device;
        // SAFETY: as above
        let read = |name, tensor: *const CTensor| unsafe { Given::read(name, tensor) };
        let prefill = Prefill {
            q: read("q", q)?,
            cache: read("cache", cache)?,
            latents: read("latents", latents)?,
            k_rope: read("k_rope", k_rope)?,
            w_kv: read("w_kv", w_kv)?,
            out: read("out", out)?,
        };
        let sizes = prefill.sizes(L::Elem::NAME)?;
        let count = named("block_count", "it", block_count)?;
        let sequence = Sequence {
            cached: named("cached", "it", cached)?,
            new: sizes.new,
            // SAFETY: as above
            blocks: unsafe { array("blocks", blocks, count)? },
        };
        let batch = Batch::new(&[sequence])?;
        let geometry = Geometry::paged(sizes.pages, sizes.page)?;
        let tokens = named("chunk", "it", chunk)?;
        let chunks = Chunks::new(&geometry, &batch, tokens, Visibility::CAUSAL);
        let chunks: Vec<Chunk> = chunks.collect::<Done<_>>()?;
        let shape = EntryShape::new(sizes.latent, sizes.rope, &geometry);
        let record = || {
            Step::record(device, Vec::new(), || {
                prefill.attend::<L::Elem>(device, &sizes, shape, &chunks, scale)
            })
        };
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// What a prefill is over.
struct Prefill {
    q: Given,
    cache: Given,
    latents: Given,
    k_rope: Given,
    w_kv: Given,
    out: Given,
}

/// Its sizes.
struct Sizes {
    new: usize,
    heads: usize,
    /// Widths of keys' own part, of their rotated one, of values, of latents.
    nope: usize,
    rope: usize,
    value: usize,
    latent: usize,
    pages: usize,
    page: usize,
}

impl Prefill {
    fn sizes(&self, dtype: &str) -> Result<Sizes, Fault> {
        let Self {
            q,
            cache,
            latents,
            k_rope,
            w_kv,
            out,
        } = self;
        for given in [q, cache, latents, k_rope, w_kv, out] {
            given.of_type(dtype)?;
        }
        for given in [cache, w_kv] {
            given.without_gaps()?;
        }
        let (queries, values) = (q.heads()?, out.heads()?.width);
        let (own, key) = (latents.rows()?, k_rope.rows()?);
        let beside = |given: &Given, rows: usize| match rows == queries.rows {
            true => Ok(()),
            false => Err(given.refused(format!(
                "has shape {:?}, wanted a row for each of {} queries",
                given.shape, queries.rows
            ))),
        };
        beside(latents, own.rows)?;
        beside(k_rope, key.rows)?;
        let Some(nope) = queries.width.checked_sub(key.width) else {
            return Err(k_rope.refused(format!(
                "has shape {:?}, wanted a part of keys as wide as `q`, {}",
                k_rope.shape, queries.width
            )));
        };
        let (&[pages, page, ..], entries) = (&cache.shape[..], cache.rows()?) else {
            return Err(cache.refused("wanted [pages, page, width]"));
        };
        if entries.width != own.width + key.width || entries.rows != pages * page {
            return Err(cache.refused(format!(
                "has shape {:?}, wanted [pages, page, {}]",
                cache.shape,
                own.width + key.width
            )));
        }
        let wanted = [queries.heads * (nope + values), own.width];
        if w_kv.shape != wanted {
            return Err(w_kv.refused(format!("has shape {:?}, wanted {wanted:?}", w_kv.shape)));
        }
        check_out(out, queries, values)?;
        Ok(Sizes {
            new: queries.rows,
            heads: queries.heads,
            nope,
            rope: key.width,
            value: values,
            latent: own.width,
            pages,
            page,
        })
    }

    /// Expands the latents of each chunk and attends to them. One chunk alone is rounded where it is attended to, more of them once they are
    /// merged.
    fn attend<T: CudaElement>(
        &self,
        device: &CudaDevice,
        sizes: &Sizes,
        shape: EntryShape,
        chunks: &[Chunk],
        scale: f64,
    ) -> Result<(), Fault> {
        // SAFETY: the caller's memory is there whenever the step runs, as `mla.h` demands
        let [q, cache, latents, k_rope, w_kv, out] = unsafe {
            [
                &self.q,
                &self.cache,
                &self.latents,
                &self.k_rope,
                &self.w_kv,
                &self.out,
            ]
            .map(|given| given.buffer::<T>(device))
        };
        let queries = self.q.heads()?.of(&q);
        let new = [
            self.latents.rows()?.of(&latents),
            self.k_rope.rows()?.of(&k_rope),
        ];
        let cache = Entries::<Cuda<T>, T>::over(device, shape, cache);
        let &Sizes {
            heads,
            nope,
            rope,
            value,
            latent,
            ..
        } = sizes;
        let mut whole: Option<AttentionParts<Cuda<T>>> = None;
        for chunk in chunks {
            let [latents, k_rope] = chunk.entries(&cache, new)?;
            let rows = window(&latents, chunk.len(), [1, latent]);
            let kv = Cuda::linear(device, rows, &w_kv, None, heads * (nope + value))?;
            let keys_values = window(&kv, chunk.len(), [heads, nope + value]);
            let attention = Attention {
                q: narrowed(queries, 0, nope),
                q_rope: narrowed(queries, nope, rope),
                k: narrowed(keys_values, 0, nope),
                k_rope: window(&k_rope, chunk.len(), [1, rope]),
                v: narrowed(keys_values, nope, value),
                segments: &chunk.segments,
                pages: None,
                selection: None,
                softmax: Softmax::scaled(scale).checked(heads, &chunk.segments)?,
            };
            if chunks.len() == 1 {
                return Ok(attend_to(device, &attention, &out)?);
            }
            let part = Cuda::attend(device, &attention)?;
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => merge(device, whole, &part, value)?,
            }
        }
        match whole {
            Some(whole) => Ok(narrow_to::<T>(device, &whole.out, &out)?),
            None => Ok(()),
        }
    }
}

fn merge<T: CudaElement>(
    device: &CudaDevice,
    into: &mut AttentionParts<Cuda<T>>,
    from: &AttentionParts<Cuda<T>>,
    width: usize,
) -> Done<()> {
    let into: PartsMut<'_, Cuda<T>> = PartsMut {
        out: &mut into.out,
        lse: &mut into.lse,
        max_logit: &mut into.max_logit,
    };
    let from: Parts<'_, Cuda<T>> = Parts {
        out: &from.out,
        lse: &from.lse,
        max_logit: &from.max_logit,
    };
    Cuda::merge(device, into, from, width)
}

/// All of a buffer, as rows of heads.
fn window<T: CudaElement>(
    buffer: &CudaBuffer<T>,
    rows: usize,
    [heads, width]: [usize; 2],
) -> Strided<'_, Cuda<T>, T> {
    Strided {
        buffer,
        offset: 0,
        rows,
        heads,
        width,
        row_stride: heads * width,
        head_stride: width,
    }
}
