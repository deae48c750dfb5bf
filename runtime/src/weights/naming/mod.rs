//! What other systems call a layer's tensors.
//!
//! A layer asks for its tensors by the names of Hugging Face transformers. A checkpoint of another system holds the same
//! numbers under other names, some of them transposed, or two stacked into one. Which system wrote a checkpoint is read off the
//! names below the layer's prefix; all of them must be one system's.
//!
//! What is not expressed: tensors of several layers in one (MaxText's scanned layers), tensors split over ranks, MaxText's
//! `SelfAttention` (whose query kernel has the softmax scale folded in), and values that one system folds into others, such as
//! LongCat's latent scales in vLLM's norms. Whether a latent's norm stands alone or inside the projection behind it is a
//! matter of names only.

mod deepseek;
mod hugging_face;
mod maxtext;
mod megatron;
mod mistral;

use std::collections::BTreeSet;
use std::fmt;

use super::checkpoint::TensorShape;

/// A system, by the names that it gives to a layer's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Naming {
    /// transformers: `q_a_proj.weight`. The names in a layer's `TENSORS`.
    HuggingFace,
    /// Mistral's own files: `wkv_a_with_mqa.weight`.
    Mistral,
    /// DeepSeek's reference implementation: `wkv_a.weight`.
    DeepSeek,
    /// Megatron-Core: `linear_kv_down_proj.weight`.
    Megatron,
    /// MaxText: `wkv_a.kernel`, `[in, heads, dim]`.
    MaxText,
}

impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HuggingFace => "Hugging Face",
            Self::Mistral => "Mistral",
            Self::DeepSeek => "DeepSeek's reference",
            Self::Megatron => "Megatron",
            Self::MaxText => "MaxText",
        })
    }
}

impl Naming {
    /// All of them. Where two explain a checkpoint equally well the earlier one is meant.
    pub const ALL: [Self; 5] = [
        Self::HuggingFace,
        Self::Mistral,
        Self::DeepSeek,
        Self::Megatron,
        Self::MaxText,
    ];

    pub(super) fn table(self) -> &'static Table {
        match self {
            Self::HuggingFace => &hugging_face::TABLE,
            Self::Mistral => &mistral::TABLE,
            Self::DeepSeek => &deepseek::TABLE,
            Self::Megatron => &megatron::TABLE,
            Self::MaxText => &maxtext::TABLE,
        }
    }
}

/// How a system's names and layouts differ from Hugging Face's. What no entry speaks of has Hugging Face's name.
#[derive(Debug)]
pub(super) struct Table {
    /// A whole name (`sinks`) or the part before the last dot (`o_proj`), and what it is called, most usual first; nothing where
    /// it is always part of another tensor.
    pub(super) names: &'static [(&'static str, &'static [&'static str])],
    /// One tensor that holds the rows of several, one behind the other.
    pub(super) stacked: &'static [Joined],
    /// One tensor that holds the rows of several, group by group.
    pub(super) grouped: &'static [Joined],
    /// Flax's leaves: a matrix is a transposed `kernel`, a norm's weight a `scale`.
    pub(super) flax: bool,
    /// Last part of the name of an fp8 weight's block scales.
    pub(super) block_scales: &'static str,
    /// Ends of names that hold no weights.
    pub(super) ignored: &'static [&'static str],
}

/// A tensor `name` in the place of `parts`, all without their last part (`weight`, `bias`).
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) name: &'static str,
    pub(super) parts: &'static [&'static str],
}

/// Where a wanted tensor's values may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// Name below the prefix.
    pub(super) name: String,
    pub(super) form: Form,
}

/// How a stored tensor becomes a wanted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// It is the same.
    Same,
    /// A matrix whose rows are the wanted one's columns; either side may be cut in two, `[in, heads, dim]`.
    Transposed,
    /// Rows `first ..` of a tensor of `of` rows.
    Rows { first: usize, of: usize },
    /// Some rows, group by group, of a tensor of `of` rows: only all of them together can be read. `first` rows belong to
    /// tensors that come before this one in every group.
    Grouped { first: usize, of: usize },
}

impl Form {
    /// The shape that a stored tensor should have for a wanted one of shape `wanted`.
    pub(super) fn stored_shape(self, wanted: &[usize]) -> Vec<usize> {
        let mut shape = wanted.to_vec();
        match self {
            Self::Same => {}
            Self::Transposed => shape.reverse(),
            Self::Rows { of, .. } | Self::Grouped { of, .. } => {
                if let Some(rows) = shape.first_mut() {
                    *rows = of;
                }
            }
        }
        shape
    }

    /// Whether a stored tensor of shape `found` can become a wanted one.
    pub(super) fn fits(self, found: &[usize], wanted: &[usize]) -> bool {
        let expected = self.stored_shape(wanted);
        match (self, found, &expected[..]) {
            (Self::Transposed, [a, b, c], [rows, columns]) => {
                (a, b.checked_mul(*c)) == (rows, Some(*columns))
                    || (a.checked_mul(*b), c) == (Some(*rows), columns)
            }
            _ => found == expected,
        }
    }
}

impl Table {
    /// Where `want`, one of `wanted`, may be, most usual first. Never empty.
    pub(super) fn origins(&self, want: &TensorShape, wanted: &[TensorShape]) -> Vec<Origin> {
        let (stem, leaf) = want.name.rsplit_once('.').unwrap_or((want.name, ""));
        let form = if self.flax && want.shape.len() == 2 {
            Form::Transposed
        } else {
            Form::Same
        };
        let mut origins: Vec<Origin> = if let Some(names) = self.called(want.name) {
            names.iter().map(|&name| origin(name, form)).collect()
        } else {
            let stems = self.called(stem).unwrap_or(std::slice::from_ref(&stem));
            let leaf = self.leaf(leaf, want.shape);
            stems
                .iter()
                .map(|stem| origin(&joined(stem, leaf), form))
                .collect()
        };
        let together = |all: &[Joined], form: fn(usize, usize) -> Form| -> Vec<Origin> {
            all.iter()
                .filter_map(|all| {
                    let (first, of) = all.rows_before(stem, leaf, wanted)?;
                    Some(origin(&joined(all.name, leaf), form(first, of)))
                })
                .collect()
        };
        origins.extend(together(self.stacked, |first, of| Form::Rows { first, of }));
        origins.extend(together(self.grouped, |first, of| Form::Grouped {
            first,
            of,
        }));
        if origins.is_empty() {
            origins.push(origin(want.name, form));
        }
        origins
    }

    /// Every name below the prefix that this system may give to tensors of `wanted`, scales of fp8 weights included.
    pub(super) fn known(&self, wanted: &[TensorShape]) -> BTreeSet<String> {
        let names = wanted
            .iter()
            .flat_map(|want| self.origins(want, wanted))
            .map(|origin| origin.name);
        names
            .flat_map(|name| [self.scales_of(&name), Some(name)])
            .flatten()
            .collect()
    }

    /// The name of the block scales of the weight called `name`.
    pub(super) fn scales_of(&self, name: &str) -> Option<String> {
        let stem = name.strip_suffix("weight")?;
        Some(format!("{stem}{}", self.block_scales))
    }

    fn called(&self, name: &str) -> Option<&'static [&'static str]> {
        let entry = self.names.iter().find(|(ours, _)| *ours == name);
        entry.map(|(_, theirs)| *theirs)
    }

    fn leaf<'a>(&self, leaf: &'a str, shape: &[usize]) -> &'a str {
        match (self.flax, leaf, shape.len()) {
            (true, "weight", 2) => "kernel",
            (true, "weight", _) => "scale",
            _ => leaf,
        }
    }
}

impl Joined {
    /// How many rows stand before those of `stem`, and how many there are; `None` where `stem` is no part, or one is not wanted.
    fn rows_before(
        &self,
        stem: &str,
        leaf: &str,
        wanted: &[TensorShape],
    ) -> Option<(usize, usize)> {
        if !self.parts.contains(&stem) {
            return None;
        }
        let (mut first, mut all) = (0, 0_usize);
        for part in self.parts {
            let name = joined(part, leaf);
            let tensor = wanted.iter().find(|tensor| tensor.name == name)?;
            if *part == stem {
                first = all;
            }
            all = all.checked_add(*tensor.shape.first()?)?;
        }
        Some((first, all))
    }
}

fn origin(name: &str, form: Form) -> Origin {
    Origin {
        name: name.to_owned(),
        form,
    }
}

fn joined(stem: &str, leaf: &str) -> String {
    if leaf.is_empty() {
        stem.to_owned()
    } else {
        format!("{stem}.{leaf}")
    }
}
