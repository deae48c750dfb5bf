//! Products of matrices by cuBLASLt.
//!
//! An algorithm is chosen once for every shape, and always the same: the first that the library proposes. Of those it proposes none adds
//! parts of a sum in an order that chance decides, and none rounds such parts to less than what sums are held in.

mod layouts;

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t,
    cublasLtReductionScheme_t, cublasStatus_t, cudaDataType,
};
use cudarc::driver::result as driver;
use cudarc::driver::sys::CUstream;

use self::layouts::{Layout, Product};
use super::gpu::{Machine, OrFail};
use mla_nvrtc::libraries;

use super::{Address, Matmul, NumberType, Operand};
use crate::error::{Error, Result};

/// Memory for parts of sums.
const WORKSPACE: usize = 32 << 20;

/// No algorithm needs addresses to be multiples of more. Telling finer ones apart would give windows of one tensor different algorithms.
const ALIGNMENT: u64 = 16;

/// How many algorithms are asked for; the first that can be used is taken.
const PROPOSALS: usize = 8;

/// The library, on one GPU.
#[derive(Debug)]
pub(crate) struct Blas {
    machine: Arc<Machine>,
    handle: cublasLtHandle_t,
    workspace: Address,
    /// `None`: the library can't do it.
    chosen: Mutex<HashMap<Shape, Option<Arc<Chosen>>>>,
    /// Held while a product is queued.
    queueing: Mutex<()>,
}

// SAFETY: the library's functions may be called from any thread, also with one handle; the workspace is used by one stream
unsafe impl Send for Blas {}
// SAFETY: as above
unsafe impl Sync for Blas {}

/// What an algorithm is chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    product: Product,
    /// What the addresses of the left, the right factor and the product are multiples of.
    aligned: [u32; 3],
}

impl Blas {
    /// The library on a GPU; `None` where it is not installed.
    ///
    /// # Errors
    /// It can't be used.
    pub(crate) fn open(machine: &Arc<Machine>) -> Result<Option<Self>> {
        if !present() {
            return Ok(None);
        }
        machine.enter()?;
        let handle = result::create_handle().or_refused(|| "starting")?;
        // SAFETY: nobody reads it before the library has written it
        let workspace = unsafe { driver::malloc_sync(WORKSPACE) };
        let workspace = workspace
            .or_fail(|| format!("allocating {WORKSPACE} bytes on the GPU"))
            .inspect_err(|_| {
                // SAFETY: made above, and nobody else has it
                let _ = unsafe { result::destroy_handle(handle) };
            })?;
        Ok(Some(Self {
            machine: machine.clone(),
            handle,
            workspace,
            chosen: Mutex::default(),
            queueing: Mutex::default(),
        }))
    }

    /// What to say where the library would be needed and is not installed.
    pub(crate) fn missing() -> Error {
        Error::Device(
            "no cuBLASLt: install it with `pip install nvidia-cublas`, or with the CUDA toolkit"
                .into(),
        )
    }

    /// Whether it multiplies these matrices.
    pub(crate) fn multiplies(&self, matmul: &Matmul) -> bool {
        self.chosen(matmul).is_some()
    }

    /// Queues a product.
    ///
    /// # Errors
    /// The library can't do it, or the device refuses.
    ///
    /// # Safety
    /// The matrices lie in memory of the GPU, whose context is the thread's, and so is `stream`. At any time only one stream's products run.
    pub(crate) unsafe fn multiply(&self, matmul: &Matmul, stream: CUstream) -> Result<()> {
        let (product, chosen) = self
            .chosen(matmul)
            .ok_or_else(|| Error::Device(format!("cuBLASLt does not multiply {matmul:?}")))?;
        let [left, right] = product.factors_of(matmul);
        let (one, beta) = (1.0, if matmul.accumulate { 1.0 } else { 0.0 });
        let (one_single, beta_single) = (one as f32, beta as f32);
        let (alpha, beta): (*const c_void, *const c_void) = if product.sum == NumberType::F64 {
            ((&raw const one).cast(), (&raw const beta).cast())
        } else {
            (
                (&raw const one_single).cast(),
                (&raw const beta_single).cast(),
            )
        };
        // A product may be several kernels that hand on the workspace: another thread's come before or after them
        let _turn = self.queueing.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the layouts are those of these matrices; the factors' scales are read before this returns
        unsafe {
            result::matmul(
                self.handle,
                chosen.descriptor.0,
                alpha,
                beta,
                pointer(left.at),
                chosen.left.0,
                pointer(right.at),
                chosen.right.0,
                pointer(matmul.c.at),
                chosen.out.0,
                pointer(matmul.c.at),
                chosen.out.0,
                &chosen.algorithm,
                pointer(self.workspace),
                WORKSPACE,
                stream.cast(),
            )
        }
        .or_refused(|| format!("multiplying {matmul:?}"))
    }

    /// The product, and the algorithm that is chosen for it.
    fn chosen(&self, matmul: &Matmul) -> Option<(Product, Arc<Chosen>)> {
        let product = Product::of(matmul)?;
        let [left, right] = product.factors_of(matmul);
        let shape = Shape {
            product,
            aligned: [left, right, &matmul.c].map(|operand| aligned(operand, product.batch)),
        };
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = chosen
            .entry(shape)
            // What is refused now is refused always, so the reason is not worth keeping
            .or_insert_with(|| Chosen::new(self.handle, &shape).ok().map(Arc::new));
        Some((product, chosen.clone()?))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let _ = self.machine.synchronize();
        // SAFETY: nothing runs any more, and both were made in `open` and are given back only here
        unsafe {
            let _ = driver::memory_free(self.workspace);
            let _ = result::destroy_handle(self.handle);
        }
    }
}

/// Whether the library is installed.
fn present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    *PRESENT.get_or_init(|| {
        // `cudarc` finds by its name what is open already. It is opened once for good, since that takes a while
        let opened = libraries::folders().iter().any(|folder| {
            libraries::named(folder, "libcublasLt.so")
                .iter()
                .any(|path| libraries::preload(path))
        });
        if !opened {
            libraries::preload(Path::new("libcublasLt.so.13"));
        }
        // SAFETY: it opens the library, whose loading needs no care
        unsafe { sys::is_culib_present() }
    })
}

/// What an operand's address, and that of every other matrix of its batch, is a multiple of.
fn aligned(operand: &Operand, batch: i32) -> u32 {
    let step = if batch > 1 {
        operand.batch_stride.wrapping_mul(operand.number.bytes()) as u64
    } else {
        0
    };
    // The lowest bit that is set in any of them
    let all = operand.at | step | ALIGNMENT;
    1 << all.trailing_zeros()
}

/// An address as C has it.
fn pointer(at: Address) -> *mut c_void {
    std::ptr::without_provenance_mut(at as usize)
}

/// How cuBLASLt calls a type.
fn data_type(number: NumberType) -> cudaDataType {
    match number {
        NumberType::E4m3 => cudaDataType::CUDA_R_8F_E4M3,
        NumberType::Bf16 => cudaDataType::CUDA_R_16BF,
        NumberType::F16 => cudaDataType::CUDA_R_16F,
        NumberType::F32 => cudaDataType::CUDA_R_32F,
        NumberType::F64 => cudaDataType::CUDA_R_64F,
    }
}

/// An algorithm, and what it is told of the matrices.
#[derive(Debug)]
struct Chosen {
    descriptor: Descriptor,
    left: MatrixLayout,
    right: MatrixLayout,
    out: MatrixLayout,
    algorithm: cublasLtMatmulAlgo_t,
}

// SAFETY: what the pointers lead to is the library's, and is only read once it is made
unsafe impl Send for Chosen {}
// SAFETY: as above
unsafe impl Sync for Chosen {}

impl Chosen {
    fn new(handle: cublasLtHandle_t, shape: &Shape) -> Result<Self> {
        let product = &shape.product;
        let descriptor = Descriptor::new(product)?;
        let left = MatrixLayout::new(&product.left, product.factors, product.batch)?;
        let right = MatrixLayout::new(&product.right, product.factors, product.batch)?;
        let out = MatrixLayout::new(&product.out, product.sum, product.batch)?;
        let preference = Preference::new(shape.aligned)?;
        let mut proposals =
            [const { MaybeUninit::<cublasLtMatmulHeuristicResult_t>::uninit() }; PROPOSALS];
        let mut count = 0;
        // SAFETY: all of them are alive, and there is room for as many proposals as are asked for
        unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle,
                descriptor.0,
                left.0,
                right.0,
                out.0,
                out.0,
                preference.0,
                PROPOSALS as i32,
                proposals.as_mut_ptr().cast(),
                &mut count,
            )
        }
        .result()
        .or_refused(|| "choosing an algorithm")?;
        let algorithm = proposals
            .iter()
            .take(usize::try_from(count).unwrap_or(0))
            // SAFETY: the library has written as many as it says
            .map(|proposal| unsafe { proposal.assume_init_ref() })
            .find(|proposal| {
                proposal.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS
                    && proposal.workspaceSize <= WORKSPACE
            })
            .map(|proposal| proposal.algo)
            .ok_or_else(|| Error::Device(format!("cuBLASLt has no algorithm for {product:?}")))?;
        Ok(Self {
            descriptor,
            left,
            right,
            out,
            algorithm,
        })
    }
}

/// What is computed.
#[derive(Debug)]
struct Descriptor(cublasLtMatmulDesc_t);

impl Descriptor {
    fn new(product: &Product) -> Result<Self> {
        use cublasLtMatmulDescAttributes_t::{
            CUBLASLT_MATMUL_DESC_TRANSA as LEFT, CUBLASLT_MATMUL_DESC_TRANSB as RIGHT,
        };
        // 32F is what it says: factors of f32 are not rounded to TF32
        let (sums, scales) = if product.sum == NumberType::F64 {
            (cublasComputeType_t::CUBLAS_COMPUTE_64F, NumberType::F64)
        } else {
            (cublasComputeType_t::CUBLAS_COMPUTE_32F, NumberType::F32)
        };
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
struct MatrixLayout(cublasLtMatrixLayout_t);

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
struct Preference(cublasLtMatmulPreference_t);

impl Preference {
    fn new(aligned: [u32; 3]) -> Result<Self> {
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
        // A sum may be made in parts, if these are held as wide as sums are, side by side, and added in one order
        let reductions = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
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

/// Errors of cuBLASLt as ours.
trait OrRefused<T> {
    /// Says what was being done.
    fn or_refused<D: std::fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> OrRefused<T> for std::result::Result<T, CublasError> {
    fn or_refused<D: std::fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Error::Device(format!("cuBLASLt: {} failed: {error}", what())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_matrix_of_a_batch_decides_alignment() {
        let operand = |at, batch_stride| Operand {
            at,
            number: NumberType::Bf16,
            row_stride: 1,
            column_stride: 8,
            batch_stride,
        };
        assert_eq!(aligned(&operand(1 << 20, 3), 1), 16);
        assert_eq!(aligned(&operand(1 << 20, 3), 2), 2);
        assert_eq!(aligned(&operand(1 << 20, 64), 2), 16);
        assert_eq!(aligned(&operand((1 << 20) + 8, 64), 2), 8);
    }
}
