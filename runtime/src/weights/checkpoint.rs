//! A checkpoint, and the selection of one layer's tensors from it.

use std::collections::BTreeMap;
use std::path::Path;

use super::generator;
use super::index::Index;
use super::naming::Naming;
use super::select::{self, Choice};
use super::selected::Selected;
use super::set::{Mistake, WeightSet};
use super::shard::Shard;
use super::stored::{DType, Stored};
use crate::{Error, Result};

/// How many other prefixes a remedy names.
const MAX_SUGGESTIONS: usize = 3;

/// A tensor that a layer needs: its name below the layer's prefix, and its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorShape {
    /// For example `q_a_proj.weight`.
    pub name: &'static str,
    /// Row-major; a linear layer's weight is `[out, in]`.
    pub shape: &'static [usize],
}

impl TensorShape {
    /// The tensor called `name`, of shape `shape`.
    pub const fn new(name: &'static str, shape: &'static [usize]) -> Self {
        Self { name, shape }
    }
}

/// A checkpoint's tensors.
#[derive(Debug)]
pub struct Weights {
    /// What errors call it.
    source: String,
    tensors: Tensors,
}

/// Where the tensors are.
#[derive(Debug)]
enum Tensors {
    /// In one file, or in memory.
    Listed(BTreeMap<String, Stored>),
    /// In the shards of an index.
    Sharded(Index),
}

impl Weights {
    /// Opens a checkpoint: a `.safetensors` file, a shard index (`.json`), or a folder that holds `model.safetensors` or
    /// `model.safetensors.index.json`.
    ///
    /// Files are mapped, not read. Shards are opened by [`exactly`](Self::exactly), and only those that it needs.
    ///
    /// # Errors
    /// A file can't be read or is broken: truncated, with ranges that overlap or lie outside it, with a name twice.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let source = format!("`{}`", path.display());
        let tensors = if path.is_dir() {
            Self::open_folder(path)?
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            Tensors::Sharded(Index::open(path)?)
        } else {
            Tensors::Listed(Shard::open(path)?.tensors)
        };
        Ok(Self { source, tensors })
    }

    /// The checkpoint in `folder`.
    fn open_folder(folder: &Path) -> Result<Tensors> {
        let (single, index) = (
            folder.join("model.safetensors"),
            folder.join("model.safetensors.index.json"),
        );
        if single.is_file() {
            Ok(Tensors::Listed(Shard::open(&single)?.tensors))
        } else if index.is_file() {
            Ok(Tensors::Sharded(Index::open(&index)?))
        } else {
            Err(Error::WeightFile {
                path: folder.to_owned(),
                reason: "found neither `model.safetensors` nor `model.safetensors.index.json` here: name the checkpoint's file".to_owned(),
            })
        }
    }

    /// Tensors in memory: full name, shape, row-major values.
    ///
    /// # Errors
    /// A tensor whose shape and number of values differ, or a name given twice.
    pub fn from_tensors<N: Into<String>>(
        tensors: impl IntoIterator<Item = (N, (Vec<usize>, Vec<f32>))>,
    ) -> Result<Self> {
        let mut listed = Vec::new();
        for (name, (shape, values)) in tensors {
            let name = name.into();
            if generator::elements(&shape) != Some(values.len()) {
                let reason = format!("shape {shape:?} does not hold {} values", values.len());
                return Err(Error::Tensor { name, reason });
            }
            let bytes = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            listed.push((name, Stored::owned(DType::F32, shape, bytes)));
        }
        Self::listed(listed)
    }

    /// Tensors in memory, each under its own name.
    fn listed(tensors: Vec<(String, Stored)>) -> Result<Self> {
        let mut listed = BTreeMap::new();
        for (name, stored) in tensors {
            if listed.insert(name.clone(), stored).is_some() {
                return Err(Error::Tensor {
                    name,
                    reason: "given twice".to_owned(),
                });
            }
        }
        Ok(Self {
            source: "memory".to_owned(),
            tensors: Tensors::Listed(listed),
        })
    }

    /// Tensors in memory of any number type: full name, its type's name as safetensors has it, shape, row-major elements as they lie in
    /// the memory of a device, which is little-endian.
    ///
    /// # Errors
    /// A name given twice.
    #[cfg(feature = "cuda")]
    pub(crate) fn from_bytes(
        tensors: impl IntoIterator<Item = (String, (String, Vec<usize>, Vec<u8>))>,
    ) -> Result<Self> {
        let own = |(name, (dtype, shape, bytes)): (String, (String, _, _))| {
            (name, Stored::owned(DType::named(&dtype), shape, bytes))
        };
        Self::listed(tensors.into_iter().map(own).collect())
    }

    /// Random weights for a layer: [`generator::Recipe::for_tensor`]'s values for each of `tensors` below `prefix`.
    ///
    /// Values are exactly bfloat16, a function of `seed`, the tensor's full name and the element's index only.
    ///
    /// # Errors
    /// A shape whose number of elements overflows.
    pub fn random(prefix: &str, tensors: &[TensorShape], seed: u64) -> Result<Self> {
        let prefix = with_final_dot(prefix);
        Self::generated(tensors.iter().map(|tensor| {
            let recipe = generator::Recipe::for_tensor(tensor.name, tensor.shape, seed);
            (
                format!("{prefix}{}", tensor.name),
                tensor.shape.to_vec(),
                recipe,
            )
        }))
    }

    /// Generated weights: full name, shape and recipe of each tensor.
    ///
    /// # Errors
    /// A shape whose number of elements overflows.
    pub fn generated(
        tensors: impl IntoIterator<Item = (String, Vec<usize>, generator::Recipe)>,
    ) -> Result<Self> {
        let mut listed = BTreeMap::new();
        for (name, shape, recipe) in tensors {
            let Some(elements) = generator::elements(&shape) else {
                return Err(Error::Tensor {
                    name,
                    reason: format!("shape {shape:?} overflows"),
                });
            };
            let bytes = recipe.bf16_bytes(&name, elements);
            listed.insert(name, Stored::owned(DType::Bf16, shape, bytes));
        }
        Ok(Self {
            source: "the generator".to_owned(),
            tensors: Tensors::Listed(listed),
        })
    }

    /// Selects a layer's tensors: those below `prefix`, which must be exactly `wanted`.
    ///
    /// The prefix is taken with or without its final dot; an empty one means the whole checkpoint. The tensors may have the names
    /// that any [`Naming`] gives them, all of them one system's: the one that explains most names. An fp8 weight (`F8_E4M3`)
    /// comes with its block scales. Rope frequency buffers (`rotary_emb.inv_freq` and the cached cosines and sines of old exports)
    /// are passed over.
    ///
    /// # Errors
    /// One error that lists, in that system's names, every tensor that is missing, left over, misshapen, quantised in another way
    /// or of an unsupported type. Also what can be wrong with the shards that hold them.
    pub fn exactly(&self, prefix: &str, wanted: &[TensorShape]) -> Result<Selected<'_>> {
        let prefix = with_final_dot(prefix);
        let found = self.below(&prefix)?;
        let naming = select::recognise(found.keys().map(|name| &name[prefix.len()..]), wanted);
        self.chosen(
            select::choose(&prefix, found, wanted, naming),
            prefix,
            wanted,
        )
    }

    /// As [`exactly`](Self::exactly), under the names of one system.
    ///
    /// # Errors
    /// As [`exactly`](Self::exactly).
    pub fn exactly_named(
        &self,
        naming: Naming,
        prefix: &str,
        wanted: &[TensorShape],
    ) -> Result<Selected<'_>> {
        let prefix = with_final_dot(prefix);
        let found = self.below(&prefix)?;
        self.chosen(
            select::choose(&prefix, found, wanted, naming),
            prefix,
            wanted,
        )
    }

    /// The tensors, where nothing is wrong with them.
    fn chosen(
        &self,
        choice: Choice,
        prefix: String,
        wanted: &[TensorShape],
    ) -> Result<Selected<'_>> {
        if choice.mistakes.is_empty() {
            return Ok(Selected::new(
                &self.source,
                prefix,
                choice.naming,
                choice.tensors,
            ));
        }
        let remedy = self.remedy(&prefix, wanted, &choice);
        Err(Error::WeightSet(Box::new(WeightSet {
            source: self.source.clone(),
            prefix,
            naming: choice.naming,
            mistakes: choice.mistakes,
            remedy,
        })))
    }

    /// The tensors whose names start with `prefix`.
    fn below(&self, prefix: &str) -> Result<BTreeMap<String, Stored>> {
        match &self.tensors {
            Tensors::Sharded(index) => index.below(prefix),
            Tensors::Listed(listed) => Ok(listed
                .range(prefix.to_owned()..)
                .take_while(|(name, _)| name.starts_with(prefix))
                .map(|(name, stored)| (name.clone(), stored.clone()))
                .collect()),
        }
    }

    /// What may help against a choice's mistakes.
    fn remedy(&self, prefix: &str, wanted: &[TensorShape], choice: &Choice) -> Option<String> {
        if choice.nothing_fits {
            return Some(self.other_prefixes(wanted));
        }
        if let Some((tensor, other)) = &choice.foreign {
            return Some(format!(
                "`{tensor}` is {other}'s name, but the other tensors have {}'s: a layer's tensors are named by one system",
                choice.naming
            ));
        }
        let mut mistakes = choice.mistakes.iter();
        if mistakes
            .clone()
            .any(|mistake| matches!(mistake, Mistake::Quantised { .. }))
        {
            return Some("convert the checkpoint to bf16 and load that".to_owned());
        }
        mistakes
            .any(|mistake| !matches!(mistake, Mistake::Unsupported { .. }))
            .then(|| {
                format!(
                    "is `{prefix}` the layer that the spec describes? `mla-gen import` writes a checkpoint's spec from its `config.json`"
                )
            })
    }

    /// Names the prefixes below which a layer with `wanted`'s names does lie.
    fn other_prefixes(&self, wanted: &[TensorShape]) -> String {
        let names: Vec<&str> = match &self.tensors {
            Tensors::Listed(listed) => listed.keys().map(String::as_str).collect(),
            Tensors::Sharded(index) => index.weight_map.keys().map(String::as_str).collect(),
        };
        let known = Naming::ALL.map(|naming| (naming, naming.table().known(wanted)));
        let mut counts: BTreeMap<(&str, Naming), usize> = BTreeMap::new();
        for name in names {
            for (naming, known) in &known {
                for prefix in
                    prefixes_of(name).filter(|prefix| known.contains(&name[prefix.len()..]))
                {
                    *counts.entry((prefix, *naming)).or_default() += 1;
                }
            }
        }
        let mut prefixes: BTreeMap<&str, usize> = BTreeMap::new();
        for ((prefix, _), count) in counts {
            let most = prefixes.entry(prefix).or_default();
            *most = count.max(*most);
        }
        let best = prefixes.values().copied().max().unwrap_or(0);
        let fitting: Vec<String> = prefixes
            .iter()
            .filter(|(_, count)| **count == best)
            .map(|(prefix, _)| format!("`{}`", prefix.trim_end_matches('.')))
            .collect();
        match fitting.len() {
            0 => "no prefix of this checkpoint holds such a layer".to_owned(),
            count if count <= MAX_SUGGESTIONS => {
                format!("such tensors lie below {}", fitting.join(", "))
            }
            count => format!(
                "such tensors lie below {} and {} more prefixes",
                fitting[..MAX_SUGGESTIONS].join(", "),
                count - MAX_SUGGESTIONS
            ),
        }
    }
}

/// Every beginning of a name that can be a layer's prefix: nothing, and what ends in a dot.
fn prefixes_of(name: &str) -> impl Iterator<Item = &str> {
    let dots = name.match_indices('.').map(|(at, _)| &name[..=at]);
    std::iter::once(&name[..0]).chain(dots)
}

/// `prefix` with the dot that separates it from the names below it; an empty prefix stays empty.
pub(crate) fn with_final_dot(prefix: &str) -> String {
    match prefix.strip_suffix('.').unwrap_or(prefix) {
        "" => String::new(),
        stem => format!("{stem}."),
    }
}
