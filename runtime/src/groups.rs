//! The grouped layout of a fused projection: what it holds for each group of heads, taken apart (features R-05).
//!
//! A row of `linear_qkv` is, for each of its `G` groups, `H / G` query heads, `H / G` gates where the layer has a fused output gate, one key
//! head and one value head, all `D` wide. A row of `linear_kv` is a key and a value head per group.

use crate::backend::{Backend, GradientOps, Place, Strided};
use crate::error::{Result, expect_count};
use crate::heads::Heads;
use crate::rows::{Rows, RowsView};

/// The query heads `[rows, H, D]` of `linear_qkv`'s rows.
///
/// # Errors
/// When the device refuses the copy.
pub fn query<'a, B, const W: usize, const H: usize, const G: usize, const D: usize>(
    qkv: impl Into<RowsView<'a, B, W>>,
) -> Result<Heads<B, H, D>>
where
    B: Backend + 'a,
{
    const { assert_queries(W, H, G, D) };
    taken(qkv.into(), G, 0, H / G * D)
}

/// The gates `[rows, H · D]` of `linear_qkv`'s rows, head by head. That `H * D == GATES` is proved by the compiler.
///
/// # Errors
/// When the device refuses the copy.
pub fn gate<
    'a,
    B,
    const W: usize,
    const H: usize,
    const G: usize,
    const D: usize,
    const GATES: usize,
>(
    qkv: impl Into<RowsView<'a, B, W>>,
) -> Result<Rows<B, GATES>>
where
    B: Backend + 'a,
{
    const { assert_gates(W, H, G, D) };
    let heads: Heads<B, H, D> = taken(qkv.into(), G, H / G * D, H / G * D)?;
    Ok(heads.into_rows())
}

/// The key heads `[rows, G, D]` of `linear_qkv`'s or `linear_kv`'s rows.
///
/// # Errors
/// When the device refuses the copy.
pub fn key<'a, B, const W: usize, const G: usize, const D: usize>(
    rows: impl Into<RowsView<'a, B, W>>,
) -> Result<Heads<B, G, D>>
where
    B: Backend + 'a,
{
    const { assert_key_and_value(W, G, D) };
    taken(rows.into(), G, W / G - 2 * D, D)
}

/// The value heads `[rows, G, D]` of `linear_qkv`'s or `linear_kv`'s rows.
///
/// # Errors
/// When the device refuses the copy.
pub fn value<'a, B, const W: usize, const G: usize, const D: usize>(
    rows: impl Into<RowsView<'a, B, W>>,
) -> Result<Heads<B, G, D>>
where
    B: Backend + 'a,
{
    const { assert_key_and_value(W, G, D) };
    taken(rows.into(), G, W / G - D, D)
}

/// Adds the gradient of [`query`] to that of `linear_qkv`'s rows.
///
/// # Errors
/// When the two have different numbers of rows, or the device refuses.
pub fn add_query<B, const W: usize, const H: usize, const G: usize, const D: usize>(
    d_qkv: &mut Rows<B, W>,
    d_q: &Heads<B, H, D>,
) -> Result<()>
where
    B: Backend,
{
    const { assert_queries(W, H, G, D) };
    put(d_qkv, d_q.view().strided(), G, 0)
}

/// Adds the gradient of [`gate`] to that of `linear_qkv`'s rows. That `H * D == GATES` is proved by the compiler.
///
/// # Errors
/// As [`add_query`].
pub fn add_gate<
    'a,
    B,
    const W: usize,
    const H: usize,
    const G: usize,
    const D: usize,
    const GATES: usize,
>(
    d_qkv: &mut Rows<B, W>,
    d_gate: impl Into<RowsView<'a, B, GATES>>,
) -> Result<()>
where
    B: Backend + 'a,
{
    const {
        assert_gates(W, H, G, D);
        assert!(
            H * D == GATES,
            "heads times head width is not the gates' width"
        );
    };
    put(d_qkv, d_gate.into().strided(), G, H / G * D)
}

/// Adds the gradient of [`key`] to that of the rows it came from.
///
/// # Errors
/// As [`add_query`].
pub fn add_key<B, const W: usize, const G: usize, const D: usize>(
    d_rows: &mut Rows<B, W>,
    d_k: &Heads<B, G, D>,
) -> Result<()>
where
    B: Backend,
{
    const { assert_key_and_value(W, G, D) };
    put(d_rows, d_k.view().strided(), G, W / G - 2 * D)
}

/// Adds the gradient of [`value`] to that of the rows it came from.
///
/// # Errors
/// As [`add_query`].
pub fn add_value<B, const W: usize, const G: usize, const D: usize>(
    d_rows: &mut Rows<B, W>,
    d_v: &Heads<B, G, D>,
) -> Result<()>
where
    B: Backend,
{
    const { assert_key_and_value(W, G, D) };
    put(d_rows, d_v.view().strided(), G, W / G - D)
}

const fn assert_queries(w: usize, h: usize, g: usize, d: usize) {
    assert!(
        g > 0 && h.is_multiple_of(g),
        "heads are not a whole number per group"
    );
    assert!(
        w == (h + 2 * g) * d || w == (2 * h + 2 * g) * d,
        "the row's width is not that of its groups"
    );
}

const fn assert_gates(w: usize, h: usize, g: usize, d: usize) {
    assert!(
        g > 0 && h.is_multiple_of(g),
        "heads are not a whole number per group"
    );
    assert!(
        w == (2 * h + 2 * g) * d,
        "the row's width is not that of groups with gates"
    );
}

const fn assert_key_and_value(w: usize, g: usize, d: usize) {
    assert!(
        g > 0 && w.is_multiple_of(g),
        "the row is not a whole number of groups"
    );
    assert!(w / g >= 2 * d, "a group has no room for a key and a value");
}

/// Columns `offset .. offset + width` of every group.
fn taken<B: Backend, const W: usize, const H: usize, const D: usize>(
    rows: RowsView<'_, B, W>,
    groups: usize,
    offset: usize,
    width: usize,
) -> Result<Heads<B, H, D>> {
    let all = rows.strided();
    let part = Strided {
        offset: all.offset + offset,
        heads: groups,
        width,
        head_stride: W / groups,
        ..all
    };
    Ok(Heads {
        device: rows.device.clone(),
        buffer: B::copy(rows.device, part)?,
        rows: rows.rows(),
    })
}

/// Adds rows whose values stand group by group and without gaps, to columns from `offset` on of every group.
fn put<B: Backend, const W: usize>(
    into: &mut Rows<B, W>,
    x: Strided<'_, B, B::Elem>,
    groups: usize,
    offset: usize,
) -> Result<()> {
    expect_count("rows to be added", x.rows, into.rows())?;
    let width = x.heads * x.width / groups;
    let parts = Strided {
        heads: groups,
        width,
        head_stride: width,
        ..x
    };
    let place = Place {
        stride: W,
        offset,
        head_stride: W / groups,
    };
    B::Gradients::add(&into.device, parts, &mut into.buffer, place)
}
