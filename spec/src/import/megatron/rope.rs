//! Rope, and the softmax scale, which Megatron corrects by YaRN's numbers whatever the rope type (features T-02).

use super::super::assemble::rope::{self, Magnitude, Yarn};
use super::super::codes;
use super::super::defaults::Reader;
use super::super::keys::passed_over_there;
use super::super::parts::Sizes;
use super::super::rope::mscales_differ;
use super::arguments::Form;
use super::layer::entry_points;
use crate::diagnostic::Diagnostic;
use crate::layer::yarn_magnitude;
use crate::node::Node;
use crate::span::Spanned;

/// What was read.
pub(super) struct Rope {
    pub(super) node: Node,
    /// Stated where it does not follow from the rope.
    pub(super) softmax_scale: Option<Spanned<f64>>,
}

/// Fields of `MLATransformerConfig` that no flag sets.
const WITHOUT_FLAG: [&str; 3] = ["original_max_position_embeddings", "beta_fast", "beta_slow"];

pub(super) fn read(reader: &mut Reader<'_, '_>, form: Form, sizes: Option<&Sizes>) -> Rope {
    let kind = reader.word("rope_type", "yarn");
    if !reader.has("rope_type") {
        reader.comments.add(
            "params.rope.type",
            "rope_type is absent: latent attention takes yarn",
        );
    }
    let theta = reader.real("rotary_base", "params.rope.theta", 10_000.0);
    if form == Form::Flags && theta.value.fract() != 0.0 {
        let message = "`--rotary-base` takes whole numbers";
        let wrong = Diagnostic::error(
            codes::WRONG_VALUE,
            message,
            theta.span,
            "not a whole number",
        );
        let help = "give the fields of `MLATransformerConfig` as YAML instead";
        reader.config.report(wrong.help(help));
    }
    reader.comments.add(
        "params.rope.layout",
        "Megatron's latent attention always turns pairs (2i, 2i+1)",
    );
    lint_positions(reader, form);
    match kind.value {
        "yarn" => yarn(reader, form, kind, theta),
        "rope" => plain(reader, form, kind, theta, sizes),
        other => {
            let message = format!("rope type `{}` is not Megatron's", other.escape_debug());
            reader.config.report(
                Diagnostic::error(codes::ROPE_TYPE, message, kind.span, "unknown")
                    .help("supported: `rope`, `yarn`"),
            );
            Rope {
                node: rope::none(),
                softmax_scale: None,
            }
        }
    }
}

fn yarn(reader: &mut Reader<'_, '_>, form: Form, kind: Spanned<&str>, theta: Spanned<f64>) -> Rope {
    refuse_without_flag(reader, form);
    entry_points(
        reader,
        form,
        "rotary_scaling_factor",
        "1 on the command line, and 40 in `MLATransformerConfig`",
    );
    let factor = reader.real(
        "rotary_scaling_factor",
        "params.rope.factor",
        form.pick(1.0, 40.0),
    );
    let mscale = reader.real("mscale", "params.rope.mscale", 1.0);
    let all_dim = reader.real("mscale_all_dim", "params.rope.mscale_all_dim", 0.0);
    if mscale.value != all_dim.value && factor.value > 1.0 {
        let place = |value: Spanned<f64>| match value.span.is_none() {
            true => Spanned::new(value.value, reader.config.span),
            false => value,
        };
        let lint = mscales_differ(place(mscale), place(all_dim), factor.value);
        reader.config.report(lint);
    }
    let percent = reader.optional("rotary_percent");
    if let Some(percent) = percent.filter(|percent| percent.value != 1.0) {
        let why = "`qk_pos_emb_head_dim` alone says how much of a head yarn turns";
        let key = form.named("rotary_percent");
        let lint = passed_over_there(&key, "Megatron", percent.span, why);
        reader.config.report(lint);
    }
    let mut fixed = |key: &str, value: f64| {
        let stated = reader.config.real(key).value();
        stated.unwrap_or_else(|| {
            let why = "Megatron's, which no flag changes";
            reader.comments.add(&format!("params.rope.{key}"), why);
            Spanned::unplaced(value)
        })
    };
    let (beta_fast, beta_slow) = (fixed("beta_fast", 32.0), fixed("beta_slow", 1.0));
    fixed("original_max_position_embeddings", 4096.0);
    let original = reader.config.size("original_max_position_embeddings");
    let entries = rope::yarn(Yarn {
        kind: kind.span,
        theta,
        layout: Spanned::unplaced("interleaved"),
        factor,
        original: original.value().unwrap_or(Spanned::unplaced(4096)),
        beta_fast,
        beta_slow,
        magnitude: Magnitude::Mscale(mscale),
        mscale_all_dim: all_dim,
        truncate: Spanned::unplaced(true),
    });
    Rope {
        node: rope::node(entries, kind.span),
        softmax_scale: None,
    }
}

/// Megatron itself stops at a flag that it does not know.
fn refuse_without_flag(reader: &Reader<'_, '_>, form: Form) {
    if form != Form::Flags {
        return;
    }
    for key in WITHOUT_FLAG {
        if let Some(entry) = reader.config.entry(key) {
            let message = format!("Megatron's command line has no flag for `{key}`");
            reader.config.report(
                Diagnostic::error(
                    codes::REFUSED_THERE,
                    message,
                    entry.key.span,
                    "not a flag of its",
                )
                .note("latent attention has 4096, 32 and 1 for these three wherever a command line says otherwise")
                .help("give the fields of `MLATransformerConfig` as YAML instead"),
            );
        }
    }
}

fn plain(
    reader: &mut Reader<'_, '_>,
    form: Form,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    sizes: Option<&Sizes>,
) -> Rope {
    let percent = reader.optional("rotary_percent");
    if let Some(percent) = percent.filter(|percent| percent.value != 1.0) {
        reader.config.report(
            Diagnostic::error(
                codes::NOT_SAID_HERE,
                "`rotary_percent` shrinks the rope part's table of angles",
                percent.span,
                "wanted 1.0",
            )
            .note("a rope part that is turned in part can't be said in this language")
            .help("write 1.0, and the part that is turned as `qk_pos_emb_head_dim`"),
        );
    }
    let factor = reader.optional("rotary_scaling_factor");
    let factor = factor.map_or(form.pick(1.0, 40.0), |factor| factor.value);
    let all_dim = reader.optional("mscale_all_dim");
    for key in ["mscale", "beta_fast", "beta_slow"] {
        if let Some(entry) = reader.config.entry(key) {
            let why = "rope type `rope` stretches nothing";
            let lint = passed_over_there(&form.named(key), "Megatron", entry.key.span, why);
            reader.config.report(lint);
        }
    }
    let corrected = all_dim.filter(|all_dim| all_dim.value != 0.0 && factor > 1.0);
    let entries = rope::plain(kind.span, theta, Spanned::unplaced("interleaved"));
    Rope {
        node: rope::node(entries, kind.span),
        softmax_scale: corrected
            .zip(sizes)
            .map(|(all_dim, sizes)| corrected_scale(reader, all_dim, factor, sizes)),
    }
}

/// `g(f, mscale_all_dim)² d^-1/2`, though nothing is stretched.
fn corrected_scale(
    reader: &mut Reader<'_, '_>,
    all_dim: Spanned<f64>,
    factor: f64,
    sizes: &Sizes,
) -> Spanned<f64> {
    let correction = yarn_magnitude(factor, all_dim.value).powi(2);
    reader.config.report(
        Diagnostic::warning(
            codes::DIFFERS_THERE,
            format!("Megatron multiplies the softmax scale by {correction:.6}, though rope type `rope` stretches nothing"),
            all_dim.span,
            "corrects the softmax scale whatever the rope type",
        )
        .note("`rotary_scaling_factor` is its factor, which is 40 in `MLATransformerConfig` where nothing is said")
        .help("remove `mscale_all_dim` if the model was trained without"),
    );
    reader.comments.add(
        "params.softmax_scale",
        "d^-1/2 times the correction that Megatron makes whatever the rope type",
    );
    let head = f64::from(sizes.qk_nope_head_dim.value) + f64::from(sizes.qk_rope_head_dim.value);
    Spanned::new(correction * head.powf(-0.5), all_dim.span)
}

/// Latent attention turns its rope part whatever the model does with positions.
fn lint_positions(reader: &mut Reader<'_, '_>, form: Form) {
    let kind = reader.word(
        "position_embedding_type",
        form.pick("learned_absolute", "rope"),
    );
    let rotary = reader.flag("use_rotary_position_embeddings", false);
    let note = match kind.value {
        "rope" => return,
        _ if rotary.value => return,
        "learned_absolute" => "the model adds learned positions to its embeddings besides",
        _ => {
            "the model does nothing else about positions, and latent attention still has its own rope"
        }
    };
    let span = match kind.span.is_none() {
        true => reader.config.span,
        false => kind.span,
    };
    reader.config.report(
        Diagnostic::warning(
            codes::DIFFERS_THERE,
            format!("`position_embedding_type` is `{}`, and latent attention turns its rope part all the same", kind.value.escape_debug()),
            span,
            "does not reach latent attention",
        )
        .note(note)
        .help("write `rope`"),
    );
}
