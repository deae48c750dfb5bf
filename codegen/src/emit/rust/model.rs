//! The module that ties a model's layers together.

use mla_spec::{CheckedModel, LayerAt};
use serde::Serialize;

use super::layout::Lines;
use super::parts::element;
use super::render;

/// The file around the parts, for the template `model.rs.tera`.
#[derive(Serialize)]
struct ModelFile<'a> {
    header: &'a [String],
    docs: String,
    imports: String,
    constants: String,
    /// How many attentions there are.
    count: &'static str,
    /// Each attention, as a struct.
    rows: Vec<String>,
    layer: String,
    /// The modules, sorted as rustfmt does.
    layers: Vec<Module<'a>>,
    /// Whether the layers' text stands inside.
    inline: bool,
}

/// A layer's module.
#[derive(Serialize)]
struct Module<'a> {
    name: &'a str,
    module: &'a str,
    text: Option<&'a str>,
}

/// The model with the module of each of its layers.
struct Named<'a> {
    model: &'a CheckedModel,
    modules: &'a [String],
}

/// The text of a model's `mod.rs`. With `texts`, those of its layers, it is all that there is of the model.
pub(crate) fn model(
    model: &CheckedModel,
    modules: &[String],
    header: &[String],
    runtime: &str,
    texts: Option<&[String]>,
) -> String {
    let named = Named { model, modules };
    let text = |at: usize| texts.and_then(|texts| texts.get(at)).map(String::as_str);
    let mut layers: Vec<Module<'_>> = modules
        .iter()
        .zip(&model.layers)
        .enumerate()
        .map(|(at, (module, layer))| Module {
            name: &layer.name,
            module,
            text: text(at),
        })
        .collect();
    layers.sort_by_key(|layer| layer.module);
    render(
        "model",
        &ModelFile {
            header,
            docs: named.docs(),
            imports: named.imports(runtime),
            constants: named.constants(),
            count: if model.attentions_per_layer > 1 {
                "NUM_HIDDEN_LAYERS * ATTENTIONS_PER_LAYER"
            } else {
                "NUM_HIDDEN_LAYERS"
            },
            rows: named.rows(),
            layer: named.layer(),
            layers,
            inline: texts.is_some(),
        },
    )
}

impl Named<'_> {
    /// The type of an attention.
    fn type_name(&self) -> String {
        format!("{}Layer", self.model.name)
    }

    /// What the type of an attention calls a layer.
    fn variants(&self) -> impl Iterator<Item = String> {
        self.modules.iter().map(|module| upper_camel_case(module))
    }

    /// The layers' types, below this module.
    fn types(&self) -> impl Iterator<Item = String> {
        let layers = self.modules.iter().zip(&self.model.layers);
        layers.map(|(module, layer)| format!("{module}::{}", layer.checked.layer.name))
    }

    fn docs(&self) -> String {
        let model = self.model;
        let mut lines = Lines::default();
        lines.prose("//!", &self.about());
        lines.line("//!");
        lines.line("//! | layer | attentions | which |");
        lines.line("//! |---|---|---|");
        for (layer, ty) in self.types().enumerate() {
            let which: Vec<usize> = model
                .indices
                .iter()
                .enumerate()
                .filter(|(_, at)| at.layer == layer)
                .map(|(index, _)| index)
                .collect();
            lines.line(&format!(
                "//! | [`{ty}`] | {} | {} |",
                which.len(),
                progressions(&which)
            ));
        }
        for sentence in self.sharing() {
            lines.line("//!");
            lines.prose("//!", sentence);
        }
        if let [_, _, ..] = model.stages[..] {
            let starts: Vec<String> = model.stages.iter().map(u32::to_string).collect();
            let sentence = format!(
                "Pipeline stages start at the layers {}. No result is shared between them.",
                listed(&starts)
            );
            lines.line("//!");
            lines.prose("//!", &sentence);
        }
        lines.line("//!");
        let sentence = format!(
            "[`{}::load_all`] reads them from a checkpoint, where their tensors lie below `{}`.",
            self.type_name(),
            model.prefix.pattern()
        );
        lines.prose("//!", &sentence);
        lines.into_text()
    }

    /// What the model is, in a sentence.
    fn about(&self) -> String {
        let model = self.model;
        let attentions = model.indices.len();
        let of_layers = match model.attentions_per_layer {
            1 => format!("{attentions} layers with an attention each"),
            several => format!(
                "{attentions} attentions, {several} in each of {} layers",
                model.num_hidden_layers()
            ),
        };
        let different = match model.layers.len() {
            1 => "all alike".to_owned(),
            count => format!("{count} of them different"),
        };
        format!("{}: {of_layers}, {different}.", model.name)
    }

    /// How what attentions share goes from one to another.
    fn sharing(&self) -> Vec<&'static str> {
        let any = |source: fn(&LayerAt) -> Option<usize>| {
            self.model.indices.iter().any(|at| source(at).is_some())
        };
        let topk = any(|at| at.topk_source).then_some(
            "An attention with a `topk_source` attends to the keys that this one picked: its `topk` is the one that the source was given.",
        );
        let kv = any(|at| at.kv_source).then_some(
            "An attention with a `kv_source` attends to this one's latents: its `shared_kv` is the one that the source was given, its `source` the cache that the source has written.",
        );
        topk.into_iter().chain(kv).collect()
    }

    fn imports(&self, runtime: &str) -> String {
        let element = self.element();
        let cpu = element.map(|_| "Cpu");
        // In rustfmt's order, and `f32` and `f64` are nobody's
        let small = element.filter(|name| ["bf16", "f16"].contains(name));
        let names = ["Backend"]
            .into_iter()
            .chain(cpu)
            .chain(["LayerAt", "Load", "Result", "Weights"])
            .chain(small);
        let mut lines = Lines::default();
        lines.import(runtime, &names.map(str::to_owned).collect::<Vec<_>>());
        lines.into_text()
    }

    /// What the layers compute in, if all do in the same.
    fn element(&self) -> Option<&'static str> {
        let mut elements = self
            .model
            .layers
            .iter()
            .map(|layer| element(layer.checked.build.dtype));
        let first = elements.next()?;
        elements.all(|other| other == first).then_some(first)
    }

    fn constants(&self) -> String {
        let model = self.model;
        let mut lines = Lines::default();
        lines.line("/// Decoder layers.");
        lines.line(&format!(
            "pub const NUM_HIDDEN_LAYERS: usize = {};",
            model.num_hidden_layers()
        ));
        if model.attentions_per_layer > 1 {
            lines.line("/// Attentions in a decoder layer.");
            lines.line(&format!(
                "pub const ATTENTIONS_PER_LAYER: usize = {};",
                model.attentions_per_layer
            ));
        }
        if let Some(module) = self.modules.first() {
            lines.line("/// Width of the residual stream, h: every layer's.");
            lines.assignment(
                "pub const HIDDEN_SIZE: usize",
                &format!("{module}::HIDDEN_SIZE"),
            );
        }
        lines.into_text()
    }

    fn rows(&self) -> Vec<String> {
        let row = |(index, at): (usize, &LayerAt)| {
            format!(
                "LayerAt {{ module: {:?}, prefix: {:?}, topk_source: {:?}, kv_source: {:?}, stage: {} }}",
                self.modules[at.layer],
                self.model.prefix_of(index),
                at.topk_source,
                at.kv_source,
                at.stage
            )
        };
        self.model.indices.iter().enumerate().map(row).collect()
    }

    /// The type of an attention, and how it is loaded.
    fn layer(&self) -> String {
        let name = self.type_name();
        let mut lines = Lines::default();
        let default = self
            .element()
            .map_or(String::new(), |element| format!(" = Cpu<{element}>"));
        lines.line("/// One attention of the model, with its parameters on a backend.");
        lines.line("#[derive(Debug)]");
        lines.line("#[allow(clippy::enum_variant_names)] // The spec names the layers");
        lines.item(&format!("pub enum {name}<B: Backend{default}>"), |lines| {
            for (variant, (ty, layer)) in self.variants().zip(self.types().zip(&self.model.layers))
            {
                lines.line(&format!("/// The layer `{}`.", layer.name));
                lines.line(&format!("{variant}({ty}<B>),"));
            }
        });
        lines.line("");
        lines.block(&format!("impl<B: Backend> {name}<B> {{"), "}", |lines| {
            self.load(lines);
            lines.line("");
            load_all(lines);
        });
        lines.into_text()
    }

    fn load(&self, lines: &mut Lines) {
        lines.prose(
            "///",
            "Loads attention `index` of [`LAYERS`] from the tensors below its prefix.",
        );
        lines.line("///");
        lines.line("/// # Errors");
        lines.prose(
            "///",
            "There is no such attention. The tensors below its prefix are not exactly those of its layer, or can't be read.",
        );
        let parameters = ["weights: &Weights", "index: usize", "device: &B::Device"];
        lines.function(
            "pub fn load",
            &parameters.map(str::to_owned),
            "Result<Self>",
            |lines| {
                lines.line("let at = LAYERS.get(index).map(|at| (at.module, at.prefix));");
                lines.block("Ok(match at {", "})", |lines| {
                    for (module, variant) in self.modules.iter().zip(self.variants()) {
                        lines.arm(
                            &format!("Some(({module:?}, prefix))"),
                            &format!("Self::{variant}(Load::load(weights, prefix, device)?)"),
                        );
                    }
                    lines.line("_ => return Err(LayerAt::absent(&LAYERS, index)),");
                });
            },
        );
    }
}

fn load_all(lines: &mut Lines) {
    lines.line("/// Loads every attention of [`LAYERS`], in their order.");
    lines.line("///");
    lines.line("/// # Errors");
    lines.prose(
        "///",
        "As [`load`](Self::load), naming the first attention that failed.",
    );
    let parameters = ["weights: &Weights", "device: &B::Device"];
    lines.function(
        "pub fn load_all",
        &parameters.map(str::to_owned),
        "Result<Vec<Self>>",
        |lines| {
            lines.line("let layers = LAYERS.iter().enumerate();");
            lines.block("let loaded = layers.map(|(index, at)| {", "});", |lines| {
                lines.line(
                    "Self::load(weights, index, device).map_err(|error| at.failed(index, error))",
                );
            });
            lines.line("loaded.collect()");
        },
    );
}

/// `sliding_2` as `Sliding2`. No name of a module becomes `Self`, since none is a keyword.
fn upper_camel_case(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}

/// Ascending numbers, runs of three or more with the same distance written by their ends.
fn progressions(numbers: &[usize]) -> String {
    let mut parts = Vec::new();
    let mut rest = numbers;
    while let [first, ..] = *rest {
        let step = rest.get(1).map_or(1, |second| second - first);
        let length = rest
            .iter()
            .enumerate()
            .take_while(|&(at, &number)| number == first + at * step)
            .count();
        if length < 3 {
            parts.push(first.to_string());
            rest = &rest[1..];
            continue;
        }
        let last = first + (length - 1) * step;
        parts.push(match step {
            1 => format!("{first} to {last}"),
            _ => format!("{first} to {last} in steps of {step}"),
        });
        rest = &rest[length..];
    }
    parts.join(", ")
}

/// `a, b and c`.
fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_written_by_their_ends() {
        assert_eq!(progressions(&[]), "");
        assert_eq!(progressions(&[0, 1]), "0, 1");
        assert_eq!(
            progressions(&[0, 1, 2, 6, 10, 14]),
            "0 to 2, 6 to 14 in steps of 4"
        );
        assert_eq!(progressions(&[3, 4, 5, 7, 8, 9, 20]), "3 to 5, 7 to 9, 20");
    }
}
