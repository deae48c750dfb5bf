//! What every rope type shares: which object holds the parameters, the base, the layout, the type's name.

use super::super::assemble::Comments;
use super::super::codes;
use super::super::config::{Config, Given};
use super::super::family::{Family, Rotation, Trait};
use super::super::schedule::Attention;
use super::{KEYS, by_layer_type};
use crate::diagnostic::Diagnostic;
use crate::layer::RopeLayout;
use crate::node::{Entry, NodeKind};
use crate::span::Spanned;

/// The object that holds the rope parameters: empty where the config has none, `None` where one is no object.
pub(super) fn chosen_object<'a>(
    config: &Config<'a>,
    family: &Family,
    comments: &mut Comments,
) -> Option<Config<'a>> {
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
    let of_the_class = || {
        let entries = family.defaults.rope.map_or(&[][..], |rope| rope());
        if !entries.is_empty() {
            comments.add("params.rope", "not in the config: the class default");
        }
        Spanned::new(entries, config.span)
    };
    Some(config.inner(scaling.or(parameters).unwrap_or_else(of_the_class)))
}

/// What an object under `key` holds, if it holds anything: `Some(None)` where it is absent, null or empty.
pub(super) fn filled_object<'a>(
    config: &Config<'a>,
    key: &str,
) -> Option<Option<Spanned<&'a [Entry]>>> {
    match config.object(key) {
        Given::Wrong => None,
        given => Some(given.value().filter(|entries| !entries.value.is_empty())),
    }
}

/// Reports parameters that stand one level down, an object per layer type, and whether there are any. No supported
/// family's code reads them there, and what it would take in their place is a guess.
pub(super) fn refuse_layer_types(rope: &Config<'_>) -> bool {
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

pub(super) fn theta(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    attention: Attention,
    comments: &mut Comments,
) -> Spanned<f64> {
    if let Some(theta) = by_layer_type::theta(config, family, rope, attention, comments) {
        return theta;
    }
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
    let default = family.defaults.rope_theta;
    config.report(
        Diagnostic::warning(
            codes::THETA_ABSENT,
            format!("`rope_theta` is absent: {default} is taken, as the library does"),
            config.span,
            "not in here",
        )
        .help("compare with the checkpoint's model card"),
    );
    Spanned::unplaced(default)
}

pub(super) fn layout(
    config: &Config<'_>,
    family: &Family,
    given: Given<bool>,
    comments: &mut Comments,
) -> Option<Spanned<&'static str>> {
    if let Rotation::Always(layout) = family.rotation {
        let pairs = layout == RopeLayout::Interleaved;
        let (name, rotates) = if pairs {
            ("interleaved", "rotates pairs (2i, 2i+1)")
        } else {
            ("half", "rotates halves (i, i+d/2)")
        };
        if let Given::Value(Spanned { value, span }) = given
            && value != pairs
        {
            let message = format!(
                "`rope_interleave` is not read: `{}` always {rotates}",
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
            &format!("{} always {rotates}", family.name()),
        );
        return Some(Spanned::unplaced(name));
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
pub(super) fn rope_type<'a>(rope: &Config<'a>) -> Option<Spanned<&'a str>> {
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

pub(super) fn lint_partial_rotary(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    rope_dim: u32,
) {
    let outside = config.real("partial_rotary_factor").value();
    let Some(factor) = rope.real("partial_rotary_factor").value().or(outside) else {
        return;
    };
    // These families' code derives the factor from the sizes, and writes it back.
    let derived = family.has(Trait::Llama4Scaling) || family.has(Trait::PerLayerType);
    if factor.value != 1.0 && !derived {
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
