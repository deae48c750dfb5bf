//! Tensors side by side.

use crate::backend::Backend;
use crate::error::{Result, expect_count, product};
use crate::rows::{Rows, RowsView};

/// `[left ∥ right]`, row by row. That `LEFT + RIGHT == WIDTH` is proved by the compiler.
///
/// # Errors
/// When the two have different numbers of rows, or the device refuses.
pub fn rows<'a, B, const LEFT: usize, const RIGHT: usize, const WIDTH: usize>(
    left: impl Into<RowsView<'a, B, LEFT>>,
    right: impl Into<RowsView<'a, B, RIGHT>>,
) -> Result<Rows<B, WIDTH>>
where
    B: Backend + 'a,
{
    const {
        assert!(
            LEFT + RIGHT == WIDTH,
            "two widths do not add up to the row's"
        )
    };
    let (left, right) = (left.into(), right.into());
    expect_count("rows to be put side by side", right.rows(), left.rows())?;
    product("rows side by side", &[left.rows(), WIDTH])?;
    Ok(Rows {
        device: left.device.clone(),
        buffer: B::concat(left.device, left.strided(), right.strided())?,
        rows: left.rows(),
    })
}
