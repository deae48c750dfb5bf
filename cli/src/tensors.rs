//! Tensors of safetensors files, as numbers to compare.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

/// A tensor, its values row-major.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct TensorFile {
    bytes: Vec<u8>,
}

impl TensorFile {
    /// Reads a file; the problem in words, without the file's name, where that fails.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        match SafeTensors::deserialize(&bytes) {
            Ok(_) => Ok(Self { bytes }),
            Err(error) => Err(format!("it is no safetensors file: {error}")),
        }
    }

    /// A tensor; `None` where there is none of that name, or it holds something that isn't compared.
    pub(crate) fn get(&self, name: &str) -> Option<Tensor> {
        let file = self.parsed()?;
        let view = file.tensor(name).ok()?;
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F64 => numbers(data, f64::from_le_bytes),
            Dtype::F32 => numbers(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
            Dtype::BF16 => numbers(data, |bytes: [u8; 2]| {
                f64::from(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
            }),
            Dtype::I64 => numbers(data, |bytes| i64::from_le_bytes(bytes) as f64),
            Dtype::I32 => numbers(data, |bytes| f64::from(i32::from_le_bytes(bytes))),
            Dtype::U8 | Dtype::BOOL => numbers(data, |[byte]: [u8; 1]| f64::from(byte)),
            _ => return None,
        };
        Some(Tensor {
            shape: view.shape().to_vec(),
            values,
        })
    }

    /// The names of all tensors, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let file = self.parsed();
        let names = file.iter().flat_map(SafeTensors::names);
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        names
    }

    fn parsed(&self) -> Option<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).ok()
    }
}

fn numbers<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.chunks_exact(N)
        .filter_map(|bytes| bytes.try_into().ok())
        .map(number)
        .collect()
}
