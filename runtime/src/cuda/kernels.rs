//! The kernels that a device has: texts, compiled when they are first used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::CudaElement;
use super::driver::{Driver, Function, Module, Source};
use crate::backend::KernelSource;
use crate::element::Scalar;
use crate::error::{Error, Result};

/// Makes the text of kernels for sizes; `None` for a unit that it does not know.
pub(super) type Provider = dyn Fn(&str, &[usize]) -> Option<String> + Send + Sync;

/// One kernel for some sizes and number types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kernel<'a> {
    /// The text that it stands in.
    pub(super) unit: &'static str,
    /// What it does.
    pub(super) entry: &'static str,
    /// The sizes that the text is for.
    pub(super) dims: &'a [usize],
    /// The number type of a layer's values.
    pub(super) elem: &'static str,
    /// That of a cache's entries, or what else a kernel reads in a type of its own.
    pub(super) key: &'static str,
}

impl<'a> Kernel<'a> {
    /// One that knows no number type but a layer's own.
    pub(super) const fn of<T: CudaElement>(
        unit: &'static str,
        entry: &'static str,
        dims: &'a [usize],
    ) -> Self {
        Self {
            unit,
            entry,
            dims,
            elem: T::NAME,
            key: T::NAME,
        }
    }

    /// The same, with `S` as its second number type.
    pub(super) const fn reading<S: Scalar>(self) -> Self {
        Self {
            key: S::NAME,
            ..self
        }
    }
}

/// A text and the types it is compiled for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct UnitKey {
    unit: &'static str,
    dims: Vec<usize>,
    elem: &'static str,
    key: &'static str,
}

#[derive(Default)]
pub(super) struct Kernels {
    texts: RwLock<HashMap<String, Arc<str>>>,
    provider: RwLock<Option<Arc<Provider>>>,
    units: Mutex<HashMap<UnitKey, Unit>>,
}

struct Unit {
    module: Arc<dyn Module>,
    functions: HashMap<&'static str, Function>,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts = self.texts.read().unwrap_or_else(PoisonError::into_inner);
        write!(f, "{} texts of kernels", texts.len())
    }
}

impl Kernels {
    pub(super) fn add(&self, sources: &[KernelSource]) {
        let mut texts = self.texts.write().unwrap_or_else(PoisonError::into_inner);
        for source in sources {
            texts
                .entry(source.name.to_owned())
                .or_insert_with(|| source.text.into());
        }
    }

    pub(super) fn set_provider(&self, provider: Arc<Provider>) {
        let mut slot = self
            .provider
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Some(provider);
    }

    /// The kernel, compiled and loaded if it is not yet.
    pub(super) fn function(
        &self,
        driver: &dyn Driver,
        kernel: &Kernel<'_>,
        checked: bool,
    ) -> Result<Function> {
        let key = UnitKey {
            unit: kernel.unit,
            dims: kernel.dims.to_vec(),
            elem: kernel.elem,
            key: kernel.key,
        };
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        if !units.contains_key(&key) {
            let text = self.text(kernel)?;
            let module = driver.load(&Source {
                name: &format!("{}.cu", symbol(kernel.unit, kernel.dims)),
                text: &text,
                defines: &[("MLA_ELEM", kernel.elem), ("MLA_KEY", kernel.key)],
                checked,
            })?;
            let functions = HashMap::new();
            units.insert(key.clone(), Unit { module, functions });
        }
        let Some(unit) = units.get_mut(&key) else {
            return Err(Error::Device("a kernel was lost".to_owned()));
        };
        if let Some(function) = unit.functions.get(kernel.entry) {
            return Ok(function.clone());
        }
        let name = symbol(kernel.entry, kernel.dims);
        let function = Arc::clone(&unit.module).function(&name)?;
        unit.functions.insert(kernel.entry, function.clone());
        Ok(function)
    }

    fn text(&self, kernel: &Kernel<'_>) -> Result<Arc<str>> {
        let key = symbol(kernel.unit, kernel.dims);
        let texts = self.texts.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = texts.get(&key) {
            return Ok(Arc::clone(text));
        }
        drop(texts);
        let provider = self.provider.read().unwrap_or_else(PoisonError::into_inner);
        let made = provider
            .as_ref()
            .and_then(|provide| provide(kernel.unit, kernel.dims));
        made.map(Into::into).ok_or_else(|| {
            Error::Device(format!(
                "no kernels `{}` among those that layers brought along; generate the layer with `targets: [cpu, sm_90a]`",
                key
            ))
        })
    }
}

/// The name of a kernel, or of a text without its ending, for some sizes: `rms_norm_512`.
pub(super) fn symbol(name: &str, dims: &[usize]) -> String {
    dims.iter().fold(name.to_owned(), |mut name, size| {
        name.push('_');
        name.push_str(&size.to_string());
        name
    })
}
