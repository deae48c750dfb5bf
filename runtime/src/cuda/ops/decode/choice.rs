//! When absorbed attention is done with Hopper's tensor cores, and by which kernel.

use super::super::super::{Cuda, CudaDevice, CudaElement};
use super::super::attention_backward::values_are_keys;
use super::super::facts::{Reason, Window, all_hold, covers, most_queries};
use super::codes::{Codes, Kind};
use super::variant::Variant;
use crate::backend::{Attention, BytesAttention, Pages};
use crate::element::Scalar;
use crate::softmax::Softmax;
use mla_tuned::{Shape, Table};

/// What the choice is made by.
#[derive(Debug, Clone)]
struct Facts {
    /// Whether the device has Hopper's own instructions.
    hopper: bool,
    /// Whether kernels have to check indices.
    checked: bool,
    batch_invariant: bool,
    /// The number types of queries and of keys.
    types: [&'static str; 2],
    queries: Window,
    queries_rope: Window,
    keys: Window,
    keys_rope: Window,
    /// Queries of the longest segment.
    most_queries: usize,
    values_width: usize,
    values_are_keys: bool,
    selects: bool,
    /// Whether a dense mask takes keys away.
    masked: bool,
    /// Whether something besides a scale stands between logits and probabilities.
    adjusted: bool,
    scale: f64,
    /// Keys of a page, where they lie in pages.
    page: Option<usize>,
    /// Whether tables name a block for each key.
    covered: bool,
}

/// The kernel that does it, or why none of these does.
pub(super) fn variant<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
) -> Result<Variant, Reason> {
    let facts = Facts::of(device, attention);
    let usual = chosen(&facts)?;
    let brought = |variant: &Variant| {
        let dims = super::dims(*variant, attention.q.heads, &attention.k, &attention.k_rope);
        is_there(device, variant.unit(), &dims)
    };
    first(measured(device.tuned(), &facts), usual, brought).ok_or(NOT_BROUGHT)
}

/// The kernel that attends to a cache of codes, or why none does.
pub(super) fn variant_for_codes<T: CudaElement>(
    device: &CudaDevice,
    codes: &Codes,
    attention: &BytesAttention<'_, Cuda<T>>,
) -> Result<Variant, Reason> {
    let variant = chosen_for_codes(&Facts::of_codes(device, codes, attention), codes.kind)?;
    let chooses = attention.selection.is_some();
    let dims = super::dims_for_codes(variant, attention.q.heads, codes, chooses);
    match is_there(device, variant.unit_for_codes(chooses), &dims) {
        true => Ok(variant),
        false => Err(NOT_BROUGHT),
    }
}

/// The kernel that attends to the keys that are chosen for each query, or why none does.
pub(super) fn variant_for_chosen<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
) -> Result<Variant, Reason> {
    let variant = chosen_for_lists(&Facts::of(device, attention))?;
    let dims = super::dims_for_chosen(variant, attention);
    match is_there(device, variant.unit_for_chosen(), &dims) {
        true => Ok(variant),
        false => Err(NOT_BROUGHT),
    }
}

const NOT_BROUGHT: Reason = "the layer brought no kernel for these sizes along";

/// Whether a device has a kernel, and the scheduler for it.
fn is_there(device: &CudaDevice, unit: &str, dims: &[usize]) -> bool {
    let kernels = &device.shared.kernels;
    kernels.has(unit, dims) && kernels.has(super::SCHEDULE, &[])
}

/// The kernel that a Hopper GPU would take where nothing was measured.
#[cfg(test)]
pub(super) fn on_hopper<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
) -> Result<Variant, Reason> {
    chosen(&Facts {
        hopper: true,
        checked: false,
        ..Facts::of(device, attention)
    })
}

/// The kernel that was measured to be the fastest, or the usual one, whichever comes first of those that are there: layers of another table
/// bring others along.
fn first(
    measured: Option<Variant>,
    usual: Variant,
    brought: impl Fn(&Variant) -> bool,
) -> Option<Variant> {
    measured.into_iter().chain([usual]).find(brought)
}

/// What a device's table says of a shape, where it has one.
fn measured(table: Option<&Table>, facts: &Facts) -> Option<Variant> {
    let shape = Shape {
        keys: facts.types[1],
        heads: u32::try_from(facts.queries.heads).ok()?,
        new: u32::try_from(facts.most_queries).ok()?,
        latent: u32::try_from(facts.keys.width).ok()?,
        rope: u32::try_from(facts.keys_rope.width).ok()?,
    };
    Variant::with_rows(table?.find(&shape)?.chosen(), shape.latent)
}

impl Facts {
    fn of<T: CudaElement, E: Scalar>(
        device: &CudaDevice,
        attention: &Attention<'_, Cuda<T>, E>,
    ) -> Self {
        let segments = attention.segments;
        Self {
            hopper: device.is_hopper(),
            checked: device.is_checked(),
            batch_invariant: device.is_batch_invariant(),
            types: [T::NAME, E::NAME],
            queries: Window::of(&attention.q),
            queries_rope: Window::of(&attention.q_rope),
            keys: Window::of(&attention.k),
            keys_rope: Window::of(&attention.k_rope),
            most_queries: most_queries(segments),
            values_width: attention.v.width,
            values_are_keys: attention.v.heads == 1 && values_are_keys(&attention.k, &attention.v),
            selects: attention.selection.is_some(),
            masked: segments.all_given().is_some(),
            adjusted: adjusts(&attention.softmax),
            scale: attention.softmax.scale(),
            page: attention.pages.map(Pages::page),
            covered: attention.pages.is_none_or(|pages| covers(pages, segments)),
        }
    }

    /// Those of a cache of codes, whose keys count as bf16: they become that, or finer.
    fn of_codes<T: CudaElement>(
        device: &CudaDevice,
        codes: &Codes,
        attention: &BytesAttention<'_, Cuda<T>>,
    ) -> Self {
        let BytesAttention {
            segments,
            pages,
            selection,
            softmax,
            ..
        } = attention;
        let entries = |width| Window {
            rows: codes.shape.slots(),
            heads: 1,
            width,
            aligned: codes.aligned(),
        };
        Self {
            hopper: device.is_hopper(),
            checked: device.is_checked(),
            batch_invariant: device.is_batch_invariant(),
            types: [T::NAME, "bf16"],
            queries: Window::of(&attention.q),
            queries_rope: Window::of(&attention.q_rope),
            keys: entries(codes.shape.latent),
            keys_rope: entries(codes.shape.rope),
            most_queries: most_queries(segments),
            values_width: codes.shape.latent,
            values_are_keys: true,
            selects: selection.is_some(),
            masked: segments.all_given().is_some(),
            adjusted: adjusts(softmax),
            scale: softmax.scale() * f64::from(codes.k_scale),
            page: pages.map(Pages::page),
            covered: pages.is_none_or(|pages| covers(pages, segments)),
        }
    }
}

impl Facts {
    /// Those of keys that are brought one by one, so that pages may have any size.
    fn of_any_page(&self) -> Self {
        Self {
            selects: false,
            page: None,
            ..self.clone()
        }
    }
}

/// Whether something besides a scale stands between logits and probabilities.
fn adjusts<T: CudaElement>(softmax: &Softmax<'_, Cuda<T>>) -> bool {
    softmax.cap().is_some() || softmax.added().is_some() || softmax.dropped().is_some()
}

/// The choice over a cache of codes, by the same rules as [`chosen`]'s, and some more. Where keys are chosen, their entries come whole, from wherever they are.
fn chosen_for_codes(facts: &Facts, kind: Kind) -> Result<Variant, Reason> {
    /// Keys of the smallest pages that the copy engine brings: what it has of one of them, 16 bytes of scales or more, lies at a multiple of 128.
    const LEAST_PAGE: usize = 8;
    let chooses = facts.selects;
    let rows = match chooses {
        true => {
            chosen(&facts.of_any_page())?;
            facts.queries.heads
        }
        false => {
            chosen(facts)?;
            facts.queries.heads * facts.most_queries
        }
    };
    let latent = facts.keys.width;
    let rules: [(bool, Reason); 4] = [
        (
            matches!(latent, 128 | 256 | 512),
            "latents in codes are not 128, 256 or 512 wide",
        ),
        (
            kind != Kind::DsMla || latent == 512,
            "entries with scales do not begin at multiples of 16 bytes",
        ),
        (
            chooses || facts.page.is_none_or(|page| page >= LEAST_PAGE),
            "pages have less than 8 tokens",
        ),
        // Products take 32 codes, and behind an entry stands what is no part of it
        (
            !chooses || kind == Kind::DsMla || facts.keys_rope.width.is_multiple_of(32),
            "the rotated part of chosen keys is not 0, 32 or 64 codes wide",
        ),
    ];
    all_hold(&rules).map(|()| match rows {
        0..=16 => Variant::Narrow16,
        _ => Variant::Wide,
    })
}

/// The choice where each query has a list of keys, by the rules of [`chosen`]. Queries share none, so that a block has one query's heads.
fn chosen_for_lists(facts: &Facts) -> Result<Variant, Reason> {
    chosen(&facts.of_any_page())?;
    match (facts.keys.width, facts.queries.heads) {
        (128 | 256 | 512, 0..=16) => Ok(Variant::Narrow16),
        (128 | 256 | 512, 17..=32) => Ok(Variant::Narrow32),
        (128 | 256 | 512, _) => Ok(Variant::Wide),
        _ => Err("latents of chosen keys are not 128, 256 or 512 wide"),
    }
}

/// The choice: a matter of the device, of types and shapes, never of lengths, which change when a recorded graph runs again.
fn chosen(facts: &Facts) -> Result<Variant, Reason> {
    let Facts {
        queries,
        queries_rope,
        keys,
        keys_rope,
        ..
    } = facts;
    let (latent, rope) = (keys.width, keys_rope.width);
    let fits = |count: usize| i32::try_from(count).is_ok();
    let rules: [(bool, Reason); 16] = [
        (facts.hopper, "the device is no Hopper GPU"),
        (!facts.checked, "indices are to be checked"),
        // Where keys are cut, and so the order of sums, depends on all requests of the step
        (
            !facts.batch_invariant,
            "rows may not depend on rows beside them",
        ),
        (
            facts.types == ["bf16"; 2],
            "queries or keys are not in bf16",
        ),
        (!facts.selects, "keys are selected"),
        (!facts.masked, "a dense mask says who sees whom"),
        (
            !facts.adjusted,
            "logits are capped or biased, or probabilities dropped",
        ),
        // The largest logit is found before logits are scaled
        (
            facts.scale > 0.0 && (facts.scale as f32).is_normal(),
            "the scale is not above 0, or none of f32",
        ),
        (
            keys.heads == 1 && (rope == 0 || keys_rope.heads == 1),
            "keys have several heads",
        ),
        (
            facts.values_are_keys && facts.values_width == latent,
            "values are not what keys are",
        ),
        (
            rope.is_multiple_of(16) && rope <= 64,
            "the rotated part is not 0, 16, 32, 48 or 64 wide",
        ),
        (
            queries.width == latent && queries_rope.width == rope,
            "queries and keys differ in width",
        ),
        (
            facts
                .page
                .is_none_or(|page| page.is_multiple_of(64) && page > 0 || page.is_power_of_two()),
            "pages are neither a power of two nor a multiple of 64",
        ),
        (
            [queries, keys].iter().all(|window| window.aligned)
                && (rope == 0 || queries_rope.aligned && keys_rope.aligned),
            "rows do not begin at multiples of 16 bytes",
        ),
        (keys.rows > 0, "there are no keys"),
        (
            fits(keys.rows) && fits(queries.rows * queries.heads) && facts.covered,
            "there are too many rows, or pages without a block",
        ),
    ];
    all_hold(&rules)?;
    let variant = Variant::of_rows(queries.heads * facts.most_queries, latent);
    variant.ok_or("latents' width is no multiple of 128 up to 1024")
}

#[cfg(test)]
mod tests;
