//! How errors cross the border: a number, and a message that the thread keeps.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cuda::CallersContext;
use crate::error::Error;

/// `MLA_OK`.
const OK: i32 = 0;
/// `MLA_BAD_ARGUMENT`.
const BAD_ARGUMENT: i32 = 1;
/// `MLA_REFUSED`.
const REFUSED: i32 = 2;
/// `MLA_PANIC`.
const PANIC: i32 = 3;

/// Why a function of the ABI did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// An argument can't be what is wanted, as it can be seen from here.
    #[error("`{argument}`: {problem}")]
    Argument {
        /// Its name in `mla.h`; an element of an array is named with its index.
        argument: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The layer lacks a phase.
    #[error("`{layer}` was generated without `{phase}`: add it to the spec's `phases`")]
    Phase {
        /// The layer's name.
        layer: &'static str,
        /// What it lacks.
        phase: &'static str,
    },
    /// The runtime's own.
    #[error(transparent)]
    Runtime(#[from] Error),
}

impl Fault {
    /// A [`Fault::Argument`].
    pub(super) fn argument(argument: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Argument {
            argument: argument.into(),
            problem: problem.into(),
        }
    }

    fn status(&self) -> i32 {
        match self {
            Self::Argument { .. } => BAD_ARGUMENT,
            Self::Phase { .. } | Self::Runtime(_) => REFUSED,
        }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs what a C function does: errors and panics become its status, and the thread is in its own CUDA context again afterwards.
pub(super) fn guarded(work: impl FnOnce() -> Result<(), Fault>) -> i32 {
    let _context = CallersContext::of_thread();
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => OK,
        Ok(Err(fault)) => {
            remember(&fault.to_string());
            fault.status()
        }
        Err(panic) => {
            remember(&format!("a mistake in this library: {}", said(&*panic)));
            PANIC
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it panicked")
}

fn remember(message: &str) {
    // C ends texts with a 0, which names of tensors may hold
    let message = CString::new(message.replace('\0', "?")).unwrap_or_default();
    // A thread that is ending has nobody to ask
    let _ = LAST.try_with(|last| last.replace(message));
}

/// `mla_last_error`.
pub fn last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}
