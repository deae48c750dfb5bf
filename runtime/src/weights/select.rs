//! The choice of a layer's tensors among those below its prefix.

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::TensorShape;
use super::naming::{Form, Naming, Origin, Table};
use super::set::Mistake;
use super::source::{Scales, Source, takes_scales, usual_scales};
use super::stored::Stored;

/// Buffers that checkpoints may carry below an attention layer and that no layer reads: old exports store the rope
/// frequencies, which the spec determines.
const IGNORED: [&str; 3] = [
    "rotary_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
];

/// Last parts of names that quantised checkpoints give to what is no weight.
const SCALES: [&str; 8] = [
    "weight_scale_inv",
    "weight_scale",
    "scale",
    "qscale_weight",
    "input_scale",
    "qzeros",
    "qweight",
    "g_idx",
];

/// A layer's tensors, or everything that is wrong with them.
pub(super) struct Choice {
    pub(super) naming: Naming,
    pub(super) tensors: BTreeMap<&'static str, Source>,
    pub(super) mistakes: Vec<Mistake>,
    /// Whether not one wanted tensor was found.
    pub(super) nothing_fits: bool,
    /// A left-over tensor that another system would call so.
    pub(super) foreign: Option<(String, Naming)>,
}

/// The system whose names explain most of `found`, the names below the prefix.
pub(super) fn recognise<'a>(
    found: impl Iterator<Item = &'a str> + Clone,
    wanted: &[TensorShape],
) -> Naming {
    let explained = |naming: &Naming| {
        let known = naming.table().known(wanted);
        found.clone().filter(|&name| known.contains(name)).count()
    };
    let mut best = (Naming::HuggingFace, 0);
    for naming in Naming::ALL {
        let count = explained(&naming);
        if count > best.1 {
            best = (naming, count);
        }
    }
    best.0
}

/// Finds `wanted` in `found`, the tensors whose full names start with `prefix`, under the names of `naming`.
pub(super) fn choose(
    prefix: &str,
    mut found: BTreeMap<String, Stored>,
    wanted: &[TensorShape],
    naming: Naming,
) -> Choice {
    let table = naming.table();
    let mut finder = Finder {
        prefix,
        found: &found,
        table,
        used: BTreeSet::new(),
        mistakes: Vec::new(),
    };
    let mut tensors = BTreeMap::new();
    let mut missing = 0;
    for want in wanted {
        match finder.find(want, wanted) {
            Found::Fits(source) => drop(tensors.insert(want.name, source)),
            Found::Misfit => {}
            Found::Missing => missing += 1,
        }
    }
    let Finder {
        used, mut mistakes, ..
    } = finder;
    found.retain(|name, _| !used.contains(name));
    let left: Vec<(&str, &Stored)> = found
        .iter()
        .map(|(name, stored)| (&name[prefix.len()..], stored))
        .filter(|(name, _)| !is_ignored(name, table))
        .collect();
    let foreign = left
        .iter()
        .find_map(|(name, _)| Some((format!("{prefix}{name}"), foreign_to(naming, name, wanted)?)));
    mistakes.extend(
        left.into_iter()
            .map(|(name, stored)| left_over(prefix, name, stored)),
    );
    Choice {
        naming,
        tensors,
        nothing_fits: !wanted.is_empty() && missing == wanted.len(),
        mistakes,
        foreign,
    }
}

/// Goes through the wanted tensors.
struct Finder<'a> {
    prefix: &'a str,
    found: &'a BTreeMap<String, Stored>,
    table: &'a Table,
    used: BTreeSet<String>,
    mistakes: Vec<Mistake>,
}

enum Found {
    Fits(Source),
    Misfit,
    Missing,
}

impl Finder<'_> {
    fn find(&mut self, want: &TensorShape, wanted: &[TensorShape]) -> Found {
        let origins = self.table.origins(want, wanted);
        let stored = origins.iter().find_map(|origin| {
            let full = format!("{}{}", self.prefix, origin.name);
            let stored = self.found.get(&full)?;
            Some((origin, full, stored))
        });
        match stored {
            None => {
                self.missing(&origins, want);
                Found::Missing
            }
            Some((origin, full, stored)) => match self.accept(origin, full, stored, want) {
                Ok(source) => Found::Fits(source),
                Err(mistake) => {
                    self.report(mistake);
                    Found::Misfit
                }
            },
        }
    }

    fn missing(&mut self, origins: &[Origin], want: &TensorShape) {
        // The most usual name; where a system only has tensors of several together, that one's
        if let Some(Origin { name, form }) = origins.first() {
            self.report(Mistake::Missing {
                tensor: format!("{}{name}", self.prefix),
                wanted: form.stored_shape(want.shape),
            });
        }
    }

    /// A stored tensor as a wanted one, with its scales.
    fn accept(
        &mut self,
        origin: &Origin,
        full: String,
        stored: &Stored,
        want: &TensorShape,
    ) -> Result<Source, Mistake> {
        self.used.insert(full.clone());
        let form = origin.form;
        let scaled =
            takes_scales(&stored.dtype) && form != Form::Transposed && want.shape.len() == 2;
        let scales = if scaled {
            self.table.scales_of(&full)
        } else {
            None
        };
        // Counted as the weight's even where the weight itself is refused
        let beside = scales.as_ref().and_then(|name| self.found.get(name));
        if let (Some(name), Some(_)) = (&scales, beside) {
            self.used.insert(name.clone());
        }
        if stored.dtype.is_quantised() && scales.is_none() {
            return Err(Mistake::Quantised {
                tensor: full,
                dtype: stored.dtype.clone(),
            });
        }
        if !stored.dtype.is_supported() && scales.is_none() {
            return Err(Mistake::Unsupported {
                tensor: full,
                dtype: stored.dtype.clone(),
            });
        }
        if !form.fits(&stored.shape, want.shape) {
            return Err(Mistake::Misshapen {
                tensor: full,
                found: stored.shape.clone(),
                wanted: form.stored_shape(want.shape),
            });
        }
        let scales = match scales {
            None => None,
            Some(name) => Some(scales_of(name, beside, stored)?),
        };
        Ok(Source {
            name: full,
            stored: stored.clone(),
            scales,
            form,
            shape: want.shape.to_vec(),
        })
    }

    /// Adds a mistake, once where several wanted tensors are parts of one.
    fn report(&mut self, mistake: Mistake) {
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }
}

/// The scales called `name` of the fp8 weight `weight`.
fn scales_of(name: String, stored: Option<&Stored>, weight: &Stored) -> Result<Scales, Mistake> {
    let Some(stored) = stored else {
        return Err(Mistake::Missing {
            tensor: name,
            wanted: usual_scales(&weight.shape),
        });
    };
    if !stored.dtype.is_of_scales() {
        return Err(Mistake::Unsupported {
            tensor: name,
            dtype: stored.dtype.clone(),
        });
    }
    Scales::of(stored, &weight.shape).ok_or_else(|| Mistake::Scales {
        tensor: name,
        found: stored.shape.clone(),
        weight: weight.shape.clone(),
    })
}

fn is_ignored(name: &str, table: &Table) -> bool {
    IGNORED.contains(&name) || table.ignored.iter().any(|end| name.ends_with(end))
}

/// The system, other than `naming`, that would call one of `wanted` so.
fn foreign_to(naming: Naming, name: &str, wanted: &[TensorShape]) -> Option<Naming> {
    Naming::ALL
        .into_iter()
        .find(|other| *other != naming && other.table().known(wanted).contains(name))
}

/// What is wrong with a tensor that the layer doesn't want.
fn left_over(prefix: &str, name: &str, stored: &Stored) -> Mistake {
    let tensor = format!("{prefix}{name}");
    let last = name.rsplit('.').next().unwrap_or(name);
    if SCALES.contains(&last) || stored.dtype.is_quantised() {
        Mistake::Quantised {
            tensor,
            dtype: stored.dtype.clone(),
        }
    } else {
        Mistake::Extra {
            tensor,
            found: stored.shape.clone(),
        }
    }
}
