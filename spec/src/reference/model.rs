//! `model`: named layers, and where they stand.

use super::{Given, Key, Section, Special, Value, key};

const KEYS: &[Key] = &[
    key(
        "num_hidden_layers",
        Value::Size(1),
        Given::Required,
        "Number of decoder layers.",
    ),
    key(
        "attentions_per_layer",
        Value::Size(1),
        Given::Default("1"),
        "Attentions in a decoder layer. `pattern` and sources count attentions.",
    )
    .source("LongCat-Flash, whose decoder layers have two."),
    key(
        "prefix",
        Value::Special(Special::Prefix),
        Given::Optional,
        "Where checkpoints hold an attention's tensors. Default: model.layers.{layer}.self_attn, with .{attention} behind it where a layer \
         has several.",
    ),
    key(
        "pipeline_stages",
        Value::Special(Special::Stages),
        Given::Optional,
        "First layer of every pipeline stage but the first.",
    )
    .detail("An attention that uses another one's selection or latents stands in the same stage: check sees to that."),
    key(
        "layers",
        Value::Special(Special::Layers),
        Given::Required,
        "The layers that differ from each other, by name. Name and model's name make the type.",
    )
    .detail(
        "Each has `module`, `params`, `submodules` and `build` as a spec of one layer has them. `like: NAME` lays what stands here over \
         another layer, key by key; null takes a key away.",
    ),
    key(
        "pattern",
        Value::Special(Special::Pattern),
        Given::Required,
        "Which layer stands where, every attention in the order in which it runs.",
    )
    .detail("`{ repeat: 3, of: [a, b] }` stands for `a, b, a, b, a, b`."),
    key(
        "topk_source",
        Value::Special(Special::Sources),
        Given::Optional,
        "Whose selection an attention with a shared indexer attends to, both counted from 0. Default: the nearest earlier one's.",
    ),
    key(
        "kv_source",
        Value::Special(Special::Sources),
        Given::Optional,
        "Whose latents an attention with `kv_source: shared` attends to, both counted from 0. Default: the nearest earlier one's that fit.",
    ),
];

/// A model's attention layers.
pub(super) static MODEL: Section = Section {
    about: "A model's attention layers.",
    groups: &[KEYS],
};
