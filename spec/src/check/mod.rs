//! Proves a document and turns it into a layer: the only place that refuses.
//!
//! Every check collects what it finds and goes on. A value that was refused is absent from there on, so that no
//! later check complains about it again.

mod build;
mod cache;
mod codes;
mod foreign;
mod modules;
mod name;
mod norms;
mod params;
mod rope;
mod slots;
mod value;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{Body, Document, ModuleSpec};
use crate::layer::{
    AttnMask, Checked, Core, Dims, DownProjection, KvSource, Latent, Layer, Logits, Norm,
    Projections, Query, QueryScaling, Rope,
};
use crate::span::{Span, Spanned};
use foreign::Place;
use value::Table;

/// Checks a whole document and collects every diagnostic, from top to bottom. The layer is there exactly when none is an error.
pub fn check(document: &Document) -> (Option<Checked>, Diagnostics) {
    let mut out = Diagnostics::new();
    let name = name::check(&document.name, &mut out);
    let Body::Layer(spec) = &document.body;
    let parts = match modules::attention(spec, &mut out) {
        modules::Attention::Mla => Parts::read(spec, &mut out),
        modules::Attention::Other => Parts::default(),
    };
    let rope = parts.rope.as_ref().map(|rope| (rope, parts.rope_span));
    let build = build::check(
        document.build.as_ref(),
        &build::About {
            mask: parts.mask,
            rope,
        },
        &mut out,
    );
    let checked = name.zip(build).and_then(|(name, build)| {
        Some(Checked {
            layer: parts.layer(name)?,
            build,
        })
    });
    (checked.filter(|_| !out.has_errors()), in_reading_order(out))
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

/// What was found of a layer; a part is absent where it was refused.
struct Parts {
    dims: Option<Dims>,
    query: Option<Query>,
    down: Option<DownProjection>,
    kv_norm: Option<Norm>,
    rope: Option<Rope>,
    /// Where the rope, or the head dim that forbids one, was written.
    rope_span: Span,
    mask: Option<Spanned<AttnMask>>,
    core: Option<Core>,
    output_bias: Option<bool>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            dims: None,
            query: None,
            down: None,
            kv_norm: None,
            rope: None,
            rope_span: Span::NONE,
            mask: None,
            core: None,
            output_bias: None,
        }
    }
}

impl Parts {
    fn read(spec: &ModuleSpec, out: &mut Diagnostics) -> Self {
        let mut table = Table::params(spec, Place::Attention);
        let sizes = params::Sizes::read(&mut table, out);
        let rank = params::Rank::read(&mut table, out);
        sizes.check_products(out);
        let mask = params::mask(&mut table, out);
        let field = table.take("rope");
        let misspelt = table.is_misspelt("rope");
        let rope = rope::check(field, misspelt, sizes.rope_dims(), table.anchor(), out);
        let rope_span = match (field, sizes.qk_rope_head_dim) {
            (Some(field), _) => field.key.span,
            (None, Some(dim)) => dim.span,
            (None, None) => Span::NONE,
        };
        table.finish(out);
        let slots = slots::check(spec, rank, out);
        Self {
            dims: sizes.dims(),
            query: slots.query,
            down: slots.down,
            kv_norm: slots.kv_norm,
            rope,
            rope_span,
            mask,
            core: slots.core,
            output_bias: slots.output_bias,
        }
    }

    fn layer(self, name: String) -> Option<Layer> {
        Some(Layer {
            name,
            input_norm: None,
            projections: Projections::Latent(Latent {
                dims: self.dims?,
                query: self.query?,
                down: self.down?,
                kv_norm: self.kv_norm?,
                kv_scale: None,
                k_rope_norm: None,
                kv_source: KvSource::Own { shared: false },
            }),
            rope: self.rope?,
            query_scaling: QueryScaling::None,
            mask: self.mask?.value,
            logits: Logits::PLAIN,
            core: self.core?,
            gate: None,
            output_bias: self.output_bias?,
        })
    }
}
