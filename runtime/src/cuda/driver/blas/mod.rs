//! Products of matrices by cuBLASLt.
//!
//! An algorithm is chosen once for every shape, and always the same: the table's, where it has a line for the shape on this GPU, otherwise
//! the first that the library proposes. None adds parts of a sum in an order that chance decides, and none rounds such parts to less
//! than what sums are held in. Where a row's product may not depend on the rows beside it, the algorithm is that for any number of rows, and
//! makes each sum in one.

mod algorithm;
mod described;
mod layouts;
mod table;
mod tuning;

use std::collections::HashMap;
use std::ffi::c_void;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{self, cublasLtHandle_t, cublasLtMatmulAlgo_t};
use cudarc::driver::result as driver;
use cudarc::driver::sys::CUstream;

use self::algorithm::{IN_ORDER, WHOLE, proposals, suits, sums_in_one};
use self::described::Described;
use self::layouts::Product;
use self::table::{Key, Table};
use super::gpu::{Machine, OrFail, alone};
use mla_nvrtc::libraries;

use super::{Address, Matmul, NumberType, Operand};
use crate::error::{Error, Result};

/// Memory for parts of sums.
const WORKSPACE: usize = 32 << 20;

/// No algorithm needs addresses to be multiples of more. Telling finer ones apart would give windows of one tensor different algorithms.
const ALIGNMENT: u64 = 16;

/// What algorithms for any number of rows are asked for with.
const USUAL_ROWS: usize = 128;

/// Numbers of rows that such an algorithm must be able to have.
const SOME_ROWS: [usize; 6] = [1, 2, 7, 64, 1000, 1 << 14];

/// The library, on one GPU.
#[derive(Debug)]
pub(crate) struct Blas {
    machine: Arc<Machine>,
    handle: cublasLtHandle_t,
    workspace: Address,
    /// The GPU's name, and the library's version as it counts.
    gpu: String,
    library: usize,
    /// Algorithms that were measured before.
    table: Option<Table>,
    /// Those, and what is measured now; `None`: nothing is.
    tuned: Mutex<Option<Table>>,
    /// Whether an algorithm may not depend on how many rows there are.
    batch_invariant: bool,
    /// `None`: the library can't do it.
    chosen: Mutex<HashMap<Shape, Option<Arc<Chosen>>>>,
    /// Algorithms for any number of rows, by the shape with the usual number. `None`: there is none.
    for_any_rows: Mutex<HashMap<Shape, Option<cublasLtMatmulAlgo_t>>>,
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
    /// Whether it has to be the algorithm for any number of rows.
    any_rows: bool,
}

/// An algorithm, and what the library is told of the matrices.
#[derive(Debug)]
struct Chosen {
    described: Described,
    algorithm: cublasLtMatmulAlgo_t,
}

impl Blas {
    /// The library on a GPU; `None` where it is not installed.
    ///
    /// # Errors
    /// It can't be used.
    pub(crate) fn open(machine: &Arc<Machine>, batch_invariant: bool) -> Result<Option<Self>> {
        if !present() {
            return Ok(None);
        }
        machine.enter()?;
        let gpu = machine.name()?;
        let _alone = alone();
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
            table: Table::of_gpu(&gpu),
            gpu,
            // SAFETY: the library is there
            library: unsafe { sys::cublasLtGetVersion() },
            tuned: Mutex::default(),
            batch_invariant,
            chosen: Mutex::default(),
            for_any_rows: Mutex::default(),
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
        let places = [left.at, right.at, matmul.c.at];
        let Chosen {
            described,
            algorithm,
        } = &*chosen;
        let accumulate = matmul.accumulate;
        // SAFETY: this function's contract
        unsafe { self.queue(&product, described, algorithm, places, accumulate, stream) }
            .map_err(|error| Error::Device(format!("{error} ({matmul:?})")))
    }

    /// Queues a product of what lies at these places: the left, the right factor and the product.
    ///
    /// # Safety
    /// As [`multiply`](Self::multiply), of matrices as they are described.
    unsafe fn queue(
        &self,
        product: &Product,
        described: &Described,
        algorithm: &cublasLtMatmulAlgo_t,
        [left, right, out]: [Address; 3],
        accumulate: bool,
        stream: CUstream,
    ) -> Result<()> {
        let (one, beta) = (1.0, if accumulate { 1.0 } else { 0.0 });
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
                described.product.0,
                alpha,
                beta,
                pointer(left),
                described.left.0,
                pointer(right),
                described.right.0,
                pointer(out),
                described.out.0,
                pointer(out),
                described.out.0,
                algorithm,
                pointer(self.workspace),
                WORKSPACE,
                stream.cast(),
            )
        }
        .or_refused(|| "multiplying")
    }

    /// The product, and the algorithm that is chosen for it.
    fn chosen(&self, matmul: &Matmul) -> Option<(Product, Arc<Chosen>)> {
        let shape = self.shape(matmul)?;
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = chosen
            .entry(shape)
            // What is refused now is refused always, so the reason is not worth keeping
            .or_insert_with(|| self.choose(&shape, matmul).ok().map(Arc::new));
        Some((shape.product, chosen.clone()?))
    }

    /// What an algorithm is chosen for; `None` where the library has none.
    fn shape(&self, matmul: &Matmul) -> Option<Shape> {
        // What is added to earlier gradients is a sum over rows
        let any_rows = self.batch_invariant && !matmul.accumulate;
        let product = if any_rows {
            let usual = Matmul {
                m: USUAL_ROWS,
                ..*matmul
            };
            Product::of(&usual)?.with_rows(matmul.m)?
        } else {
            Product::of(matmul)?
        };
        let [left, right] = product.factors_of(matmul);
        Some(Shape {
            product,
            aligned: [left, right, &matmul.c].map(|operand| aligned(operand, product.batch)),
            any_rows,
        })
    }

    fn choose(&self, shape: &Shape, matmul: &Matmul) -> Result<Chosen> {
        let described = Described::new(&shape.product)?;
        let algorithm = if shape.any_rows {
            self.for_any_rows(shape)
        } else if let Some(timed) = self.timed(shape, &described, matmul)? {
            Some(timed)
        } else if let Some(known) = self.known(shape, &described) {
            Some(known)
        } else {
            let proposed = proposals(self.handle, &described, shape.aligned, IN_ORDER)?;
            proposed.into_iter().next()
        };
        Ok(Chosen {
            described,
            algorithm: algorithm.ok_or_else(|| {
                Error::Device(format!("cuBLASLt has no algorithm for {:?}", shape.product))
            })?,
        })
    }

    /// The table's algorithm for a shape, if the library still has it.
    fn known(&self, shape: &Shape, described: &Described) -> Option<cublasLtMatmulAlgo_t> {
        let key = Key::of(&shape.product, shape.aligned);
        let attributes = self.table.as_ref()?.find(&key)?;
        let algorithm = attributes.algorithm(self.handle, &shape.product).ok()?;
        suits(self.handle, described, &algorithm).then_some(algorithm)
    }

    /// The algorithm of a shape with any number of rows: it sums in one, and can have few rows and many.
    fn for_any_rows(&self, shape: &Shape) -> Option<cublasLtMatmulAlgo_t> {
        let with_rows = |rows| shape.product.with_rows(rows);
        let usual = Shape {
            product: with_rows(USUAL_ROWS)?,
            ..*shape
        };
        let find = || {
            let some: Vec<Described> = SOME_ROWS
                .into_iter()
                .map(|rows| Described::new(&with_rows(rows)?).ok())
                .collect::<Option<_>>()?;
            let described = Described::new(&usual.product).ok()?;
            let known = self.known(&usual, &described).into_iter();
            let proposed = proposals(self.handle, &described, usual.aligned, WHOLE);
            known.chain(proposed.unwrap_or_default()).find(|algorithm| {
                sums_in_one(algorithm)
                    && some.iter().all(|some| suits(self.handle, some, algorithm))
            })
        };
        let mut known = self
            .for_any_rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known.entry(usual).or_insert_with(find)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let _ = self.machine.synchronize();
        let _alone = alone();
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
