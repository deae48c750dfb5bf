//! Attention over whole sequences: expanded, absorbed, grouped; over all keys that a query sees or over a few selected ones. Softmax runs
//! block by block: no matrix of queries by keys is ever stored.

use crate::attended::Attended;
use crate::backend::{Attention, Backend, Chosen, Strided};
use crate::error::{Result, expect_count, product};
use crate::heads::{Heads, HeadsView};
use crate::rotary::{RopeKey, RopeLayout};
use crate::rows::RowsView;
use crate::segments::Segments;
use crate::selection::Selection;
use crate::softmax::Softmax;

/// Expanded (MHA) form: `p = softmax(τ · (q_n·k_n + q_r·k_r))`, `o_h = Σ p · v_h`.
///
/// A head of `q` is `QK - R` position-free values, then `R` rotated ones. A head of `kv` is `QK - R` key values, then `V` values. `k_rope` is
/// shared by the heads.
///
/// # Errors
/// When the rows of `q` are not the segments' queries, or those of `kv` and `k_rope` not their keys; when a constant of the softmax is
/// unusable, or its bias not one for these heads, queries and keys.
pub fn expanded<
    'a,
    B,
    L,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const R: usize,
    const V: usize,
>(
    q: &Heads<B, H, QK>,
    kv: &Heads<B, H, KV>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<Attended<B, H, V>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    expanded_over(q, kv, k_rope, segments, None, softmax.into())
}

/// [`expanded`] over the selected keys that a query sees; work and memory of a query grow with `K`, not with the keys there are.
///
/// # Errors
/// As [`expanded`], and when the selection has another number of rows.
pub fn expanded_selected<
    'a,
    B,
    L,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const R: usize,
    const V: usize,
    const K: usize,
>(
    q: &Heads<B, H, QK>,
    kv: &Heads<B, H, KV>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<Attended<B, H, V>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let chosen = selection.of(segments)?;
    expanded_over(q, kv, k_rope, segments, Some(chosen), softmax.into())
}

/// Absorbed (MQA) form: `p = softmax(τ · (q̃_h·ĉ + q_r·k_r))`, `z_h = Σ p · ĉ`, all heads sharing the latent ĉ as key and value.
///
/// # Errors
/// As [`expanded`].
pub fn absorbed<'a, B, L, const H: usize, const C: usize, const R: usize>(
    q_latent: &Heads<B, H, C>,
    q_rope: HeadsView<'_, B, H, R>,
    latent: impl Into<RowsView<'a, B, C>>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<Attended<B, H, C>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let (latent, softmax) = (latent.into(), softmax.into());
    absorbed_over(q_latent, q_rope, latent, k_rope, segments, None, softmax)
}

/// [`absorbed`] over the selected keys that a query sees; work and memory of a query grow with `K`, not with the keys there are.
///
/// # Errors
/// As [`expanded`], and when the selection has another number of rows.
pub fn absorbed_selected<'a, B, L, const H: usize, const C: usize, const R: usize, const K: usize>(
    q_latent: &Heads<B, H, C>,
    q_rope: HeadsView<'_, B, H, R>,
    latent: impl Into<RowsView<'a, B, C>>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<Attended<B, H, C>>
where
    B: Backend + 'a,
    L: RopeLayout,
{
    let chosen = Some(selection.of(segments)?);
    let (latent, softmax) = (latent.into(), softmax.into());
    absorbed_over(q_latent, q_rope, latent, k_rope, segments, chosen, softmax)
}

/// Grouped (GQA) form: `p = softmax(τ · q_h·k_g)`, `o_h = Σ p · v_g`, where head `h` of the queries belongs to group `g = ⌊h · G / H⌋`. With
/// `G = H` every head has its own keys, with `G = 1` all share them. Queries and keys may be those of different sequences.
///
/// # Errors
/// When the rows of `q` are not the segments' queries, or those of `k` and `v` not their keys; what [`expanded`] refuses of the softmax.
pub fn grouped<'a, B, const H: usize, const G: usize, const D: usize, const V: usize>(
    q: &Heads<B, H, D>,
    k: &Heads<B, G, D>,
    v: &Heads<B, G, V>,
    segments: &Segments,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<Attended<B, H, V>>
where
    B: Backend + 'a,
{
    grouped_over(q, k, v, segments, None, softmax.into())
}

/// [`grouped`] over the selected keys that a query sees; work and memory of a query grow with `K`, not with the keys there are.
///
/// # Errors
/// As [`grouped`], and when the selection has another number of rows.
pub fn grouped_selected<
    'a,
    B,
    const H: usize,
    const G: usize,
    const D: usize,
    const V: usize,
    const K: usize,
>(
    q: &Heads<B, H, D>,
    k: &Heads<B, G, D>,
    v: &Heads<B, G, V>,
    segments: &Segments,
    selection: &Selection<B, K>,
    softmax: impl Into<Softmax<'a, B>>,
) -> Result<Attended<B, H, V>>
where
    B: Backend + 'a,
{
    let chosen = selection.of(segments)?;
    grouped_over(q, k, v, segments, Some(chosen), softmax.into())
}

fn expanded_over<
    B,
    L,
    const H: usize,
    const QK: usize,
    const KV: usize,
    const R: usize,
    const V: usize,
>(
    q: &Heads<B, H, QK>,
    kv: &Heads<B, H, KV>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    selection: Option<Chosen<'_, B>>,
    softmax: Softmax<'_, B>,
) -> Result<Attended<B, H, V>>
where
    B: Backend,
    L: RopeLayout,
{
    const {
        assert!(R <= QK, "the rotated part is wider than the query head");
        assert!(
            KV == QK - R + V,
            "a head of keys and values is QK - R + V wide"
        );
    };
    expect_count("rows of keys", kv.rows(), segments.keys())?;
    expect_count("rows of rotated keys", k_rope.rows(), segments.keys())?;
    let q_all = q.view().strided();
    let kv_all = kv.view().strided();
    let attention = Attention {
        q: narrowed(q_all, 0, QK - R),
        q_rope: narrowed(q_all, QK - R, R),
        k: narrowed(kv_all, 0, QK - R),
        k_rope: k_rope.view().strided(),
        v: narrowed(kv_all, QK - R, V),
        segments,
        pages: None,
        selection,
        softmax,
    };
    attend(&q.device, q.rows(), attention)
}

fn absorbed_over<B, L, const H: usize, const C: usize, const R: usize>(
    q_latent: &Heads<B, H, C>,
    q_rope: HeadsView<'_, B, H, R>,
    latent: RowsView<'_, B, C>,
    k_rope: &RopeKey<B, L, R>,
    segments: &Segments,
    selection: Option<Chosen<'_, B>>,
    softmax: Softmax<'_, B>,
) -> Result<Attended<B, H, C>>
where
    B: Backend,
    L: RopeLayout,
{
    expect_count("rows of rotated queries", q_rope.rows(), q_latent.rows())?;
    expect_count("rows of latents", latent.rows(), segments.keys())?;
    expect_count("rows of rotated keys", k_rope.rows(), segments.keys())?;
    let attention = Attention {
        q: q_latent.view().strided(),
        q_rope: q_rope.strided(),
        k: latent.strided(),
        k_rope: k_rope.view().strided(),
        v: latent.strided(),
        segments,
        pages: None,
        selection,
        softmax,
    };
    attend(&q_latent.device, q_latent.rows(), attention)
}

fn grouped_over<B, const H: usize, const G: usize, const D: usize, const V: usize>(
    q: &Heads<B, H, D>,
    k: &Heads<B, G, D>,
    v: &Heads<B, G, V>,
    segments: &Segments,
    selection: Option<Chosen<'_, B>>,
    softmax: Softmax<'_, B>,
) -> Result<Attended<B, H, V>>
where
    B: Backend,
{
    const { whole_groups(H, G) };
    expect_count("rows of keys", k.rows(), segments.keys())?;
    expect_count("rows of values", v.rows(), segments.keys())?;
    let (q_all, k_all) = (q.view().strided(), k.view().strided());
    let attention = Attention {
        q: q_all,
        q_rope: narrowed(q_all, D, 0),
        k: k_all,
        k_rope: narrowed(k_all, D, 0),
        v: v.view().strided(),
        segments,
        pages: None,
        selection,
        softmax,
    };
    attend(&q.device, q.rows(), attention)
}

/// Refuses, when compiled, heads of queries that do not fall into equal groups.
pub(crate) const fn whole_groups(heads: usize, groups: usize) {
    assert!(
        groups > 0 && heads.is_multiple_of(groups),
        "the heads of queries do not fall into equal groups"
    );
}

/// Runs attention, its softmax checked, and dresses its result.
pub(crate) fn attend<B, E, const H: usize, const V: usize>(
    device: &B::Device,
    rows: usize,
    attention: Attention<'_, B, E>,
) -> Result<Attended<B, H, V>>
where
    B: Backend,
    E: crate::element::Scalar,
{
    expect_count("rows of queries", rows, attention.segments.queries())?;
    product("attention's output", &[rows, H, V])?;
    let attention = Attention {
        softmax: attention.softmax.checked(H, attention.segments)?,
        ..attention
    };
    Ok(Attended::new(device, rows, B::attend(device, &attention)?))
}

/// Values `offset .. offset + width` of every head.
pub(crate) fn narrowed<B: Backend, S: crate::element::Scalar>(
    all: Strided<'_, B, S>,
    offset: usize,
    width: usize,
) -> Strided<'_, B, S> {
    Strided {
        offset: all.offset + offset,
        width,
        ..all
    }
}
