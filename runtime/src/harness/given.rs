//! What an input gives a layer in place of the layers before it: keys that they picked, latents that they made.

use std::ops::Range;

use super::case::IoFile;
use super::error::DriveError;
use super::job::Rope;
use super::outputs::reorder;
use crate::{Backend, Extras, Handover, HostKv, HostTopK, Scalar};

/// What earlier layers hand over.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    /// For each row the picked positions in its own sequence.
    picked: Option<Vec<Vec<u32>>>,
    /// Latents and rotated keys, `[batch * seq, width]` each, the keys in the input's layout.
    latents: Option<Latents>,
}

#[derive(Debug, Clone)]
struct Latents {
    latent: Vec<f64>,
    latent_width: usize,
    k_rope: Vec<f64>,
    k_rope_width: usize,
}

impl Given {
    /// `prev_topk_indices` `[batch, seq, k]`, columns of the padded input or -1, and `shared_kv.*` `[batch, seq, width]`.
    pub(super) fn read(
        io: &IoFile<'_>,
        batch: usize,
        seq: usize,
        requests: &[Range<usize>],
    ) -> Result<Self, DriveError> {
        Ok(Self {
            picked: picked(io, batch, seq, requests)?,
            latents: latents(io, batch, seq)?,
        })
    }

    /// The arguments of a call whose rows are `rows` of the padded input; `None` for padding.
    pub(super) fn extras<B: Backend>(
        &self,
        device: &B::Device,
        rows: &[Option<usize>],
        rope: Rope,
    ) -> Extras<'static, B> {
        let mut extras = Extras::default();
        if let Some(picked) = &self.picked {
            let of = |row: &Option<usize>| row.and_then(|row| picked.get(row).cloned());
            extras.topk = Handover::of_host(HostTopK::<B> {
                device: device.clone(),
                lists: rows.iter().map(|row| of(row).unwrap_or_default()).collect(),
            });
        }
        if let Some(latents) = &self.latents {
            let cut = |values: &[f64], width: usize| -> Vec<f64> {
                let of = |row: &usize| values[row * width..(row + 1) * width].to_vec();
                rows.iter()
                    .flat_map(|row| row.as_ref().map_or_else(|| vec![0.0; width], of))
                    .collect()
            };
            let latent = cut(&latents.latent, latents.latent_width);
            let width = latents.k_rope_width;
            let mut k_rope = cut(&latents.k_rope, width);
            let back = Rope {
                found: rope.wanted,
                wanted: rope.found,
            };
            reorder(&mut k_rope, width, width, back);
            let values = |values: Vec<f64>| values.into_iter().map(B::Elem::from_f64).collect();
            extras.shared_kv = Handover::of_host(HostKv::<B> {
                device: device.clone(),
                latent: values(latent),
                k_rope: values(k_rope),
                rows: rows.len(),
            });
        }
        extras
    }
}

fn picked(
    io: &IoFile<'_>,
    batch: usize,
    seq: usize,
    requests: &[Range<usize>],
) -> Result<Option<Vec<Vec<u32>>>, DriveError> {
    const NAME: &str = "prev_topk_indices";
    let Some((shape, values)) = io.integers(NAME)? else {
        return Ok(None);
    };
    let &[b, s, width] = shape.as_slice() else {
        return Err(io.wrong(
            NAME,
            format!("has shape {shape:?}, wanted [{batch}, {seq}, k]"),
        ));
    };
    if [b, s] != [batch, seq] {
        return Err(io.wrong(
            NAME,
            format!("has shape {shape:?}, wanted [{batch}, {seq}, k]"),
        ));
    }
    let mut lists = vec![Vec::new(); batch * seq];
    for request in requests {
        let first = request.start % seq.max(1);
        for row in request.clone() {
            // Columns before the sequence are padding, and never seen
            lists[row] = values[row * width..(row + 1) * width]
                .iter()
                .filter_map(|column| usize::try_from(*column).ok()?.checked_sub(first))
                .filter(|position| *position < request.len())
                .map(|position| position as u32)
                .collect();
        }
    }
    Ok(Some(lists))
}

fn latents(io: &IoFile<'_>, batch: usize, seq: usize) -> Result<Option<Latents>, DriveError> {
    const LATENT: &str = "shared_kv.kv_latent";
    const KEY: &str = "shared_kv.k_pe";
    let read = |name: &str| -> Result<(Vec<f64>, usize), DriveError> {
        let stored = io.get(name)?;
        match (stored.shape.as_slice(), stored.floats()) {
            (&[b, s, width], Some(values)) if [b, s] == [batch, seq] => Ok((values, width)),
            (shape, _) => Err(io.wrong(
                name,
                format!("has shape {shape:?}, wanted [{batch}, {seq}, width] of floats"),
            )),
        }
    };
    if !io.shard.tensors.contains_key(LATENT) {
        return Ok(None);
    }
    let (latent, latent_width) = read(LATENT)?;
    let (k_rope, k_rope_width) = if io.shard.tensors.contains_key(KEY) {
        read(KEY)?
    } else {
        (Vec::new(), 0)
    };
    Ok(Some(Latents {
        latent,
        latent_width,
        k_rope,
        k_rope_width,
    }))
}
