//! A tensor as a checkpoint stores it: bytes, little-endian, row-major.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use crate::Scalar;
#[cfg(doc)]
use crate::narrow::E4m3;
use crate::narrow::E8m0;

/// Element type of a stored tensor, by its safetensors name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
    /// 8-bit float with 4 bits of exponent, [`E4m3`].
    F8E4m3,
    /// A power of two, [`E8m0`].
    F8E8m0,
    /// Anything else: integers, truth values, other small floats.
    Other(String),
}

impl DType {
    /// The type that a safetensors header calls `name`.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "F64" => Self::F64,
            "F32" => Self::F32,
            "BF16" => Self::Bf16,
            "F16" => Self::F16,
            "F8_E4M3" => Self::F8E4m3,
            "F8_E8M0" => Self::F8E8m0,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Bits per element; `None` for a type that this reader has not heard of.
    pub(crate) fn bits(&self) -> Option<usize> {
        Some(match self {
            Self::F64 => 64,
            Self::F32 => 32,
            Self::Bf16 | Self::F16 => 16,
            Self::F8E4m3 | Self::F8E8m0 => 8,
            Self::Other(name) => match name.as_str() {
                "F4" => 4,
                "F6_E2M3" | "F6_E3M2" => 6,
                "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
                "I16" | "U16" => 16,
                "I32" | "U32" => 32,
                "I64" | "U64" | "C64" => 64,
                _ => return None,
            },
        })
    }

    /// Whether weights of this type can be converted to the element types of arithmetic, without scales.
    pub(crate) fn is_supported(&self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::Bf16 | Self::F16)
    }

    /// Whether block scales are kept in this type: floats, or powers of two, which some files call plain bytes.
    pub(crate) fn is_of_scales(&self) -> bool {
        self.is_supported()
            || *self == Self::F8E8m0
            || matches!(self, Self::Other(name) if name == "U8")
    }

    /// Whether a weight of this type needs scales to mean anything.
    pub(crate) fn is_quantised(&self) -> bool {
        matches!(self, Self::F8E4m3 | Self::F8E8m0)
            || matches!(self, Self::Other(name) if name.starts_with("F8") || name.starts_with("F6") || name.starts_with("F4")
            || matches!(name.as_str(), "I8" | "U8" | "I32"))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F8E4m3 => "F8_E4M3",
            Self::F8E8m0 => "F8_E8M0",
            Self::Other(name) => name,
        })
    }
}

/// Where a tensor's bytes live.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    /// A mapped file.
    Mapped(Arc<Mmap>),
    /// Memory.
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    /// All of them.
    pub(crate) fn all(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// One tensor of a checkpoint. Its range lies inside its bytes, and is as long as shape and element type say.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Bytes,
    pub(crate) range: Range<usize>,
}

impl Stored {
    /// A tensor in memory; `bytes` must be what `dtype` and `shape` say.
    pub(crate) fn owned(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self {
            dtype,
            shape,
            bytes: Bytes::Owned(Arc::new(bytes)),
            range,
        }
    }

    /// Its elements' bytes.
    pub(crate) fn data(&self) -> &[u8] {
        &self.bytes.all()[self.range.clone()]
    }

    /// Its elements, each converted on its own; `None` for an element type that isn't a float of 16 bits or more.
    pub(crate) fn floats<T: Scalar>(&self) -> Option<Vec<T>> {
        let data = self.data();
        Some(match self.dtype {
            DType::F64 => data
                .as_chunks::<8>()
                .0
                .iter()
                .map(|b| T::from_f64(f64::from_le_bytes(*b)))
                .collect(),
            DType::F32 => data
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| T::from_f32(f32::from_le_bytes(*b)))
                .collect(),
            DType::Bf16 => data
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| T::from_f32(bf16::from_le_bytes(*b).to_f32()))
                .collect(),
            DType::F16 => data
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| T::from_f32(f16::from_le_bytes(*b).to_f32()))
                .collect(),
            DType::F8E4m3 | DType::F8E8m0 | DType::Other(_) => return None,
        })
    }

    /// Its elements as block scales; `None` for a type that scales are not kept in.
    pub(crate) fn scales(&self) -> Option<Vec<f32>> {
        if self.dtype.is_supported() {
            return self.floats();
        }
        let powers = || self.data().iter().map(|&code| E8m0(code).decode());
        self.dtype.is_of_scales().then(|| powers().collect())
    }

    /// Rows `first .. first + count`, not copied; `None` where there are none such, or elements are smaller than a byte.
    pub(crate) fn rows(&self, first: usize, count: usize) -> Option<Self> {
        let (&rows, rest) = self.shape.split_first()?;
        let end = first.checked_add(count).filter(|&end| end <= rows)?;
        let elements = rest.iter().product::<usize>();
        let bytes = elements * (self.dtype.bits()? / 8);
        let start = self.range.start;
        Some(Self {
            dtype: self.dtype.clone(),
            shape: [&[count], rest].concat(),
            bytes: self.bytes.clone(),
            range: start + first * bytes..start + end * bytes,
        })
    }

    /// Its elements as whole numbers; `None` for other types.
    #[cfg(feature = "proof")]
    pub(crate) fn integers(&self) -> Option<Vec<i64>> {
        let data = self.data();
        let DType::Other(name) = &self.dtype else {
            return None;
        };
        Some(match name.as_str() {
            "I64" => data
                .as_chunks::<8>()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b))
                .collect(),
            "I32" => data
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| i64::from(i32::from_le_bytes(*b)))
                .collect(),
            "U8" | "BOOL" => data.iter().map(|&b| i64::from(b)).collect(),
            _ => return None,
        })
    }
}
