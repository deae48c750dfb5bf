//! The three ways that Megatron's options are written in, read into one: entries named as the fields of its config classes.

use std::collections::HashMap;
use std::ops::Range;

use super::super::codes;
use super::keys::SWITCHED_OFF;
use super::words::{self, Word};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::read;
use crate::span::{Place, Sources, Span, Spanned, TextId};

/// How options are written, which decides on the defaults of absent ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Flags: a command line, or YAML of `--flag: value`.
    Flags,
    /// Sections of `--yaml-cfg`: `language_model`, `model_parallel`.
    Sections,
    /// Fields of `MLATransformerConfig`.
    Fields,
}

impl Form {
    /// An option's name as the user would write it.
    pub(super) fn named(self, field: &str) -> String {
        match self {
            Form::Flags => format!("--{}", flag_of(field).replace('_', "-")),
            Form::Sections | Form::Fields => field.to_owned(),
        }
    }

    /// An option that is switched on.
    pub(super) fn switched_on(self, field: &str) -> String {
        match self {
            Form::Flags => self.named(field),
            Form::Sections | Form::Fields => format!("{field}: true"),
        }
    }

    /// Whose defaults absent options have, for messages.
    pub(super) fn defaults(self) -> &'static str {
        match self {
            Form::Flags => "the defaults of Megatron's command line",
            Form::Sections | Form::Fields => "the defaults of Megatron's `MLATransformerConfig`",
        }
    }

    /// The default of an option whose two entry points disagree.
    pub(super) fn pick<T>(self, of_flags: T, of_fields: T) -> T {
        match self {
            Form::Flags => of_flags,
            Form::Sections | Form::Fields => of_fields,
        }
    }
}

/// Flags that are named otherwise than their fields.
const RENAMED: [(&str, &str); 2] = [
    ("norm_epsilon", "layernorm_epsilon"),
    ("apply_layernorm_1p", "layernorm_zero_centered_gamma"),
];

/// Options whose value may be several words.
const LISTS: [&str; 2] = ["recompute_modules", "offload_modules"];

/// The options of a text.
pub(super) struct Arguments {
    pub(super) form: Form,
    pub(super) entries: Vec<Entry>,
    /// Where absent options are missed.
    pub(super) span: Span,
    /// What is wrong with how they are written.
    pub(super) found: Diagnostics,
}

/// Reads a text that is a command line or YAML.
pub(super) fn read(
    sources: &mut Sources,
    name: &str,
    text: &str,
) -> Result<Arguments, Diagnostics> {
    if is_yaml(text) {
        return of_yaml(&read::yaml_tree(sources, name, text)?);
    }
    let words = words::of_arguments(text);
    let text = sources.add_text(name, text);
    let mut reader = FlagReader {
        sources,
        text,
        options: Options::new(Form::Flags),
    };
    // What comes before the first flag starts the program, or names a variable.
    let first = words.iter().position(|word| word.flag().is_some());
    let Some(first) = first else {
        let message = "these are no arguments of Megatron: there is no `--flag`, and no YAML";
        let span = reader.place(0..0);
        let mut found = Diagnostics::new();
        found.push(
            Diagnostic::error(codes::NOT_ARGUMENTS, message, span, "no flag from here on")
                .help("give flags and their values, or a mapping of them"),
        );
        return Err(found);
    };
    reader.read(&words[first..]);
    let span = reader.place(words[first].range.clone());
    Ok(reader.options.finish(span))
}

/// A text is YAML where its first line of substance has a key at its beginning.
fn is_yaml(text: &str) -> bool {
    let substance = |line: &&str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && line != "---"
    };
    let Some(line) = text.lines().find(substance) else {
        return false;
    };
    if line.trim_start().starts_with('{') {
        return true;
    }
    let Some((key, rest)) = line.trim_start().split_once(':') else {
        return false;
    };
    let key = key.trim_matches(['"', '\'']);
    let named = key
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    named && (rest.is_empty() || rest.starts_with([' ', '\t', '\r']))
}

fn of_yaml(root: &Node) -> Result<Arguments, Diagnostics> {
    let NodeKind::Map(entries) = &root.kind else {
        let message = format!("the arguments are {}, wanted a mapping", root.kind_name());
        let mut found = Diagnostics::new();
        found.push(Diagnostic::error(
            codes::NOT_AN_OBJECT,
            message,
            root.span,
            "wanted a mapping",
        ));
        return Err(found);
    };
    let inside = |key: &str| {
        let entry = entries.iter().find(|entry| entry.key.value == key)?;
        match &entry.value.kind {
            NodeKind::Map(inside) => Some((inside.as_slice(), entry.key.span)),
            _ => None,
        }
    };
    let (form, entries, span) = if let Some((flags, span)) = inside("MODEL_ARGS") {
        (Form::Flags, flags, span)
    } else if let Some((section, span)) = inside("language_model") {
        (Form::Sections, section, span)
    } else if entries
        .iter()
        .any(|entry| entry.key.value.starts_with("--"))
    {
        (Form::Flags, entries.as_slice(), root.span)
    } else {
        (Form::Fields, entries.as_slice(), root.span)
    };
    let mut options = Options::new(form);
    for entry in entries {
        let named = match entry.key.value.strip_prefix("--") {
            // A switch that is off is not on the command line.
            Some(_) if entry.value.kind == NodeKind::Scalar(Scalar::Bool(false)) => continue,
            Some(flag) => field(&flag.replace('-', "_")),
            None => (entry.key.value.clone(), false),
        };
        options.add(entry.key.span, named, entry.value.clone());
    }
    Ok(options.finish(span))
}

/// The field of a flag, and whether the flag switches it off.
fn field(flag: &str) -> (String, bool) {
    let off = ["no_", "disable_"]
        .into_iter()
        .filter_map(|prefix| flag.strip_prefix(prefix))
        .find(|field| SWITCHED_OFF.contains(field));
    if let Some(field) = off {
        return (field.to_owned(), true);
    }
    if flag == "no_rope_fusion" {
        return ("apply_rope_fusion".to_owned(), true);
    }
    if flag == "disable_bias_linear" {
        return ("add_bias_linear".to_owned(), true);
    }
    let renamed = RENAMED.iter().find(|(name, _)| *name == flag);
    (renamed.map_or(flag, |(_, field)| field).to_owned(), false)
}

/// The flag of a field.
fn flag_of(field: &str) -> &str {
    let renamed = RENAMED.iter().find(|(_, name)| *name == field);
    renamed.map_or(field, |(flag, _)| flag)
}

/// Options being collected.
struct Options {
    form: Form,
    entries: Vec<Entry>,
    /// Where each field stands among them.
    places: HashMap<String, usize>,
    found: Diagnostics,
}

impl Options {
    fn new(form: Form) -> Self {
        Self {
            form,
            entries: Vec::new(),
            places: HashMap::new(),
            found: Diagnostics::new(),
        }
    }

    /// Adds an option. One that is given twice must say the same: Megatron takes the last one without a word.
    fn add(&mut self, key: Span, (field, off): (String, bool), mut value: Node) {
        if off && value.kind == NodeKind::Scalar(Scalar::Bool(true)) {
            value.kind = NodeKind::Scalar(Scalar::Bool(false));
        }
        let Some(first) = self.places.get(&field).map(|at| &self.entries[*at]) else {
            self.places.insert(field.clone(), self.entries.len());
            self.entries.push(Entry {
                key: Spanned::new(field, key),
                value,
            });
            return;
        };
        if first.value != value {
            let message = format!("`{}` is given twice", self.form.named(&field));
            let twice = Diagnostic::error(codes::DUPLICATE_KEY, message, key, "given again");
            self.found.push(
                twice
                    .and(first.key.span, "first given here")
                    .help("keep one of them"),
            );
        }
    }

    fn finish(self, span: Span) -> Arguments {
        Arguments {
            form: self.form,
            entries: self.entries,
            span,
            found: self.found,
        }
    }
}

/// Reads flags and what follows each.
struct FlagReader<'a> {
    sources: &'a mut Sources,
    text: TextId,
    options: Options,
}

impl FlagReader<'_> {
    fn place(&mut self, range: Range<usize>) -> Span {
        let text = self.text;
        self.sources.add_place(Place::Text { text, range })
    }

    fn read(&mut self, words: &[Word]) {
        let mut rest = words;
        while let Some((flag, following)) = rest.split_first() {
            let count = following
                .iter()
                .take_while(|word| word.flag().is_none() && word.line == flag.line)
                .count();
            let (values, after) = following.split_at(count);
            self.flag(flag, values);
            // On other lines stand a script's own words.
            let next = after.iter().position(|word| word.flag().is_some());
            rest = next.map_or(&[], |next| &after[next..]);
        }
    }

    fn flag(&mut self, flag: &Word, values: &[Word]) {
        let Some(name) = flag.flag() else {
            return;
        };
        let key = self.place(flag.range.clone());
        let (name, inline) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let named = field(&name.replace('-', "_"));
        let value = match (inline, values) {
            (Some(value), _) => Node::scalar(scalar(value), key),
            (None, []) => Node::scalar(Scalar::Bool(true), key),
            (None, [one]) if !LISTS.contains(&named.0.as_str()) => self.value(one),
            (None, several) => {
                let items = several.iter().map(|word| self.value(word)).collect();
                Node {
                    kind: NodeKind::Seq(items),
                    span: key,
                }
            }
        };
        self.options.add(key, named, value);
    }

    fn value(&mut self, word: &Word) -> Node {
        let span = self.place(word.range.clone());
        Node::scalar(scalar(&word.text), span)
    }
}

/// What a word stands for.
fn scalar(word: &str) -> Scalar {
    let real = || word.parse().ok().filter(|real: &f64| real.is_finite());
    let numeric = word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    match word {
        "None" => Scalar::Null,
        _ if !numeric => Scalar::Str(word.to_owned()),
        _ => word
            .parse()
            .map(Scalar::Int)
            .ok()
            .or_else(|| real().map(Scalar::Float))
            .unwrap_or_else(|| Scalar::Str(word.to_owned())),
    }
}
