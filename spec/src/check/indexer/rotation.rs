//! `rope_layout` and `split_order`: how an indexer's queries and keys are rotated.

use crate::check::codes;
use crate::check::rope::LAYOUTS;
use crate::check::sparse::Surroundings;
use crate::check::value::Table;
use crate::check::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{IndexerRope, Rope, SplitOrder};
use crate::span::{Span, Spanned};

const SPLITS: Words<'static, SplitOrder> = Words {
    choices: &[
        ("rope_first", SplitOrder::RopeFirst),
        ("nope_first", SplitOrder::NopeFirst),
    ],
    aliases: &[("rope_last", "nope_first")],
    others: None,
};

/// `rope_layout` and `split_order`, which are there exactly where the layer rotates.
pub(super) fn rope(
    table: &mut Table<'_>,
    head_dim: Option<Spanned<u32>>,
    around: &Surroundings<'_>,
    out: &mut Diagnostics,
) -> Option<Option<IndexerRope>> {
    let (layout, split) = (table.take("rope_layout"), table.take("split_order"));
    let misspelt = table.is_misspelt("rope_layout") || table.is_misspelt("split_order");
    match around.rope {
        None => None,
        Some((Rope::None, because)) => {
            for field in layout.iter().chain(&split) {
                let key = field.name();
                let message =
                    format!("`{key}` describes a rotated indexer, and this layer rotates nothing");
                let without = Diagnostic::error(
                    codes::INDEXER_ROPE_WITHOUT_ROPE,
                    message,
                    field.key.span,
                    "nothing is rotated",
                );
                out.push(
                    without
                        .and(because, "the layer's rope, which its indexer shares")
                        .help(format!("remove `{key}`")),
                );
            }
            (layout.is_none() && split.is_none()).then_some(None)
        }
        Some((Rope::Rotary(_), because)) => {
            refuse_short_head(head_dim, around.rotated, out);
            if (layout.is_none() || split.is_none()) && !misspelt {
                refuse_missing_rope(
                    layout.is_none(),
                    split.is_none(),
                    table.anchor(),
                    because,
                    out,
                );
            }
            let layout = layout.and_then(|field| field.word(&LAYOUTS, out));
            let split = split.and_then(|field| field.word(&SPLITS, out));
            Some(Some(IndexerRope {
                layout: layout?.value,
                split: split?.value,
            }))
        }
    }
}

fn refuse_missing_rope(
    layout: bool,
    split: bool,
    anchor: Span,
    because: Span,
    out: &mut Diagnostics,
) {
    let (names, help) = match (layout, split) {
        (true, true) => (
            "`rope_layout` and `split_order`",
            "add `rope_layout: interleaved` or `half`, and `split_order: rope_first` or `nope_first`",
        ),
        (true, false) => (
            "`rope_layout`",
            "add `rope_layout: interleaved` or `rope_layout: half`",
        ),
        _ => (
            "`split_order`",
            "add `split_order: rope_first` or `split_order: nope_first`",
        ),
    };
    let message = format!("the indexer of a rotated layer lacks {names}");
    let missing = Diagnostic::error(
        codes::INDEXER_ROPE_MISSING,
        message,
        anchor,
        "which of its elements are rotated, in which pairs?",
    );
    out.push(
        missing
            .and(because, "the layer's rope, which its indexer shares")
            .note("an indexer's layout may differ from its layer's, and a wrong one picks other keys without any error")
            .help(help),
    );
}

/// The rotated part must fit into an indexer's head (4.5, 1).
fn refuse_short_head(
    head_dim: Option<Spanned<u32>>,
    rotated: Option<Spanned<u32>>,
    out: &mut Diagnostics,
) {
    let (Some(head), Some(rotated)) = (head_dim, rotated) else {
        return;
    };
    if head.value >= rotated.value {
        return;
    }
    let message = format!(
        "an indexer's head of {} elements can't hold the {} that are rotated",
        head.value, rotated.value
    );
    let short = Diagnostic::error(
        codes::INDEXER_HEAD_TOO_SHORT,
        message,
        head.span,
        "shorter than the rotated part",
    );
    out.push(
        short
            .and(rotated.span, "how much is rotated")
            .help(format!("give a `head_dim` of at least {}", rotated.value)),
    );
}
