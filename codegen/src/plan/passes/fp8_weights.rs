//! `fp8-weights`: projections whose weights lie as codes, where the spec says so.
//!
//! What they compute is the same function of a weight that has been rounded. `linear_kv_up_proj` keeps its numbers: absorbed attention multiplies by parts of
//! it, head by head, which blocks of codes have not.

use mla_spec::{Checked, WeightStore};

use crate::plan::{ModuleKind, Program};

/// The slot of which the absorbed form reads parts.
const READ_IN_PARTS: &str = "linear_kv_up_proj";

pub(super) fn run(checked: &Checked, program: &mut Program) {
    if checked.build.weights == WeightStore::Numbers {
        return;
    }
    for module in &mut program.modules {
        if let ModuleKind::Linear(linear) = &module.kind
            && module.slot != READ_IN_PARTS
        {
            module.kind = ModuleKind::Fp8Linear(linear.clone());
        }
    }
}
