//! The two halves of the kv up projection as head-wise products: what the absorbed form puts before and behind attention.
//!
//! The weight's rows stand head by head, `N` key rows (W_UK,h) then `V` value rows (W_UV,h).

use crate::backend::{Backend, HeadMatrices};
use crate::error::{Error, Result, product};
use crate::heads::{Heads, HeadsView};
use crate::linear::Linear;

/// `q̃_h = W_UK,hᵀ · q_n,h`: the query as the latent sees it.
///
/// # Errors
/// When the up projection has a bias, which no absorbed form carries.
pub fn queries<B: Backend, const C: usize, const W: usize, const H: usize, const N: usize>(
    w_ukv: &Linear<B, C, W>,
    q_nope: HeadsView<'_, B, H, N>,
) -> Result<Heads<B, H, C>> {
    const { assert_rows(W, H, N) };
    let matrices = HeadMatrices {
        offset: 0,
        head_stride: W / H * C,
        k_stride: C,
        n_stride: 1,
        columns: C,
    };
    by_head(w_ukv, q_nope, matrices)
}

/// `o_h = W_UV,h · z_h`: attention's latent output as values.
///
/// # Errors
/// When the up projection has a bias, which no absorbed form carries.
pub fn values<B: Backend, const C: usize, const W: usize, const H: usize, const V: usize>(
    w_ukv: &Linear<B, C, W>,
    z: &Heads<B, H, C>,
) -> Result<Heads<B, H, V>> {
    const { assert_rows(W, H, V) };
    let matrices = HeadMatrices {
        offset: (W / H - V) * C,
        head_stride: W / H * C,
        k_stride: 1,
        n_stride: C,
        columns: V,
    };
    by_head(w_ukv, z.view(), matrices)
}

/// The gradient of what [`queries`] was given: `dq_n,h = W_UK,h · dq̃_h`.
///
/// # Errors
/// As [`queries`].
pub fn queries_backward<
    B: Backend,
    const C: usize,
    const W: usize,
    const H: usize,
    const N: usize,
>(
    w_ukv: &Linear<B, C, W>,
    d_q_latent: &Heads<B, H, C>,
) -> Result<Heads<B, H, N>> {
    const { assert_rows(W, H, N) };
    let matrices = HeadMatrices {
        offset: 0,
        head_stride: W / H * C,
        k_stride: 1,
        n_stride: C,
        columns: N,
    };
    by_head(w_ukv, d_q_latent.view(), matrices)
}

/// The gradient of what [`values`] was given: `dz_h = W_UV,hᵀ · do_h`.
///
/// # Errors
/// As [`values`].
pub fn values_backward<
    B: Backend,
    const C: usize,
    const W: usize,
    const H: usize,
    const V: usize,
>(
    w_ukv: &Linear<B, C, W>,
    d_out: &Heads<B, H, V>,
) -> Result<Heads<B, H, C>> {
    const { assert_rows(W, H, V) };
    let matrices = HeadMatrices {
        offset: (W / H - V) * C,
        head_stride: W / H * C,
        k_stride: C,
        n_stride: 1,
        columns: C,
    };
    by_head(w_ukv, d_out.view(), matrices)
}

/// Each head times its matrix of the up projection.
fn by_head<B, const C: usize, const W: usize, const H: usize, const D: usize, const TO: usize>(
    w_ukv: &Linear<B, C, W>,
    x: HeadsView<'_, B, H, D>,
    matrices: HeadMatrices,
) -> Result<Heads<B, H, TO>>
where
    B: Backend,
{
    unbiased(w_ukv)?;
    product("an absorbed product", &[x.rows(), H, TO])?;
    let buffer = B::head_product(x.device, x.strided(), w_ukv.weight(), matrices)?;
    Ok(Heads {
        device: x.device.clone(),
        buffer,
        rows: x.rows(),
    })
}

/// Refuses an up projection that has not as many rows for each head.
pub(crate) const fn assert_rows(w: usize, h: usize, rows: usize) {
    assert!(
        h > 0 && w.is_multiple_of(h),
        "the up projection's rows are not a whole number per head"
    );
    assert!(
        rows <= w / h,
        "more rows of a head than the up projection has"
    );
}

fn unbiased<B: Backend, const C: usize, const W: usize>(w_ukv: &Linear<B, C, W>) -> Result<()> {
    if w_ukv.is_biased() {
        return Err(Error::BadConstant(
            "an up projection with a bias has no absorbed form".to_owned(),
        ));
    }
    Ok(())
}
