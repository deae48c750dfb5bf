//! What a library says of itself.

use std::ffi::c_char;

use super::Library;
use super::fault::{Fault, guarded};
use super::tensor::DTYPES;
use crate::element::Scalar;

/// `mla_description`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CDescription {
    /// The layer's name.
    pub name: *const c_char,
    /// Width of what goes in and comes out.
    pub hidden_size: i64,
    /// What it computes in.
    pub dtype: i32,
    /// Its phases: 1 is forward, 2 prefill, 4 decode, 8 mixed.
    pub phases: u32,
}

/// `mla_describe`.
///
/// # Safety
/// `mla.h`'s contract.
pub unsafe fn describe<L: Library>(into: *mut CDescription) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract
        let into = unsafe { into.as_mut() }.ok_or_else(|| Fault::argument("into", "is null"))?;
        let known = DTYPES.iter().position(|&(name, _)| name == L::Elem::NAME);
        *into = CDescription {
            name: L::NAME.as_ptr().cast(),
            hidden_size: L::HIDDEN_SIZE as i64,
            dtype: known.map_or(-1, |dtype| dtype as i32),
            phases: L::PHASES,
        };
        Ok(())
    })
}
