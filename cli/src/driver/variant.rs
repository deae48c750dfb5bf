//! One way of building a layer: what `--form`, `--page` and `--dtype` choose.

use mla_spec::{
    Activation, Build, CacheDType, CacheKind, Checked, DType, Form, FormChoice, KvSource, Phase,
    RopeLayout, Store,
};

use super::job::Layout;

/// How a layer is built, whatever its spec's `build` section says; `None` leaves that as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) form: Option<Form>,
    pub(crate) cache: Option<CacheChoice>,
    /// Arithmetic and cache.
    pub(crate) dtype: Option<DType>,
}

/// What is cached, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheChoice {
    /// `None`: the spec's.
    pub(crate) kind: Option<CacheKind>,
    /// `None`: contiguous.
    pub(crate) page_size: Option<u32>,
}

impl Variant {
    /// The layer with every phase that it can have, built this way. Inputs with padding need a mask that allows it.
    pub(crate) fn of(self, checked: &Checked, padded: bool) -> Checked {
        let mut checked = checked.clone();
        let build = &mut checked.build;
        build.phases = vec![Phase::Forward, Phase::Prefill, Phase::Decode];
        if let Some(form) = self.form {
            build.form = FormChoice::Forced(form);
        }
        if let Some(dtype) = self.dtype {
            compute_in(dtype, build);
        }
        if let Some(cache) = self.cache {
            build.cache.kind = cache.kind.unwrap_or(build.cache.kind);
            build.cache.page_size = cache.page_size;
        }
        let layer = &mut checked.layer;
        layer.mask.padding |= padded;
        if !layer.mask.is_causal() {
            // A query that sees later keys can't be answered before they are cached
            checked.build.phases = vec![Phase::Forward];
        }
        checked
    }
}

/// Chooses what a layer computes in, and with it what it caches.
pub(crate) fn compute_in(dtype: DType, build: &mut Build) {
    build.dtype = dtype;
    build.cache.store = Store::Plain(match dtype {
        DType::F32 => CacheDType::F32,
        DType::Bf16 => CacheDType::Bf16,
        DType::F64 => CacheDType::F64,
    });
}

/// How a layer that is trained is built, whatever its spec's `build` section says; `None` leaves that as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Training {
    pub(crate) form: Option<Form>,
    pub(crate) dtype: Option<DType>,
    /// What the backward pass computes again.
    pub(crate) recompute: Option<Vec<Activation>>,
}

impl Training {
    /// The layer with the phase `train` alone, built this way. Inputs with padding need a mask that allows it.
    pub(crate) fn of(&self, checked: &Checked, padded: bool) -> Checked {
        let mut checked = checked.clone();
        checked.build = checked.build.for_training();
        let build = &mut checked.build;
        if let Some(form) = self.form {
            build.form = FormChoice::Forced(form);
        }
        if let Some(dtype) = self.dtype {
            build.dtype = dtype;
        }
        if let Some(recompute) = &self.recompute {
            build.recompute.clone_from(recompute);
            build.offload.retain(|part| !recompute.contains(part));
        }
        checked.layer.mask.padding |= padded;
        checked
    }
}

/// Widths of the latents and rotated keys that a layer hands to later ones, if it does.
pub(crate) fn hands_on(checked: &Checked) -> Option<[usize; 2]> {
    let latent = checked.layer.latent()?;
    let shared = latent.kv_source == KvSource::Own { shared: true };
    let dims = &latent.dims;
    shared.then_some([dims.kv_lora_rank as usize, dims.qk_rope_head_dim as usize])
}

/// Order of the rotated elements in a layer's queries, keys and cache.
pub(crate) fn rope_layout(checked: &Checked) -> Layout {
    match mla_codegen::plan::program(checked)
        .rotary
        .map(|table| table.output)
    {
        Some(RopeLayout::Interleaved) => Layout::Interleaved,
        Some(RopeLayout::Half) => Layout::Half,
        None => Layout::None,
    }
}
