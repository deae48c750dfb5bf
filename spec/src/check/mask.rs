//! Which keys a query sees: `attn_mask_type`, and the keys that narrow or widen it.

use super::codes;
use super::text::wrong_kind;
use super::value::{Field, Table};
use super::words::{Others, Words};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{AttnMask, MaskKind, Window};
use crate::node::{NodeKind, Scalar};
use crate::span::{Span, Spanned};

/// Longest window and chunk, in tokens.
const LONGEST: u32 = 1 << 30;

/// The masks of a module that attends to its own sequence.
pub(super) const SELF_ATTENTION: Words<'static, AttnMask> = Words {
    choices: &[
        ("causal", AttnMask::CAUSAL),
        ("no_mask", AttnMask::FULL),
        ("padding", AttnMask::PADDING),
        ("padding_causal", AttnMask::PADDING_CAUSAL),
        ("arbitrary", AttnMask::of(MaskKind::Arbitrary, false)),
    ],
    aliases: &[
        ("full", "no_mask"),
        ("none", "no_mask"),
        ("bidirectional", "no_mask"),
        ("global", "causal"),
        ("dense", "arbitrary"),
    ],
    others: Some(&Others {
        code: codes::MASK_SAID_OTHERWISE,
        verdict: "is said otherwise here",
        label: "not among this module's masks",
        words: &[
            (
                "causal_bottom_right",
                "write `attn_mask_type: causal`: within one sequence the last query already stands at the last key",
            ),
            (
                "local_sliding",
                "write `attn_mask_type: causal` and `window_size: [left, 0]`, left the tokens seen before the query",
            ),
            (
                "sliding_window",
                "write `attn_mask_type: causal` and `window_size: [left, 0]`, left the tokens seen before the query",
            ),
            (
                "chunk",
                "write `attn_mask_type: causal` and `attention_chunk_size`",
            ),
            (
                "block_diffusion",
                "write `attn_mask_type: causal` and `bidirectional_blocks: true`, and give the blocks at run time",
            ),
        ],
    }),
};

/// A mask and where its parts were written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask {
    /// All of it.
    pub(super) value: AttnMask,
    /// Where `attn_mask_type`'s word stands.
    pub(super) span: Span,
    /// Where the key that narrows or widens it stands: a window, a chunk, or blocks.
    pub(super) beside: Option<Beside>,
}

/// A key beside `attn_mask_type`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beside {
    pub(super) key: &'static str,
    pub(super) span: Span,
}

/// Reads `attn_mask_type` and the keys beside it.
pub(super) fn read(
    table: &mut Table<'_>,
    words: &Words<'_, AttnMask>,
    out: &mut Diagnostics,
) -> Option<Mask> {
    let kind = table
        .require("attn_mask_type")
        .and_then(|field| field.word(words, out));
    let window = table.stated("window_size", |field| window(&field, out));
    let chunk = table
        .stated("attention_chunk_size", |field| {
            field.integer(1, LONGEST, out)
        })
        .and_then(|chunk| Some(chunk.value));
    let blocks = table.stated("bidirectional_blocks", |field| field.boolean(out));
    if let (Some((_, window)), Some((_, chunk))) = (window.given(), chunk.given()) {
        refuse_both(window, chunk, out);
    }
    let window = match kind {
        Some(kind) => window.and_then(|window| agreeing(kind, window, out)),
        None => window.and_then(|_| None),
    };
    let beside = [
        window.given().map(|(_, span)| ("window_size", span)),
        chunk
            .given()
            .map(|(_, span)| ("attention_chunk_size", span)),
        blocks
            .given()
            .filter(|(blocks, _)| **blocks)
            .map(|(_, span)| ("bidirectional_blocks", span)),
    ];
    if let Some(kind) = kind {
        refuse_idle(kind, beside, out);
    }
    let kind = kind?;
    Some(Mask {
        value: AttnMask {
            window: window.optional()?.map(|window| window.value),
            chunk: chunk.optional()?,
            bidirectional_blocks: blocks.or(false)?,
            ..kind.value
        },
        span: kind.span,
        beside: beside
            .into_iter()
            .flatten()
            .map(|(key, span)| Beside { key, span })
            .next(),
    })
}

/// `[left, right]`, -1 for no bound.
fn window(field: &Field<'_>, out: &mut Diagnostics) -> Option<Spanned<Window>> {
    let items = match &field.value.kind {
        NodeKind::Seq(items) => items,
        NodeKind::Scalar(Scalar::Int(width)) if *width > 0 => {
            let wrong = wrong_kind(field.name(), "a list of two integers", field.value);
            out.push(wrong.help(format!(
                "write `[{}, 0]`: the tokens seen before the query, and behind it",
                width - 1
            )));
            return None;
        }
        _ => {
            out.push(wrong_kind(
                field.name(),
                "a list of two integers",
                field.value,
            ));
            return None;
        }
    };
    let [left, right] = items.as_slice() else {
        let message = format!("`window_size` needs two entries, found {}", items.len());
        let length = Diagnostic::error(
            codes::LIST_LENGTH,
            message,
            field.value.span,
            "not two entries",
        );
        out.push(length.help(
            "write `[left, right]`: the tokens seen before the query, and behind it; -1 for no bound",
        ));
        return None;
    };
    let (left, right) = (
        bound(&field.item(left), out),
        bound(&field.item(right), out),
    );
    let window = Window {
        left: left?,
        right: right?,
    };
    Some(Spanned::new(window, field.value.span))
}

/// One end of a window: `Some(None)` is without a bound, `None` refused.
fn bound(field: &Field<'_>, out: &mut Diagnostics) -> Option<Option<u32>> {
    if field.value.kind == NodeKind::Scalar(Scalar::Int(-1)) {
        return Some(None);
    }
    if let NodeKind::Scalar(Scalar::Int(negative)) = &field.value.kind
        && *negative < 0
    {
        let message = format!("a window can't be {negative} tokens wide");
        let outside = Diagnostic::error(
            codes::OUT_OF_BOUNDS,
            message,
            field.value.span,
            "less than -1",
        );
        out.push(outside.help("give a number of tokens, or -1 for no bound"));
        return None;
    }
    field
        .integer(0, LONGEST, out)
        .map(|bound| Some(bound.value))
}

/// The window, if it narrows this mask and leaves something.
fn agreeing(
    kind: Spanned<AttnMask>,
    window: Spanned<Window>,
    out: &mut Diagnostics,
) -> Option<Spanned<Window>> {
    let Window { left, right } = window.value;
    let causal = kind.value.is_causal();
    let (message, label, help) = if causal && right != Some(0) {
        (
            "a window of a causal mask ends at the query".to_owned(),
            "would see later tokens",
            match left {
                Some(left) => format!("write `window_size: [{left}, 0]`"),
                None => {
                    "remove `window_size`: a causal mask bounds later tokens by itself".to_owned()
                }
            },
        )
    } else if left.is_none() && (causal || right.is_none()) {
        (
            "this window hides nothing".to_owned(),
            "has no bound",
            "remove `window_size`, or give its left bound in tokens".to_owned(),
        )
    } else if left == Some(0) && (causal || right == Some(0)) {
        (
            "in this window a query sees itself alone".to_owned(),
            "no other token",
            "count the tokens before the query: a sliding window of n tokens is `[n - 1, 0]`"
                .to_owned(),
        )
    } else {
        return Some(window);
    };
    let against = Diagnostic::error(codes::WINDOW_AGAINST_MASK, message, window.span, label);
    out.push(against.and(kind.span, "the mask").help(help));
    None
}

fn refuse_both(window: Span, chunk: Span, out: &mut Diagnostics) {
    let message = "`window_size` and `attention_chunk_size` both bound what a query sees";
    let both = Diagnostic::error(codes::WINDOW_AND_CHUNK, message, chunk, "chunks");
    out.push(
        both.and(window, "a sliding window")
            .note("no model has both, and systems that know both let one win silently")
            .help("keep one of them"),
    );
}

/// Keys that would change nothing: the mask already hides or shows everything that they would.
fn refuse_idle(
    kind: Spanned<AttnMask>,
    beside: [Option<(&'static str, Span)>; 3],
    out: &mut Diagnostics,
) {
    let [window, chunk, blocks] = beside;
    let bounded = window.is_some() || chunk.is_some();
    let idle = match kind.value.kind {
        MaskKind::Arbitrary => window.or(chunk).or(blocks).map(|key| {
            (
                key,
                "an arbitrary mask says of every key whether it is seen",
                "remove it, or write another `attn_mask_type`",
            )
        }),
        MaskKind::Full if !bounded => blocks.map(|key| {
            (
                key,
                "without a mask every token already sees every other",
                "remove it, or write a causal `attn_mask_type`",
            )
        }),
        _ => None,
    };
    if let Some(((key, span), message, help)) = idle {
        let says = Diagnostic::error(
            codes::MASK_SAYS_ALL,
            message,
            span,
            format!("`{key}` would change nothing"),
        );
        out.push(says.and(kind.span, "the mask").help(help));
    }
}
