//! The `rope` mapping and its agreement with the part of a head that it rotates.

mod contexts;
mod yarn;

use super::codes;
use super::foreign::Place;
use super::value::{Field, Table};
use super::words::{Others, Words};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{Rope, RopeLayout, RopeScaling, Rotary};
use crate::span::{Span, Spanned};

/// The layouts of a rope part, for `rope` and for the cache.
pub(super) const LAYOUTS: Words<'static, RopeLayout> = Words {
    choices: &[
        ("interleaved", RopeLayout::Interleaved),
        ("half", RopeLayout::Half),
    ],
    aliases: &[
        ("interleave", "interleaved"),
        ("pairs", "interleaved"),
        ("gptj", "interleaved"),
        ("gpt-j", "interleaved"),
        ("neox", "half"),
        ("gpt-neox", "half"),
        ("halves", "half"),
        ("rotate_half", "half"),
    ],
    others: None,
};

/// Largest position and largest original context accepted, in tokens.
const LONGEST_CONTEXT: u32 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Plain,
    Linear,
    Yarn,
    Llama3,
    LongRope,
    Dynamic,
}

const KINDS: Words<'static, Kind> = Words {
    choices: &[
        ("none", Kind::None),
        ("plain", Kind::Plain),
        ("linear", Kind::Linear),
        ("yarn", Kind::Yarn),
        ("llama3", Kind::Llama3),
        ("longrope", Kind::LongRope),
        ("dynamic", Kind::Dynamic),
    ],
    aliases: &[
        ("default", "plain"),
        ("rope", "plain"),
        ("deepseek_yarn", "yarn"),
        ("nope", "none"),
        ("deepseek_llama_scaling", "yarn"),
        ("llama3.1", "llama3"),
        ("su", "longrope"),
        ("ntk", "dynamic"),
    ],
    others: Some(&Others {
        code: codes::ROPE_TYPE_LATER,
        verdict: "is not in this release",
        label: "known, but not yet a rope type",
        words: &[(
            "mrope",
            "use `plain`, or wait: rope over several axes is not in this release",
        )],
    }),
};

/// Keys that only some types have, with those types.
const KEYS_BY_KIND: &[(&str, &[Kind], &str)] = &[
    ("theta", ROTARY, "plain"),
    ("layout", ROTARY, "plain"),
    (
        "factor",
        &[Kind::Linear, Kind::Yarn, Kind::Llama3, Kind::Dynamic],
        "linear",
    ),
    (
        "original_max_position_embeddings",
        &[Kind::Yarn, Kind::Llama3, Kind::LongRope],
        "yarn",
    ),
    ("beta_fast", &[Kind::Yarn], "yarn"),
    ("beta_slow", &[Kind::Yarn], "yarn"),
    ("mscale", &[Kind::Yarn], "yarn"),
    ("attention_factor", &[Kind::Yarn, Kind::LongRope], "yarn"),
    ("mscale_all_dim", &[Kind::Yarn], "yarn"),
    ("truncate", &[Kind::Yarn], "yarn"),
    ("low_freq_factor", &[Kind::Llama3], "llama3"),
    ("high_freq_factor", &[Kind::Llama3], "llama3"),
    ("short_factor", &[Kind::LongRope], "longrope"),
    ("long_factor", &[Kind::LongRope], "longrope"),
    ("select", &[Kind::LongRope], "longrope"),
    ("max_position_embeddings", &[Kind::Dynamic], "dynamic"),
];

const ROTARY: &[Kind] = &[
    Kind::Plain,
    Kind::Linear,
    Kind::Yarn,
    Kind::Llama3,
    Kind::LongRope,
    Kind::Dynamic,
];

/// The part of a head that is to be rotated, where its size is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct RotatedPart {
    /// The parameter that says its size.
    key: &'static str,
    size: Option<Spanned<u32>>,
}

impl RotatedPart {
    /// The part whose size `key` says.
    pub(super) fn of(key: &'static str, size: Option<Spanned<u32>>) -> Self {
        Self { key, size }
    }
}

/// Reads `rope`; answers also where it, or the size that forbids one, was written.
pub(super) fn read(
    table: &mut Table<'_>,
    part: RotatedPart,
    out: &mut Diagnostics,
) -> (Option<Rope>, Span) {
    let field = table.take("rope");
    let misspelt = table.is_misspelt("rope");
    let span = match (field, part.size) {
        (Some(field), _) => field.key.span,
        (None, Some(size)) => size.span,
        (None, None) => Span::NONE,
    };
    (check(field, misspelt, part, table.anchor(), out), span)
}

/// The rope of a layer. `at` is where a missing `rope` is reported.
fn check(
    field: Option<Field<'_>>,
    misspelt: bool,
    part: RotatedPart,
    at: Span,
    out: &mut Diagnostics,
) -> Option<Rope> {
    let key = part.key;
    let Some(field) = field else {
        return match part.size {
            Some(size) if size.value == 0 => Some(Rope::None),
            Some(size) if !misspelt => {
                let message = format!("`rope` is missing, and `{key}` is {}", size.value);
                let missing = Diagnostic::error(codes::MISSING_ROPE, message, at, "needs `rope`");
                out.push(missing.and(size.span, "these dims are to be rotated, or not").help(
                    "add `rope: { type: plain, theta: .., layout: .. }`, or `rope: { type: none }` where nothing is rotated",
                ));
                None
            }
            _ => None,
        };
    };
    let mut table = Table::map(
        "rope",
        Some("type"),
        field.value,
        field.key.span,
        Place::Rope,
        out,
    )?;
    let kind = table
        .require("type")
        .and_then(|field| field.word(&KINDS, out));
    let Some(kind) = kind else {
        // Without a type nothing can be said about the other keys but whether any type has them.
        for (key, ..) in KEYS_BY_KIND {
            table.take(key);
        }
        table.finish(out);
        return None;
    };
    refuse_keys_of_other_kinds(&mut table, kind, out);
    if kind.value == Kind::None {
        table.finish(out);
        return Some(Rope::None);
    }
    if let Some(dim) = part.size.filter(|size| size.value == 0) {
        let message = format!("`rope` rotates nothing: `{key}` is 0");
        let rotated = Diagnostic::error(
            codes::ROPE_WITHOUT_DIMS,
            message,
            kind.span,
            "a rotary embedding",
        );
        out.push(
            rotated
                .and(dim.span, "no part of a head to rotate")
                .help("remove `rope`, or write `rope: { type: none }`"),
        );
    }
    let rotary = rotary(&mut table, kind.value, part, out);
    table.finish(out);
    rotary.map(Rope::Rotary)
}

/// Keys of one type under another would be read by nobody (features 4.5, 6).
fn refuse_keys_of_other_kinds(table: &mut Table<'_>, kind: Spanned<Kind>, out: &mut Diagnostics) {
    let name = KINDS.name_of(kind.value);
    for (key, kinds, owner) in KEYS_BY_KIND {
        if kinds.contains(&kind.value) {
            continue;
        }
        if let Some(field) = table.take(key) {
            let message = format!("`rope` of type `{name}` has no `{key}`");
            let stray = Diagnostic::error(
                codes::KEY_OF_ANOTHER_ROPE,
                message,
                field.key.span,
                "would change nothing",
            );
            let stray = stray.and(
                kind.span,
                format!("because of this; `type: {owner}` has such a key"),
            );
            out.push(stray.help(format!("remove `{key}`, or write `type: {owner}`")));
        }
    }
}

fn rotary(
    table: &mut Table<'_>,
    kind: Kind,
    part: RotatedPart,
    out: &mut Diagnostics,
) -> Option<Rotary> {
    let theta = table.require("theta").and_then(|field| {
        bounded(
            &field,
            "greater than 1 and at most 1e12",
            |theta| theta > 1.0 && theta <= 1e12,
            out,
        )
    });
    let layout = match table.take("layout") {
        Some(field) => field.word(&LAYOUTS, out).map(|layout| layout.value),
        None => {
            missing_layout(table, out);
            None
        }
    };
    let scaling = match kind {
        Kind::None | Kind::Plain => Some(RopeScaling::None),
        Kind::Linear => factor(table, out).map(|factor| RopeScaling::Linear { factor }),
        Kind::Yarn => yarn::yarn(table, out).map(RopeScaling::Yarn),
        Kind::Llama3 => contexts::llama3(table, out).map(RopeScaling::Llama3),
        Kind::LongRope => contexts::longrope(table, part, out).map(RopeScaling::LongRope),
        Kind::Dynamic => contexts::dynamic(table, out),
    };
    Some(Rotary {
        theta: theta?,
        layout: layout?,
        scaling: scaling?,
    })
}

fn missing_layout(table: &Table<'_>, out: &mut Diagnostics) {
    if table.is_misspelt("layout") {
        return;
    }
    let message = "`rope` lacks `layout`";
    let missing = Diagnostic::error(
        codes::MISSING_LAYOUT,
        message,
        table.anchor(),
        "which elements make a pair?",
    );
    out.push(
        missing
            .note("checkpoints come in both layouts, and the wrong one gives wrong numbers, not an error")
            .help("add `layout: interleaved` (pairs 2i, 2i + 1) or `layout: half` (pairs i, i + d/2)"),
    );
}

fn factor(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<f64> {
    let field = table.require("factor")?;
    bounded(
        &field,
        "from 1 to 1e6",
        |factor| (1.0..=1e6).contains(&factor),
        out,
    )
}

/// A number that holds to `inside`.
fn bounded(
    field: &Field<'_>,
    wanted: &str,
    inside: impl Fn(f64) -> bool,
    out: &mut Diagnostics,
) -> Option<f64> {
    field.bounded_as(codes::ROPE_NUMBER_OUT_OF_BOUNDS, wanted, inside, out)
}
