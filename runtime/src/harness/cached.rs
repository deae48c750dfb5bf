//! A case through `prefill` and `decode`.

use std::ops::Range;
use std::time::Instant;

use super::case::Case;
use super::error::DriveError;
use super::job::{Mode, Rope};
use super::outputs::Outputs;
use super::recorder::Recorder;
use super::report::{Cache, Call, Phase, Run};
use crate::proof::{Blocks, ProofBackend, Sample, Session};
use crate::{CacheFormat, Decode, KvCache, Prefill};

/// What feeding a case through a cache gives.
pub(super) struct Fed {
    pub(super) outputs: Outputs,
    pub(super) run: Run,
    pub(super) cache: Cache,
}

/// Feeds `case` in chunks of columns, through a cache of `E`, index keys of `I`, with shuffled blocks.
pub(super) fn cached<L: Prefill<B> + Decode<B>, B: ProofBackend, E: CacheFormat, I: CacheFormat>(
    layer: &L,
    case: &Case,
    chunks: Option<&[usize]>,
    rope: Rope,
    recording: bool,
) -> Result<Fed, DriveError> {
    let requests = case.session_requests();
    // NaN in what was not written would show in every output
    let blocks = Blocks {
        dice: Sample::short(0).dice(),
        spare: 1,
        fill: f64::NAN,
    };
    let mut session = Session::<L, B, E, I>::new(layer, &B::Device::default(), &requests, blocks)?;
    let mut outputs = Outputs::new(case, rope);
    let mut calls = Vec::new();
    for columns in columns(case, chunks)? {
        let rows = case.rows_in(&columns);
        let new: Vec<usize> = rows.iter().map(Range::len).collect();
        let tokens = new.iter().sum();
        if tokens == 0 {
            continue;
        }
        let phase = if columns.len() == 1 {
            Phase::Decode
        } else {
            Phase::Prefill
        };
        let rows: Vec<Option<usize>> = rows.into_iter().flatten().map(Some).collect();
        let mut extras = case.given.extras(&B::Device::default(), &rows, rope);
        let mut recorder = Recorder::new(recording);
        let mut seconds = 0.0;
        let out = session.step(&new, |layer, cache, batch, hidden| {
            let start = Instant::now();
            let out = match phase {
                Phase::Decode => {
                    layer.decode_erased(cache, batch, hidden, &mut extras, &mut recorder)
                }
                _ => layer.prefill_erased(cache, batch, hidden, &mut extras, &mut recorder),
            };
            seconds = start.elapsed().as_secs_f64();
            out
        })?;
        calls.push(Call {
            phase,
            tokens,
            seconds,
        });
        outputs.put("output", &[case.width], &rows, &out.concat());
        outputs.record(recorder.tensors, &rows)?;
    }
    for (i, rows) in case.requests.iter().enumerate() {
        if let Some((latent, k_rope)) = session.latent_rows(i)? {
            let cached = session.cached()[i];
            let rows: Vec<Option<usize>> = rows.clone().take(cached).map(Some).collect();
            outputs.put(
                "cache.kv_latent",
                &[latent.len() / cached.max(1)],
                &rows,
                &latent,
            );
            outputs.put(
                "cache.k_pe",
                &[k_rope.len() / cached.max(1)],
                &rows,
                &k_rope,
            );
        }
        if let Some(keys) = session.index_rows(i)? {
            let cached = session.cached()[i];
            let rows: Vec<Option<usize>> = rows.clone().take(cached).map(Some).collect();
            outputs.put(
                "cache.indexer_k",
                &[keys.len() / cached.max(1)],
                &rows,
                &keys,
            );
        }
    }
    let elements_per_token = L::Cache::<E, I>::ELEMENTS_PER_TOKEN;
    let cache = Cache {
        dtype: E::NAME.to_owned(),
        elements_per_token,
        bytes_per_token: L::Cache::<E, I>::bytes_per_token(),
        page_size: L::Cache::<E, I>::PAGE_SIZE,
    };
    Ok(Fed {
        outputs,
        run: Run {
            mode: Mode::Cached,
            calls,
        },
        cache,
    })
}

/// The columns of each call: as asked for, else as the case says, else all but two and then one at a time.
fn columns(case: &Case, chunks: Option<&[usize]>) -> Result<Vec<Range<usize>>, DriveError> {
    let chunks = match chunks.or(case.chunks.as_deref()) {
        Some(chunks) => chunks.to_vec(),
        None if case.seq < 3 => vec![1; case.seq],
        None => vec![case.seq - 2, 1, 1],
    };
    let total = chunks
        .iter()
        .try_fold(0usize, |total, &chunk| total.checked_add(chunk));
    if total != Some(case.seq) || chunks.contains(&0) {
        return Err(DriveError::Job(format!(
            "chunks {chunks:?} do not cut {} columns: wanted lengths of at least 1 that add up to it",
            case.seq
        )));
    }
    let mut start = 0;
    Ok(chunks
        .into_iter()
        .map(|chunk| {
            start += chunk;
            start - chunk..start
        })
        .collect())
}
