//! When an indexer's logits are computed by `index_logits.cuh`, and for which sizes.

use super::super::super::super::CudaDevice;
use super::super::super::super::driver::Address;
use super::super::super::facts::{Reason, Window, all_hold};
use super::maps::{Keys, Operands, Queries};
use super::{KEYS, UNIT};

/// Queries of a run that share their keys, at most.
const MOST_QUERIES: usize = 8;

/// What a kernel is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    heads: usize,
    width: usize,
    pub(super) operands: Operands,
    /// Columns of a product, and how many products meet a tile of keys.
    shape: [usize; 2],
    /// Queries of a work.
    pub(super) queries: usize,
}

impl Sizes {
    fn of([heads, width]: [usize; 2], operands: Operands, queries: usize) -> Self {
        let shape = shape(heads, queries, operands);
        Self {
            heads,
            width,
            operands,
            shape,
            queries: shape[0] * shape[1] / heads,
        }
    }

    /// In the unit's order.
    pub(super) fn dims(&self) -> [usize; 5] {
        let [columns, units] = self.shape;
        [
            self.heads,
            self.width,
            self.operands as usize,
            columns,
            units,
        ]
    }
}

/// Columns of a product, and how many products meet a tile of keys, where so many queries share their keys.
fn shape(heads: usize, queries: usize, operands: Operands) -> [usize; 2] {
    match heads * queries.clamp(1, MOST_QUERIES).next_power_of_two() {
        0..=64 => [64, 1],
        65..=128 => [128, 1],
        // Keys that are widened take the registers of a second one
        _ if operands == Operands::Mixed => [128, 1],
        _ => [128, 2],
    }
}

/// Whether there is a kernel for so many heads of this width.
fn takes([heads, width]: [usize; 2]) -> bool {
    [8, 16, 32, 64].contains(&heads) && [64, 128].contains(&width)
}

/// What the choice is made by.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Whether the device has Hopper's own instructions.
    pub(super) hopper: bool,
    /// Whether kernels have to check indices.
    pub(super) checked: bool,
    /// The number types of queries and of keys that are numbers.
    pub(super) types: [&'static str; 2],
    /// Whether products below 0 count as 0.
    pub(super) relu: bool,
    pub(super) queries: Window,
    /// Queries that share their keys, at most.
    pub(super) sharing: usize,
    pub(super) operands: Operands,
    pub(super) keys: Window,
    /// Keys of a page, where they lie in pages.
    pub(super) page: Option<usize>,
    /// The most pages that a sight has.
    pub(super) pages: usize,
}

impl Facts {
    /// `sharing`: queries that share their keys, and the pages of a sight, at most.
    pub(super) fn of(
        device: &CudaDevice,
        queries: &Queries,
        keys: &Keys,
        [sharing, pages]: [usize; 2],
    ) -> Self {
        Self {
            hopper: device.is_hopper(),
            checked: device.is_checked(),
            types: ["bf16"; 2],
            relu: true,
            queries: queries.window(keys.operands),
            sharing,
            operands: keys.operands,
            keys: keys.window(),
            page: keys.page(),
            pages,
        }
    }
}

/// The sizes of the kernel that does it, or why it does not.
pub(super) fn sizes(device: &CudaDevice, facts: &Facts, weights: Address) -> Result<Sizes, Reason> {
    let sizes = chosen(facts)?;
    let rules: [(bool, Reason); 2] = [
        (
            weights.is_multiple_of(8),
            "weights do not begin at a multiple of 8 bytes",
        ),
        (
            device.shared.kernels.has(UNIT, &sizes.dims()),
            "the layer brought no kernel for these sizes along",
        ),
    ];
    all_hold(&rules).map(|()| sizes)
}

/// The choice: a matter of the device, of types and shapes.
fn chosen(facts: &Facts) -> Result<Sizes, Reason> {
    let Facts { queries, keys, .. } = facts;
    let fits = |count: usize| i32::try_from(count).is_ok();
    let own = [queries.heads, queries.width];
    let rules: [(bool, Reason); 9] = [
        (facts.hopper, "the device is no Hopper GPU"),
        (!facts.checked, "indices are to be checked"),
        (
            facts.types == ["bf16"; 2],
            "queries or keys are neither in bf16 nor in codes of e4m3",
        ),
        (facts.relu, "products below 0 count"),
        (
            queries.width == keys.width && keys.heads == 1,
            "queries and keys differ in width",
        ),
        (takes(own), "there is no kernel for heads of these sizes"),
        (
            queries.aligned && keys.aligned,
            "rows do not begin at multiples of 16 bytes",
        ),
        (
            queries.rows > 0 && keys.rows > 0 && fits(keys.rows) && fits(queries.rows),
            "there are no queries or keys, or too many",
        ),
        (
            facts
                .page
                .is_none_or(|page| is_cut_evenly(page, facts.pages)),
            "a tile of keys does not end where pages do",
        ),
    ];
    all_hold(&rules).map(|()| Sizes::of(own, facts.operands, facts.sharing))
}

/// Whether tiles of keys are made of whole parts of pages.
fn is_cut_evenly(page: usize, pages: usize) -> bool {
    let small = page.is_power_of_two() && page >= 8;
    page > 0 && (small || page.is_multiple_of(KEYS) || pages <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DeepSeek V3.2's indexer over a cache.
    fn deepseek() -> Facts {
        let window = |rows, heads| Window {
            rows,
            heads,
            width: 128,
            aligned: true,
        };
        Facts {
            hopper: true,
            checked: false,
            types: ["bf16"; 2],
            relu: true,
            queries: window(128, 64),
            sharing: 1,
            operands: Operands::Mixed,
            keys: window(1 << 20, 1),
            page: Some(64),
            pages: 512,
        }
    }

    #[test]
    fn sizes_are_those_of_the_layer() {
        let sizes = |facts: Facts| chosen(&facts).expect("the kernel is for it");
        let one = sizes(deepseek());
        assert_eq!((one.dims(), one.queries), ([64, 128, 3, 64, 1], 1));
        let many = |operands| Facts {
            sharing: 8,
            operands,
            ..deepseek()
        };
        let codes = sizes(many(Operands::Codes));
        assert_eq!((codes.dims(), codes.queries), ([64, 128, 1, 128, 2], 4));
        let mixed = sizes(many(Operands::Mixed));
        assert_eq!((mixed.dims(), mixed.queries), ([64, 128, 3, 128, 1], 2));
    }

    #[test]
    fn the_compiler_knows_the_same_sizes() {
        use mla_codegen::plan::logits;
        let all = [
            (Operands::Codes, logits::Operands::Codes),
            (Operands::Numbers, logits::Operands::Numbers),
            (Operands::Mixed, logits::Operands::Mixed),
        ];
        for heads in 1..=130 {
            for width in (8..=264).step_by(8) {
                assert_eq!(takes([heads, width]), logits::takes([heads, width]));
            }
            for queries in 0..20 {
                for (own, theirs) in all {
                    assert_eq!(own as usize, theirs as usize);
                    let wanted = logits::shape(heads, queries, theirs);
                    assert_eq!(shape(heads, queries, own), wanted);
                }
            }
        }
    }

    #[test]
    fn what_it_can_not_do_has_a_reason() {
        let refused: [(Facts, &str); 6] = [
            (
                Facts {
                    hopper: false,
                    ..deepseek()
                },
                "Hopper",
            ),
            (
                Facts {
                    types: ["bf16", "f32"],
                    ..deepseek()
                },
                "bf16",
            ),
            (
                Facts {
                    relu: false,
                    ..deepseek()
                },
                "below 0",
            ),
            (
                Facts {
                    queries: Window {
                        heads: 12,
                        ..deepseek().queries
                    },
                    ..deepseek()
                },
                "sizes",
            ),
            (
                Facts {
                    page: Some(12),
                    ..deepseek()
                },
                "pages",
            ),
            (
                Facts {
                    checked: true,
                    ..deepseek()
                },
                "checked",
            ),
        ];
        for (facts, wanted) in refused {
            let reason = chosen(&facts).expect_err(wanted);
            assert!(reason.contains(wanted), "{reason}");
        }
        // A sight whose keys all lie in one page
        let whole = Facts {
            page: Some(12),
            pages: 1,
            ..deepseek()
        };
        assert!(chosen(&whole).is_ok());
    }
}
