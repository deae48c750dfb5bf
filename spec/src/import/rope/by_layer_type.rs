//! Rope parameters of one kind of layer, where kinds have their own (features S-11).

use super::super::assemble::Comments;
use super::super::config::{Config, Given};
use super::super::family::{Family, Trait};
use super::super::schedule::Attention;
use super::RopeOf;
use crate::span::Spanned;

/// What sliding layers of `dots3_note` take for `swa_rope_theta`.
const SLIDING_THETA: f64 = 50_000.0;

/// How configs call a kind of layer.
fn name(attention: Attention) -> &'static str {
    match attention {
        Attention::Full => "full_attention",
        Attention::Indexed => "indexed_attention",
        Attention::Sliding => "sliding_attention",
        Attention::Linear => "linear_attention",
    }
}

/// The parameters of this layer's kind: those under its name, or the whole object where it is not nested.
pub(super) fn parameters<'a>(
    config: &Config<'a>,
    family: &Family,
    rope: Config<'a>,
    of: &RopeOf,
) -> Option<Config<'a>> {
    if !family.has(Trait::PerLayerType) {
        return Some(rope);
    }
    match rope.object(name(of.attention)) {
        Given::Value(own) => Some(config.inner(own)),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => Some(rope),
    }
}

/// `swa_rope_theta`, which counts where there are no rope parameters at all.
pub(super) fn theta(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    attention: Attention,
    comments: &mut Comments,
) -> Option<Spanned<f64>> {
    if !family.has(Trait::PerLayerType) {
        return None;
    }
    let sliding = config.real("swa_rope_theta");
    if attention != Attention::Sliding || rope.says_anything() {
        return None;
    }
    // The other layers' base has no say here.
    config.entry("rope_theta");
    Some(sliding.value().unwrap_or_else(|| {
        comments.add(
            "params.rope.theta",
            "swa_rope_theta is not in the config: the class default",
        );
        Spanned::unplaced(SLIDING_THETA)
    }))
}
