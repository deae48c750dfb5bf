//! MaxText's rematerialisation: a policy per named tensor, and presets of such policies.

use super::{Choice, Reader, find, is_null};
use crate::build::Activation;
use crate::diagnostic::Diagnostic;
use crate::import::codes;
use crate::layer::{DownProjection, Layer, Norm, Projections, QkvProjection, Query};
use crate::node::Entry;
use crate::span::{Span, Spanned};

/// Where a tensor is between the passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// Nowhere: it is computed again.
    Remat,
    /// In the device's memory.
    Device,
    /// In the host's memory.
    Offload,
}

const POLICIES: [(&str, Policy); 3] = [
    ("remat", Policy::Remat),
    ("device", Policy::Device),
    ("offload", Policy::Offload),
];

const POLICY: &str = "remat_policy";

/// Tensors that attention names, and others that a decoder layer does.
const TENSORS: [&str; 22] = [
    "query_wa_proj",
    "mla_q",
    "kv_wa_proj",
    "mla_kv",
    "query_proj",
    "key_proj",
    "value_proj",
    "kv_proj",
    "qkv_proj",
    "context",
    "attention_out",
    "out_proj",
    "indexer_cutoff_threshold",
    "decoder_layer_input",
    "mlpwi",
    "mlpwi_0",
    "mlpwi_1",
    "mlpwo",
    "moe_mlpwi_0",
    "moe_mlpwi_1",
    "moe_mlpwo",
    "engram",
];

/// What a `remat_policy` does.
#[derive(Clone, Copy)]
enum Preset {
    /// Everything is kept.
    None,
    /// Nothing is.
    Full,
    /// These tensors are, under this policy.
    Only(&'static [&'static str], Policy),
    /// Each tensor says so itself.
    Custom,
}

const PROJECTIONS: [&str; 5] = [
    "query_proj",
    "key_proj",
    "value_proj",
    "kv_proj",
    "qkv_proj",
];
#[rustfmt::skip] // lists of words
const DOTS: [&str; 6] = ["query_proj", "key_proj", "value_proj", "kv_proj", "qkv_proj", "out_proj"];
#[rustfmt::skip]
const DOTS_AND_CONTEXT: [&str; 7] = ["query_proj", "key_proj", "value_proj", "kv_proj", "qkv_proj", "out_proj", "context"];
const SEPARATE: [&str; 4] = ["query_proj", "key_proj", "value_proj", "kv_proj"];

/// What each preset keeps of attention (MaxText's `Decoder.get_remat_policy`).
const PRESETS: [(&str, Preset); 14] = [
    ("none", Preset::None),
    ("full", Preset::Full),
    ("custom", Preset::Custom),
    ("minimal", Preset::Only(&DOTS, Policy::Device)),
    (
        "minimal_with_quantization",
        Preset::Only(&DOTS, Policy::Device),
    ),
    (
        "minimal_with_context",
        Preset::Only(&DOTS_AND_CONTEXT, Policy::Device),
    ),
    (
        "minimal_flash",
        Preset::Only(&DOTS_AND_CONTEXT, Policy::Device),
    ),
    (
        "minimal_with_context_and_quantization",
        Preset::Only(&DOTS_AND_CONTEXT, Policy::Device),
    ),
    (
        "save_dot_with_context_except_mlp",
        Preset::Only(&DOTS_AND_CONTEXT, Policy::Device),
    ),
    ("save_dot_except_mlpwi", Preset::Only(&DOTS, Policy::Device)),
    ("save_dot_except_mlp", Preset::Only(&DOTS, Policy::Device)),
    ("save_qkv_proj", Preset::Only(&PROJECTIONS, Policy::Device)),
    (
        "qkv_proj_offloaded",
        Preset::Only(&SEPARATE, Policy::Offload),
    ),
    ("minimal_offloaded", Preset::Only(&DOTS, Policy::Offload)),
];

/// A preset that keeps an output which no backward pass reads.
const SAVE_OUT_PROJ: (&str, Preset) =
    ("save_out_proj", Preset::Only(&["out_proj"], Policy::Device));

pub(super) fn has(key: &str) -> bool {
    names().any(|name| name == key)
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once(POLICY).chain(TENSORS)
}

/// A tensor's policy, and where it stands; a preset's stands where the preset does.
type Said = Spanned<Policy>;

impl Reader<'_> {
    /// Reads the options.
    pub(super) fn maxtext(&mut self, entries: &[Entry]) -> Option<Choice> {
        let preset = self.preset(entries)?;
        let mut stated = Vec::new();
        for tensor in TENSORS {
            if let Some(entry) = find(entries, tensor) {
                let policy = self.word(tensor, &entry.value, &POLICIES)?;
                stated.push((tensor, Spanned::new(policy, entry.value.span)));
            }
        }
        let said = |tensor: &str| -> Said {
            let stated = stated.iter().find(|(name, _)| *name == tensor);
            match (preset.value, stated) {
                (Preset::Custom, Some((_, said))) => *said,
                (Preset::None, _) => Spanned::new(Policy::Device, preset.span),
                (Preset::Only(kept, policy), _) if kept.contains(&tensor) => {
                    Spanned::new(policy, preset.span)
                }
                (Preset::Custom | Preset::Full | Preset::Only(..), _) => {
                    Spanned::new(Policy::Remat, preset.span)
                }
            }
        };
        for (tensor, stated) in &stated {
            self.refuse_unread(tensor, *stated, said(tensor), preset.span);
            self.note_idle(tensor, *stated);
        }
        if matches!(preset.value, Preset::None) {
            return Some(Choice::default());
        }
        let mut choice = Choice::default();
        for part in Activation::ALL {
            if part.is_made_by(self.layer) {
                match self.policy(part, said)? {
                    Policy::Remat => choice.recompute.push(part),
                    Policy::Offload => choice.offload.push(part),
                    Policy::Device => {}
                }
            }
        }
        Some(choice)
    }

    /// `remat_policy`; tensors alone mean `custom`.
    fn preset(&mut self, entries: &[Entry]) -> Option<Spanned<Preset>> {
        let Some(entry) = find(entries, POLICY) else {
            let span = entries.first().map_or(Span::NONE, |entry| entry.key.span);
            return Some(Spanned::new(Preset::Custom, span));
        };
        if is_null(&entry.value) {
            return Some(Spanned::new(Preset::None, entry.value.span));
        }
        let presets: Vec<(&str, Preset)> = PRESETS.into_iter().chain([SAVE_OUT_PROJ]).collect();
        let preset = self.word(POLICY, &entry.value, &presets)?;
        Some(Spanned::new(preset, entry.value.span))
    }

    /// Beside a preset MaxText reads no tensor's policy, so one that says otherwise would be lost.
    fn refuse_unread(&mut self, tensor: &str, stated: Said, holds: Said, preset: Span) {
        if stated.value == holds.value || !self.concerns(tensor) {
            return;
        }
        let message = format!("`{tensor}` is read under `remat_policy: custom` alone");
        let label = "the preset says otherwise";
        let unread = Diagnostic::error(codes::SCHEDULE_CONTRADICTION, message, stated.span, label);
        self.found.push(unread.and(preset, "a preset").help(format!(
            "write `remat_policy: custom`, or remove `{tensor}`"
        )));
    }

    /// Whether a tensor is one of attention's.
    fn concerns(&self, tensor: &str) -> bool {
        Activation::ALL.into_iter().any(|part| {
            tensors(part, self.layer)
                .iter()
                .any(|together| together.contains(&tensor))
        })
    }

    /// Says what of a policy comes to nothing, because the tensor isn't there, is never kept, or always is.
    fn note_idle(&mut self, tensor: &str, stated: Said) {
        let place = stated.span;
        let kept = stated.value != Policy::Remat;
        match tensor {
            "indexer_cutoff_threshold" if kept && self.layer.indexer().is_none() => {
                let help = "write `remat`, or give the policies of a layer with `SparseAttention`";
                self.refuse_lacking(tensor, "it has no indexer", place, help);
            }
            "indexer_cutoff_threshold" if kept => {
                self.note(tensor, "which keys were picked is always kept", place);
            }
            "decoder_layer_input" if stated.value != Policy::Device => {
                self.note(tensor, "the caller keeps the layer's input", place);
            }
            "out_proj" if kept => {
                self.note(tensor, "its backward pass needs no output of it", place);
            }
            "decoder_layer_input" | "indexer_cutoff_threshold" | "out_proj" => {}
            _ if kept && !self.concerns(tensor) => {
                self.note(tensor, "it makes no such tensor", place);
            }
            _ => {}
        }
    }

    /// The policy of a part: that of its tensors, which must agree.
    fn policy(&mut self, part: Activation, said: impl Fn(&str) -> Said) -> Option<Policy> {
        let mut kept: Option<(&str, Said)> = None;
        for together in tensors(part, self.layer) {
            let Some((first, others)) = together.split_first() else {
                continue;
            };
            let policy = said(first);
            if let Some(other) = others
                .iter()
                .find(|other| said(other).value != policy.value)
            {
                self.refuse_split(part, (other, said(other)), (first, policy));
                return None;
            }
            match kept {
                _ if policy.value == Policy::Remat => {}
                Some(other) if other.1.value != policy.value => {
                    self.refuse_split(part, (first, policy), other);
                    return None;
                }
                _ => kept = Some((first, policy)),
            }
        }
        Some(kept.map_or(Policy::Remat, |(_, policy)| policy.value))
    }

    fn refuse_split(&mut self, part: Activation, one: (&str, Said), other: (&str, Said)) {
        let ((tensor, policy), (first, elsewhere)) = (one, other);
        let part = part.word();
        let message =
            format!("`{tensor}` and `{first}` are kept differently, and both are of `{part}`");
        let label = "one policy";
        let split = Diagnostic::error(codes::SCHEDULE_CONTRADICTION, message, policy.span, label);
        let split = match elsewhere.span == policy.span {
            true => split.note("a tensor without a policy is computed again"),
            false => split.and(elsewhere.span, "another policy"),
        };
        self.found
            .push(split.help(format!("give `{tensor}` and `{first}` the same policy")));
    }
}

/// The tensors that a part of a layer is made of, as MaxText names them; where there are several lists, keeping one of them will do.
fn tensors(part: Activation, layer: &Layer) -> Vec<Vec<&'static str>> {
    let grouped = |fused: bool| {
        let separate = vec!["query_proj", "key_proj", "value_proj"];
        match fused {
            true => vec![vec!["qkv_proj"], separate],
            false => vec![separate],
        }
    };
    match (part, &layer.projections) {
        _ if !part.is_made_by(layer) => Vec::new(),
        // MaxText names neither a normed input nor normed heads, and so never keeps them but under `none`.
        (Activation::InputLayernorm, _) => Vec::new(),
        (Activation::Layernorm, Projections::Latent(latent)) => {
            let q_normed =
                matches!(&latent.query, Query::Lora { norm, .. } if *norm != Norm::Identity);
            let kv_normed = latent.kv_norm != Norm::Identity;
            let normed = [(q_normed, "mla_q"), (kv_normed, "mla_kv")];
            let normed = normed.into_iter().filter(|(normed, _)| *normed);
            vec![normed.map(|(_, tensor)| tensor).collect()]
        }
        (Activation::Layernorm, Projections::Grouped(_) | Projections::Cross(_)) => Vec::new(),
        (Activation::QDown, Projections::Latent(latent)) => match latent.down {
            DownProjection::Fused { .. } => vec![vec!["query_wa_proj", "kv_wa_proj"]],
            DownProjection::Separate { .. } => vec![vec!["query_wa_proj"]],
        },
        (Activation::QDown, Projections::Grouped(_) | Projections::Cross(_)) => Vec::new(),
        (Activation::KvDown, _) => vec![vec!["kv_wa_proj"]],
        (Activation::QUp, _) => vec![vec!["query_proj"]],
        (Activation::KvUp, _) => vec![vec!["key_proj", "value_proj"]],
        (Activation::Qkv, Projections::Grouped(of)) => {
            grouped(matches!(of.qkv, QkvProjection::Fused { .. }))
        }
        (Activation::Qkv, _) => grouped(false),
        (Activation::CoreAttn, _) => vec![vec!["attention_out"], vec!["context"]],
    }
}
