//! The two halves of the kv up projection as head-wise products: what the absorbed form puts before and behind attention.
//!
//! The weight's rows stand head by head, `N` key rows (W_UK,h) then `V` value rows (W_UV,h).

use crate::attended::Attended;
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
    const {
        assert!(
            H > 0 && W.is_multiple_of(H),
            "the up projection's rows are not a whole number per head"
        );
        assert!(
            N <= W / H,
            "more key rows than the up projection has per head"
        );
    };
    unbiased(w_ukv)?;
    product("absorbed queries", &[q_nope.rows(), H, C])?;
    let matrices = HeadMatrices {
        offset: 0,
        head_stride: W / H * C,
        k_stride: C,
        n_stride: 1,
        columns: C,
    };
    let buffer = B::head_product(q_nope.device, q_nope.strided(), w_ukv.weight(), matrices)?;
    Ok(Heads {
        device: q_nope.device.clone(),
        buffer,
        rows: q_nope.rows(),
    })
}

/// `o_h = W_UV,h · z_h`: attention's latent output as values.
///
/// # Errors
/// When the up projection has a bias, which no absorbed form carries.
pub fn values<B: Backend, const C: usize, const W: usize, const H: usize, const V: usize>(
    w_ukv: &Linear<B, C, W>,
    z: Attended<B, H, C>,
) -> Result<Heads<B, H, V>> {
    const {
        assert!(
            H > 0 && W.is_multiple_of(H),
            "the up projection's rows are not a whole number per head"
        );
        assert!(
            V <= W / H,
            "more value rows than the up projection has per head"
        );
    };
    unbiased(w_ukv)?;
    product("values", &[z.rows(), H, V])?;
    let z = z.into_out()?;
    let matrices = HeadMatrices {
        offset: (W / H - V) * C,
        head_stride: W / H * C,
        k_stride: 1,
        n_stride: C,
        columns: V,
    };
    let buffer = B::head_product(&z.device, z.view().strided(), w_ukv.weight(), matrices)?;
    Ok(Heads {
        buffer,
        rows: z.rows(),
        device: z.device,
    })
}

fn unbiased<B: Backend, const C: usize, const W: usize>(w_ukv: &Linear<B, C, W>) -> Result<()> {
    if w_ukv.is_biased() {
        return Err(Error::BadConstant(
            "an up projection with a bias has no absorbed form".to_owned(),
        ));
    }
    Ok(())
}
