//! Who attends to whose: selections (features L-14) and latents (S-16) of earlier attentions.

use super::keys;
use super::{Keys, Model};
use crate::check::codes;
use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::layer::{Checked, Core, Indexer, KvSource, Latent, Projections, Rope};
use crate::span::Span;

/// The source of every attention, where it has one.
pub(super) struct Sources {
    pub(super) topk: Vec<Option<usize>>,
    pub(super) kv: Vec<Option<usize>>,
}

/// Something that an attention makes and later ones use.
struct Shared {
    /// What it is: `selection`.
    what: &'static str,
    /// What makes an attention a consumer, for messages.
    asks: &'static str,
    /// What makes an attention a producer.
    offers: &'static str,
    consumes: fn(&Checked) -> bool,
    produces: fn(&Checked) -> bool,
    /// Why what the second makes does not fit the first.
    differs: fn(&Checked, &Checked) -> Option<String>,
}

const SELECTION: Shared = Shared {
    what: "selection",
    asks: "`SharedIndexer`",
    offers: "`share_topk: true` at its `LightningIndexer`",
    consumes: |checked| matches!(checked.layer.core, Core::Sparse(Indexer::Shared { .. })),
    produces: |checked| match &checked.layer.core {
        Core::Sparse(Indexer::Lightning(indexer)) => indexer.shared,
        _ => false,
    },
    differs: selections_differ,
};

const LATENTS: Shared = Shared {
    what: "latents",
    asks: "`kv_source: shared`",
    offers: "`share_kv: true`",
    consumes: |checked| latent(checked).is_some_and(|latent| latent.kv_source == KvSource::Other),
    produces: |checked| {
        latent(checked).is_some_and(|latent| latent.kv_source == KvSource::Own { shared: true })
    },
    differs: latents_differ,
};

/// Finds every source and refuses those that can't be one.
pub(super) fn check(model: &Model<'_>, keys: &Keys, out: &mut Diagnostics) -> Sources {
    let sources = Sources {
        topk: SELECTION.sources(model, &keys.topk_sources, out),
        kv: LATENTS.sources(model, &keys.kv_sources, out),
    };
    SELECTION.warn_of_idle(model, &sources.topk, out);
    LATENTS.warn_of_idle(model, &sources.kv, out);
    sources
}

impl Shared {
    fn sources(
        &self,
        model: &Model<'_>,
        stated: &keys::Sources,
        out: &mut Diagnostics,
    ) -> Vec<Option<usize>> {
        (0..model.attentions.len())
            .map(|index| {
                let consumer = model.at(index)?;
                let stated_here = stated.stated.get(&index);
                if !(self.consumes)(consumer) {
                    if let Some((span, _)) = stated_here {
                        self.refuse_idle(model, index, stated.key, *span, out);
                    }
                    return None;
                }
                let source = match stated_here {
                    Some((_, source)) => {
                        let source = (*source)?;
                        self.stated(model, index, source.value, source.span, out)?
                    }
                    None => self.nearest(model, index, out)?,
                };
                self.check_pair(
                    model,
                    index,
                    source,
                    stated_here.map(|(span, _)| *span),
                    out,
                );
                Some(source)
            })
            .collect()
    }

    /// A source that the spec names.
    fn stated(
        &self,
        model: &Model<'_>,
        consumer: usize,
        source: usize,
        span: Span,
        out: &mut Diagnostics,
    ) -> Option<usize> {
        let at = model.attentions[consumer].span;
        if source >= consumer {
            let message = format!(
                "{} can't take its {} from {}, which runs later",
                model.shown(consumer),
                self.what,
                model.shown(source)
            );
            let label = "not an earlier one";
            let later = Diagnostic::error(codes::SOURCE_NOT_EARLIER, message, span, label);
            out.push(later.and(at, "attends to it").help(format!(
                "name an attention before {consumer} that has {}",
                self.offers
            )));
            return None;
        }
        if !(self.produces)(model.at(source)?) {
            let message = format!(
                "{} hands out no {} for {}",
                model.shown(source),
                self.what,
                model.shown(consumer)
            );
            let label = "hands out nothing";
            let made = Diagnostic::error(codes::SOURCE_PRODUCES_NOTHING, message, span, label);
            out.push(made.and(at, "attends to it").help(format!(
                "name another one, or give that layer {}",
                self.offers
            )));
            return None;
        }
        Some(source)
    }

    /// The nearest earlier producer whose product fits; where none fits, the nearest.
    fn nearest(&self, model: &Model<'_>, consumer: usize, out: &mut Diagnostics) -> Option<usize> {
        let taker = model.at(consumer)?;
        let producers = (0..consumer).rev().filter(|index| {
            // A layer that was refused may have been meant as the producer: nothing more is said then.
            model.at(*index).is_none_or(self.produces)
        });
        let producers: Vec<usize> = producers.collect();
        let fits = producers.iter().find(|index| {
            model
                .at(**index)
                .is_none_or(|producer| (self.differs)(taker, producer).is_none())
        });
        if let Some(source) = fits.or(producers.first()) {
            return model.at(*source).map(|_| *source);
        }
        let span = model.attentions[consumer].span;
        let message = match consumer {
            0 => format!(
                "{} runs first, and attends to an earlier one's {}",
                model.shown(0),
                self.what
            ),
            _ => format!(
                "no attention before {} hands out its {}",
                model.shown(consumer),
                self.what
            ),
        };
        let label = format!("has {}", self.asks);
        let none = Diagnostic::error(codes::NO_EARLIER_SOURCE, message, span, label);
        out.push(none.help(format!(
            "put a layer with {} before it, or a layer with its own here",
            self.offers
        )));
        None
    }

    /// Whether a consumer can use what its source makes, and is there to do so.
    fn check_pair(
        &self,
        model: &Model<'_>,
        consumer: usize,
        source: usize,
        stated: Option<Span>,
        out: &mut Diagnostics,
    ) {
        let (Some(taker), Some(maker)) = (model.at(consumer), model.at(source)) else {
            return;
        };
        let at = model.attentions[consumer].span;
        let from = model.attentions[source].span;
        let refused = |code: Code, message: String, label: String| {
            let refused = Diagnostic::error(code, message, at, label).and(from, "its source");
            match stated {
                Some(stated) => refused.and(stated, "said here"),
                None => refused,
            }
        };
        if let Some(why) = (self.differs)(taker, maker) {
            let message = format!(
                "{} can't use the {} of {}: {why}",
                model.shown(consumer),
                self.what,
                model.shown(source)
            );
            let differs = refused(
                codes::SOURCE_DIFFERS,
                message,
                "doesn't fit its source".to_owned(),
            );
            out.push(differs.help(format!(
                "make both layers agree, or take the {} from another one",
                self.what
            )));
        }
        let (stage, source_stage) = (model.stage(consumer), model.stage(source));
        if stage != source_stage {
            let message = format!(
                "{} is in pipeline stage {stage}, and its source, {}, in stage {source_stage}",
                model.shown(consumer),
                model.shown(source)
            );
            let label = format!("needs what stage {source_stage} holds");
            let cut = refused(codes::SHARING_ACROSS_STAGES, message, label);
            let cut = match model.stages.span(stage) {
                Some(start) => cut.and(start, "cuts between the two"),
                None => cut,
            };
            out.push(cut.help("let a stage start at a layer that makes its own"));
        }
    }

    fn refuse_idle(
        &self,
        model: &Model<'_>,
        index: usize,
        key: &str,
        span: Span,
        out: &mut Diagnostics,
    ) {
        let message = format!(
            "`{key}` gives a source to {}, which makes its own",
            model.shown(index)
        );
        let label = format!("has no {}", self.asks);
        let idle = Diagnostic::error(codes::SOURCE_OF_NONE, message, span, label);
        out.push(
            idle.and(model.attentions[index].span, "this one")
                .help("remove it, or put another layer there"),
        );
    }

    /// Warns of layers that hand something out wherever they stand, and nowhere to anyone.
    fn warn_of_idle(&self, model: &Model<'_>, sources: &[Option<usize>], out: &mut Diagnostics) {
        for (layer, named) in model.named.iter().enumerate() {
            let produces = model.checked[layer].as_ref().is_some_and(self.produces);
            let places = |index: &usize| model.attentions[*index].layer == layer;
            let used = sources.iter().flatten().any(places);
            if !produces || used || !named.used || out.has_errors() {
                continue;
            }
            let message = format!(
                "`{}` hands out its {}, and nobody takes it",
                named.name.value, self.what
            );
            let label = "shares with nobody";
            let idle = Diagnostic::warning(codes::NOTHING_TAKEN, message, named.name.span, label);
            out.push(idle.help(format!("remove {}", self.offers)));
        }
    }
}

fn latent(checked: &Checked) -> Option<&Latent> {
    match &checked.layer.projections {
        Projections::Latent(latent) => Some(latent),
        Projections::Grouped(_) | Projections::Cross(_) => None,
    }
}

fn selections_differ(consumer: &Checked, source: &Checked) -> Option<String> {
    let (takes, picks) = (consumer.layer.indexer()?, source.layer.indexer()?);
    if takes.width() == picks.width() {
        return topk_differs(takes, picks);
    }
    Some(format!(
        "it takes up to {} tokens, and {} are picked",
        takes.width(),
        picks.width()
    ))
}

/// The same width may be made of different parts.
fn topk_differs(takes: &Indexer, picks: &Indexer) -> Option<String> {
    let (Indexer::Shared { topk, .. }, Indexer::Lightning(indexer)) = (takes, picks) else {
        return None;
    };
    (*topk != indexer.topk).then(|| {
        format!(
            "it takes {topk} tokens and a tail, and {} are picked",
            indexer.topk
        )
    })
}

fn latents_differ(consumer: &Checked, source: &Checked) -> Option<String> {
    let (takes, makes) = (latent(consumer)?.dims, latent(source)?.dims);
    if takes.kv_lora_rank != makes.kv_lora_rank {
        return Some(format!(
            "its `kv_lora_rank` is {}, and the source's {}",
            takes.kv_lora_rank, makes.kv_lora_rank
        ));
    }
    if takes.qk_rope_head_dim != makes.qk_rope_head_dim {
        return Some(format!(
            "its `qk_rope_head_dim` is {}, and the source's {}",
            takes.qk_rope_head_dim, makes.qk_rope_head_dim
        ));
    }
    match (&consumer.layer.rope, &source.layer.rope) {
        (Rope::None, Rope::Rotary(_)) => {
            return Some("it rotates nothing, and the source's keys are rotated".to_owned());
        }
        (Rope::Rotary(_), Rope::None) => {
            return Some(
                "it rotates its queries, and the source's keys are not rotated".to_owned(),
            );
        }
        (own, theirs) if own != theirs => {
            return Some("the source's keys are rotated by another `rope`".to_owned());
        }
        _ => {}
    }
    let (own, theirs) = (consumer.build.cache, source.build.cache);
    if (own.kind, own.store) != (theirs.kind, theirs.store) {
        return Some("the source's cache has another `format`".to_owned());
    }
    if own.page_size != theirs.page_size {
        return Some("the source's cache has another `page_size`".to_owned());
    }
    (own.rope_layout != theirs.rope_layout)
        .then(|| "the source's cache has another `rope_layout`".to_owned())
}
