//! Rules of the `import` stage.

use super::Rule;

/// In the order of the codes.
pub const RULES: &[Rule] = &[];
