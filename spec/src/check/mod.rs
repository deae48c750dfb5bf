//! Proves a document and turns it into a layer: the only place that refuses.

use crate::diagnostic::Diagnostics;
use crate::document::Document;
use crate::layer::Checked;

/// Checks a whole document and collects every diagnostic. The layer is there exactly when none is an error.
pub fn check(_document: &Document) -> (Option<Checked>, Diagnostics) {
    (None, Diagnostics::new())
}
