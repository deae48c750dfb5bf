//! Kernels of products of few rows.

use mla_spec::DType;

use super::super::few_rows;
use super::{Module, ModuleKind, Needs};

impl Needs<'_> {
    /// A product of heads with a matrix of so many k and n each, whose numbers of n lie side by side or one below the other.
    pub(super) fn few_heads(&mut self, matrix: [u32; 2], turned: bool) {
        if self.program.build.dtype == DType::Bf16 && self.may_be_on_hopper() {
            let matrix = matrix.map(|size| size as usize);
            self.units.extend(few_rows::heads_units(matrix, turned));
        }
    }

    /// Those of weights in blocks of codes, whichever op multiplies by them.
    pub(super) fn fp8_weights(&mut self) {
        let in_bf16 = self.program.build.dtype == DType::Bf16 && self.may_be_on_hopper();
        for module in &self.program.modules {
            let ModuleKind::Fp8Linear(linear) = &module.kind else {
                continue;
            };
            self.add("fp8_weight", &[]);
            if in_bf16 {
                let input = linear.input.size as usize;
                self.units.extend(few_rows::fp8_units(input));
            }
        }
    }

    pub(super) fn is_fp8(&self, slot: &str) -> bool {
        let is_it = |module: &&Module| module.slot == slot;
        let module = self.program.modules.iter().find(is_it);
        module.is_some_and(|module| matches!(module.kind, ModuleKind::Fp8Linear(_)))
    }

    /// A product with a weight of so many columns and rows, where rows of x may be few.
    pub(super) fn few_rows(&mut self, weight: [u32; 2]) {
        if self.program.build.dtype == DType::Bf16 && self.may_be_on_hopper() {
            let weight = weight.map(|size| size as usize);
            self.units.extend(few_rows::units(weight));
        }
    }
}
