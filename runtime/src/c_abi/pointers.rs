//! Pointers of callers.

use std::ffi::{CStr, c_char};
use std::slice;
use std::sync::Arc;

use super::fault::Fault;

/// A count that is not negative.
pub(super) fn named(argument: &str, count: &str, value: i64) -> Result<usize, Fault> {
    usize::try_from(value)
        .map_err(|_| Fault::argument(argument, format!("{count} is {value}, wanted at least 0")))
}

/// An array of the host's memory. Where there are no elements, it may be null.
///
/// # Safety
/// It is null or has `len` elements, and is not written while the result is used.
pub(super) unsafe fn array<'a, T>(
    argument: &str,
    at: *const T,
    len: usize,
) -> Result<&'a [T], Fault> {
    if len == 0 {
        return Ok(&[]);
    }
    if at.is_null() {
        return Err(Fault::argument(
            argument,
            format!("is null, wanted {len} elements"),
        ));
    }
    if !at.is_aligned()
        || len
            .checked_mul(size_of::<T>())
            .is_none_or(|n| n > isize::MAX as usize)
    {
        return Err(Fault::argument(
            argument,
            format!("can't be an array of {len} elements"),
        ));
    }
    // SAFETY: this function's contract, and the checks above
    Ok(unsafe { slice::from_raw_parts(at, len) })
}

/// A text in UTF-8.
///
/// # Safety
/// It is null or ends with a 0.
pub(super) unsafe fn text(argument: &str, at: *const c_char) -> Result<String, Fault> {
    if at.is_null() {
        return Err(Fault::argument(argument, "is null, wanted a text"));
    }
    // SAFETY: this function's contract
    let bytes = unsafe { CStr::from_ptr(at) };
    match bytes.to_str() {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Fault::argument(argument, "is no UTF-8")),
    }
}

/// What a handle names.
///
/// # Safety
/// It is null or one that [`handed_out`] gave and [`taken_back`] did not take.
pub(super) unsafe fn handle<T>(argument: &str, at: *const T) -> Result<Arc<T>, Fault> {
    if at.is_null() {
        return Err(Fault::argument(argument, "is null"));
    }
    // SAFETY: this function's contract: the caller's own count is still there
    unsafe { Arc::increment_strong_count(at) };
    // SAFETY: as above
    Ok(unsafe { Arc::from_raw(at) })
}

/// Writes a handle to where a caller wants it.
///
/// # Safety
/// It is null or may be written.
pub(super) unsafe fn handed_out<T>(
    argument: &str,
    to: *mut *const T,
    make: impl FnOnce() -> Result<T, Fault>,
) -> Result<(), Fault> {
    // SAFETY: this function's contract
    let to = unsafe { to.as_mut() }.ok_or_else(|| Fault::argument(argument, "is null"))?;
    *to = std::ptr::null();
    *to = Arc::into_raw(Arc::new(make()?));
    Ok(())
}

/// Gives a handle up; null is none.
///
/// # Safety
/// As [`handle`], and it is not used again.
pub(super) unsafe fn taken_back<T>(at: *const T) {
    if !at.is_null() {
        // SAFETY: this function's contract
        drop(unsafe { Arc::from_raw(at) });
    }
}
