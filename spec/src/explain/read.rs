//! Rules of the `read` stage.

use super::Rule;

/// In the order of the codes.
pub const RULES: &[Rule] = &[];
