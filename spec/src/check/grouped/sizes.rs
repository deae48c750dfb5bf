//! Sizes of `SelfAttention`, and what of a head is rotated.

use super::kv_channels;
use crate::check::codes;
use crate::check::latent::sizes::{LARGEST, WIDEST};
use crate::check::rope::RotatedPart;
use crate::check::value::Table;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::Rope;
use crate::span::{Span, Spanned};

/// The sizes as written; a wrong or missing one is absent, so that it is not complained about twice.
pub(super) struct Sizes {
    pub(super) hidden_size: Option<Spanned<u32>>,
    pub(super) num_attention_heads: Option<Spanned<u32>>,
    pub(super) num_query_groups: Option<Spanned<u32>>,
    pub(super) kv_channels: Option<Spanned<u32>>,
    rotary_dim: RotaryDim,
}

/// What `rotary_dim` says.
#[derive(Clone, Copy)]
enum RotaryDim {
    /// Nothing: whole heads are rotated.
    Absent,
    /// Something that was refused.
    Refused,
    Given(Spanned<u32>),
}

impl Sizes {
    /// Reads the sizes and checks them against each other.
    pub(super) fn read(table: &mut Table<'_>, out: &mut Diagnostics) -> Self {
        let mut size = |key| table.require(key)?.integer(1, LARGEST, out);
        let (hidden_size, num_attention_heads, num_query_groups) = (
            size("hidden_size"),
            size("num_attention_heads"),
            size("num_query_groups"),
        );
        let kv_channels = kv_channels(table, out);
        let rotary_dim = rotary_dim(table, kv_channels, out);
        let mut sizes = Self {
            hidden_size,
            num_attention_heads,
            num_query_groups,
            kv_channels,
            rotary_dim,
        };
        sizes.check_groups(out);
        sizes
    }

    /// Every group holds as many query heads as the others.
    fn check_groups(&mut self, out: &mut Diagnostics) {
        let (Some(heads), Some(groups)) = (self.num_attention_heads, self.num_query_groups) else {
            return;
        };
        if heads.value % groups.value == 0 {
            return;
        }
        let message = format!(
            "{} heads can't be shared out among {} query groups",
            heads.value, groups.value
        );
        let label = "doesn't divide `num_attention_heads`";
        let uneven = Diagnostic::error(codes::GROUPS_DO_NOT_DIVIDE, message, groups.span, label);
        out.push(uneven.and(heads.span, "so many heads").help(
            "give `num_query_groups` (HF `num_key_value_heads`) a divisor of `num_attention_heads`",
        ));
        self.num_query_groups = None;
    }

    /// Refuses layers of absurd width, so that no later product overflows.
    pub(super) fn check_products(&self, gated: bool, out: &mut Diagnostics) {
        let (Some(heads), Some(groups), Some(dim)) = (
            self.num_attention_heads,
            self.num_query_groups,
            self.kv_channels,
        ) else {
            return;
        };
        let per_head = if gated { 2 } else { 1 };
        let vectors = per_head * u64::from(heads.value) + 2 * u64::from(groups.value);
        let width = vectors * u64::from(dim.value);
        if width <= WIDEST {
            return;
        }
        let message = format!("queries, keys and values make {width} elements per token");
        let label = format!("all of them may have {WIDEST} at most");
        let large = Diagnostic::error(codes::LAYER_TOO_LARGE, message, heads.span, label);
        out.push(
            large
                .and(dim.span, "`kv_channels`")
                .and(groups.span, "`num_query_groups`")
                .help("is a total given where a size per head is wanted?"),
        );
    }

    /// The part of a head that rope rotates.
    pub(super) fn rotated_part(&self) -> RotatedPart {
        match self.rotary_dim {
            RotaryDim::Given(dim) => RotatedPart::of("rotary_dim", Some(dim)),
            RotaryDim::Absent => RotatedPart::of("kv_channels", self.kv_channels),
            RotaryDim::Refused => RotatedPart::of("rotary_dim", None),
        }
    }

    /// Rope and `rotary_dim` must agree; a head of odd length can't be rotated whole.
    pub(super) fn check_rotation(&self, rope: &Rope, at: Span, out: &mut Diagnostics) {
        match (rope, self.rotary_dim, self.kv_channels) {
            (Rope::None, RotaryDim::Given(dim), _) => {
                let message =
                    "`rotary_dim` says how much of a head rope rotates, and it rotates none";
                let label = "would change nothing";
                let stray =
                    Diagnostic::error(codes::ROTARY_DIM_WITHOUT_ROPE, message, dim.span, label);
                let stray = stray.and(at, "nothing is rotated");
                out.push(stray.help("remove `rotary_dim`, or give `rope` a type that rotates"));
            }
            (Rope::Rotary(_), RotaryDim::Absent, Some(dim)) if dim.value % 2 == 1 => {
                let message = format!("a head of {} elements can't be rotated whole", dim.value);
                let label = "one element would have no partner";
                let odd = Diagnostic::error(codes::ROTARY_DIM, message, dim.span, label);
                let odd = odd.and(at, "turns pairs");
                out.push(odd.help(format!(
                    "add `rotary_dim: {}`, or give an even `kv_channels`",
                    dim.value - 1
                )));
            }
            _ => {}
        }
    }

    /// How many elements of a head are rotated.
    pub(super) fn rotated(&self, rope: &Rope) -> Option<u32> {
        match (rope, self.rotary_dim) {
            (Rope::None, _) => Some(0),
            (Rope::Rotary(_), RotaryDim::Given(dim)) => Some(dim.value),
            (Rope::Rotary(_), RotaryDim::Absent) => Some(self.kv_channels?.value),
            (Rope::Rotary(_), RotaryDim::Refused) => None,
        }
    }
}

fn rotary_dim(
    table: &mut Table<'_>,
    kv_channels: Option<Spanned<u32>>,
    out: &mut Diagnostics,
) -> RotaryDim {
    let Some(field) = table.take("rotary_dim") else {
        return if table.is_misspelt("rotary_dim") {
            RotaryDim::Refused
        } else {
            RotaryDim::Absent
        };
    };
    let Some(dim) = field.integer(1, LARGEST, out) else {
        return RotaryDim::Refused;
    };
    if dim.value % 2 == 1 {
        let message = format!("`rotary_dim` must be even, found `{}`", dim.value);
        let label = "one element would have no partner";
        let odd = Diagnostic::error(codes::ROTARY_DIM, message, dim.span, label);
        let near = match dim.value {
            1 => "2".to_owned(),
            odd => format!("{} or {}", odd - 1, odd + 1),
        };
        out.push(odd.help(format!("rope turns pairs: give {near}")));
        return RotaryDim::Refused;
    }
    if let Some(head) = kv_channels.filter(|head| head.value < dim.value) {
        let message = format!(
            "`rotary_dim` is {}, more than the {} elements of a head",
            dim.value, head.value
        );
        let label = "longer than a head";
        let long = Diagnostic::error(codes::ROTARY_DIM, message, dim.span, label);
        let long = long.and(head.span, "the length of a head");
        out.push(long.help("remove it to rotate whole heads, or give a smaller one"));
        return RotaryDim::Refused;
    }
    RotaryDim::Given(dim)
}
