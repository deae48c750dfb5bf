//! Rope as the modeling code reads it, said in our language.
//!
//! Configs come in two styles: `rope_theta` beside `rope_scaling`, and `rope_parameters` with everything inside. Both
//! are read as the library does: a non-empty `rope_scaling` wins, `rope_type` wins over `type`, a theta inside wins over
//! one outside.

mod by_layer_type;
mod stretched;
mod yarn;

use super::assemble::{Comments, real, rope_none, word};
use super::codes;
use super::config::{Config, Given};
use super::family::{Family, Rotation, Trait};
use super::parts::QueryScaling;
use super::schedule::Attention;
use crate::diagnostic::Diagnostic;
use crate::layer::RopeLayout;
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
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
];

/// Rope types that can be said.
const TYPES: &[&str] = &["default", "linear", "yarn", "longrope", "llama3", "dynamic"];

/// Keys of a rope object that no supported family's code reads.
const IRRELEVANT: &[&str] = &["max_position_embeddings", "finetuned", "original_rope_type"];

/// Rope types that exist and that this release can't express.
const LATER: &[&str] = &[
    "su",
    "proportional",
    "axial",
    "mrope",
    "ntk",
    "deepseek_yarn",
    "deepseek_llama_scaling",
];

/// The rope of one layer.
pub(super) struct RopeOf {
    /// Length of its rope part.
    pub(super) dim: Spanned<u32>,
    /// What kind of layer it is, where kinds have parameters of their own.
    pub(super) attention: Attention,
    /// Whether it rotates.
    pub(super) rotates: bool,
}

/// What was read.
pub(super) struct Read {
    /// The `rope` parameter.
    pub(super) node: Node,
    /// What the rope parameters say about queries.
    pub(super) query_scaling: Option<QueryScaling>,
}

/// The `rope` parameter of a layer, or `None` where it was refused.
pub(super) fn read(
    config: &Config<'_>,
    family: &Family,
    of: &RopeOf,
    comments: &mut Comments,
) -> Option<Read> {
    let whole = chosen_object(config, family, comments)?;
    let interleave = config.flag("rope_interleave");
    let unscaled = |node| Read {
        node,
        query_scaling: None,
    };
    match family.rotation {
        Rotation::Never => return unrotated(config, family, &whole, comments).map(unscaled),
        Rotation::NoRopePart => {
            return no_rope_part(config, family, of, &whole, comments).map(unscaled);
        }
        Rotation::Always(_) | Rotation::Configured => {}
    }
    let rope = by_layer_type::parameters(config, family, whole, of)?;
    if refuse_layer_types(&rope) {
        return None;
    }
    lint_partial_rotary(config, family, &rope, of.dim.value);
    let theta = theta(config, family, &rope, of.attention, comments);
    let layout = layout(config, family, interleave, comments)?;
    let kind = rope_type(&rope)?;
    let entries = match kind.value {
        "default" => plain(&rope, kind, theta, layout),
        "linear" => linear(&rope, kind, theta, layout)?,
        "longrope" => stretched::longrope(config, family, &rope, kind, theta, layout, comments)?,
        "llama3" => stretched::llama3(config, family, &rope, kind, theta, layout)?,
        "dynamic" => stretched::dynamic(config, family, &rope, kind, theta, layout, comments)?,
        "yarn" => yarn::read(config, family, &rope, kind, theta, layout, comments)?,
        // How LongCat's sparse checkpoints spell it.
        "deepseek_yarn" if family.has(Trait::TwoAttentions) => {
            yarn::read(config, family, &rope, kind, theta, layout, comments)?
        }
        other => {
            config.report(refused_type(other, kind.span));
            return None;
        }
    };
    if family.has(Trait::NoSoftmaxCorrection)
        && let Some(corrected) = softmax_correction(&rope, kind.value)
    {
        config.report(no_correction(family, corrected));
        return None;
    }
    let query_scaling = if family.has(Trait::Llama4Scaling) {
        Some(llama4(config, family, &rope)?)
    } else {
        None
    };
    review(&rope, kind.value);
    if of.dim.value == 0 {
        let node = without_rope_part(config, &rope, kind, comments)?;
        return Some(Read {
            node,
            query_scaling,
        });
    }
    if !of.rotates {
        comments.remove_inside("params.rope");
        comments.add(
            "params.rope.type",
            "a layer without rope: its rope part belongs to the other one",
        );
        return Some(Read {
            node: rope_none(),
            query_scaling,
        });
    }
    lint_learned(config, family, comments);
    Some(Read {
        node: Node {
            kind: NodeKind::Map(entries),
            span: kind.span,
        },
        query_scaling,
    })
}

/// `llama_4_scaling_beta`, which stands among the rope parameters (features E-02).
fn llama4(config: &Config<'_>, family: &Family, rope: &Config<'_>) -> Option<QueryScaling> {
    let original = yarn::original_length(config, family, rope, &mut Comments::default());
    match rope.real("llama_4_scaling_beta") {
        Given::Value(beta) => Some(QueryScaling::Llama4 { beta, original }),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => {
            let message = format!("`{}` needs `llama_4_scaling_beta`", family.name());
            config.report(
                Diagnostic::error(
                    codes::ROPE_KEY_MISSING,
                    message,
                    rope.span,
                    "not among the rope parameters",
                )
                .note("queries are multiplied by 1 + beta ln(1 + floor(position / original length))")
                .help("state it; 0 multiplies by 1"),
            );
            None
        }
    }
}

fn no_correction(family: &Family, corrected: Span) -> Diagnostic {
    let message = format!(
        "`mscale_all_dim` does not correct the softmax scale of `{}`",
        family.name()
    );
    Diagnostic::error(
        codes::ROPE_NOT_EXPRESSIBLE,
        message,
        corrected,
        "read for cos and sin only",
    )
    .note("the language lets one number do both, as every other family's modeling code does")
    .help("replace the two mscales by `attention_factor`")
}

/// Frequencies that a learned tensor multiplies (LeRoPE).
fn lint_learned(config: &Config<'_>, family: &Family, comments: &mut Comments) {
    if !family.has(Trait::LearnedFrequencies) {
        return;
    }
    comments.add(
        "params.rope.theta",
        "frequencies before the checkpoint's `rotary_emb.alpha` multiplies them by exp(alpha)",
    );
    config.report(
        Diagnostic::warning(
            codes::LEARNED_FREQUENCIES,
            "the frequencies of this checkpoint are learned, and not in its config",
            config.span,
            "gives them only up to a factor each",
        )
        .note("`model.rotary_emb.alpha` (`lerope.alpha` in the released files) lies outside the layer; frequency i is multiplied by exp(alpha[i])")
        .help("read that tensor and state the frequencies: `type: longrope, select: short`, each short factor theta^(-2i/d) over the frequency; until then, positions are wrong wherever alpha is not 0"),
    );
}

/// A family without a rope part.
fn no_rope_part(
    config: &Config<'_>,
    family: &Family,
    of: &RopeOf,
    rope: &Config<'_>,
    comments: &mut Comments,
) -> Option<Node> {
    if of.dim.value != 0 {
        let message = format!(
            "`qk_rope_head_dim` is {}, but `{}` has no rope part",
            of.dim.value,
            family.name()
        );
        config.report(Diagnostic::error(
            codes::CONTRADICTION,
            message,
            of.dim.span,
            "the modeling code wants 0",
        ));
        return None;
    }
    for key in ["rope_theta", "partial_rotary_factor"] {
        config.entry(key);
    }
    for key in KEYS {
        rope.entry(key);
    }
    comments.add("params.rope.type", "there is no rope part");
    Some(rope_none())
}

/// The object that holds the rope parameters: empty where the config has none, `None` where one is no object.
fn chosen_object<'a>(
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

fn lint_partial_rotary(config: &Config<'_>, family: &Family, rope: &Config<'_>, rope_dim: u32) {
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

fn theta(
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

fn layout(
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
            .help(supported());
    }
    let diagnostic = Diagnostic::error(
        codes::ROPE_TYPE,
        format!("unknown rope type `{kind}`"),
        span,
        "unknown",
    );
    match suggest(
        kind,
        TYPES.iter().chain(LATER).copied(),
    ) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic.help(supported()),
    }
}

fn supported() -> String {
    let names: Vec<_> = TYPES.iter().map(|name| format!("`{name}`")).collect();
    format!("supported: {}", names.join(", "))
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
    refuse_correction(rope, kind.value)?;
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

/// The language states the softmax correction of `mscale_all_dim` for `yarn` only.
fn refuse_correction(rope: &Config<'_>, kind: &str) -> Option<()> {
    let Some(corrected) = softmax_correction(rope, kind) else {
        return Some(());
    };
    rope.report(
        Diagnostic::error(
            codes::ROPE_NOT_EXPRESSIBLE,
            format!("`mscale_all_dim` with rope type `{kind}` corrects the softmax scale, which the language states for `yarn` only"),
            corrected,
            "multiplies the softmax scale by g(factor, mscale_all_dim)²",
        )
        .help("remove `mscale_all_dim` if the model was not trained with it"),
    );
    None
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
