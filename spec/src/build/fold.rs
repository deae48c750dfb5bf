//! Weights that are combined when they are loaded.

use crate::layer::{Core, DownProjection, Indexer, KvSource, Layer, Projections, Query};

/// A step of algebra on weights, done once when they are loaded. Only steps that save a product or a pass over memory are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fold {
    /// `input_projections`: projections that read the layer's input stand in one matrix, below each other. `[W_1; W_2] x = [W_1 x; W_2 x]`.
    InputProjections,
}

impl Fold {
    /// All of them, ascending.
    pub const ALL: [Self; 1] = [Self::InputProjections];

    /// Its word in a spec.
    pub fn word(self) -> &'static str {
        match self {
            Self::InputProjections => "input_projections",
        }
    }

    /// Whether a layer has anything to combine.
    pub fn is_of(self, layer: &Layer) -> bool {
        match self {
            Self::InputProjections => input_projections(layer) > 1,
        }
    }
}

/// Projections of a layer's input whose results are read where they lie: those of latents, and an indexer's keys and weights. Heads are not, they
/// would have to be copied out; and what has a bias is not joined.
fn input_projections(layer: &Layer) -> usize {
    let latents = match &layer.projections {
        Projections::Latent(latent) => match latent.down {
            DownProjection::Fused { bias } => usize::from(!bias),
            DownProjection::Separate { q_bias, kv_bias } => {
                let queries = matches!(latent.query, Query::Lora { .. }) && !q_bias;
                let own = matches!(latent.kv_source, KvSource::Own { .. }) && !kv_bias;
                usize::from(queries) + usize::from(own)
            }
        },
        Projections::Grouped(_) | Projections::Cross(_) => 0,
    };
    let indexer = match &layer.core {
        // In the accumulation type its weights are a product of their own
        Core::Sparse(Indexer::Lightning(indexer)) => {
            1 + usize::from(!indexer.full_precision_weights)
        }
        Core::Sparse(Indexer::Shared { .. }) | Core::Dense => 0,
    };
    latents + indexer
}
