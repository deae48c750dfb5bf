//! Where a generated model's layers stand.

use crate::error::Error;

/// One attention of a generated model: which layer it is, where its tensors lie, and whose results it needs.
///
/// Attentions are counted from 0 in the order in which they run; so are sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerAt {
    /// The module that holds the layer.
    pub module: &'static str,
    /// Where checkpoints hold its tensors: `model.layers.3.self_attn`.
    pub prefix: &'static str,
    /// The earlier attention whose selection it attends to (feature L-14); `None` where it picks for itself, or attends to all.
    pub topk_source: Option<usize>,
    /// The earlier attention whose latents it attends to (feature S-16); `None` where they are its own.
    pub kv_source: Option<usize>,
    /// Its pipeline stage, from 0. Sources stand in the same one.
    pub stage: usize,
}

impl LayerAt {
    /// What to say where attention `index` of a model is asked for and the model has none.
    pub fn absent(layers: &[Self], index: usize) -> Error {
        Error::NoLayer {
            index,
            layers: layers.len(),
        }
    }

    /// `error`, with the attention that it came from in front.
    pub fn failed(&self, index: usize, error: Error) -> Error {
        Error::Layer {
            index,
            module: self.module,
            source: Box::new(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_attention() {
        let layers = [LayerAt {
            module: "full",
            prefix: "model.layers.0.self_attn",
            topk_source: None,
            kv_source: None,
            stage: 0,
        }];
        assert_eq!(
            LayerAt::absent(&layers, 7).to_string(),
            "the model has 1 attentions, counted from 0, and no attention 7"
        );
        let error = layers[0].failed(0, Error::Device("no room".to_owned()));
        assert_eq!(error.to_string(), "attention 0 (`full`): device: no room");
    }
}
