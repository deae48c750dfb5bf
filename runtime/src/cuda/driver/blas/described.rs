//! What cuBLASLt is told of a product.

use cudarc::cublaslt::result;
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t,
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t,
    cublasLtMatrixLayoutAttribute_t, cudaDataType,
};

use super::super::NumberType;
use super::layouts::{Layout, Product};
use super::{OrRefused, WORKSPACE};
use crate::error::Result;

/// A product as the library has it.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) product: Descriptor,
    pub(super) left: MatrixLayout,
    pub(super) right: MatrixLayout,
    pub(super) out: MatrixLayout,
}

// SAFETY: what the pointers lead to is the library's, and is only read once it is made
unsafe impl Send for Described {}
// SAFETY: as above
unsafe impl Sync for Described {}

impl Described {
    pub(super) fn new(product: &Product) -> Result<Self> {
        Ok(Self {
            product: Descriptor::new(product)?,
            left: MatrixLayout::new(&product.left, product.factors, product.batch)?,
            right: MatrixLayout::new(&product.right, product.factors, product.batch)?,
            out: MatrixLayout::new(&product.out, product.sum, product.batch)?,
        })
    }
}

/// How cuBLASLt calls a type.
pub(super) fn data_type(number: NumberType) -> cudaDataType {
    match number {
        NumberType::E4m3 => cudaDataType::CUDA_R_8F_E4M3,
        NumberType::Bf16 => cudaDataType::CUDA_R_16BF,
        NumberType::F16 => cudaDataType::CUDA_R_16F,
        NumberType::F32 => cudaDataType::CUDA_R_32F,
        NumberType::F64 => cudaDataType::CUDA_R_64F,
    }
}

/// What a product's sums are held in, and the type of the factors that it is scaled by.
pub(super) fn sums_of(product: &Product) -> (cublasComputeType_t, NumberType) {
    // 32F is what it says: factors of f32 are not rounded to TF32
    if product.sum == NumberType::F64 {
        (cublasComputeType_t::CUBLAS_COMPUTE_64F, NumberType::F64)
    } else {
        (cublasComputeType_t::CUBLAS_COMPUTE_32F, NumberType::F32)
    }
}

/// What is computed.
#[derive(Debug)]
pub(super) struct Descriptor(pub(super) cublasLtMatmulDesc_t);

impl Descriptor {
    fn new(product: &Product) -> Result<Self> {
        use cublasLtMatmulDescAttributes_t::{
            CUBLASLT_MATMUL_DESC_TRANSA as LEFT, CUBLASLT_MATMUL_DESC_TRANSB as RIGHT,
        };
        let (sums, scales) = sums_of(product);
        let descriptor = Self(
            result::create_matmul_desc(sums, data_type(scales))
                .or_refused(|| "describing a product")?,
        );
        for (which, transposed) in [
            (LEFT, product.left_transposed),
            (RIGHT, product.right_transposed),
        ] {
            // `cublasOperation_t`, which the bindings lack: 0 is the matrix, 1 its transpose
            let operation = i32::from(transposed);
            // SAFETY: the attribute is such a number
            unsafe {
                result::set_matmul_desc_attribute(
                    descriptor.0,
                    which,
                    (&raw const operation).cast(),
                    size_of_val(&operation),
                )
            }
            .or_refused(|| "describing a product")?;
        }
        Ok(descriptor)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed only here
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// How a matrix lies in memory.
#[derive(Debug)]
pub(super) struct MatrixLayout(pub(super) cublasLtMatrixLayout_t);

impl MatrixLayout {
    fn new(layout: &Layout, number: NumberType, batch: i32) -> Result<Self> {
        use cublasLtMatrixLayoutAttribute_t::{
            CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT as BATCH,
            CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET as STRIDE,
        };
        let made = Self(
            result::create_matrix_layout(
                data_type(number),
                layout.rows,
                layout.columns,
                layout.leading,
            )
            .or_refused(|| "describing a matrix")?,
        );
        if batch > 1 {
            let stride = layout.batch_stride;
            // SAFETY: the attributes are an i32 and an i64
            unsafe {
                result::set_matrix_layout_attribute(made.0, BATCH, (&raw const batch).cast(), 4)
                    .and_then(|()| {
                        result::set_matrix_layout_attribute(
                            made.0,
                            STRIDE,
                            (&raw const stride).cast(),
                            8,
                        )
                    })
            }
            .or_refused(|| "describing a matrix")?;
        }
        Ok(made)
    }
}

impl Drop for MatrixLayout {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed only here
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// Which algorithms may be proposed.
pub(super) struct Preference(pub(super) cublasLtMatmulPreference_t);

impl Preference {
    /// Addresses are multiples of `aligned`, and sums that are made in parts are added as one of `reductions` does.
    pub(super) fn new(aligned: [u32; 3], reductions: u32) -> Result<Self> {
        use cublasLtMatmulPreferenceAttributes_t::{
            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as MOST_WORKSPACE,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES as LEFT,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES as RIGHT,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES as IN,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES as OUT,
            CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK as REDUCTIONS,
        };
        let preference =
            Self(result::create_matmul_pref().or_refused(|| "asking for an algorithm")?);
        let [left, right, out] = aligned;
        let workspace = WORKSPACE as u64;
        let mut told = [
            (LEFT, left),
            (RIGHT, right),
            (IN, out),
            (OUT, out),
            (REDUCTIONS, reductions),
        ]
        .iter()
        .try_for_each(|(which, number)| {
            // SAFETY: these attributes are a u32 each
            unsafe {
                result::set_matmul_pref_attribute(
                    preference.0,
                    *which,
                    (&raw const *number).cast(),
                    4,
                )
            }
        });
        if told.is_ok() {
            // SAFETY: this one is a u64
            told = unsafe {
                result::set_matmul_pref_attribute(
                    preference.0,
                    MOST_WORKSPACE,
                    (&raw const workspace).cast(),
                    8,
                )
            };
        }
        told.or_refused(|| "asking for an algorithm")?;
        Ok(preference)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed only here
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
