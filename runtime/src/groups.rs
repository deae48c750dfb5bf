//! The grouped layout of a fused projection: what it holds for each group of heads, taken apart (features R-05).
//!
//! A row of `linear_qkv` is, for each of its `G` groups, `H / G` query heads, `H / G` gates where the layer has a fused output gate, one key
//! head and one value head, all `D` wide. A row of `linear_kv` is a key and a value head per group.

use crate::backend::{Backend, Strided};
use crate::error::Result;
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
    const {
        assert!(
            G > 0 && H.is_multiple_of(G),
            "heads are not a whole number per group"
        );
        assert!(
            W == (H + 2 * G) * D || W == (2 * H + 2 * G) * D,
            "the row's width is not that of its groups"
        );
    };
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
    const {
        assert!(
            G > 0 && H.is_multiple_of(G),
            "heads are not a whole number per group"
        );
        assert!(
            W == (2 * H + 2 * G) * D,
            "the row's width is not that of groups with gates"
        );
    };
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
