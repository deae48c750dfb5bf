//! What the attention module says about `build`: which keys and phases it has a use for.

use super::phases::{CACHED, PHASES, Phases};
use crate::build::Phase;
use crate::check::About;
use crate::check::codes;
use crate::check::modules::Attention;
use crate::check::value::Table;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{MaskKind, Rope};

/// Keys about the two forms of latent attention and what they cost, with what they do.
const OF_LATENTS: [(&str, &str); 3] = [
    (
        "form",
        "chooses between the expanded and the absorbed form of latent attention",
    ),
    (
        "expect",
        "serves to choose between the two forms of latent attention",
    ),
    ("context_chunk", "serves to expand a cache of latents"),
];

/// Refuses keys that serve latent attention alone.
pub(super) fn refuse_keys_of_latents(table: &mut Table<'_>, about: &About, out: &mut Diagnostics) {
    let Some((module, at)) = about
        .attention
        .filter(|(module, _)| module.has_no_latents())
    else {
        return;
    };
    for (key, what) in OF_LATENTS {
        if let Some(field) = table.take_stray(key) {
            let message = format!("`{key}` {what}, and `{}` has none", module.name());
            let label = "nothing reads this";
            let unused =
                Diagnostic::error(codes::BUILD_KEY_OF_LATENTS, message, field.key.span, label);
            let unused = unused.and(at, "makes no latents");
            out.push(unused.help(format!("remove `{key}`")));
        }
    }
}

/// A decode of cross attention reads the context that a prefill has cached; nothing else writes it.
pub(super) fn refuse_decode_without_prefill(phases: &Phases, out: &mut Diagnostics) {
    let (None, Some(decode)) = (
        phases.find(&[Phase::Prefill]),
        phases.find(&[Phase::Decode]),
    ) else {
        return;
    };
    let message =
        "`decode` reads a context from the cache, and without `prefill` nothing writes it";
    let label = "finds the cache empty";
    let missing = Diagnostic::error(codes::CONTEXT_NEVER_CACHED, message, decode.span, label);
    out.push(missing.help("add `prefill` to `phases`"));
}

/// Where the diagonal of `causal_bottom_right` runs depends on how many queries there are, and new tokens come one by one.
pub(super) fn refuse_cached_diagonal(phases: &Phases, about: &About, out: &mut Diagnostics) {
    let Some(mask) = about.mask else {
        return;
    };
    let Some(cached) = phases.find(&CACHED) else {
        return;
    };
    if mask.value.kind != MaskKind::CausalBottomRight {
        return;
    }
    let message = format!(
        "`causal_bottom_right` aligns the last query with the last key, and `{}` never knows the last query",
        PHASES.name_of(cached.value)
    );
    let label = "aligns the ends of two sequences";
    let diagonal = Diagnostic::error(codes::CROSS_NOT_CACHED, message, mask.span, label);
    out.push(match phases.span {
        Some(_) => diagonal
            .and(cached.span, "a sequence that grows")
            .help(format!(
                "write `{}`, or `attn_mask_type: no_mask`",
                phases.uncached()
            )),
        None => diagonal
            .note("without `build.phases` a layer has `forward`, `prefill` and `decode`")
            .help("add `phases: [forward]` to `build`, or write `attn_mask_type: no_mask`"),
    });
}

/// Reads `flash_decode`: whether decode rotates, caches and attends in one op.
pub(super) fn flash_decode(
    table: &mut Table<'_>,
    phases: &Phases,
    about: &About,
    out: &mut Diagnostics,
) -> Option<bool> {
    let Some(field) = table.take("flash_decode") else {
        return Some(false);
    };
    let on = field.boolean(out)?;
    if !on {
        return Some(false);
    }
    if phases.refuse_unless(&[Phase::Decode], &field, out) {
        return None;
    }
    if let Some((Attention::Mla, module)) = about.attention {
        let message =
            "`flash_decode` rotates keys of heads and caches them, and latent attention has none";
        let label = "no such decode here";
        let span = field.key.span;
        let of_latents = Diagnostic::error(codes::FLASH_DECODE_OF_LATENTS, message, span, label);
        out.push(
            of_latents
                .and(module, "caches latents")
                .help("remove `flash_decode`; `form: mqa` decodes over latents"),
        );
        return None;
    }
    let refusal = match (about.attention, &about.rope, about.after_rope) {
        (Some((Attention::Cross, module)), ..) => Some((
            "`flash_decode` is `SelfAttention`'s: cross attention rotates nothing, and its cache doesn't grow"
                .to_owned(),
            module,
            "attends to another sequence",
        )),
        (_, Some((Rope::None, span)), _) => Some((
            "`flash_decode` rotates, caches and attends in one op, and this layer rotates nothing"
                .to_owned(),
            *span,
            "nothing is rotated",
        )),
        (_, _, Some((key, span))) => Some((
            format!("`flash_decode` attends to what rope leaves, and `{key}` stands between"),
            span,
            "behind rope",
        )),
        _ => None,
    };
    let Some((message, because, why)) = refusal else {
        return Some(true);
    };
    let label = "can't be one op here";
    let refused = Diagnostic::error(codes::FLASH_DECODE, message, field.key.span, label);
    out.push(refused.and(because, why).help("remove `flash_decode`"));
    None
}
