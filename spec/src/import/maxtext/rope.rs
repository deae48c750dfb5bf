//! Rope, and the softmax scale, which MaxText corrects by lengths that have nothing to do with the rope type.

use super::super::assemble::rope::{self, Magnitude, Yarn};
use super::super::codes;
use super::super::defaults::Reader;
use super::super::parts::Sizes;
use crate::diagnostic::Diagnostic;
use crate::layer::yarn_magnitude;
use crate::node::Node;
use crate::span::Spanned;
use crate::suggest::suggest;

/// Rope types that are read here.
const TYPES: [&str; 2] = ["default", "yarn"];

/// What was read.
pub(super) struct Rope {
    pub(super) node: Node,
    /// Stated where it does not follow from the rope.
    pub(super) softmax_scale: Option<Spanned<f64>>,
}

/// YaRN's numbers, which MaxText has whatever the rope type.
struct Numbers {
    longest: Spanned<u32>,
    original: Spanned<u32>,
    factor: Spanned<f64>,
    mscale: Spanned<f64>,
}

impl Numbers {
    fn read(reader: &mut Reader<'_, '_>) -> Self {
        const ORIGINAL: &str = "params.rope.original_max_position_embeddings";
        Self {
            longest: reader.size("max_position_embeddings", "params.rope.type", 163_840),
            original: reader.size("original_max_position_embeddings", ORIGINAL, 4096),
            factor: reader.real("rope_factor", "params.rope.factor", 40.0),
            mscale: reader.real("mscale", "params.rope.mscale", 1.0),
        }
    }

    /// Whether the softmax scale is multiplied by `g(f, mscale)²` (features E-01).
    fn correct(&self) -> bool {
        self.longest.value > self.original.value
    }

    fn correction(&self) -> f64 {
        yarn_magnitude(self.factor.value, self.mscale.value).powi(2)
    }
}

pub(super) fn read(reader: &mut Reader<'_, '_>, sizes: &Sizes) -> Rope {
    let kind = reader.word("rope_type", "default");
    let theta = reader.real("rope_max_timescale", "params.rope.theta", 10_000.0);
    let numbers = Numbers::read(reader);
    match kind.value {
        "yarn" => yarn(reader, kind, theta, &numbers),
        "default" => plain(reader, kind, theta, &numbers, sizes),
        other => {
            let message = format!("rope type `{}` is not read here", other.escape_debug());
            let wrong = Diagnostic::error(codes::ROPE_TYPE, message, kind.span, "not understood");
            reader.config.report(match suggest(other, TYPES) {
                Some(near) => wrong.help(format!("did you mean `{near}`?")),
                None => wrong
                    .note("`llama3.1`'s stretching has numbers of its own, which no option of MaxText's states")
                    .help("supported: `default`, `yarn`"),
            });
            Rope {
                node: rope::none(),
                softmax_scale: None,
            }
        }
    }
}

fn yarn(
    reader: &mut Reader<'_, '_>,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    numbers: &Numbers,
) -> Rope {
    let interleave = reader.flag("rope_interleave", true);
    let pairwise = reader.flag("rope_pairwise", false);
    if pairwise.value && !interleave.value {
        let message = "MaxText refuses `rope_pairwise` where `rope_interleave` is false";
        reader.config.report(
            Diagnostic::error(codes::REFUSED_THERE, message, pairwise.span, "refused")
                .note("it keeps pairs as pairs, and halves have none")
                .help("remove `rope_pairwise`"),
        );
    }
    let truncate = reader.flag("rope_truncate", true);
    let beta_fast = reader.real("beta_fast", "params.rope.beta_fast", 32.0);
    let beta_slow = reader.real("beta_slow", "params.rope.beta_slow", 1.0);
    let scaled = reader.flag("rope_attention_scaling", false);
    ignore_linear_factor(reader, "yarn");
    let magnitude = if scaled.value {
        let factor = yarn_magnitude(numbers.factor.value, 1.0);
        Magnitude::Constant(Spanned::new(factor, scaled.span))
    } else if numbers.correct() && numbers.mscale.value != 0.0 {
        Magnitude::Mscale(numbers.mscale)
    } else {
        Magnitude::Constant(Spanned::unplaced(1.0))
    };
    let mscale_all_dim = if numbers.correct() {
        reader.comments.add(
            "params.rope.mscale_all_dim",
            "MaxText corrects the softmax scale by mscale, the only one it has",
        );
        numbers.mscale
    } else {
        reader.comments.add(
            "params.rope.mscale_all_dim",
            "max_position_embeddings is not above the original length: the softmax scale is not corrected",
        );
        Spanned::unplaced(0.0)
    };
    reader.comments.add(
        "params.rope.type",
        "applies at every length, also below the original one",
    );
    let layout = if interleave.value {
        "interleaved"
    } else {
        "half"
    };
    let entries = rope::yarn(Yarn {
        kind: kind.span,
        theta,
        layout: Spanned::new(layout, interleave.span),
        factor: numbers.factor,
        original: numbers.original,
        beta_fast,
        beta_slow,
        magnitude,
        mscale_all_dim,
        truncate,
    });
    Rope {
        node: rope::node(entries, kind.span),
        softmax_scale: None,
    }
}

/// Rope without YaRN: the softmax scale is corrected by YaRN's numbers all the same.
fn plain(
    reader: &mut Reader<'_, '_>,
    kind: Spanned<&str>,
    theta: Spanned<f64>,
    numbers: &Numbers,
    sizes: &Sizes,
) -> Rope {
    let unread = "rope type `default` turns halves (i, i+d/2), at frequencies without a ramp";
    let ramp = [("beta_fast", 32.0), ("beta_slow", 1.0)];
    for (key, default) in ramp {
        let stated = reader.optional(key);
        if stated.is_some_and(|stated| stated.value != default) {
            ignore(reader, key, unread);
        }
    }
    if !reader.flag("rope_truncate", true).value {
        ignore(reader, "rope_truncate", unread);
    }
    if reader.flag("rope_interleave", false).value {
        ignore(reader, "rope_interleave", unread);
    }
    let linear = reader.config.real("rope_linear_scaling_factor").value();
    let layout = Spanned::unplaced("half");
    reader.comments.add(
        "params.rope.layout",
        "rope type `default` always turns halves (i, i+d/2)",
    );
    let entries = match linear.filter(|factor| factor.value != 1.0) {
        Some(factor) => rope::linear(kind.span, theta, layout, factor),
        None => rope::plain(kind.span, theta, layout),
    };
    let corrected = numbers.correct() && numbers.correction() != 1.0;
    if !corrected {
        for key in [
            "max_position_embeddings",
            "original_max_position_embeddings",
            "rope_factor",
            "mscale",
        ] {
            reader.forget(key);
        }
    }
    Rope {
        node: rope::node(entries, kind.span),
        softmax_scale: corrected.then(|| corrected_scale(reader, numbers, sizes)),
    }
}

/// `d^-1/2 g(f, mscale)²`, though nothing is stretched.
fn corrected_scale(reader: &mut Reader<'_, '_>, numbers: &Numbers, sizes: &Sizes) -> Spanned<f64> {
    let span = reader.place("max_position_embeddings");
    reader.config.report(
        Diagnostic::warning(
            codes::DIFFERS_THERE,
            format!(
                "MaxText multiplies the softmax scale by {:.6}, though rope type `default` stretches nothing",
                numbers.correction()
            ),
            span,
            "above the original length, or not stated",
        )
        .note("it corrects by `rope_factor` and `mscale` wherever `max_position_embeddings` exceeds `original_max_position_embeddings`, and `base.yml` has 40, 1, 163840 and 4096")
        .help("state `max_position_embeddings` and `original_max_position_embeddings` alike if the model was trained without"),
    );
    reader.comments.add(
        "params.softmax_scale",
        "d^-1/2 times the correction that MaxText makes by max_position_embeddings",
    );
    let head = f64::from(sizes.qk_nope_head_dim.value) + f64::from(sizes.qk_rope_head_dim.value);
    Spanned::unplaced(head.powf(-0.5) * numbers.correction())
}

fn ignore_linear_factor(reader: &Reader<'_, '_>, kind: &str) {
    let factor = reader.config.real("rope_linear_scaling_factor").value();
    if factor.is_some_and(|factor| factor.value != 1.0) {
        let why = format!("rope type `{kind}` has a factor of its own");
        ignore(reader, "rope_linear_scaling_factor", &why);
    }
}

/// Points a stated key out that does nothing.
fn ignore(reader: &Reader<'_, '_>, key: &str, why: &str) {
    if let Some(entry) = reader.config.entry(key) {
        let span = entry.key.span;
        let lint = super::super::keys::passed_over_there(key, "MaxText", span, why);
        reader.config.report(lint);
    }
}
