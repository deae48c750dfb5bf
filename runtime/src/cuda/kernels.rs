//! The kernels that a device has: texts, compiled when they are first used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::CudaElement;
use super::driver::{Driver, Function, Module, Source};
use crate::backend::{Cubin, KernelSource};
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

/// The number types that a text is compiled for.
type Types = [&'static str; 2];

/// Where a unit for some types is looked up, without its sizes.
type Family = (&'static str, Types);

#[derive(Default)]
pub(super) struct Kernels {
    texts: RwLock<HashMap<String, Arc<str>>>,
    cubins: RwLock<HashMap<String, Vec<Cubin>>>,
    provider: RwLock<Option<Arc<Provider>>>,
    units: RwLock<HashMap<Family, Vec<Arc<Unit>>>>,
}

/// A text that is compiled for some types, once it is asked for.
struct Unit {
    dims: Vec<usize>,
    /// Held while it is compiled: others are compiled meanwhile.
    module: Mutex<Option<Arc<dyn Module>>>,
    functions: RwLock<Vec<(&'static str, Function)>>,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} texts of kernels", read(&self.texts).len())
    }
}

impl Kernels {
    pub(super) fn add(&self, sources: &[KernelSource], cubins: &[Cubin]) {
        let mut texts = write(&self.texts);
        for source in sources {
            texts
                .entry(source.name.to_owned())
                .or_insert_with(|| source.text.into());
        }
        let mut known = write(&self.cubins);
        for cubin in cubins {
            let known = known.entry(cubin.name.to_owned()).or_default();
            if !known
                .iter()
                .any(|known| known.is_for(cubin.arch, cubin.types))
            {
                known.push(*cubin);
            }
        }
    }

    pub(super) fn set_provider(&self, provider: Arc<Provider>) {
        *write(&self.provider) = Some(provider);
    }

    /// The kernel, compiled and loaded if it is not yet.
    pub(super) fn function(
        &self,
        driver: &dyn Driver,
        kernel: &Kernel<'_>,
        checked: bool,
    ) -> Result<Function> {
        let unit = self.unit(kernel);
        let known = read(&unit.functions)
            .iter()
            .find(|(entry, _)| *entry == kernel.entry)
            .map(|(_, function)| function.clone());
        if let Some(function) = known {
            return Ok(function);
        }
        let mut slot = unit.module.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match &*slot {
            Some(module) => Arc::clone(module),
            None => Arc::clone(slot.insert(self.load(driver, kernel, checked)?)),
        };
        drop(slot);
        let function = module.function(&symbol(kernel.entry, kernel.dims))?;
        write(&unit.functions).push((kernel.entry, function.clone()));
        Ok(function)
    }

    /// The unit that a kernel stands in.
    fn unit(&self, kernel: &Kernel<'_>) -> Arc<Unit> {
        let family = (kernel.unit, [kernel.elem, kernel.key]);
        let of_size = |units: &Vec<Arc<Unit>>| {
            let found = units.iter().find(|unit| unit.dims == kernel.dims);
            found.map(Arc::clone)
        };
        if let Some(unit) = read(&self.units).get(&family).and_then(of_size) {
            return unit;
        }
        let mut units = write(&self.units);
        let units = units.entry(family).or_default();
        of_size(units).unwrap_or_else(|| {
            units.push(Arc::new(Unit {
                dims: kernel.dims.to_vec(),
                module: Mutex::default(),
                functions: RwLock::default(),
            }));
            Arc::clone(&units[units.len() - 1])
        })
    }

    /// Loads the kernel's unit: what was compiled ahead of time for this device, otherwise what the compiler makes of its text.
    fn load(
        &self,
        driver: &dyn Driver,
        kernel: &Kernel<'_>,
        checked: bool,
    ) -> Result<Arc<dyn Module>> {
        let name = symbol(kernel.unit, kernel.dims);
        let types = [kernel.elem, kernel.key];
        // What checks indices is never compiled ahead of time
        let cubin = read(&self.cubins).get(&name).and_then(|cubins| {
            let fits = |cubin: &&Cubin| cubin.is_for(&driver.arch(), types);
            cubins.iter().find(fits).filter(|_| !checked).copied()
        });
        match cubin {
            Some(cubin) => driver.load_compiled(&format!("{name}.cubin"), cubin.bytes),
            None => {
                let text = self.text(kernel.unit, kernel.dims).ok_or_else(|| {
                    Error::Device(format!(
                        "no kernels `{name}` among those that layers brought along; generate the layer with `targets: [cpu, sm_90a]`"
                    ))
                })?;
                driver.load(&Source {
                    name: &format!("{name}.cu"),
                    text: &text,
                    defines: &[("MLA_ELEM", kernel.elem), ("MLA_KEY", kernel.key)],
                    checked,
                })
            }
        }
    }

    /// Whether there is a text of a unit for these sizes.
    pub(super) fn has(&self, unit: &str, dims: &[usize]) -> bool {
        self.text(unit, dims).is_some()
    }

    fn text(&self, unit: &str, dims: &[usize]) -> Option<Arc<str>> {
        if let Some(text) = read(&self.texts).get(&symbol(unit, dims)) {
            return Some(Arc::clone(text));
        }
        let provider = read(&self.provider);
        provider.as_ref()?(unit, dims).map(Into::into)
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// The name of a kernel, or of a text without its ending, for some sizes: `rms_norm_512`.
pub(super) fn symbol(name: &str, dims: &[usize]) -> String {
    dims.iter().fold(name.to_owned(), |mut name, size| {
        name.push('_');
        name.push_str(&size.to_string());
        name
    })
}
