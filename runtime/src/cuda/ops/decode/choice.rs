//! When absorbed attention is done with Hopper's tensor cores, and by which kernel.

use super::super::super::{Cuda, CudaDevice, CudaElement};
use super::super::attention_backward::values_are_keys;
use super::codes::{Codes, Kind};
use crate::backend::{Attention, BytesAttention, Pages, Strided};
use crate::element::Scalar;
use crate::segments::Segments;
use crate::softmax::Softmax;
use mla_tuned::{Shape, Table};

/// A kernel of absorbed attention, by the rows of queries that a block has, a query's heads each.
///
/// `mla_codegen::plan::absorbed` says why which: few rows are columns of the tensor cores' products, so that they don't fill up to 64. Where
/// a table of `mla_tuned` has measured times of a shape on this device, they choose instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// Up to 16 rows.
    Narrow16,
    /// Up to 32.
    Narrow32,
    /// 64 at a time.
    Wide,
    /// 128 at a time, of latents up to 256 wide.
    Tall,
    /// Up to 16, two warpgroups with half of the latents each.
    Deep16,
    /// The same, up to 32.
    Deep32,
}

impl Variant {
    /// Those for latents of a width, from few rows to many.
    pub(super) const fn of_latent(latent: usize) -> &'static [Self] {
        match latent {
            128 | 256 => &[Self::Narrow16, Self::Narrow32, Self::Wide, Self::Tall],
            512 => &[Self::Narrow16, Self::Narrow32, Self::Wide],
            384 | 640 | 768 | 896 | 1024 => &[Self::Deep16, Self::Deep32],
            _ => &[],
        }
    }

    /// Bytes of shared memory that a block takes: all that there are.
    pub(super) const SHARED_BYTES: u32 = 232_448;

    /// Of those for a width the one with the fewest rows that are enough; where none has enough, the one with the most.
    fn of_rows(wanted: usize, latent: usize) -> Option<Self> {
        let all = Self::of_latent(latent);
        let enough = all.iter().find(|one| one.rows() >= wanted);
        enough.or(all.last()).copied()
    }

    /// The one for a width whose blocks have so many rows, if there is any.
    pub(super) fn with_rows(rows: u32, latent: u32) -> Option<Self> {
        let has = |one: &&Self| one.rows() == rows as usize;
        Self::of_latent(latent as usize).iter().find(has).copied()
    }

    /// The kernel, and the unit that it stands in.
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Narrow16 | Self::Narrow32 => "decode_narrow",
            Self::Wide => "decode_wide",
            Self::Tall => "decode_tall",
            Self::Deep16 | Self::Deep32 => "decode_deep",
        }
    }

    /// The kernel over a cache of codes. [`chosen_for_codes`] chooses these two alone.
    pub(super) const fn unit_for_codes(self) -> &'static str {
        match self {
            Self::Narrow16 => "decode_narrow_fp8",
            _ => "decode_wide_fp8",
        }
    }

    /// Rows of queries that a block has.
    pub(super) const fn rows(self) -> usize {
        match self {
            Self::Narrow16 | Self::Deep16 => 16,
            Self::Narrow32 | Self::Deep32 => 32,
            Self::Wide => 64,
            Self::Tall => 128,
        }
    }

    /// Tiles of 64 columns of latents that queries come by at once: all that go to one place, where a tile's rows are a block's.
    pub(super) const fn query_tiles(self, heads: usize, latent: usize) -> usize {
        if heads < self.rows() {
            return 1;
        }
        match self {
            Self::Narrow16 | Self::Narrow32 | Self::Wide => latent / 64,
            Self::Tall => 2,
            Self::Deep16 | Self::Deep32 => latent / 128,
        }
    }

    /// The same of keys, `at_once` of which are brought: tiles of fewer than 64 do not lie one after the other.
    pub(super) const fn key_tiles(self, latent: usize, at_once: usize) -> usize {
        if at_once < 64 {
            return 1;
        }
        match self {
            Self::Narrow16 | Self::Narrow32 => 2,
            Self::Wide => latent / 64,
            // Of narrow latents, a tile has twice as many keys
            Self::Tall if latent == 128 => 1,
            Self::Tall => latent / 64,
            Self::Deep16 | Self::Deep32 => 1,
        }
    }

    /// The same of lines of 128 codes.
    pub(super) const fn code_lines(self, latent: usize, at_once: usize) -> usize {
        match self {
            Self::Wide if at_once == 64 => latent / 128,
            _ => 1,
        }
    }

    /// Bytes of memory that a block keeps what it has no registers for in.
    pub(super) const fn spare_bytes(self) -> usize {
        match self {
            Self::Wide => 256 * 16,
            _ => 0,
        }
    }
}

/// Why the plain kernel runs.
pub(super) type Reason = &'static str;

/// What the choice is made by.
#[derive(Debug, Clone)]
struct Facts {
    /// Whether the device is a GPU with Hopper's own instructions.
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

/// What matters of a strided window.
#[derive(Debug, Clone, Copy)]
struct Window {
    rows: usize,
    heads: usize,
    width: usize,
    /// Whether the copy engine can read it.
    aligned: bool,
}

impl Window {
    fn of<T: CudaElement, S: Scalar>(x: &Strided<'_, Cuda<T>, S>) -> Self {
        // Of what there is one there is no next
        let stride = |count: usize, stride: usize| match count {
            0 | 1 => true,
            _ => (stride * size_of::<S>()).is_multiple_of(16),
        };
        Self {
            rows: x.rows,
            heads: x.heads,
            width: x.width,
            aligned: x.buffer.place(x.offset).is_multiple_of(16)
                && stride(x.rows, x.row_stride)
                && stride(x.heads, x.head_stride),
        }
    }
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
    let dims = super::dims_for_codes(variant, attention.q.heads, codes);
    match is_there(device, variant.unit_for_codes(), &dims) {
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
            hopper: device.arch() == "sm_90a",
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
            hopper: device.arch() == "sm_90a",
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
            selects: false,
            masked: segments.all_given().is_some(),
            adjusted: adjusts(softmax),
            scale: softmax.scale() * f64::from(codes.k_scale),
            page: Some(pages.page()),
            covered: covers(pages, segments),
        }
    }
}

/// Queries of the longest segment.
fn most_queries(segments: &Segments) -> usize {
    let lengths = segments.list().iter().map(|segment| segment.queries.len());
    lengths.max().unwrap_or(0)
}

/// Whether something besides a scale stands between logits and probabilities.
fn adjusts<T: CudaElement>(softmax: &Softmax<'_, Cuda<T>>) -> bool {
    softmax.cap().is_some() || softmax.added().is_some() || softmax.dropped().is_some()
}

/// Whether tables name a block for each key.
fn covers(pages: &Pages, segments: &Segments) -> bool {
    let mut tables = segments.list().iter().zip(pages.tables());
    pages.tables().len() >= segments.list().len()
        && tables.all(|(segment, table)| segment.keys.len() <= table.len() * pages.page())
}

/// The choice over a cache of codes, by the same rules as [`chosen`]'s, and some more.
fn chosen_for_codes(facts: &Facts, kind: Kind) -> Result<Variant, Reason> {
    /// Keys of the smallest pages that the copy engine brings: what it has of one of them, 16 bytes of scales or more, lies at a multiple of 128.
    const LEAST_PAGE: usize = 8;
    chosen(facts)?;
    let latent = facts.keys.width;
    let variant = match facts.queries.heads * facts.most_queries {
        0..=16 => Variant::Narrow16,
        _ => Variant::Wide,
    };
    let rules: [(bool, Reason); 3] = [
        (
            matches!(latent, 128 | 256 | 512),
            "latents in codes are not 128, 256 or 512 wide",
        ),
        (
            kind != Kind::DsMla || latent == 512,
            "entries with scales do not begin at multiples of 16 bytes",
        ),
        (
            facts.page.is_none_or(|page| page >= LEAST_PAGE),
            "pages have less than 8 tokens",
        ),
    ];
    all_hold(&rules).map(|()| variant)
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

/// The reason of the first rule that does not hold.
fn all_hold(rules: &[(bool, Reason)]) -> Result<(), Reason> {
    match rules.iter().find(|(holds, _)| !holds) {
        Some(&(_, reason)) => Err(reason),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mla_tuned::{Line, Situation};

    fn window(rows: usize, heads: usize, width: usize) -> Window {
        Window {
            rows,
            heads,
            width,
            aligned: true,
        }
    }

    /// DeepSeek-V3's decode.
    fn good() -> Facts {
        Facts {
            hopper: true,
            checked: false,
            batch_invariant: false,
            types: ["bf16"; 2],
            queries: window(4, 128, 512),
            queries_rope: window(4, 128, 64),
            keys: window(1 << 20, 1, 512),
            keys_rope: window(1 << 20, 1, 64),
            most_queries: 1,
            values_width: 512,
            values_are_keys: true,
            selects: false,
            masked: false,
            adjusted: false,
            scale: 0.07,
            page: Some(64),
            covered: true,
        }
    }

    #[test]
    fn absorbed_attention_over_a_cache_in_bf16_has_a_kernel() {
        let runs = |change: &dyn Fn(&mut Facts)| {
            let mut facts = good();
            change(&mut facts);
            assert_eq!(chosen(&facts), Ok(Variant::Wide), "{facts:?}");
        };
        runs(&|_| {});
        for page in [None, Some(1), Some(16), Some(128), Some(192)] {
            runs(&|facts| facts.page = page);
        }
        // A part without width has any number of heads, anywhere
        runs(&|facts| {
            facts.queries_rope = window(4, 128, 0);
            facts.keys_rope = Window {
                aligned: false,
                ..window(1 << 20, 7, 0)
            };
        });
    }

    #[test]
    fn many_rows_have_blocks_of_128_where_latents_are_narrow() {
        for (heads, new, latent, wanted) in [
            (128, 1, 256, Variant::Tall),
            (128, 2, 128, Variant::Tall),
            (40, 1, 256, Variant::Wide),
            (64, 1, 128, Variant::Wide),
            (40, 2, 256, Variant::Tall),
            (40, 4, 128, Variant::Tall),
            (16, 2, 256, Variant::Narrow32),
            (65, 1, 512, Variant::Wide),
        ] {
            let facts = Facts {
                queries: window(4, heads, latent),
                keys: window(1 << 20, 1, latent),
                values_width: latent,
                most_queries: new,
                ..good()
            };
            assert_eq!(chosen(&facts), Ok(wanted), "{heads} x {new}, {latent}");
        }
    }

    #[test]
    fn few_rows_have_kernels_of_their_own() {
        for (heads, new, wanted) in [
            (8, 1, Variant::Narrow16),
            (16, 1, Variant::Narrow16),
            (8, 4, Variant::Narrow32),
            (16, 2, Variant::Narrow32),
            (16, 3, Variant::Wide),
            (40, 1, Variant::Wide),
            (128, 2, Variant::Wide),
        ] {
            let facts = Facts {
                queries: window(4, heads, 512),
                most_queries: new,
                ..good()
            };
            assert_eq!(chosen(&facts), Ok(wanted), "{heads} heads, {new} new");
        }
    }

    #[test]
    fn other_latents_are_shared_by_two_warpgroups() {
        for (heads, new, width, wanted) in [
            (16, 1, 1024, Variant::Deep16),
            (16, 1, 384, Variant::Deep16),
            (16, 2, 640, Variant::Deep32),
            (128, 2, 1024, Variant::Deep32),
        ] {
            let facts = Facts {
                queries: window(4, heads, width),
                keys: window(1 << 20, 1, width),
                values_width: width,
                most_queries: new,
                ..good()
            };
            assert_eq!(chosen(&facts), Ok(wanted), "{heads} heads, {width} wide");
            assert_eq!(Variant::with_rows(64, width as u32), None);
        }
    }

    #[test]
    fn what_was_measured_runs_where_its_shape_is_met_and_its_kernel_is_there() {
        let facts = |heads, new| Facts {
            queries: window(4, heads, 512),
            most_queries: new,
            ..good()
        };
        // Two blocks of 16 rows instead of one of 32
        let situations = [Situation::new(128, 8192), Situation::new(1, 8192)];
        let situations = situations.map(|mut situation| {
            situation.note(16, 9.0);
            situation.note(32, 10.0);
            situation
        });
        let line = Line {
            model: 32,
            situations,
        };
        let shape = Shape {
            keys: "bf16",
            heads: 16,
            new: 2,
            latent: 512,
            rope: 64,
        };
        let mut table = Table::empty("a GPU", "kernels");
        table.insert(shape, line);
        let narrow = Some(Variant::Narrow16);
        assert_eq!(measured(Some(&table), &facts(16, 2)), narrow);
        assert_eq!(measured(None, &facts(16, 2)), None);
        // Other heads, other keys
        assert_eq!(measured(Some(&table), &facts(32, 1)), None);
        let mut other = facts(16, 2);
        other.types[1] = "f16";
        assert_eq!(measured(Some(&table), &other), None);

        let usual = chosen(&facts(16, 2)).expect("a kernel");
        assert_eq!(usual, Variant::Narrow32);
        assert_eq!(first(narrow, usual, |_| true), narrow);
        assert_eq!(first(None, usual, |_| true), Some(usual));
        // A layer from before the table
        assert_eq!(first(narrow, usual, |one| *one == usual), Some(usual));
        assert_eq!(first(narrow, usual, |_| false), None);
    }

    #[test]
    fn codes_have_kernels_for_few_rows_and_for_many() {
        let asked = |heads, new, latent, page, kind| {
            let facts = Facts {
                queries: window(4, heads, latent),
                keys: window(1 << 20, 1, latent),
                values_width: latent,
                most_queries: new,
                page: Some(page),
                ..good()
            };
            chosen_for_codes(&facts, kind)
        };
        for kind in [Kind::E4m3, Kind::E5m2, Kind::DsMla] {
            assert_eq!(asked(16, 1, 512, 64, kind), Ok(Variant::Narrow16));
            assert_eq!(asked(16, 2, 512, 8, kind), Ok(Variant::Wide));
            assert_eq!(asked(128, 1, 512, 64, kind), Ok(Variant::Wide));
        }
        assert_eq!(asked(16, 1, 128, 64, Kind::E4m3), Ok(Variant::Narrow16));
        assert_eq!(asked(128, 1, 128, 64, Kind::E4m3), Ok(Variant::Wide));
        for (found, reason) in [
            (asked(16, 1, 256, 64, Kind::DsMla), "scales"),
            (asked(16, 1, 512, 4, Kind::E4m3), "8 tokens"),
            (asked(16, 1, 192, 64, Kind::E4m3), "multiple of 128"),
            (asked(16, 1, 1024, 64, Kind::E4m3), "128, 256 or 512"),
        ] {
            let found = found.expect_err(reason);
            assert!(found.contains(reason), "{found}");
        }
    }

    #[test]
    fn whatever_does_not_fit_is_named() {
        let refused = |change: &dyn Fn(&mut Facts), reason: &str| {
            let mut facts = good();
            change(&mut facts);
            let found = chosen(&facts).expect_err(reason);
            assert!(found.contains(reason), "{found}");
        };
        refused(&|facts| facts.hopper = false, "Hopper");
        refused(&|facts| facts.checked = true, "checked");
        refused(&|facts| facts.batch_invariant = true, "rows beside");
        refused(&|facts| facts.types[0] = "f32", "bf16");
        refused(&|facts| facts.types[1] = "f16", "bf16");
        refused(&|facts| facts.selects = true, "selected");
        refused(&|facts| facts.masked = true, "mask");
        refused(&|facts| facts.adjusted = true, "capped");
        refused(&|facts| facts.scale = -1.0, "scale");
        refused(&|facts| facts.scale = f64::NAN, "scale");
        refused(&|facts| facts.keys.heads = 2, "several heads");
        refused(&|facts| facts.keys_rope.heads = 128, "several heads");
        refused(&|facts| facts.values_are_keys = false, "values");
        refused(&|facts| facts.values_width = 128, "values");
        for width in [192, 1152] {
            refused(
                &|facts| {
                    (facts.queries.width, facts.keys.width, facts.values_width) =
                        (width, width, width);
                },
                "multiple of 128",
            );
        }
        refused(&|facts| facts.keys_rope.width = 40, "rotated");
        refused(&|facts| facts.keys_rope.width = 80, "rotated");
        refused(&|facts| facts.queries_rope.width = 32, "differ in width");
        for page in [0, 48, 100] {
            refused(&|facts| facts.page = Some(page), "pages");
        }
        refused(&|facts| facts.queries.aligned = false, "16 bytes");
        refused(&|facts| facts.keys_rope.aligned = false, "16 bytes");
        refused(&|facts| facts.keys.rows = 0, "no keys");
        refused(&|facts| facts.keys.rows = 1 << 31, "too many rows");
        refused(&|facts| facts.covered = false, "without a block");
    }
}
