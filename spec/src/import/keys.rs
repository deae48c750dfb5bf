//! Keys that no reader asked for: reviewed and irrelevant, judged, unknown and harmless, or unknown and too close to
//! attention to be passed over.

use super::codes;
use super::config::Config;
use crate::diagnostic::{Diagnostic, Severity};
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::Span;
use crate::suggest::suggest;

/// Parts of a name that may have to do with attention.
const ATTENTION: &[&str] = &[
    "rope",
    "rotary",
    "attn",
    "attention",
    "head",
    "lora",
    "mla",
    "index",
    "mask",
    "window",
    "sink",
    "scale",
    "scaling",
    "softmax",
    "norm",
    "layer_types",
    "position",
    "causal",
    "latent",
];

/// What is known of a system's keys.
pub(super) struct Vocabulary<'a> {
    /// Who has them, for messages: a family or a system.
    pub(super) owner: String,
    /// A key as the user writes it.
    pub(super) spelled: fn(&str) -> String,
    /// Keys that reading gets to unless it stops early.
    pub(super) known: &'a [&'a str],
    /// Keys that were reviewed: whatever they hold, the attention layer computes the same.
    pub(super) reviewed: &'a [&'a [&'a str]],
    /// Keys that are fine while they switch nothing on, and unknown else.
    pub(super) inert: &'a [(&'a str, Inert)],
    /// Keys whose effect is known, where they have one.
    pub(super) judged: &'a [Judged],
    /// What to do about an unknown key that is not near to any known one.
    pub(super) advice: fn(&str) -> &'static str,
}

/// A key that is not read, and why.
pub(super) struct Judged {
    pub(super) key: &'static str,
    /// When there is nothing to say.
    pub(super) inert: Inert,
    pub(super) verdict: Verdict,
}

/// What becomes of a key that is not read.
#[derive(Clone, Copy)]
pub(super) enum Verdict {
    /// Its system takes it, and latent attention there passes over it: a lint, which says what happens instead.
    Ignored(&'static str),
    /// It says how its system computes, which the imported spec does not say: a lint, which says what to write instead.
    NotTaken(&'static str),
    /// Its system refuses it beside latent attention, or the language can't say it: an error, which says why.
    Refused(&'static str),
}

/// A key that its system passes over.
pub(super) const fn ignored(key: &'static str, inert: Inert, instead: &'static str) -> Judged {
    Judged {
        key,
        inert,
        verdict: Verdict::Ignored(instead),
    }
}

/// A key about how, not what, which is not taken over.
pub(super) const fn not_taken(key: &'static str, inert: Inert, instead: &'static str) -> Judged {
    Judged {
        key,
        inert,
        verdict: Verdict::NotTaken(instead),
    }
}

/// A key that can't be had.
pub(super) const fn refused(key: &'static str, inert: Inert, why: &'static str) -> Judged {
    Judged {
        key,
        inert,
        verdict: Verdict::Refused(why),
    }
}

/// When a key switches nothing on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inert {
    /// `null`, `false`, 0 or empty.
    Off,
    /// `true`.
    On,
    /// A list of `full_attention`.
    AllFullAttention,
    /// Some spelling of RMSNorm.
    RmsNorm,
    /// Always: it modifies another key of the list.
    Anything,
    /// Never: that it is there says something.
    Nothing,
    /// The number that changes nothing.
    Number(i64),
    /// The word that changes nothing.
    Word(&'static str),
}

impl Vocabulary<'_> {
    fn is_reviewed(&self, key: &str) -> bool {
        self.known.contains(&key) || self.reviewed.iter().any(|list| list.contains(&key))
    }

    fn is_inert(&self, entry: &Entry) -> bool {
        let listed = self.inert.iter().find(|(key, _)| *key == entry.key.value);
        listed.is_some_and(|(_, inert)| inert.holds(&entry.value))
    }

    fn judgement(&self, key: &str) -> Option<&Judged> {
        self.judged.iter().find(|judged| judged.key == key)
    }

    /// Every key that may be meant by a misspelt one.
    fn names(&self) -> impl Iterator<Item = &str> {
        let judged = self.judged.iter().map(|judged| judged.key);
        self.known.iter().copied().chain(judged)
    }
}

#[cfg(test)]
impl Vocabulary<'_> {
    /// Keys that are listed twice, or that are both reviewed and something else.
    pub(super) fn contradictions(&self) -> Vec<&str> {
        let reviewed = || self.reviewed.iter().copied().flatten().copied();
        let judged = || self.judged.iter().map(|judged| judged.key);
        let times = |list: &mut dyn Iterator<Item = &str>, key: &str| {
            list.filter(|one| *one == key).count()
        };
        let all = reviewed().chain(judged()).chain(self.known.iter().copied());
        all.filter(|key| {
            let [reviewed, judged, known] = [
                times(&mut reviewed(), key),
                times(&mut judged(), key),
                times(&mut self.known.iter().copied(), key),
            ];
            // What is read beside one option may be judged without it.
            reviewed > 1 || judged > 1 || known > 1 || reviewed > 0 && judged + known > 0
        })
        .collect()
    }
}

/// Judges every entry of `config` that was not asked for.
pub(super) fn review(config: &Config<'_>, vocabulary: &Vocabulary<'_>, strict: bool) {
    let mut passed_over: Vec<&Entry> = Vec::new();
    for entry in config.unasked() {
        let key = entry.key.value.as_str();
        if let Some(judged) = vocabulary.judgement(key) {
            judge(config, vocabulary, entry, judged);
        } else if vocabulary.is_reviewed(key) || vocabulary.is_inert(entry) {
            continue;
        } else if says_something(&entry.value) && touches_attention(key, &entry.value) {
            config.report(unknown_attention_key(entry, vocabulary));
        } else {
            passed_over.push(entry);
        }
    }
    if let Some(first) = passed_over.first() {
        config.report(unknown_keys(
            &passed_over,
            first.key.span,
            vocabulary,
            strict,
        ));
    }
}

fn judge(config: &Config<'_>, vocabulary: &Vocabulary<'_>, entry: &Entry, judged: &Judged) {
    if judged.inert.holds(&entry.value) {
        return;
    }
    let (key, owner) = ((vocabulary.spelled)(&entry.key.value), &vocabulary.owner);
    config.report(match judged.verdict {
        Verdict::Ignored(instead) => passed_over_there(&key, owner, entry.key.span, instead),
        Verdict::NotTaken(instead) => {
            let message = format!("`{key}` says how {owner} computes, which is not taken over");
            let label = "not in the imported spec";
            Diagnostic::warning(codes::DIFFERS_THERE, message, entry.key.span, label).help(instead)
        }
        Verdict::Refused(why) => {
            let message = format!("`{key}` can't be had beside {owner}'s latent attention");
            Diagnostic::error(codes::REFUSED_THERE, message, entry.key.span, "refused")
                .note(why)
                .help(format!("remove `{key}`"))
        }
    });
}

/// A key that its system accepts and does nothing with.
pub(super) fn passed_over_there(key: &str, owner: &str, span: Span, instead: &str) -> Diagnostic {
    let message = format!("{owner} takes `{key}` and its latent attention passes over it");
    Diagnostic::warning(codes::IGNORED_THERE, message, span, "has no effect").note(instead)
}

impl Inert {
    /// Whether a value of this key switches nothing on.
    fn holds(self, value: &Node) -> bool {
        match (self, &value.kind) {
            (Inert::Anything, _) => true,
            (Inert::Nothing, _) => false,
            (Inert::Off, kind) => {
                !says_something(value)
                    || matches!(kind, NodeKind::Scalar(Scalar::Bool(false) | Scalar::Int(0)))
                    || *kind == NodeKind::Scalar(Scalar::Float(0.0))
            }
            (Inert::On, kind) => matches!(kind, NodeKind::Scalar(Scalar::Bool(true))),
            (Inert::Number(wanted), NodeKind::Scalar(Scalar::Int(value))) => *value == wanted,
            (Inert::Number(wanted), NodeKind::Scalar(Scalar::Float(value))) => {
                *value == wanted as f64
            }
            (Inert::Word(wanted), NodeKind::Scalar(Scalar::Str(word))) => word == wanted,
            (Inert::AllFullAttention, NodeKind::Seq(items)) => items.iter().all(|item| {
                item.kind == NodeKind::Scalar(Scalar::Str("full_attention".to_owned()))
            }),
            (Inert::RmsNorm, NodeKind::Scalar(Scalar::Str(word))) => {
                word.eq_ignore_ascii_case("rmsnorm") || word == "rms_norm"
            }
            (_, kind) => matches!(kind, NodeKind::Scalar(Scalar::Null)),
        }
    }
}

/// Whether a value is more than `null` or empty.
fn says_something(value: &Node) -> bool {
    match &value.kind {
        NodeKind::Scalar(Scalar::Null) => false,
        NodeKind::Seq(items) => !items.is_empty(),
        NodeKind::Map(entries) => !entries.is_empty(),
        NodeKind::Scalar(_) => true,
    }
}

/// Whether a key's name, or a name or word inside its value, has to do with attention.
fn touches_attention(key: &str, value: &Node) -> bool {
    named_like_attention(key)
        || match &value.kind {
            NodeKind::Scalar(Scalar::Str(word)) => named_like_attention(word),
            NodeKind::Scalar(_) => false,
            NodeKind::Seq(items) => items.iter().any(|item| touches_attention("", item)),
            NodeKind::Map(entries) => entries
                .iter()
                .any(|entry| touches_attention(&entry.key.value, &entry.value)),
        }
}

fn named_like_attention(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    word.ends_with("_layers") || ATTENTION.iter().any(|part| word.contains(part))
}

fn unknown_attention_key(entry: &Entry, vocabulary: &Vocabulary<'_>) -> Diagnostic {
    let key = &entry.key.value;
    let diagnostic = Diagnostic::error(
        codes::UNKNOWN_ATTENTION_KEY,
        format!(
            "`{}` may change attention, and {} is not known to have it",
            (vocabulary.spelled)(key),
            vocabulary.owner
        ),
        entry.key.span,
        "not understood",
    )
    .note("a key that touches attention is never passed over: a layer that ignores it would load and be wrong");
    match suggest(key, vocabulary.names()) {
        Some(near) => diagnostic.help(format!("did you mean `{}`?", (vocabulary.spelled)(near))),
        None => diagnostic.help((vocabulary.advice)(key)),
    }
}

fn unknown_keys(
    entries: &[&Entry],
    at: Span,
    vocabulary: &Vocabulary<'_>,
    strict: bool,
) -> Diagnostic {
    const SHOWN: usize = 8;
    let mut names: Vec<_> = entries
        .iter()
        .take(SHOWN)
        .map(|entry| format!("`{}`", (vocabulary.spelled)(&entry.key.value)))
        .collect();
    if entries.len() > SHOWN {
        names.push(format!("{} more", entries.len() - SHOWN));
    }
    let noun = if entries.len() == 1 { "key" } else { "keys" };
    let message = format!(
        "{noun} not known for {}: {}",
        vocabulary.owner,
        names.join(", ")
    );
    let mut diagnostic = Diagnostic::warning(codes::UNKNOWN_KEYS, message, at, "the first of them")
        .note("nothing in their names or values has to do with attention, so they are passed over");
    if strict {
        diagnostic.severity = Severity::Error;
        diagnostic.notes = vec!["`--strict` passes over nothing that was not reviewed".to_owned()];
    }
    diagnostic
}
