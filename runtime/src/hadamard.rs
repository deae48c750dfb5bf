//! The orthogonal Walsh-Hadamard transform of an indexer's queries and keys (features L-05): `H x / sqrt(D)`.
//!
//! It leaves their products unchanged and spreads outliers, which is of use only where they are stored in few bits. H is Sylvester's:
//! `H[i][j] = (-1)^popcount(i & j)`.

use crate::backend::Backend;
use crate::error::Result;
use crate::heads::Heads;
use crate::rows::Rows;

/// The transform of each head. That `D` is a power of two is proved by the compiler.
///
/// # Errors
/// When the device refuses.
pub fn heads<B: Backend, const H: usize, const D: usize>(
    mut x: Heads<B, H, D>,
) -> Result<Heads<B, H, D>> {
    const { assert!(D.is_power_of_two(), "transformed widths are powers of two") };
    B::hadamard(&x.device, &mut x.buffer, D)?;
    Ok(x)
}

/// The transform of each row. That `W` is a power of two is proved by the compiler.
///
/// # Errors
/// When the device refuses.
pub fn rows<B: Backend, const W: usize>(mut x: Rows<B, W>) -> Result<Rows<B, W>> {
    const { assert!(W.is_power_of_two(), "transformed widths are powers of two") };
    B::hadamard(&x.device, &mut x.buffer, W)?;
    Ok(x)
}
