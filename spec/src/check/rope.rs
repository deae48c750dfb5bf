//! The `rope` mapping and its agreement with `qk_rope_head_dim`.

use super::codes;
use super::foreign::Place;
use super::value::{Field, Later, Table, Words, shown};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{Rope, RopeLayout, RopeScaling, Rotary, Yarn, YarnMagnitude};
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
    later: None,
};

/// Largest position and largest original context accepted, in tokens.
const LONGEST_CONTEXT: u32 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Plain,
    Linear,
    Yarn,
}

const KINDS: Words<'static, Kind> = Words {
    choices: &[
        ("none", Kind::None),
        ("plain", Kind::Plain),
        ("linear", Kind::Linear),
        ("yarn", Kind::Yarn),
    ],
    aliases: &[
        ("default", "plain"),
        ("rope", "plain"),
        ("deepseek_yarn", "yarn"),
        ("nope", "none"),
        ("deepseek_llama_scaling", "yarn"),
    ],
    later: Some(&Later {
        code: codes::ROPE_TYPE_LATER,
        what: "a rope type",
        words: &[
            (
                "longrope",
                "use `plain`, `linear` or `yarn`, or wait: lists of factors are not in this release",
            ),
            (
                "su",
                "use `plain`, `linear` or `yarn`, or wait: lists of factors are not in this release",
            ),
            (
                "llama3",
                "use `plain`, `linear` or `yarn`, or wait; `yarn` is not the same function",
            ),
            (
                "llama3.1",
                "use `plain`, `linear` or `yarn`, or wait; `yarn` is not the same function",
            ),
            (
                "dynamic",
                "use `linear` with a fixed factor, or wait: frequencies that follow the length are not in this release",
            ),
            (
                "mrope",
                "use `plain`, or wait: rope over several axes is not in this release",
            ),
        ],
    }),
};

/// Keys that only some types have, with those types.
const KEYS_BY_KIND: &[(&str, &[Kind], &str)] = &[
    ("theta", &[Kind::Plain, Kind::Linear, Kind::Yarn], "plain"),
    ("layout", &[Kind::Plain, Kind::Linear, Kind::Yarn], "plain"),
    ("factor", &[Kind::Linear, Kind::Yarn], "linear"),
    ("original_max_position_embeddings", &[Kind::Yarn], "yarn"),
    ("beta_fast", &[Kind::Yarn], "yarn"),
    ("beta_slow", &[Kind::Yarn], "yarn"),
    ("mscale", &[Kind::Yarn], "yarn"),
    ("attention_factor", &[Kind::Yarn], "yarn"),
    ("mscale_all_dim", &[Kind::Yarn], "yarn"),
    ("truncate", &[Kind::Yarn], "yarn"),
];

/// Whether a head has a part to rotate, where that is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct RopeDims {
    /// `qk_rope_head_dim`.
    pub(super) value: Option<Spanned<u32>>,
}

/// The rope of a layer. `at` is where a missing `rope` is reported.
pub(super) fn check(
    field: Option<Field<'_>>,
    misspelt: bool,
    dims: RopeDims,
    at: Span,
    out: &mut Diagnostics,
) -> Option<Rope> {
    let Some(field) = field else {
        return match dims.value {
            Some(dim) if dim.value == 0 => Some(Rope::None),
            Some(dim) if !misspelt => {
                let message = format!("`rope` is missing, and `qk_rope_head_dim` is {}", dim.value);
                let missing = Diagnostic::error(codes::MISSING_ROPE, message, at, "needs `rope`");
                out.push(missing.and(dim.span, "these dims are to be rotated, or not").help(
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
    if let Some(dim) = dims.value.filter(|dim| dim.value == 0) {
        let message = "`rope` rotates nothing: `qk_rope_head_dim` is 0";
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
    let rotary = rotary(&mut table, kind.value, out);
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

fn rotary(table: &mut Table<'_>, kind: Kind, out: &mut Diagnostics) -> Option<Rotary> {
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
        Kind::Yarn => yarn(table, out).map(RopeScaling::Yarn),
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

fn yarn(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<Yarn> {
    let factor = factor(table, out);
    let original = table
        .require("original_max_position_embeddings")
        .and_then(|field| field.integer(1, LONGEST_CONTEXT, out))
        .map(|original| original.value);
    let (beta_fast, beta_slow) = betas(table, out);
    let truncate = match table.take("truncate") {
        Some(field) => field.boolean(out),
        None => Some(true),
    };
    let mscale_all_dim = mscale_all_dim(table, out);
    let magnitude = magnitude(table, out);
    Some(Yarn {
        factor: factor?,
        original_max_position_embeddings: original?,
        beta_fast: beta_fast?,
        beta_slow: beta_slow?,
        truncate: truncate?,
        magnitude: magnitude?,
        mscale_all_dim: mscale_all_dim?,
    })
}

fn betas(table: &mut Table<'_>, out: &mut Diagnostics) -> (Option<f64>, Option<f64>) {
    let positive = |beta: f64| beta > 0.0 && beta <= 1e6;
    let mut beta = |key| {
        let field = table.require(key)?;
        Some((
            field,
            bounded(&field, "greater than 0 and at most 1e6", positive, out)?,
        ))
    };
    let (fast, slow) = (beta("beta_fast"), beta("beta_slow"));
    if let (Some((fast_field, fast)), Some((slow_field, slow))) = (fast, slow)
        && fast < slow
    {
        let message = format!("`beta_fast` must be at least `beta_slow`, found {fast} and {slow}");
        let swapped = Diagnostic::error(
            codes::BETAS_SWAPPED,
            message,
            fast_field.value.span,
            "less than `beta_slow`",
        );
        out.push(
            swapped
                .and(slow_field.value.span, "`beta_slow`")
                .help("swap them: frequencies of more than `beta_fast` rotations are kept"),
        );
        return (None, None);
    }
    (fast.map(|(_, value)| value), slow.map(|(_, value)| value))
}

fn mscale_all_dim(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<f64> {
    let Some(field) = table.take("mscale_all_dim") else {
        if !table.is_misspelt("mscale_all_dim") {
            let message = "`rope` of type `yarn` lacks `mscale_all_dim`";
            let label = "how is the softmax scale corrected?";
            let missing = Diagnostic::error(
                codes::MISSING_MSCALE_ALL_DIM,
                message,
                table.anchor(),
                label,
            );
            out.push(
                missing
                    .note("systems without this field use `mscale` or nothing in its place, with other numbers")
                    .help("add the checkpoint's `mscale_all_dim`, or `mscale_all_dim: 0` to leave the softmax scale alone"),
            );
        }
        return None;
    };
    mscale(&field, out)
}

fn magnitude(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<YarnMagnitude> {
    match (table.take("mscale"), table.take("attention_factor")) {
        (Some(field), None) => mscale(&field, out).map(|mscale| YarnMagnitude::Ratio { mscale }),
        (None, Some(field)) => bounded(
            &field,
            "greater than 0 and at most 1e3",
            |value| value > 0.0 && value <= 1e3,
            out,
        )
        .map(YarnMagnitude::Constant),
        (Some(mscale), Some(constant)) => {
            let message =
                "`mscale` and `attention_factor` both say what cos and sin are multiplied by";
            let both = Diagnostic::error(
                codes::ONE_MAGNITUDE,
                message,
                constant.key.span,
                "a constant",
            );
            out.push(
                both.and(mscale.key.span, "the numerator of a ratio")
                    .help("keep the one that the checkpoint has"),
            );
            None
        }
        (None, None) => {
            if !table.is_misspelt("mscale") && !table.is_misspelt("attention_factor") {
                let message = "`rope` of type `yarn` has neither `mscale` nor `attention_factor`";
                let label = "what are cos and sin multiplied by?";
                let neither =
                    Diagnostic::error(codes::ONE_MAGNITUDE, message, table.anchor(), label);
                out.push(
                    neither.help(
                        "add the checkpoint's `mscale`, or `attention_factor: 1.0` for nothing",
                    ),
                );
            }
            None
        }
    }
}

/// An `mscale`. None is negative, so that its magnitude `g(f, m)`, a divisor and a factor, is at least 1.
fn mscale(field: &Field<'_>, out: &mut Diagnostics) -> Option<f64> {
    bounded(
        field,
        "from 0 to 1e3",
        |mscale| (0.0..=1e3).contains(&mscale),
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
    let value = field.number(out)?;
    if inside(value.value) {
        return Some(value.value);
    }
    let message = format!(
        "`{}` must be {wanted}, found {}",
        field.name(),
        shown(field.value)
    );
    let outside = Diagnostic::error(
        codes::ROPE_NUMBER_OUT_OF_BOUNDS,
        message,
        value.span,
        "outside of these bounds",
    );
    out.push(outside.help(format!("give a number {wanted}")));
    None
}
