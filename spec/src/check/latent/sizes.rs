//! The sizes of `MLASelfAttention` and the rank of its queries.

use crate::check::codes;
use crate::check::value::{Field, Table};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::Dims;
use crate::node::{NodeKind, Scalar};
use crate::span::{Span, Spanned};

/// Largest single size. Checkpoints stay far below; it keeps every product within 64 bits.
pub(in crate::check) const LARGEST: u32 = 1 << 20;

/// Largest width of all heads together, in elements per token.
pub(in crate::check) const WIDEST: u64 = 1 << 24;

/// The sizes as written; a wrong or missing one is absent, so that it is not complained about twice.
pub(super) struct Sizes {
    pub(super) hidden_size: Option<Spanned<u32>>,
    num_attention_heads: Option<Spanned<u32>>,
    pub(super) kv_lora_rank: Option<Spanned<u32>>,
    qk_nope_head_dim: Option<Spanned<u32>>,
    pub(super) qk_rope_head_dim: Option<Spanned<u32>>,
    v_head_dim: Option<Spanned<u32>>,
}

/// What `q_lora_rank` says.
#[derive(Debug, Clone, Copy)]
pub(in crate::check) enum Rank {
    /// Nothing: queries are plain.
    Absent,
    /// Something that was refused; what the user means is anybody's guess.
    Refused,
    /// A rank.
    Given {
        /// `r_q` and where it stands.
        value: Spanned<u32>,
        /// Where its key stands.
        key: Span,
    },
}

impl Sizes {
    /// Reads the sizes and checks each by itself.
    pub(super) fn read(table: &mut Table<'_>, out: &mut Diagnostics) -> Self {
        let mut size = |key, min| table.require(key)?.integer(min, LARGEST, out);
        let mut sizes = Self {
            hidden_size: size("hidden_size", 1),
            num_attention_heads: size("num_attention_heads", 1),
            kv_lora_rank: size("kv_lora_rank", 1),
            qk_nope_head_dim: size("qk_nope_head_dim", 1),
            qk_rope_head_dim: size("qk_rope_head_dim", 0),
            v_head_dim: size("v_head_dim", 1),
        };
        if let Some(dim) = sizes.qk_rope_head_dim.filter(|dim| dim.value % 2 == 1) {
            let message = format!("`qk_rope_head_dim` must be even, found `{}`", dim.value);
            let odd = Diagnostic::error(
                codes::ODD_ROPE_HEAD_DIM,
                message,
                dim.span,
                "one element would have no partner",
            );
            out.push(odd.help(format!(
                "rope turns pairs: give {} or {}",
                dim.value - 1,
                dim.value + 1
            )));
            sizes.qk_rope_head_dim = None;
        }
        sizes
    }

    /// Refuses layers of absurd width, so that no later product overflows. The down projections add up three sizes of
    /// at most 2^20 each, which is always little enough.
    pub(super) fn check_products(&self, out: &mut Diagnostics) {
        let Some(heads) = self.num_attention_heads else {
            return;
        };
        let (nope, rope) = (
            ("qk_nope_head_dim", self.qk_nope_head_dim),
            ("qk_rope_head_dim", self.qk_rope_head_dim),
        );
        let (value, latent) = (
            ("v_head_dim", self.v_head_dim),
            ("kv_lora_rank", self.kv_lora_rank),
        );
        for per_head in [&[nope, rope][..], &[nope, value], &[latent]] {
            let sizes: Vec<(&str, Spanned<u32>)> = per_head
                .iter()
                .filter_map(|(name, size)| Some((*name, (*size)?)))
                .collect();
            let width: u64 = u64::from(heads.value)
                * sizes
                    .iter()
                    .map(|(_, size)| u64::from(size.value))
                    .sum::<u64>();
            if width <= WIDEST || sizes.len() < per_head.len() {
                continue;
            }
            let names: Vec<String> = sizes.iter().map(|(name, _)| format!("`{name}`")).collect();
            let message = format!(
                "{} heads of {} make {width} elements per token",
                heads.value,
                names.join(" + ")
            );
            let label = format!("all heads may have {WIDEST} at most");
            let large = Diagnostic::error(codes::LAYER_TOO_LARGE, message, heads.span, label);
            let large = sizes.iter().fold(large, |large, (name, size)| {
                large.and(size.span, format!("`{name}`"))
            });
            out.push(large.help("is a total given where a size per head is wanted?"));
            return;
        }
    }

    /// All sizes, where each was right.
    pub(super) fn dims(&self) -> Option<Dims> {
        Some(Dims {
            hidden_size: self.hidden_size?.value,
            num_attention_heads: self.num_attention_heads?.value,
            kv_lora_rank: self.kv_lora_rank?.value,
            qk_nope_head_dim: self.qk_nope_head_dim?.value,
            qk_rope_head_dim: self.qk_rope_head_dim?.value,
            v_head_dim: self.v_head_dim?.value,
        })
    }
}

impl Rank {
    /// Reads `q_lora_rank`.
    pub(super) fn read(table: &mut Table<'_>, out: &mut Diagnostics) -> Self {
        let Some(field) = table.take("q_lora_rank") else {
            return if table.is_misspelt("q_lora_rank") {
                Rank::Refused
            } else {
                Rank::Absent
            };
        };
        if is_empty(&field) {
            let message = "`q_lora_rank` must be a rank, or absent for plain queries";
            let empty = Diagnostic::error(
                codes::EMPTY_Q_LORA_RANK,
                message,
                field.value.span,
                "neither of them",
            );
            out.push(
                empty.help("remove the key and fill the slot `linear_q_proj`, or give the rank"),
            );
            return Rank::Refused;
        }
        match field.integer(1, LARGEST, out) {
            Some(value) => Rank::Given {
                value,
                key: field.key.span,
            },
            None => Rank::Refused,
        }
    }
}

/// The spellings of "no rank" in other systems (T-12).
fn is_empty(field: &Field<'_>) -> bool {
    match &field.value.kind {
        NodeKind::Scalar(Scalar::Null | Scalar::Int(0) | Scalar::Bool(false)) => true,
        NodeKind::Scalar(Scalar::Str(text)) => {
            ["none", "null", ""].contains(&text.to_ascii_lowercase().as_str())
        }
        _ => false,
    }
}
