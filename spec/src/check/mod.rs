//! Proves a document and turns it into a layer: the only place that refuses.
//!
//! Every check collects what it finds and goes on. A value that was refused is absent from there on, so that no
//! later check complains about it again.

mod build;
mod cache;
mod codes;
mod cross;
mod foreign;
mod gate;
mod grouped;
mod indexer;
mod latent;
mod logits;
mod mask;
mod model;
mod modules;
mod name;
mod norms;
mod qk_clip;
mod rope;
mod scaling;
mod slots;
mod sparse;
mod text;
mod value;
mod vocabulary;
mod words;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{Body, Document, ModuleSpec};
use crate::layer::{Checked, Core, Layer, Rope};
use crate::node::Node;
use crate::span::{Span, Spanned};
pub use model::check_model;
use modules::Attention;

/// Checks a whole document and collects every diagnostic, from top to bottom. The layer is there exactly when none is an error.
pub fn check(document: &Document) -> (Option<Checked>, Diagnostics) {
    let mut out = Diagnostics::new();
    let name = name::check(&document.name, &mut out);
    let spec = match &document.body {
        Body::Layer(spec) => spec,
        Body::Model(_) => {
            model::refuse(document.name.span, &mut out);
            return (None, out);
        }
    };
    let checked = layer(name, spec, document.build.as_ref(), &mut out);
    (checked.filter(|_| !out.has_errors()), in_reading_order(out))
}

/// Checks a layer of this name, `None` where the name was refused, and how it is built.
fn layer(
    name: Option<String>,
    spec: &ModuleSpec,
    build: Option<&Node>,
    out: &mut Diagnostics,
) -> Option<Checked> {
    let found = match modules::attention(spec, out) {
        Attention::Mla => latent::check(spec, out),
        Attention::Grouped => grouped::check(spec, out),
        Attention::Cross => cross::check(spec, out),
        Attention::Other => Found::default(),
    };
    let build = build::check(build, &found.about, found.layer.as_ref(), out);
    Some(Checked {
        layer: Layer {
            name: name?,
            ..found.layer?
        },
        build: build?,
    })
}

/// From top to bottom: spans are numbered as they are read.
fn in_reading_order(found: Diagnostics) -> Diagnostics {
    let mut list: Vec<Diagnostic> = found.into_iter().collect();
    list.sort_by_key(|diagnostic| diagnostic.primary.span);
    let mut sorted = Diagnostics::new();
    list.into_iter()
        .for_each(|diagnostic| sorted.push(diagnostic));
    sorted
}

/// What was found of an attention module.
#[derive(Default)]
struct Found {
    /// The layer, its name left empty; absent where a part was refused.
    layer: Option<Layer>,
    about: About,
}

/// What the `build` section must agree with; a part is absent where it was refused.
#[derive(Default)]
struct About {
    /// The module, and where it stands.
    attention: Option<(Attention, Span)>,
    mask: Option<mask::Mask>,
    /// The rope and where it, or what decides on it, was written.
    rope: Option<(Rope, Span)>,
    /// Where a bias of the logits is asked for.
    bias: Option<Span>,
    /// Where probabilities are dropped.
    dropout: Option<Span>,
    /// Keys that only training reads, and where they stand.
    of_training: Vec<(&'static str, Span)>,
    /// Attention itself, and where its module stands.
    core: Option<(Core, Span)>,
    /// What is done to rotated heads before they meet: its key, and where that stands.
    after_rope: Option<(&'static str, Span)>,
    /// The sizes that formats of latents depend on; absent where there are no latents.
    latent: Option<LatentSizes>,
    /// Where the query's up projection stands, if it holds a norm.
    query_norm_inside: Option<Span>,
}

impl About {
    /// Whether the module is known, and makes no latents.
    fn lacks_latents(&self) -> bool {
        self.attention
            .is_some_and(|(module, _)| module.has_no_latents())
    }
}

/// Sizes of what a latent cache holds.
struct LatentSizes {
    kv_lora_rank: Option<Spanned<u32>>,
    qk_rope_head_dim: Option<Spanned<u32>>,
    /// Where it says that latents are another layer's, or that other layers use these.
    elsewhere: Option<Span>,
}
