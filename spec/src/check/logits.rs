//! What happens to logits and probabilities: scale, soft cap, sink, bias, dropout.

use super::codes;
use super::value::{Stated, Table};
use super::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{Logits, Rope, RopeScaling, Sink};
use crate::span::Span;

const SINKS: Words<'static, Sink> = Words {
    choices: &[
        ("vanilla", Sink::None),
        ("off-by-one", Sink::OffByOne),
        ("learnable", Sink::Learned),
    ],
    aliases: &[
        ("none", "vanilla"),
        ("softmax", "vanilla"),
        ("off_by_one", "off-by-one"),
        ("softmax1", "off-by-one"),
        ("learned", "learnable"),
        ("sink", "learnable"),
    ],
    others: None,
};

const BIASES: Words<'static, bool> = Words {
    choices: &[("post_scale_bias", true), ("no_bias", false)],
    aliases: &[
        ("post_scale", "post_scale_bias"),
        ("none", "no_bias"),
        ("alibi", "post_scale_bias"),
        ("pre_scale_bias", "post_scale_bias"),
    ],
    others: None,
};

/// What was found, and where what others must agree with was written.
pub(super) struct Found {
    /// Everything; absent where a part was refused.
    pub(super) logits: Option<Logits>,
    /// Where `attn_logits_soft_cap` stands, if there is one.
    pub(super) soft_cap: Option<Span>,
    /// Where `core_attention_bias` stands, if there is a bias.
    pub(super) bias: Option<Span>,
    /// Where `attention_dropout` stands, if anything is dropped.
    pub(super) dropout: Option<Span>,
    scale: Option<Span>,
}

/// Reads the keys that every attention module has.
pub(super) fn read(table: &mut Table<'_>, out: &mut Diagnostics) -> Found {
    let scale = table.stated("softmax_scale", |field| {
        field.bounded(
            "greater than 0 and at most 1e3",
            |scale| scale > 0.0 && scale <= 1e3,
            out,
        )
    });
    let soft_cap = table.stated("attn_logits_soft_cap", |field| {
        field.bounded(
            "greater than 0 and at most 1e6",
            |cap| cap > 0.0 && cap <= 1e6,
            out,
        )
    });
    let sink = table
        .stated("softmax_type", |field| field.word(&SINKS, out))
        .and_then(|sink| Some(sink.value));
    let bias = table
        .stated("core_attention_bias", |field| field.word(&BIASES, out))
        .and_then(|bias| Some(bias.value));
    let dropout = table.stated("attention_dropout", |field| {
        field.bounded(
            "at least 0 and less than 1",
            |dropout| (0.0..1.0).contains(&dropout),
            out,
        )
    });
    Found {
        soft_cap: soft_cap.given().map(|(_, key)| key),
        scale: scale.given().map(|(_, key)| key),
        bias: where_it_holds(&bias, |bias| *bias),
        dropout: where_it_holds(&dropout, |dropout| *dropout > 0.0),
        logits: together(scale, soft_cap, sink, bias, dropout),
    }
}

fn together(
    scale: Stated<f64>,
    soft_cap: Stated<f64>,
    sink: Stated<Sink>,
    bias: Stated<bool>,
    dropout: Stated<f64>,
) -> Option<Logits> {
    Some(Logits {
        scale: scale.optional()?,
        soft_cap: soft_cap.optional()?,
        sink: sink.or(Sink::None)?,
        bias: bias.or(false)?,
        dropout: dropout.or(0.0)?,
    })
}

fn where_it_holds<T>(stated: &Stated<T>, holds: impl Fn(&T) -> bool) -> Option<Span> {
    stated
        .given()
        .filter(|(value, _)| holds(value))
        .map(|(_, key)| key)
}

impl Found {
    /// Refuses two statements about the softmax scale: its own, and YaRN's correction of the one that follows from the head dim.
    pub(super) fn agree_with(&self, rope: Option<&Rope>, rope_key: Span, out: &mut Diagnostics) {
        let Some(scale) = self.scale else {
            return;
        };
        let Some(Rope::Rotary(rotary)) = rope else {
            return;
        };
        let RopeScaling::Yarn(yarn) = &rotary.scaling else {
            return;
        };
        if yarn.mscale_all_dim == 0.0 {
            return;
        }
        let message = "`softmax_scale` and `mscale_all_dim` both say what logits are multiplied by";
        let two = Diagnostic::error(codes::TWO_SOFTMAX_SCALES, message, scale, "the whole scale");
        out.push(
            two.and(
                rope_key,
                "corrects the scale that follows from the head dims",
            )
            .help("remove `softmax_scale`, or write `mscale_all_dim: 0` in `rope`"),
        );
    }
}
