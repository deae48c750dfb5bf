//! Whether replicas hold the same weights (features C-07, Q-03).
//!
//! Replicas of a layer start alike and take the same steps; a bit that differs means that one of them computed something else: a device at
//! fault, a reduction left out, a checkpoint mixed up. Each replica takes a [`Fingerprint`] of its weights, and [`check_replicas`] compares
//! them all.

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count};
use crate::parameters::{ParameterSet, Trainable};
use crate::weights::{generator::splitmix64, with_final_dot};

/// The processes that hold copies of the same weights.
pub trait Replicas {
    /// Which of them this one is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Everybody's bytes, by rank, one's own among them. Every replica calls it, in the same order as the others; lengths may differ.
    ///
    /// # Errors
    /// When another replica can't be reached.
    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>>;
}

/// The one process where there are no others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alone;

impl Replicas for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![mine.to_vec()])
    }
}

/// What tells weights from others without holding them: a shape, a hash of the bits and a norm for each tensor, by its checkpoint name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    tensors: BTreeMap<String, TensorFingerprint>,
}

/// One tensor's part of a [`Fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorFingerprint {
    /// Its shape in a checkpoint.
    pub shape: Vec<usize>,
    /// Depends on every bit, and on which value stands where: 0 and -0 differ, and so do NaNs of different bits. The same on every machine.
    pub hash: u64,
    /// Bits of the norm, so that fingerprints with a NaN can be compared and sent.
    norm: u64,
}

impl TensorFingerprint {
    /// `sqrt(Σ x²)` in `f64`, for readers of an error: whether a difference is one of rounding.
    pub fn norm(&self) -> f64 {
        f64::from_bits(self.norm)
    }
}

impl Fingerprint {
    /// The fingerprint of sets of parameters, each below its prefix (with or without its final dot; one set may have none).
    ///
    /// # Errors
    /// When two tensors have one full name, or the device refuses a copy.
    pub fn of<B: Backend>(sets: &[(&str, &dyn ParameterSet<B>)]) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (prefix, set) in sets {
            let prefix = with_final_dot(prefix);
            set.visit(&mut |_, parameter| {
                let layout = parameter.layout();
                let pieces = (0..).map_while(|index| Some((index, layout.piece(index)?)));
                for (index, (name, shape)) in pieces {
                    let values = parameter.piece(index)?;
                    let name = format!("{prefix}{name}");
                    let fingerprint = TensorFingerprint {
                        shape,
                        hash: hash(&values),
                        norm: norm(&values).to_bits(),
                    };
                    if tensors.insert(name.clone(), fingerprint).is_some() {
                        return Err(Error::Tensor {
                            name,
                            reason: "two layers have it: give each a prefix of its own".to_owned(),
                        });
                    }
                }
                Ok(())
            })?;
        }
        Ok(Self { tensors })
    }

    /// The fingerprint of a layer's working weights, widened to the accumulation type.
    ///
    /// # Errors
    /// When the device has no room for a copy of them.
    pub fn of_layer<B: Backend>(layer: &impl Trainable<B>, device: &B::Device) -> Result<Self> {
        Self::of::<B>(&[("", &layer.parameters(device)?)])
    }

    /// The tensors' parts, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorFingerprint> {
        &self.tensors
    }

    /// Leaves only the tensors that `keep` says to keep: what ranks that split a layer's heads among them have in common.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.tensors.retain(|name, _| keep(name));
    }
}

/// Refuses replicas whose fingerprints are not the same. Every replica calls it, and all get the same answer.
///
/// # Errors
/// [`Error::Replicas`], which names every tensor that differs and who has what; also what the replicas' connection refuses.
pub fn check_replicas(mine: &Fingerprint, replicas: &(impl Replicas + ?Sized)) -> Result<()> {
    let bytes = serde_json::to_vec(mine).map_err(|error| Error::Device(error.to_string()))?;
    let all = replicas.all_gather(&bytes)?;
    expect_count("replicas that answered", all.len(), replicas.size())?;
    let mut fingerprints = Vec::with_capacity(all.len());
    for (rank, bytes) in all.iter().enumerate() {
        let fingerprint: Fingerprint = serde_json::from_slice(bytes)
            .map_err(|error| Error::Device(format!("rank {rank} sent no fingerprint: {error}")))?;
        fingerprints.push(fingerprint);
    }
    let differences = differences(&fingerprints);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Replicas(Box::new(ReplicasDiffer {
        size: fingerprints.len(),
        tensors: differences,
    })))
}

/// Everything in which replicas differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicasDiffer {
    /// How many replicas there are.
    pub size: usize,
    /// The tensors that are not the same everywhere, by name.
    pub tensors: Vec<TensorDiffers>,
}

/// A tensor that is not the same in all replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDiffers {
    /// Its name.
    pub name: String,
    /// What it is, most common version first, then by lowest rank, and the ranks that have it so; `None`: they lack it.
    pub versions: Vec<(Option<TensorFingerprint>, Vec<usize>)>,
}

fn differences(fingerprints: &[Fingerprint]) -> Vec<TensorDiffers> {
    let mut names: Vec<&String> = fingerprints
        .iter()
        .flat_map(|fingerprint| fingerprint.tensors.keys())
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut differences = Vec::new();
    for name in names {
        let mut versions: Vec<(Option<TensorFingerprint>, Vec<usize>)> = Vec::new();
        for (rank, fingerprint) in fingerprints.iter().enumerate() {
            let version = fingerprint.tensors.get(name);
            match versions
                .iter_mut()
                .find(|(known, _)| known.as_ref() == version)
            {
                Some((_, ranks)) => ranks.push(rank),
                None => versions.push((version.cloned(), vec![rank])),
            }
        }
        if versions.len() > 1 {
            versions.sort_by_key(|(_, ranks)| std::cmp::Reverse(ranks.len()));
            differences.push(TensorDiffers {
                name: name.clone(),
                versions,
            });
        }
    }
    differences
}

impl fmt::Display for ReplicasDiffer {
    /// One line for the whole, one per tensor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} replicas hold different weights in {} tensors",
            self.size,
            self.tensors.len()
        )?;
        for TensorDiffers { name, versions } in &self.tensors {
            write!(f, "\n  `{name}`: ")?;
            for (i, (version, ranks)) in versions.iter().enumerate() {
                let ranks: Vec<String> = ranks.iter().map(usize::to_string).collect();
                let (who, one) = match &ranks[..] {
                    [rank] => (format!("rank {rank}"), true),
                    _ => (format!("ranks {}", ranks.join(", ")), false),
                };
                let between = if i == 0 { "" } else { "; " };
                match version {
                    Some(it) => write!(
                        f,
                        "{between}{who} {} {:?} of norm {:e}, hash {:016x}",
                        if one { "has" } else { "have" },
                        it.shape,
                        it.norm(),
                        it.hash
                    )?,
                    None => write!(
                        f,
                        "{between}{who} {}",
                        if one { "lacks it" } else { "lack it" }
                    )?,
                }
            }
        }
        Ok(())
    }
}

/// Values that one thread hashes in order.
const CHUNK: usize = 1 << 16;

/// A hash of the values' bits in order.
fn hash<S: Scalar>(values: &[S]) -> u64 {
    match size_of::<S>() {
        8 => joined(bytemuck::cast_slice::<S, u64>(values), |bits| bits),
        _ => joined(bytemuck::cast_slice::<S, u32>(values), u64::from),
    }
}

/// Hashes of chunks, hashed in order, so that no number of threads changes it.
fn joined<W: Copy + Sync>(words: &[W], wide: impl Fn(W) -> u64 + Sync) -> u64 {
    let chain = |hash: u64, word: u64| splitmix64(hash ^ word);
    let chunks: Vec<u64> = words
        .par_chunks(CHUNK)
        .map(|chunk| chunk.iter().fold(0, |hash, &word| chain(hash, wide(word))))
        .collect();
    chunks.into_iter().fold(words.len() as u64, chain)
}

fn norm<S: Scalar>(values: &[S]) -> f64 {
    let squares: Vec<f64> = values
        .par_chunks(CHUNK)
        .map(|chunk| chunk.iter().map(|x| x.to_f64() * x.to_f64()).sum())
        .collect();
    squares.into_iter().sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_every_bit_and_place() {
        let values: Vec<f32> = (0..2 * CHUNK + 3).map(|i| i as f32).collect();
        let whole = hash(&values);
        for (i, bits) in [(0, 1), (CHUNK, 1 << 31), (2 * CHUNK + 2, 1 << 12)] {
            let mut other = values.clone();
            other[i] = f32::from_bits(other[i].to_bits() ^ bits);
            assert_ne!(hash(&other), whole);
        }
        let mut swapped = values.clone();
        swapped.swap(5, CHUNK + 5);
        assert_ne!(hash(&swapped), whole);
        assert_ne!(hash(&values[1..]), whole);
        assert_ne!(hash(&[0.0_f64]), hash(&[0.0_f64, 0.0]));
        assert_ne!(hash(&[0.0_f64]), hash(&[-0.0_f64]));
    }

    #[test]
    fn a_hash_is_the_same_everywhere() {
        // Computed by hand: fingerprints of different machines and builds are compared
        assert_eq!(hash(&[1.0_f32, -2.5]), 0xC851_33CA_1183_27E8);
        assert_eq!(hash::<f64>(&[]), 0);
    }
}
