//! Writes models: from one spec per attention to named layers, what they have in common, and a pattern.

use std::collections::BTreeMap;

use crate::document::{Body, Document, ModelSpec, ModuleSpec};
use crate::merge::difference;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};
use crate::write::{entry, map, spec_entries};

/// Longest block of attentions that is looked for in a pattern.
const LONGEST_BLOCK: usize = 16;

/// A document about a model in the making. Attentions are pushed in the order in which they run; equal ones become one named layer,
/// and a later one that resembles the first of its module is written as what differs (`like`).
///
/// ```
/// # use mla_spec::{Body, ModelDocument, Sources, check_model, read};
/// # let text = mla_spec::explain::BASE;
/// # let Body::Layer(spec) = read::yaml(&mut Sources::default(), "base", text).unwrap().body else { unreachable!() };
/// let mut model = ModelDocument::new("Small");
/// for _ in 0..24 {
///     model.push("full", spec.clone());
/// }
/// let (checked, found) = check_model(&model.document());
/// assert!(found.is_empty());
/// assert_eq!(checked.unwrap().indices.len(), 24);
/// ```
#[derive(Debug, Clone)]
pub struct ModelDocument {
    name: String,
    attentions_per_layer: u32,
    prefix: Option<String>,
    pipeline_stages: Vec<u32>,
    layers: Vec<(String, ModuleSpec)>,
    pattern: Vec<usize>,
    topk_source: BTreeMap<usize, usize>,
    kv_source: BTreeMap<usize, usize>,
    build: Option<Node>,
}

impl ModelDocument {
    /// A model of this name, without layers.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            attentions_per_layer: 1,
            prefix: None,
            pipeline_stages: Vec::new(),
            layers: Vec::new(),
            pattern: Vec::new(),
            topk_source: BTreeMap::new(),
            kv_source: BTreeMap::new(),
            build: None,
        }
    }

    /// How many attentions a decoder layer has; 1 unless said otherwise.
    pub fn attentions_per_layer(&mut self, count: u32) -> &mut Self {
        self.attentions_per_layer = count;
        self
    }

    /// Where checkpoints hold an attention's tensors, with the hole `{layer}`, and `{attention}` where a layer has several.
    pub fn prefix(&mut self, prefix: impl Into<String>) -> &mut Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// The first decoder layers of the later pipeline stages.
    pub fn pipeline_stages(&mut self, stages: impl IntoIterator<Item = u32>) -> &mut Self {
        self.pipeline_stages = stages.into_iter().collect();
        self
    }

    /// The `build:` section of every layer.
    pub fn build(&mut self, build: Node) -> &mut Self {
        self.build = Some(build);
        self
    }

    /// The next attention. `name` is what its layer is called; another layer of that name gets a number behind it.
    /// Answers the name that it got.
    pub fn push(&mut self, name: &str, spec: ModuleSpec) -> &str {
        let same = self.layers.iter().position(|(_, known)| *known == spec);
        let index = same.unwrap_or_else(|| {
            self.layers.push((self.free_name(name), spec));
            self.layers.len() - 1
        });
        self.pattern.push(index);
        &self.layers[index].0
    }

    fn free_name(&self, name: &str) -> String {
        let taken = |name: &str| self.layers.iter().any(|(known, _)| known == name);
        std::iter::once(name.to_owned())
            .chain((2..).map(|number| format!("{name}_{number}")))
            .find(|name| !taken(name))
            .unwrap_or_default()
    }

    /// Says whose selection an attention attends to; unsaid, it is the nearest earlier one that picks. Both are counted from 0.
    pub fn topk_source(&mut self, consumer: usize, source: usize) -> &mut Self {
        self.topk_source.insert(consumer, source);
        self
    }

    /// Says whose latents an attention attends to; unsaid, it is the nearest earlier one whose latents fit. Both are counted from 0.
    pub fn kv_source(&mut self, consumer: usize, source: usize) -> &mut Self {
        self.kv_source.insert(consumer, source);
        self
    }

    /// The document.
    pub fn document(&self) -> Document {
        Document {
            mla: Spanned::unplaced(1),
            name: Spanned::unplaced(self.name.clone()),
            body: Body::Model(ModelSpec { node: self.node() }),
            build: self.build.clone(),
        }
    }

    fn node(&self) -> Node {
        let per_layer = self.attentions_per_layer.max(1);
        let layers = self.pattern.len() / per_layer as usize;
        let mut entries = vec![entry("num_hidden_layers", integer(layers))];
        if per_layer > 1 {
            entries.push(entry("attentions_per_layer", integer(per_layer as usize)));
        }
        if let Some(prefix) = &self.prefix {
            entries.push(entry("prefix", Scalar::Str(prefix.clone()).into()));
        }
        if !self.pipeline_stages.is_empty() {
            let stages = self
                .pipeline_stages
                .iter()
                .map(|first| integer(*first as usize));
            entries.push(entry("pipeline_stages", list(stages.collect())));
        }
        entries.push(entry("layers", self.named()));
        entries.push(entry("pattern", list(self.compressed(&self.pattern))));
        for (key, sources) in [
            ("topk_source", &self.topk_source),
            ("kv_source", &self.kv_source),
        ] {
            if !sources.is_empty() {
                let pairs = sources
                    .iter()
                    .map(|(consumer, source)| entry(&consumer.to_string(), integer(*source)));
                entries.push(entry(key, map(pairs.collect())));
            }
        }
        map(entries)
    }

    /// The layers, each later one as what differs from the first of the same module, where that is shorter.
    fn named(&self) -> Node {
        let layers = self.layers.iter().enumerate().map(|(index, (name, spec))| {
            let whole = map(spec_entries(spec));
            let first = self.layers[..index]
                .iter()
                .find(|(_, earlier)| earlier.module == spec.module);
            let short = first.and_then(|(base, earlier)| {
                let over = difference(&map(spec_entries(earlier)), &whole)?;
                let NodeKind::Map(mut entries) = over.kind else {
                    return None;
                };
                entries.insert(0, entry("like", Scalar::Str(base.clone()).into()));
                Some(map(entries))
            });
            entry(name, short.unwrap_or(whole))
        });
        map(layers.collect())
    }

    /// A pattern with blocks that follow themselves written once.
    fn compressed(&self, pattern: &[usize]) -> Vec<Node> {
        let mut items = Vec::new();
        let mut at = 0;
        while at < pattern.len() {
            let (length, times) = longest_repetition(&pattern[at..]);
            if length * times >= 3 && times > 1 {
                let block = self.compressed_names(&pattern[at..at + length]);
                items.push(map(vec![
                    entry("repeat", integer(times)),
                    entry("of", list(block)),
                ]));
                at += length * times;
            } else {
                items.extend(self.compressed_names(&pattern[at..=at]));
                at += 1;
            }
        }
        items
    }

    fn compressed_names(&self, block: &[usize]) -> Vec<Node> {
        let name = |index: &usize| Scalar::Str(self.layers[*index].0.clone()).into();
        block.iter().map(name).collect()
    }
}

/// The block at the start of a pattern whose repetitions cover most of it: its length and how often it stands there.
fn longest_repetition(pattern: &[usize]) -> (usize, usize) {
    let candidates = (1..=LONGEST_BLOCK.min(pattern.len())).map(|length| {
        let block = &pattern[..length];
        let times = pattern
            .chunks(length)
            .take_while(|chunk| *chunk == block)
            .count();
        (length, times)
    });
    candidates
        .filter(|(_, times)| *times > 1)
        .max_by_key(|(length, times)| (length * times, std::cmp::Reverse(*length)))
        .unwrap_or((1, 1))
}

fn integer(value: usize) -> Node {
    Scalar::Int(i64::try_from(value).unwrap_or(i64::MAX)).into()
}

fn list(items: Vec<Node>) -> Node {
    Node {
        kind: NodeKind::Seq(items),
        span: Span::NONE,
    }
}
