//! In which ways a case is run.

use mla_spec::{
    CacheKind, DType, Form, Indexer, KvSource, Layer, LongRopeSelect, Rope, RopeScaling,
};

use crate::args::{self, Verify};
use crate::driver::job::Mode;
use crate::driver::{CacheChoice, Variant};

/// One way of running a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) mode: Mode,
    pub(crate) form: Form,
    /// Cached runs: what is cached. Forward runs use the layer of the last cached one.
    pub(crate) cache: CacheChoice,
    dtype: DType,
}

impl Run {
    /// How the layer is built for it.
    pub(crate) fn variant(self) -> Variant {
        Variant {
            form: Some(self.form),
            cache: Some(self.cache),
            dtype: Some(self.dtype),
        }
    }

    /// Mode, form and cache, in words.
    pub(crate) fn cells(self) -> [String; 3] {
        let form = args::Form::from(self.form).word();
        [
            self.mode.word().to_owned(),
            form.to_owned(),
            self.cache_words(),
        ]
    }

    /// `latent, pages of 7`.
    fn cache_words(self) -> String {
        if self.mode == Mode::Forward {
            return "none".to_owned();
        }
        let kind = match self.cache.kind {
            Some(CacheKind::Naive) => "naive",
            _ => "latent",
        };
        match self.cache.page_size {
            Some(page) => format!("{kind}, pages of {page}"),
            None => format!("{kind}, contiguous"),
        }
    }
}

/// Every way that was asked for and that the layer has. The last one, whose tensors are kept, is cached and paged, and absorbed where both forms are run.
///
/// `cut` says whether the case itself cuts its tokens into calls: where frequencies follow a call's length, other calls give other numbers.
pub(crate) fn runs(args: &Verify, layer: &Layer, cut: bool) -> Vec<Run> {
    let mut ways = all(args);
    ways.retain(|run| has(layer, *run) && (cut || run.mode != Mode::Cached || !by_length(layer)));
    let pool = pool(layer);
    for run in &mut ways {
        // A page holds whole pools
        run.cache.page_size = run.cache.page_size.map(|page| page.next_multiple_of(pool));
    }
    ways
}

/// Whether rope's frequencies depend on the length of a call.
fn by_length(layer: &Layer) -> bool {
    let Rope::Rotary(rotary) = &layer.rope else {
        return false;
    };
    match &rotary.scaling {
        RopeScaling::Dynamic { .. } => true,
        RopeScaling::LongRope(long) => long.select == LongRopeSelect::ByLength,
        _ => false,
    }
}

/// Tokens per pool of an indexer; 1 without pools.
fn pool(layer: &Layer) -> u32 {
    match layer.indexer() {
        Some(Indexer::Lightning(indexer)) => indexer.pool.map_or(1, |pool| pool.size),
        _ => 1,
    }
}

/// Whether a layer can be built that way.
fn has(layer: &Layer, run: Run) -> bool {
    let cached = run.mode == Mode::Cached;
    let naive = run.cache.kind == Some(CacheKind::Naive);
    match layer.latent() {
        // Groups have one form, and cache keys and values
        None => run.form == Form::Mha && (!cached || naive),
        // Another layer's cache would have to be written first
        Some(latent) if latent.kv_source == KvSource::Other => !cached,
        // What is picked in a cache are latents
        Some(_) if layer.indexer().is_some() => !cached || (run.form == Form::Mqa && !naive),
        Some(_) => true,
    }
}

fn all(args: &Verify) -> Vec<Run> {
    let forms: Vec<Form> = match args.form {
        Some(form) => vec![form.into()],
        None => vec![Form::Mha, Form::Mqa],
    };
    let dtype = args.dtype.into();
    let page = (args.page > 0).then_some(args.page);
    let choice = |kind, page_size| CacheChoice {
        kind: Some(kind),
        page_size,
    };
    let last = choice(CacheKind::Latent, page);
    let mut runs = Vec::new();
    if args.mode != Some(args::Mode::Cached) {
        runs.extend(forms.iter().map(|&form| Run {
            mode: Mode::Forward,
            form,
            cache: last,
            dtype,
        }));
    }
    if args.mode == Some(args::Mode::Forward) {
        return runs;
    }
    for &form in &forms {
        // A naive cache holds no latents for the absorbed form to read
        let naive = (form == Form::Mha).then_some(choice(CacheKind::Naive, page));
        let contiguous = page.map(|_| choice(CacheKind::Latent, None));
        for cache in naive.into_iter().chain(contiguous).chain([last]) {
            runs.push(Run {
                mode: Mode::Cached,
                form,
                cache,
                dtype,
            });
        }
    }
    runs
}
