//! The phases, and what of a layer some of them can't have.

use super::{by_module, errors};
use crate::build::{Build, Phase};
use crate::check::About;
use crate::check::codes;
use crate::check::modules::Attention;
use crate::check::text::{listed, one_of};
use crate::check::value::{Field, Table};
use crate::check::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{LongRopeSelect, MaskKind, Rope, RopeScaling};
use crate::span::{Span, Spanned};

pub(super) const PHASES: Words<'static, Phase> = Words {
    choices: &[
        ("forward", Phase::Forward),
        ("prefill", Phase::Prefill),
        ("decode", Phase::Decode),
        ("mixed", Phase::Mixed),
        ("train", Phase::Train),
    ],
    aliases: &[
        ("autoregressive", "decode"),
        ("generate", "decode"),
        ("inference", "forward"),
        ("extend", "prefill"),
        ("chunked_prefill", "mixed"),
        ("training", "train"),
        ("backward", "train"),
    ],
    others: None,
};

/// The phases with a cache.
pub(super) const CACHED: [Phase; 3] = [Phase::Prefill, Phase::Decode, Phase::Mixed];

/// The phases, and where they were written.
pub(super) struct Phases {
    pub(super) list: Vec<Spanned<Phase>>,
    /// Whether some were refused, so that nothing can be said about those that are not there.
    unclear: bool,
    pub(super) span: Option<Span>,
}

impl Phases {
    pub(super) fn defaults() -> Self {
        let list = Build::default()
            .phases
            .into_iter()
            .map(Spanned::unplaced)
            .collect();
        Self {
            list,
            unclear: false,
            span: None,
        }
    }

    pub(super) fn read(table: &mut Table<'_>, out: &mut Diagnostics) -> Self {
        let Some(field) = table.take("phases") else {
            return Self {
                unclear: table.is_misspelt("phases"),
                ..Self::defaults()
            };
        };
        let before = errors(out);
        let list = field.words(&PHASES, out);
        Self {
            list,
            unclear: errors(out) > before,
            span: Some(field.value.span),
        }
    }

    pub(super) fn find(&self, phases: &[Phase]) -> Option<&Spanned<Phase>> {
        self.list.iter().find(|phase| phases.contains(&phase.value))
    }

    /// Refuses a key that only these phases read.
    pub(super) fn refuse_unless(
        &self,
        phases: &[Phase],
        field: &Field<'_>,
        out: &mut Diagnostics,
    ) -> bool {
        if self.unclear || self.find(phases).is_some() {
            return false;
        }
        let names: Vec<&str> = phases.iter().map(|phase| PHASES.name_of(*phase)).collect();
        let (key, readers) = (field.name(), listed(&names));
        let message = match names.len() {
            1 => format!("only {readers} reads `{key}`, and it is not among the phases"),
            _ => format!("only {readers} read `{key}`, and they are not among the phases"),
        };
        let unused = Diagnostic::error(
            codes::UNUSED_BUILD_KEY,
            message,
            field.key.span,
            "nothing reads this",
        );
        let unused = match self.span {
            Some(span) => unused.and(span, "the phases"),
            None => unused,
        };
        out.push(unused.help(format!(
            "remove `{key}`, or add {} to `phases`",
            one_of(&names)
        )));
        true
    }
}

/// Refuses phases that lack what the layer needs, and a layer that needs what none of them has.
pub(super) fn agree(phases: &Phases, about: &About, out: &mut Diagnostics) {
    match about.attention {
        Some((Attention::Cross, _)) => {
            by_module::refuse_cached_diagonal(phases, about, out);
            by_module::refuse_decode_without_prefill(phases, out);
        }
        _ => refuse_cached_mask(phases, about, out),
    }
    if let Some(mask) = about.mask
        && mask.value.kind == MaskKind::Arbitrary
    {
        let message = "says key by key what a query sees";
        refuse_cached_input(phases, "an arbitrary mask", message, mask.span, out);
    }
    if let Some(bias) = about.bias {
        let message = "has a value for every query and key";
        refuse_cached_input(phases, "a bias of the logits", message, bias, out);
    }
    refuse_idle_dropout(phases, about, out);
    refuse_untrained(phases, about, out);
    warn_of_lengths(phases, about, out);
}

impl Phases {
    /// A phase with a cache, if there is one.
    fn cached(&self) -> Option<&Spanned<Phase>> {
        self.list.iter().find(|phase| phase.value.is_cached())
    }

    /// The key with the phases that have no cache, as remedies write it: `phases: [forward]` where none of them is listed.
    pub(super) fn uncached(&self) -> String {
        let names: Vec<&str> = self
            .list
            .iter()
            .filter(|phase| !phase.value.is_cached())
            .map(|phase| PHASES.name_of(phase.value))
            .collect();
        match names[..] {
            [] => "phases: [forward]".to_owned(),
            _ => format!("phases: [{}]", names.join(", ")),
        }
    }
}

/// A layer that sees later tokens can't be cached: its past would change with every new token.
fn refuse_cached_mask(phases: &Phases, about: &About, out: &mut Diagnostics) {
    let Some(mask) = about.mask.filter(|mask| mask.value.kind == MaskKind::Full) else {
        return;
    };
    let Some(cached) = phases.cached() else {
        return;
    };
    let name = PHASES.name_of(cached.value);
    let message = format!("a mask that sees later tokens can't be cached, which `{name}` does");
    let bidirectional = Diagnostic::error(
        codes::MASK_NOT_CACHEABLE,
        message,
        mask.span,
        "sees the whole sequence",
    );
    let causal = if mask.value.allows_padding() {
        "padding_causal"
    } else {
        "causal"
    };
    out.push(match phases.span {
        Some(_) => bidirectional
            .and(cached.span, "keeps past tokens as they were")
            .help(format!(
                "write `{}`, or `attn_mask_type: {causal}`",
                phases.uncached()
            )),
        None => bidirectional
            .note("without `build.phases` a layer has `forward`, `prefill` and `decode`")
            .help(format!(
                "add `phases: [forward]` to `build`, or write `attn_mask_type: {causal}`"
            )),
    });
}

/// An input with a row per query and a column per key has no place beside a ragged batch over caches: each request would need
/// one of its own width, the past included, and a paged cache has no columns to speak of.
fn refuse_cached_input(
    phases: &Phases,
    what: &str,
    shape: &str,
    span: Span,
    out: &mut Diagnostics,
) {
    let Some(cached) = phases.cached() else {
        return;
    };
    let name = PHASES.name_of(cached.value);
    let message = format!("{what} {shape}, and `{name}` has no such table");
    let input = Diagnostic::error(
        codes::INPUT_NOT_CACHEABLE,
        message,
        span,
        "given for whole sequences alone",
    )
    .note("a batch of requests over caches has as many keys per query as each request is long");
    out.push(match phases.span {
        Some(_) => input
            .and(cached.span, "a batch over caches")
            .help(format!("write `{}`", phases.uncached())),
        None => input
            .note("without `build.phases` a layer has `forward`, `prefill` and `decode`")
            .help("add `phases: [forward]` to `build`"),
    });
}

/// Probabilities are dropped in training, whose phases are `train` and, beside a backward pass of the caller's, `forward`.
fn refuse_idle_dropout(phases: &Phases, about: &About, out: &mut Diagnostics) {
    let (Some(dropout), Some(list), false) = (
        about.dropout,
        phases.span,
        phases.unclear || phases.list.iter().any(|phase| !phase.value.is_cached()),
    ) else {
        return;
    };
    let message = "`attention_dropout` is for training, and neither `prefill` nor `decode` trains";
    let idle = Diagnostic::error(
        codes::DROPOUT_WITHOUT_TRAINING,
        message,
        dropout,
        "nothing is dropped",
    );
    out.push(
        idle.and(list, "no `train` among these")
            .help("remove `attention_dropout`, or add `train` or `forward` to `phases`"),
    );
}

/// Keys that only training reads want it.
fn refuse_untrained(phases: &Phases, about: &About, out: &mut Diagnostics) {
    if phases.unclear || phases.find(&[Phase::Train]).is_some() {
        return;
    }
    for (key, span) in &about.of_training {
        let message = format!("`{key}` is for training, and `train` is not among the phases");
        let idle = Diagnostic::error(codes::UNTRAINED, message, *span, "nothing reads this");
        let idle = match phases.span {
            Some(list) => idle.and(list, "the phases"),
            None => {
                idle.note("without `build.phases` a layer has `forward`, `prefill` and `decode`")
            }
        };
        out.push(idle.help(format!(
            "remove `{key}`, or list `train` in `phases` of `build`"
        )));
    }
}

/// Warns of frequencies that change under cached keys, which keep the ones that they were rotated at.
fn warn_of_lengths(phases: &Phases, about: &About, out: &mut Diagnostics) {
    let Some((Rope::Rotary(rotary), span)) = &about.rope else {
        return;
    };
    let help = match &rotary.scaling {
        RopeScaling::Dynamic { .. } => "`type: yarn` or `type: linear` don't change",
        RopeScaling::LongRope(long) if long.select == LongRopeSelect::ByLength => {
            "write `select: short` or `select: long` where it is known beforehand"
        }
        _ => return,
    };
    let Some(cached) = phases.cached() else {
        return;
    };
    let message = format!(
        "frequencies follow the longest position, and keys that `{}` cached keep theirs",
        PHASES.name_of(cached.value)
    );
    let warning = Diagnostic::warning(
        codes::ROPE_FOLLOWS_LENGTH,
        message,
        *span,
        "a long call differs from the same tokens in steps",
    );
    out.push(warning.help(help));
}
