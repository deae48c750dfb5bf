//! Rope as the modeling code reads it, said in our language.
//!
//! Configs come in two styles: `rope_theta` beside `rope_scaling`, and `rope_parameters` with everything inside. Both
//! are read as the library does: a non-empty `rope_scaling` wins, `rope_type` wins over `type`, a theta inside wins over
//! one outside.

mod yarn;

use super::assemble::{Comments, real, rope_none, word};
use super::codes;
use super::config::{Config, Given};
use super::family::{Family, Rotation};
use crate::diagnostic::Diagnostic;
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};
use crate::suggest::suggest;

/// Every key of a rope object that some rope type reads.
const KEYS: &[&str] = &[
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "attention_factor",
    "truncate",
    "partial_rotary_factor",
];

/// Keys of a rope object that no supported family's code reads.
const IRRELEVANT: &[&str] = &["max_position_embeddings", "finetuned", "original_rope_type"];

/// Rope types that exist and that this release can't express.
const LATER: &[&str] = &[
    "dynamic",
    "longrope",
    "su",
    "llama3",
    "proportional",
    "axial",
    "mrope",
    "ntk",
    "deepseek_yarn",
    "deepseek_llama_scaling",
];

/// The `rope` parameter of a layer, or `None` where it was refused.
pub(super) fn read(
    config: &Config<'_>,
    family: &Family,
    rope_dim: Spanned<u32>,
    comments: &mut Comments,
) -> Option<Node> {
    let rope = chosen_object(config)?;
    let interleave = config.flag("rope_interleave");
    if family.rotation == Rotation::Never {
        return unrotated(config, family, &rope, comments);
    }
    if refuse_layer_types(&rope) {
        return None;
    }
    lint_partial_rotary(config, &rope, rope_dim.value);
    let theta = theta(config, &rope, comments);
    let layout = layout(config, family, interleave, comments)?;
    let kind = rope_type(&rope)?;
    let entries = match kind.value {
        "default" => plain(&rope, kind, theta, layout),
        "linear" => linear(&rope, kind, theta, layout)?,
        "yarn" => yarn::read(config, family, &rope, kind, theta, layout, comments)?,
        other => {
            config.report(refused_type(other, kind.span));
            return None;
        }
    };
    review(&rope, kind.value);
    if rope_dim.value == 0 {
        return without_rope_part(config, &rope, kind, comments);
    }
    Some(Node {
        kind: NodeKind::Map(entries),
        span: kind.span,
    })
}

/// The object that holds the rope parameters: empty where the config has none, `None` where one is no object.
fn chosen_object<'a>(config: &Config<'a>) -> Option<Config<'a>> {
    let scaling = filled_object(config, "rope_scaling")?;
    let parameters = filled_object(config, "rope_parameters")?;
    if let (Some(scaling), Some(parameters)) = (scaling, parameters)
        && scaling.value != parameters.value
    {
        config.report(
            Diagnostic::warning(
                codes::UNUSED_ROPE_KEYS,
                "`rope_parameters` is not read: `rope_scaling` is there too",
                parameters.span,
                "passed over, theta included",
            )
            .and(scaling.span, "read instead"),
        );
    }
    let none = Spanned::new(&[][..], config.span);
    Some(config.inner(scaling.or(parameters).unwrap_or(none)))
}

/// What an object under `key` holds, if it holds anything: `Some(None)` where it is absent, null or empty.
fn filled_object<'a>(config: &Config<'a>, key: &str) -> Option<Option<Spanned<&'a [Entry]>>> {
    match config.object(key) {
        Given::Wrong => None,
        given => Some(given.value().filter(|entries| !entries.value.is_empty())),
    }
}

/// Reports parameters that stand one level down, an object per layer type, and whether there are any. No supported
/// family's code reads them there, and what it would take in their place is a guess.
fn refuse_layer_types(rope: &Config<'_>) -> bool {
    let nested = |entry: &&Entry| {
        matches!(entry.value.kind, NodeKind::Map(_)) && !KEYS.contains(&entry.key.value.as_str())
    };
    let mut kinds = rope.unasked().filter(nested);
    let Some(first) = kinds.next() else {
        return false;
    };
    let message = format!(
        "`{}` has rope parameters of its own: one rope per layer type is not understood",
        first.key.value.escape_debug()
    );
    let diagnostic = Diagnostic::error(
        codes::UNKNOWN_ATTENTION_KEY,
        message,
        first.key.span,
        "an object per layer type",
    )
    .help("if every MLA layer uses the same, move those parameters one level up");
    rope.report(kinds.fold(diagnostic, |diagnostic, entry| {
        diagnostic.and(entry.key.span, "another one")
    }));
    true
}

/// Kimi-Linear's attention layers: positions come from its other layers.
fn unrotated(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    comments: &mut Comments,
) -> Option<Node> {
    if let Given::Value(Spanned { value: false, span }) = config.flag("mla_use_nope") {
        config.report(
            Diagnostic::error(
                codes::CONTRADICTION,
                format!(
                    "`mla_use_nope` is false, but `{}` never rotates",
                    family.name()
                ),
                span,
                "the modeling code has no rotation to switch on",
            )
            .help("set it to true; a rotated layer of this shape is `deepseek_v3`"),
        );
        return None;
    }
    for key in ["rope_theta", "partial_rotary_factor"] {
        config.entry(key);
    }
    if let Some(kind) = rope.entry("rope_type").or_else(|| rope.entry("type"))
        && kind.value.kind != NodeKind::Scalar(Scalar::Str("default".to_owned()))
    {
        config.report(Diagnostic::warning(
            codes::UNUSED_ROPE_KEYS,
            format!(
                "rope parameters are not read: `{}` rotates nothing",
                family.name()
            ),
            kind.key.span,
            "has no effect",
        ));
    }
    comments.add(
        "params.rope.type",
        "nothing is rotated (mla_use_nope); the rope part still counts in the dot product",
    );
    Some(rope_none())
}

/// `qk_rope_head_dim` 0: there is nothing to rotate, but a scaled rope still corrects the softmax scale.
fn without_rope_part(
    config: &Config<'_>,
    rope: &Config<'_>,
    kind: Spanned<&str>,
    comments: &mut Comments,
) -> Option<Node> {
    if let Some(corrected) = softmax_correction(rope, kind.value) {
        config.report(
            Diagnostic::error(
                codes::ROPE_NOT_EXPRESSIBLE,
                "`mscale_all_dim` corrects the softmax scale of a layer without rope part",
                corrected,
                "multiplies the softmax scale",
            )
            .note("the language states this correction inside `rope`, which a layer with `qk_rope_head_dim: 0` does not have")
            .help("remove `mscale_all_dim`, or write the spec by hand"),
        );
        return None;
    }
    comments.add("params.rope.type", "there is no rope part");
    Some(rope_none())
}

/// Where the softmax scale is corrected, if it is: `g(factor, mscale_all_dim)²`, for every scaled rope type.
fn softmax_correction(rope: &Config<'_>, kind: &str) -> Option<Span> {
    let all_dim = rope.real("mscale_all_dim").value()?;
    let factor = rope.real("factor").value()?;
    (kind != "default" && all_dim.value != 0.0 && factor.value > 1.0).then_some(all_dim.span)
}

fn lint_partial_rotary(config: &Config<'_>, rope: &Config<'_>, rope_dim: u32) {
    let outside = config.real("partial_rotary_factor").value();
    let Some(factor) = rope.real("partial_rotary_factor").value().or(outside) else {
        return;
    };
    if factor.value != 1.0 {
        config.report(
            Diagnostic::warning(
                codes::PARTIAL_ROTARY,
                format!("`partial_rotary_factor` is not read: `qk_rope_head_dim` alone says that {rope_dim} elements rotate"),
                factor.span,
                "has no effect",
            )
            .note("applied on top of `qk_rope_head_dim` it would shrink the table of angles a second time"),
        );
    }
}

fn theta(config: &Config<'_>, rope: &Config<'_>, comments: &mut Comments) -> Spanned<f64> {
    const DEFAULT: f64 = 10_000.0;
    let outside = config.real("rope_theta").value();
    let inside = rope.real("rope_theta").value();
    if let (Some(outside), Some(inside)) = (outside, inside)
        && outside.value != inside.value
    {
        config.report(
            Diagnostic::warning(
                codes::UNUSED_ROPE_KEYS,
                "`rope_theta` beside the rope parameters is not read: they hold another one",
                outside.span,
                "passed over",
            )
            .and(inside.span, "read instead"),
        );
    }
    if let Some(theta) = inside.or(outside) {
        return theta;
    }
    comments.add(
        "params.rope.theta",
        "not in the config: the library's default",
    );
    config.report(
        Diagnostic::warning(
            codes::THETA_ABSENT,
            "`rope_theta` is absent: 10000 is taken, as the library does",
            config.span,
            "not in here",
        )
        .help("compare with the checkpoint's model card"),
    );
    Spanned::unplaced(DEFAULT)
}

fn layout(
    config: &Config<'_>,
    family: &Family,
    given: Given<bool>,
    comments: &mut Comments,
) -> Option<Spanned<&'static str>> {
    if family.rotation == Rotation::AlwaysInterleaved {
        if let Given::Value(Spanned { value: false, span }) = given {
            let message = format!(
                "`rope_interleave` is not read: `{}` always rotates pairs",
                family.name()
            );
            config.report(Diagnostic::warning(
                codes::UNUSED_ROPE_KEYS,
                message,
                span,
                "has no effect",
            ));
        }
        comments.add(
            "params.rope.layout",
            &format!("{} always rotates pairs (2i, 2i+1)", family.name()),
        );
        return Some(Spanned::unplaced("interleaved"));
    }
    match given {
        Given::Value(flag) => Some(Spanned::new(
            if flag.value { "interleaved" } else { "half" },
            flag.span,
        )),
        Given::Wrong => None,
        Given::Null(span) => {
            comments.add(
                "params.rope.layout",
                "rope_interleave is null, which counts as false",
            );
            let message = "`rope_interleave` is null, which the modeling code takes for false: halves are rotated";
            config.report(Diagnostic::warning(
                codes::LAYOUT_ASSUMED,
                message,
                span,
                "counts as false",
            ));
            Some(Spanned::unplaced("half"))
        }
        Given::Absent => {
            comments.add(
                "params.rope.layout",
                "rope_interleave is absent: the class default is true",
            );
            let message = format!(
                "`rope_interleave` is absent: `{}` rotates pairs (2i, 2i+1) then",
                family.name()
            );
            config.report(
                Diagnostic::warning(codes::LAYOUT_ASSUMED, message, config.span, "not in here").help(
                    "a checkpoint whose weights were reordered into halves needs `layout: half`",
                ),
            );
            Some(Spanned::unplaced("interleaved"))
        }
    }
}

/// The rope type: `rope_type`, else `type`, else `default`.
fn rope_type<'a>(rope: &Config<'a>) -> Option<Spanned<&'a str>> {
    match (rope.word("rope_type"), rope.word("type")) {
        (Given::Wrong, _) | (_, Given::Wrong) => None,
        (Given::Value(new), Given::Value(old)) => {
            if new.value != old.value {
                let message = format!(
                    "`type: {}` is not read: `rope_type` is there too",
                    old.value
                );
                let lint =
                    Diagnostic::warning(codes::UNUSED_ROPE_KEYS, message, old.span, "passed over");
                rope.report(lint.and(new.span, "read instead"));
            }
            Some(new)
        }
        (Given::Value(kind), _) | (_, Given::Value(kind)) => Some(kind),
        _ => Some(Spanned::unplaced("default")),
    }
}

fn refused_type(kind: &str, span: Span) -> Diagnostic {
    if LATER.contains(&kind) {
        let message = format!("rope type `{kind}` is not in this release");
        return Diagnostic::error(codes::ROPE_TYPE, message, span, "not in this release")
            .help("`default`, `linear` and `yarn` are supported");
    }
    let diagnostic = Diagnostic::error(
        codes::ROPE_TYPE,
        format!("unknown rope type `{kind}`"),
        span,
        "unknown",
    );
    match suggest(
        kind,
        ["default", "linear", "yarn"]
            .into_iter()
            .chain(LATER.iter().copied()),
    ) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic.help("`default`, `linear` and `yarn` are supported"),
    }
}

fn plain(
    rope: &Config<'_>,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    layout: Spanned<&str>,
) -> Vec<Entry> {
    let unread = [
        "factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "attention_factor",
        "truncate",
    ];
    lint_unread(rope, kind.value, &unread);
    vec![
        word("type", "plain", kind.span),
        real("theta", theta),
        word("layout", layout.value, layout.span),
    ]
}

fn linear(
    rope: &Config<'_>,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    layout: Spanned<&str>,
) -> Option<Vec<Entry>> {
    let factor = required_factor(rope, kind)?;
    if let Some(corrected) = softmax_correction(rope, kind.value) {
        rope.report(
            Diagnostic::error(
                codes::ROPE_NOT_EXPRESSIBLE,
                "`mscale_all_dim` with rope type `linear` corrects the softmax scale, which the language states for `yarn` only",
                corrected,
                "multiplies the softmax scale by g(factor, mscale_all_dim)²",
            )
            .help("remove `mscale_all_dim` if the model was not trained with it"),
        );
        return None;
    }
    lint_unread(
        rope,
        kind.value,
        &[
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "mscale",
            "attention_factor",
            "truncate",
        ],
    );
    Some(vec![
        word("type", "linear", kind.span),
        real("theta", theta),
        word("layout", layout.value, layout.span),
        real("factor", factor),
    ])
}

fn required_factor(rope: &Config<'_>, kind: Spanned<&str>) -> Option<Spanned<f64>> {
    match rope.real("factor") {
        Given::Value(factor) => Some(factor),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => {
            let message = format!("rope type `{}` needs `factor`", kind.value);
            rope.report(
                Diagnostic::error(
                    codes::ROPE_KEY_MISSING,
                    message,
                    kind.span,
                    "`factor` is missing",
                )
                .help("state `factor`, the ratio of the stretched to the original context length"),
            );
            None
        }
    }
}

/// Warns about keys that are set although this rope type has no use for them.
fn lint_unread(rope: &Config<'_>, kind: &str, keys: &[&str]) {
    for key in keys {
        if let Some(entry) = rope.entry(key)
            && entry.value.kind != NodeKind::Scalar(Scalar::Null)
        {
            let message = format!("`{key}` is not read with rope type `{kind}`");
            rope.report(Diagnostic::warning(
                codes::UNUSED_ROPE_KEYS,
                message,
                entry.key.span,
                "has no effect",
            ));
        }
    }
}

/// Refuses keys of the rope object that nothing reads.
fn review(rope: &Config<'_>, kind: &str) {
    for entry in rope.unasked() {
        let key = entry.key.value.as_str();
        if IRRELEVANT.contains(&key)
            || KEYS.contains(&key)
            || entry.value.kind == NodeKind::Scalar(Scalar::Null)
        {
            continue;
        }
        let diagnostic = Diagnostic::error(
            codes::UNKNOWN_ATTENTION_KEY,
            format!("`{key}` is no parameter of rope type `{kind}`"),
            entry.key.span,
            "not understood",
        );
        rope.report(match suggest(key, KEYS.iter().copied()) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic.help("remove the key if this model's attention does not read it"),
        });
    }
}
