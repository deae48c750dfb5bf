//! Other systems' choices of what a training step computes again or puts aside, in our words (features 1.O).

mod maxtext;
mod megatron;

use super::codes;
use crate::build::Activation;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::Layer;
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::read;
use crate::span::{Sources, Span, Spanned};
use crate::suggest::suggest;

/// What a layer's `build.recompute` and `build.offload` say where another system's options mean the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Recomputed {
    /// What is computed again; ascending, each once.
    pub recompute: Vec<Activation>,
    /// What is kept in the host's memory; ascending, each once, none of them in `recompute`.
    pub offload: Vec<Activation>,
    /// Warnings: what the options say about tensors that this layer, or its backward pass, doesn't have.
    pub lints: Diagnostics,
}

/// Translates options of MaxText or of Megatron-Core, written as one YAML or JSON mapping, for a layer. `name` is what the text is
/// called in messages.
///
/// MaxText's are `remat_policy`, and the policy (`remat`, `device`, `offload`) of each tensor (O-01, O-02); tensors without a
/// `remat_policy` mean `custom`, in which a tensor that isn't named is computed again. Megatron's are `recompute_granularity` and
/// `recompute_modules`; modules alone mean `selective`.
///
/// # Errors
///
/// The text is no mapping of one system's options; a key, a tensor's policy, a preset, a granularity or a module is unknown; options
/// contradict each other, or say of one part of the layer that half of it is kept; they need a part that the layer hasn't got.
///
/// ```
/// use mla_spec::{Activation, Sources, check, explain, import, read};
/// let mut sources = Sources::default();
/// let document = read::yaml(&mut sources, "spec.yaml", explain::BASE).unwrap();
/// let layer = check(&document).0.unwrap().layer;
/// let policies = "{ remat_policy: custom, query_proj: offload, attention_out: device }";
/// let found = import::recompute(&mut sources, "policies.yaml", policies, &layer).unwrap();
/// assert_eq!(found.offload, [Activation::QUp]);
/// assert!(found.recompute.contains(&Activation::KvUp) && !found.recompute.contains(&Activation::CoreAttn));
/// ```
pub fn recompute(
    sources: &mut Sources,
    name: &str,
    text: &str,
    layer: &Layer,
) -> Result<Recomputed, Diagnostics> {
    of_node(&read::yaml_tree(sources, name, text)?, layer)
}

/// The same, of options that another importer came upon.
pub(super) fn of_entries(entries: &[Entry], layer: &Layer) -> Result<Recomputed, Diagnostics> {
    let span = entries.first().map_or(Span::NONE, |entry| entry.key.span);
    let kind = NodeKind::Map(entries.to_vec());
    of_node(&Node { kind, span }, layer)
}

fn of_node(root: &Node, layer: &Layer) -> Result<Recomputed, Diagnostics> {
    let mut reader = Reader {
        layer,
        found: Diagnostics::new(),
    };
    match (reader.read(root), reader.found) {
        (Some(choice), lints) if !lints.has_errors() => Ok(Recomputed {
            recompute: choice.recompute,
            offload: choice.offload,
            lints,
        }),
        (_, found) => Err(found),
    }
}

/// Whether a key is one of MaxText's options that are read here.
pub(super) fn is_maxtexts(key: &str) -> bool {
    maxtext::has(key)
}

/// Whether a key is one of Megatron's options that are read here.
pub(super) fn is_megatrons(key: &str) -> bool {
    megatron::has(key)
}

/// The two lists.
#[derive(Default)]
struct Choice {
    recompute: Vec<Activation>,
    offload: Vec<Activation>,
}

impl Choice {
    /// Computes everything again that the layer makes.
    fn everything(layer: &Layer) -> Self {
        let made = Activation::ALL.into_iter();
        Self {
            recompute: made.filter(|part| part.is_made_by(layer)).collect(),
            offload: Vec::new(),
        }
    }
}

/// What reads the options of one layer.
struct Reader<'a> {
    layer: &'a Layer,
    found: Diagnostics,
}

impl Reader<'_> {
    fn read(&mut self, root: &Node) -> Option<Choice> {
        let NodeKind::Map(entries) = &root.kind else {
            let message = format!("the options are {}, wanted a mapping", root.kind_name());
            let label = "wanted a mapping";
            self.found.push(
                Diagnostic::error(codes::NOT_AN_OBJECT, message, root.span, label)
                    .help("write `name: value`, one option a line"),
            );
            return None;
        };
        let mut maxtext = None;
        let mut megatron = None;
        for entry in entries {
            let key = entry.key.value.as_str();
            if maxtext::has(key) {
                maxtext = maxtext.or(Some(entry));
            } else if megatron::has(key) {
                megatron = megatron.or(Some(entry));
            } else {
                self.found.push(unknown_key(&entry.key));
            }
        }
        match (maxtext, megatron) {
            (Some(_), None) => self.maxtext(entries),
            (None, Some(_)) => self.megatron(entries),
            (Some(maxtext), Some(megatron)) => {
                let message = "these are options of two systems, which would each say what is kept";
                let span = megatron.key.span;
                let two =
                    Diagnostic::error(codes::SCHEDULE_CONTRADICTION, message, span, "Megatron's");
                self.found.push(
                    two.and(maxtext.key.span, "MaxText's")
                        .help("give one system's options"),
                );
                None
            }
            (None, None) => {
                if !self.found.has_errors() {
                    let message = "the options say nothing about what is kept";
                    let label = "neither a policy nor modules";
                    self.found.push(
                        Diagnostic::error(codes::UNKNOWN_SCHEDULE_KEY, message, root.span, label)
                            .help("give MaxText's `remat_policy`, or Megatron's `recompute_granularity`"),
                    );
                }
                None
            }
        }
    }

    /// Warns of something that would have to be kept and isn't there, or not kept and always is.
    fn note(&mut self, name: &str, why: &str, span: Span) {
        let message = format!("`{name}` means nothing to this layer: {why}");
        let label = "changes nothing here";
        let nothing = Diagnostic::warning(codes::SCHEDULE_OF_NOTHING, message, span, label);
        self.found.push(nothing.help(format!("leave `{name}` out")));
    }

    /// Refuses something that asks for a part of another layer.
    fn refuse_lacking(&mut self, name: &str, why: &str, span: Span, help: &str) {
        let message = format!("`{name}` needs what this layer lacks: {why}");
        let label = "not in this layer";
        let lacking = Diagnostic::error(codes::SCHEDULE_OF_ANOTHER_LAYER, message, span, label);
        self.found.push(lacking.help(help));
    }

    /// A word of an option, `None` where it is none or none of these.
    fn word<T: Copy>(&mut self, key: &str, node: &Node, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let NodeKind::Scalar(Scalar::Str(text)) = &node.kind else {
            let message = format!("`{key}` is {}, wanted a word", node.kind_name());
            let wrong = Diagnostic::error(codes::WRONG_VALUE, message, node.span, "not a word");
            self.found
                .push(wrong.help(format!("write one of {}", names.join(", "))));
            return None;
        };
        if let Some((_, value)) = words.iter().find(|(name, _)| name == text) {
            return Some(*value);
        }
        let message = format!("`{key}` knows no `{}`", text.escape_debug());
        let unknown = Diagnostic::error(
            codes::UNKNOWN_SCHEDULE_WORD,
            message,
            node.span,
            "not known",
        );
        self.found.push(match suggest(text, names.iter().copied()) {
            Some(near) => unknown.help(format!("did you mean `{near}`?")),
            None => unknown.help(format!("write one of {}", names.join(", "))),
        });
        None
    }
}

/// Options of the same systems that say something else, with what becomes of it here.
const ELSEWHERE: [(&str, &str); 4] = [
    (
        "fine_grained_activation_offloading",
        "remove it, and list parts in `build.offload`",
    ),
    (
        "offload_modules",
        "remove it, and list parts in `build.offload`: Megatron's modules name what a module is given",
    ),
    (
        "cpu_offloading",
        "remove it, and list parts in `build.offload`",
    ),
    (
        "distribute_saved_activations",
        "remove it: a layer stands on one device",
    ),
];

fn unknown_key(key: &Spanned<String>) -> Diagnostic {
    let message = format!(
        "`{}` is no option about what is computed again",
        key.value.escape_debug()
    );
    let unknown = Diagnostic::error(
        codes::UNKNOWN_SCHEDULE_KEY,
        message,
        key.span,
        "not read here",
    );
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| *name == key.value);
    let near = suggest(&key.value, maxtext::names().chain(megatron::names()));
    match (elsewhere, near) {
        (Some((_, remedy)), _) => unknown.help(*remedy),
        (None, Some(near)) => unknown.help(format!("did you mean `{near}`?")),
        (None, None) => unknown.help(
            "remove it: MaxText's `remat_policy` and tensors are read here, and Megatron's `recompute_granularity` and `recompute_modules`",
        ),
    }
}

/// The entry of a key.
fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.key.value == key)
}

fn is_null(node: &Node) -> bool {
    node.kind == NodeKind::Scalar(Scalar::Null)
}
