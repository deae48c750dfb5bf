//! When attention is done by `flash_forward.cuh`, and for which sizes.

use super::super::super::{Cuda, CudaDevice, CudaElement};
use super::super::facts::{Reason, Window, all_hold, covers, most_queries};
use super::{COLUMNS, FORWARD, ROWS, SHARED_BYTES};
use crate::backend::{Attention, Pages};
use crate::element::Scalar;

/// What a kernel is made for, in its unit's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Widths of both parts of keys and of values; whether logits are capped, the largest one is wanted, keys lie in pages.
    pub(super) dims: [usize; 6],
    /// Keys that are attended to at a time.
    keys: usize,
}

impl Sizes {
    fn of(facts: &Facts, tells_most: bool) -> Self {
        let [key, rope, value] = facts.widths();
        Self {
            dims: [
                key,
                rope,
                value,
                usize::from(facts.capped),
                usize::from(tells_most),
                usize::from(facts.page.is_some()),
            ],
            keys: keys_at_a_time([key, rope, value], facts.capped, facts.page.is_some()),
        }
    }

    /// Keys that the copy engine brings at once: those of a tile, or of a page of so many.
    pub(super) fn keys_at_once(&self, page: usize) -> usize {
        match page {
            0 => self.keys,
            _ => self.keys.min(1 << page.trailing_zeros()),
        }
    }
}

/// What the choice is made by.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Whether the device has Hopper's own instructions.
    pub(super) hopper: bool,
    /// Whether kernels have to check indices.
    checked: bool,
    /// The number types of queries and of keys.
    types: [&'static str; 2],
    pub(super) queries: [Window; 2],
    /// Both parts of keys, and values.
    pub(super) keys: [Window; 3],
    /// Queries of the longest segment.
    pub(super) most_queries: usize,
    selects: bool,
    /// Whether a dense mask takes keys away.
    masked: bool,
    pub(super) capped: bool,
    /// Whether logits are biased, or probabilities dropped.
    pub(super) adjusted: bool,
    scale: f64,
    /// Keys of a page, where they lie in pages.
    page: Option<usize>,
    /// Whether tables name a page for each key.
    covered: bool,
}

/// The sizes of the kernel that does it, or why it does not.
pub(super) fn sizes<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    attention: &Attention<'_, Cuda<T>, E>,
    tells_most: bool,
) -> Result<Sizes, Reason> {
    let sizes = chosen(&Facts::of(device, attention), tells_most)?;
    match device.shared.kernels.has(FORWARD, &sizes.dims) {
        true => Ok(sizes),
        false => Err("the layer brought no kernel for these sizes along"),
    }
}

impl Facts {
    pub(super) fn of<T: CudaElement, E: Scalar>(
        device: &CudaDevice,
        attention: &Attention<'_, Cuda<T>, E>,
    ) -> Self {
        let Attention {
            q,
            q_rope,
            k,
            k_rope,
            v,
            segments,
            pages,
            selection,
            softmax,
        } = attention;
        Self {
            hopper: device.is_hopper(),
            checked: device.is_checked(),
            types: [T::NAME, E::NAME],
            queries: [q, q_rope].map(Window::of),
            keys: [k, k_rope, v].map(Window::of),
            most_queries: most_queries(segments),
            selects: selection.is_some(),
            masked: segments.all_given().is_some(),
            capped: softmax.cap().is_some(),
            adjusted: softmax.added().is_some() || softmax.dropped().is_some(),
            scale: softmax.scale(),
            page: pages.map(Pages::page),
            covered: pages.is_none_or(|pages| covers(pages, segments)),
        }
    }

    /// Of both parts of keys and of values.
    pub(super) fn widths(&self) -> [usize; 3] {
        self.keys.map(|part| part.width)
    }

    /// Refuses what no kernel of this kind does, whatever its widths: neither attention nor its gradients.
    pub(super) fn suit_tensor_cores(&self) -> Result<(), Reason> {
        let Self { queries, keys, .. } = self;
        let heads = queries[0].heads;
        let there = || queries.iter().chain(keys).filter(|part| part.width > 0);
        let rules: [(bool, Reason); 10] = [
            (self.hopper, "the device is no Hopper GPU"),
            (!self.checked, "indices are to be checked"),
            (self.types == ["bf16"; 2], "queries or keys are not in bf16"),
            (!self.selects, "keys are selected"),
            (!self.masked, "a dense mask says who sees whom"),
            (
                !self.adjusted,
                "logits are biased, or probabilities dropped",
            ),
            // The largest logit is found before logits are scaled
            (
                self.scale > 0.0 && (self.scale as f32).is_normal(),
                "the scale is not above 0, or none of f32",
            ),
            (
                [0, 1].map(|part| queries[part].width) == [0, 1].map(|part| keys[part].width),
                "queries and keys differ in width",
            ),
            (
                keys.iter()
                    .filter(|part| part.width > 0)
                    .all(|part| part.heads > 0 && heads.is_multiple_of(part.heads)),
                "heads of queries do not share those of keys evenly",
            ),
            (
                there().all(|part| part.aligned),
                "rows do not begin at multiples of 16 bytes",
            ),
        ];
        all_hold(&rules)
    }
}

/// Whether there is a kernel for these widths: of both parts of keys, and of values.
fn takes([key, rope, value]: [usize; 3]) -> bool {
    let whole = [key, rope, value]
        .iter()
        .all(|width| width.is_multiple_of(16));
    whole && key > 0 && value > 0 && tiles([key, rope]) <= 4 && value <= 256
}

/// Keys that it attends to at a time: `KEYS` of the kernel, which reads as many at once.
fn keys_at_a_time([key, rope, value]: [usize; 3], capped: bool, paged: bool) -> usize {
    let piecemeal = paged
        || [key, rope, value]
            .iter()
            .any(|width| !width.is_multiple_of(COLUMNS));
    let registers = if piecemeal { 232 } else { 240 };
    let (query_tiles, value_tiles) = (tiles([key, rope]), value.div_ceil(COLUMNS));
    let others = match (capped, value_tiles > 2) {
        (true, _) => 48,
        (false, true) => 40,
        (false, false) => 32,
    };
    let tile_bytes = |rows: usize| rows * COLUMNS * 2;
    let fits = |keys: usize| {
        let bytes =
            query_tiles * tile_bytes(ROWS) + 2 * (query_tiles + value_tiles) * tile_bytes(keys);
        value / 2 + keys * 3 / 4 + others <= registers && bytes <= SHARED_BYTES as usize - 3072
    };
    let sizes: &[usize] = match paged {
        true => &[128, 64, 32],
        false => &[128, 112, 96, 80, 64, 48, 32],
    };
    sizes.iter().copied().find(|&keys| fits(keys)).unwrap_or(16)
}

const fn tiles([key, rope]: [usize; 2]) -> usize {
    key.div_ceil(COLUMNS) + rope.div_ceil(COLUMNS)
}

/// Queries of a segment from which on it pays: a block has 128, and no more blocks share a segment's keys.
pub(super) const LEAST_QUERIES: usize = 16;

/// The choice: a matter of the device, of types and shapes.
fn chosen(facts: &Facts, tells_most: bool) -> Result<Sizes, Reason> {
    facts.suit_tensor_cores()?;
    let Facts { queries, keys, .. } = facts;
    let fits = |count: usize| i32::try_from(count).is_ok();
    let rules: [(bool, Reason); 3] = [
        (
            takes(facts.widths()),
            "there is no kernel for keys or values of these widths",
        ),
        (
            facts.most_queries >= LEAST_QUERIES && keys[0].rows > 0,
            "there are few queries, or no keys",
        ),
        (
            fits(keys[0].rows) && fits(queries[0].rows * queries[0].heads) && facts.covered,
            "there are too many rows, or pages without a block",
        ),
    ];
    all_hold(&rules).map(|()| Sizes::of(facts, tells_most))
}

/// DeepSeek V3's heads over the kv-up projection's output.
#[cfg(test)]
pub(super) fn deepseek() -> Facts {
    let part = |heads, width| Window {
        rows: 4096,
        heads,
        width,
        aligned: true,
    };
    Facts {
        hopper: true,
        checked: false,
        types: ["bf16"; 2],
        queries: [part(128, 128), part(128, 64)],
        keys: [part(128, 128), part(1, 64), part(128, 128)],
        most_queries: 4096,
        selects: false,
        masked: false,
        capped: false,
        adjusted: false,
        scale: 0.1,
        page: None,
        covered: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_layer() {
        let sizes = chosen(&deepseek(), true).expect("the kernel is for it");
        assert_eq!(sizes.dims, [128, 64, 128, 0, 1, 0]);
        assert_eq!(sizes.keys_at_once(0), 128);
        let paged = Facts {
            capped: true,
            page: Some(96),
            ..deepseek()
        };
        let sizes = chosen(&paged, true).expect("the kernel is for it");
        assert_eq!(sizes.dims, [128, 64, 128, 1, 1, 1]);
        assert_eq!(sizes.keys_at_once(96), 32);
        assert_eq!(sizes.keys_at_once(256), 128);
        for (widths, keys) in [
            ([256, 0, 256], 80),
            ([192, 0, 192], 112),
            ([192, 64, 128], 96),
            ([64, 0, 64], 128),
        ] {
            assert_eq!(keys_at_a_time(widths, false, false), keys, "{widths:?}");
        }
        assert_eq!(keys_at_a_time([256, 0, 256], false, true), 64);
    }

    #[test]
    fn the_compiler_knows_the_same_widths() {
        use mla_codegen::plan::flash;
        let widths = (0..=40).map(|width| width * 8);
        for key in widths.clone() {
            for rope in [0, 16, 32, 64, 72, 128] {
                for value in widths.clone() {
                    let sizes = [key, rope, value];
                    let takes = takes(sizes);
                    assert_eq!(takes, flash::takes(sizes), "{sizes:?}");
                    for (capped, paged) in [(false, false), (true, false), (false, true)] {
                        let choice = flash::FlashChoice {
                            widths: sizes,
                            capped,
                            tells_most: false,
                            paged,
                        };
                        let keys = keys_at_a_time(sizes, capped, paged);
                        assert!(!takes || keys == choice.keys(), "{sizes:?}: {keys}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_it_can_not_do_has_a_reason() {
        let narrow = Window {
            width: 40,
            ..deepseek().keys[2]
        };
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
                    masked: true,
                    ..deepseek()
                },
                "mask",
            ),
            (
                Facts {
                    keys: [deepseek().keys[0], deepseek().keys[1], narrow],
                    ..deepseek()
                },
                "widths",
            ),
            (
                Facts {
                    most_queries: 1,
                    ..deepseek()
                },
                "few queries",
            ),
            (
                Facts {
                    adjusted: true,
                    ..deepseek()
                },
                "biased",
            ),
        ];
        for (facts, wanted) in refused {
            let reason = chosen(&facts, true).expect_err(wanted);
            assert!(reason.contains(wanted), "{reason}");
        }
    }
}
