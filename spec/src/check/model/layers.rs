//! `layers`: the layers that a model is made of, by name, each perhaps like another.

use std::collections::BTreeMap;

use super::keys;
use crate::check::codes;
use crate::check::foreign::Place;
use crate::check::name;
use crate::check::text::{listed, quoted, wrong_kind};
use crate::check::value::{Field, Table};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::ModuleSpec;
use crate::layer::Checked;
use crate::merge::merged;
use crate::node::{Entry, Node, NodeKind};
use crate::read::named_spec;
use crate::span::{Span, Spanned};
use crate::suggest::suggest;

/// Words that can't name a module of Rust, or that generated modules use.
const KEYWORDS: [&str; 44] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
    "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "tests", "trait", "true", "try", "type",
];

/// Most layers that differ from each other. Each may inherit all of another, so the product of both is bounded.
const MOST_LAYERS: usize = 64;

/// A named layer.
pub(super) struct Named {
    pub(super) name: Spanned<String>,
    /// The layer that it is like.
    pub(super) like: Option<Spanned<String>>,
    /// What stands below the name, `like` apart.
    written: Node,
    /// Whether the pattern has it.
    pub(super) used: bool,
    /// Whether a layer is like it.
    base: bool,
    /// Its whole spec; absent where it was refused.
    pub(super) spec: Option<ModuleSpec>,
    /// Its own `build`, laid over the model's.
    pub(super) build: Option<Node>,
}

/// Reads every layer. `None`: not a mapping.
pub(super) fn read(field: &Field<'_>, out: &mut Diagnostics) -> Option<Vec<Named>> {
    let NodeKind::Map(entries) = &field.value.kind else {
        out.push(wrong_kind(
            "layers",
            "a mapping of named layers",
            field.value,
        ));
        return None;
    };
    if entries.len() > MOST_LAYERS {
        let message = format!("a model may have {MOST_LAYERS} different layers");
        let label = format!("has {}", entries.len());
        let many = Diagnostic::error(codes::OUT_OF_BOUNDS, message, field.key.span, label);
        out.push(many.help("name a layer once; `pattern` says how often it stands where"));
        return None;
    }
    let mut named: Vec<Named> = entries.iter().filter_map(|entry| one(entry, out)).collect();
    let wholes: Vec<Option<Node>> = (0..named.len())
        .map(|index| whole(index, &named, &mut Vec::new(), out))
        .collect();
    for index in 0..named.len() {
        let base = named[index].like.as_ref().map(|like| like.value.clone());
        if let Some(base) = base.and_then(|base| position(&base, &named)) {
            named[base].base = true;
        }
    }
    for (layer, whole) in named.iter_mut().zip(wholes) {
        layer.take_apart(whole, out);
    }
    Some(named)
}

/// A layer's keys.
fn one(entry: &Entry, out: &mut Diagnostics) -> Option<Named> {
    let name = &entry.key;
    refuse_name(name, out);
    let owner = quoted(&name.value);
    let mut table = Table::map(
        &owner,
        None,
        &entry.value,
        name.span,
        Place::NamedLayer,
        out,
    )?;
    let like = table
        .take("like")
        .and_then(|field| keys::string(&field, "the name of a layer", out));
    for key in ["module", "params", "submodules", "build"] {
        table.take(key);
    }
    table.finish(out);
    Some(Named {
        name: name.clone(),
        like,
        written: without("like", &entry.value),
        used: false,
        base: false,
        spec: None,
        build: None,
    })
}

impl Named {
    /// Its spec and its build, from the whole of what it says and inherits.
    fn take_apart(&mut self, whole: Option<Node>, out: &mut Diagnostics) {
        let Some(whole) = whole else {
            return;
        };
        if let NodeKind::Map(entries) = &whole.kind {
            let build = entries.iter().find(|entry| entry.key.value == "build");
            self.build = build.map(|entry| entry.value.clone());
        }
        let entry = Entry {
            key: self.name.clone(),
            value: Node {
                span: self.name.span,
                ..without_unknown(&without("build", &whole))
            },
        };
        match named_spec(&entry) {
            Ok(spec) => self.spec = Some(spec),
            Err(found) => out.extend(found),
        }
    }
}

/// What a layer says and inherits. `None`: its base was refused.
fn whole(
    index: usize,
    named: &[Named],
    path: &mut Vec<usize>,
    out: &mut Diagnostics,
) -> Option<Node> {
    let layer = &named[index];
    let Some(like) = &layer.like else {
        return Some(layer.written.clone());
    };
    path.push(index);
    let base = find(&like.value, like.span, named, out)?;
    if path.contains(&base) {
        let names: Vec<&str> = path
            .iter()
            .map(|at| named[*at].name.value.as_str())
            .collect();
        let message = match names.len() {
            1 => format!("`{}` is like itself", quoted(&layer.name.value)),
            _ => format!("{} are like each other", listed(&names)),
        };
        let label = "nothing to start from";
        let cycle = Diagnostic::error(codes::LIKE_CYCLE, message, like.span, label);
        out.push(cycle.help("write one of them out in full, without `like`"));
        return None;
    }
    let base_node = whole(base, named, path, out)?;
    refuse_other_module(layer, &named[base], &base_node, out)?;
    Some(merged(&base_node, &layer.written))
}

/// A layer of another module inherits nothing.
fn refuse_other_module(
    layer: &Named,
    base: &Named,
    base_node: &Node,
    out: &mut Diagnostics,
) -> Option<()> {
    let module = |node: &Node| match &node.kind {
        NodeKind::Map(entries) => entries
            .iter()
            .find(|entry| entry.key.value == "module")
            .map(|entry| entry.value.clone()),
        _ => None,
    };
    let (Some(own), Some(inherited)) = (module(&layer.written), module(base_node)) else {
        return Some(());
    };
    if own == inherited {
        return Some(());
    }
    let message = format!(
        "`{}` is another module than `{}`, and inherits nothing from it",
        quoted(&layer.name.value),
        quoted(&base.name.value)
    );
    let label = "another module";
    let other = Diagnostic::error(codes::LIKE_ANOTHER_MODULE, message, own.span, label);
    out.push(
        other
            .and(inherited.span, "the one it is like")
            .help("remove `like` and write the layer out in full"),
    );
    None
}

/// The layer with this name, written at `span`.
pub(super) fn find(
    name: &str,
    span: Span,
    named: &[Named],
    out: &mut Diagnostics,
) -> Option<usize> {
    if let Some(index) = position(name, named) {
        return Some(index);
    }
    let names: Vec<&str> = named
        .iter()
        .map(|layer| layer.name.value.as_str())
        .collect();
    let message = format!("there is no layer `{}`", quoted(name));
    let unknown = Diagnostic::error(codes::UNKNOWN_LAYER, message, span, "not among `layers`");
    let near = suggest(name, names.iter().copied());
    out.push(match (near, names.is_empty()) {
        (Some(near), _) => unknown.help(format!("did you mean `{}`?", quoted(near))),
        (None, true) => unknown.help("describe it below `layers`"),
        (None, false) => {
            let quoted: Vec<String> = names.iter().map(|name| quoted(name)).collect();
            let quoted: Vec<&str> = quoted.iter().map(String::as_str).collect();
            unknown.help(format!("the layers are {}", listed(&quoted)))
        }
    });
    None
}

fn position(name: &str, named: &[Named]) -> Option<usize> {
    named.iter().position(|layer| layer.name.value == name)
}

/// The mapping without one of its keys.
fn without(key: &str, node: &Node) -> Node {
    let mut node = node.clone();
    if let NodeKind::Map(entries) = &mut node.kind {
        entries.retain(|entry| entry.key.value != key);
    }
    node
}

/// The mapping without keys that were refused where they stand.
fn without_unknown(node: &Node) -> Node {
    let mut node = node.clone();
    if let NodeKind::Map(entries) = &mut node.kind {
        entries
            .retain(|entry| ["module", "params", "submodules"].contains(&entry.key.value.as_str()));
    }
    node
}

/// Names become modules of Rust and parts of types.
fn refuse_name(name: &Spanned<String>, out: &mut Diagnostics) {
    let text = name.value.as_str();
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let label = if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        "doesn't start with a lower case letter"
    } else if !text.chars().all(inner) || text.ends_with('_') || text.contains("__") {
        "not lower case letters, digits and single underscores"
    } else if KEYWORDS.contains(&text) {
        "a word of Rust, or of generated code"
    } else {
        return;
    };
    let message = format!("`{}` can't be the name of a layer", quoted(text));
    let wrong = Diagnostic::error(codes::LAYER_NAME, message, name.span, label);
    out.push(wrong.help("call it such as `full` or `sliding_2`"));
}

/// Refuses layers that stand nowhere.
pub(super) fn refuse_unused(named: &[Named], pattern_is_right: bool, out: &mut Diagnostics) {
    if !pattern_is_right {
        return;
    }
    for layer in named.iter().filter(|layer| !layer.used && !layer.base) {
        let message = format!("the layer `{}` stands nowhere", quoted(&layer.name.value));
        let label = "not in `pattern`";
        let unused = Diagnostic::error(codes::UNUSED_LAYER, message, layer.name.span, label);
        out.push(unused.help("remove it, or let `pattern` or a `like` name it"));
    }
}

/// The type of each layer, `<Model><Layer>`; `None` where one can't be a type, or two would be the same.
pub(super) fn type_names(
    model: Option<&str>,
    named: &[Named],
    out: &mut Diagnostics,
) -> Option<Vec<String>> {
    let model = model?;
    let mut taken: BTreeMap<String, &Spanned<String>> = BTreeMap::new();
    let mut right = true;
    let types: Vec<String> = named
        .iter()
        .map(|layer| format!("{model}{}", camel_case(&layer.name.value)))
        .collect();
    for (layer, name) in named.iter().zip(&types).filter(|(layer, _)| layer.used) {
        let earlier = taken.insert(name.clone(), &layer.name);
        let why = match (earlier, name::why_not(name)) {
            (Some(earlier), _) => {
                let message = format!(
                    "`{}` and `{}` would both be the type `{name}`",
                    quoted(&earlier.value),
                    quoted(&layer.name.value)
                );
                Some(
                    Diagnostic::error(codes::LAYER_NAME, message, layer.name.span, "the second")
                        .and(earlier.span, "the first"),
                )
            }
            (None, Some(why)) => {
                let message = format!("this layer would be the type `{}`", quoted(name));
                Some(Diagnostic::error(
                    codes::LAYER_NAME,
                    message,
                    layer.name.span,
                    why,
                ))
            }
            (None, None) => None,
        };
        if let Some(why) = why {
            right = false;
            out.push(why.help("give the layer another name"));
        }
    }
    right.then_some(types)
}

/// `sliding_2` as `Sliding2`.
fn camel_case(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}

/// All layers read and write one residual stream.
pub(super) fn check_hidden_sizes(
    named: &[Named],
    checked: &[Option<Checked>],
    out: &mut Diagnostics,
) {
    let mut sizes = named
        .iter()
        .zip(checked)
        .filter_map(|(layer, checked)| Some((layer, checked.as_ref()?.layer.hidden_size())));
    let Some((first, size)) = sizes.next() else {
        return;
    };
    for (layer, other) in sizes.filter(|(_, other)| *other != size) {
        let span = |layer: &Named| {
            let param = layer
                .spec
                .as_ref()
                .and_then(|spec| spec.param("hidden_size"));
            param.map_or(layer.name.span, |param| param.value.span)
        };
        let message = format!(
            "`{}` reads {size} elements per token, and `{}` {other}",
            first.name.value, layer.name.value
        );
        let label = "another width";
        let differ = Diagnostic::error(codes::HIDDEN_SIZES, message, span(layer), label);
        out.push(
            differ
                .and(span(first), "the width of the residual stream")
                .help("give every layer the same `hidden_size`"),
        );
    }
}

/// Warns of two names for one layer.
pub(super) fn warn_of_equals(layer: &Named, other: &str, out: &mut Diagnostics) {
    let message = format!("`{}` is the same layer as `{other}`", layer.name.value);
    let label = "differs in nothing";
    let warning = Diagnostic::warning(codes::SAME_LAYER, message, layer.name.span, label);
    out.push(warning.help(format!("write `{other}` in the pattern for both")));
}

impl Named {
    /// What a diagnostic about this layer says besides: whose mistake it is, where the layer inherits.
    pub(super) fn noted(&self, diagnostic: Diagnostic) -> Diagnostic {
        match &self.like {
            Some(like) => diagnostic.note(format!(
                "in the layer `{}`, which is like `{}`",
                quoted(&self.name.value),
                quoted(&like.value)
            )),
            None => diagnostic,
        }
    }
}
