//! Kernels that a generated layer brings along, as text and compiled ahead of time.

/// Kernels that a generated layer brings along: CUDA C++ for sizes of its own.
#[derive(Debug, Clone, Copy)]
pub struct KernelSource {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

/// A [`KernelSource`] that was compiled ahead of time, for one architecture and for the number types of a layer's values and of what else the
/// kernels read: there no compiler is needed.
#[derive(Debug, Clone, Copy)]
pub struct Cubin {
    pub(crate) name: &'static str,
    pub(crate) arch: &'static str,
    pub(crate) types: [&'static str; 2],
    pub(crate) bytes: &'static [u8],
}

impl Cubin {
    /// What NVIDIA's compiler made of the text of this name for an architecture, `sm_90a`, and number types, `["bf16", "bf16"]`.
    pub const fn new(
        name: &'static str,
        arch: &'static str,
        types: [&'static str; 2],
        bytes: &'static [u8],
    ) -> Self {
        Self {
            name,
            arch,
            types,
            bytes,
        }
    }
}

#[cfg(feature = "cuda")]
impl Cubin {
    /// Whether it was compiled for this architecture and these types.
    pub(crate) fn is_for(&self, arch: &str, types: [&str; 2]) -> bool {
        self.arch == arch && self.types == types
    }
}

impl KernelSource {
    /// Kernels of a name that says what they do and for which sizes, `norm_512`, and their text, which includes nothing.
    pub const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text }
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The text.
    pub const fn text(&self) -> &'static str {
        self.text
    }
}
