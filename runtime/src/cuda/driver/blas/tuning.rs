//! Finding the fastest of cuBLASLt's proposals.

use std::sync::PoisonError;

use cudarc::cublaslt::sys::cublasLtMatmulAlgo_t;
use cudarc::driver::result as driver;

use super::super::Clock;
use super::super::gpu::GpuClock;
use super::algorithm::{Attributes, IN_ORDER, proposals, suits};
use super::described::Described;
use super::layouts::{Layout, Product};
use super::table::{Key, Table};
use super::{Address, Blas, Matmul, Shape};
use crate::error::Result;

/// Rounds that are not timed: clocks rise, and matrices come into the cache as far as they fit.
const WARM_UP: usize = 2;
/// Rounds that are timed.
const ROUNDS: usize = 11;
/// Products between two marks: a mark takes as long as a small product.
const REPEATS: usize = 4;

impl Blas {
    /// From now on, products of shapes that are met for the first time are timed.
    pub(crate) fn tune(&self) {
        let mut tuned = self.tuned.lock().unwrap_or_else(PoisonError::into_inner);
        // Another version's algorithms of these numbers may be others
        let known = self.table.clone();
        let known = known.filter(|table| table.library() == self.library);
        *tuned = Some(known.unwrap_or_else(|| Table::empty(&self.gpu, self.library)));
        drop(tuned);
        self.chosen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The table of what was timed so far, and of what was known before; `None` where nothing was to be timed.
    pub(crate) fn tuned(&self) -> Option<String> {
        let tuned = self.tuned.lock().unwrap_or_else(PoisonError::into_inner);
        tuned.as_ref().map(Table::to_string)
    }

    /// Times the proposals for a product, and notes the fastest; `None` where products are not timed, or this one can't be.
    ///
    /// # Errors
    /// There is no proposal, or the device refuses.
    pub(super) fn timed(
        &self,
        shape: &Shape,
        described: &Described,
        matmul: &Matmul,
    ) -> Result<Option<cublasLtMatmulAlgo_t>> {
        let mut tuned = self.tuned.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(table) = tuned.as_mut() else {
            return Ok(None);
        };
        let proposed = proposals(self.handle, described, shape.aligned, IN_ORDER)?;
        // What is timed is what a table brings back
        let algorithms = proposed
            .iter()
            .filter_map(Attributes::of)
            .filter_map(|attributes| attributes.algorithm(self.handle, &shape.product).ok())
            .filter(|algorithm| suits(self.handle, described, algorithm))
            .collect();
        let fastest = self.fastest(&shape.product, described, matmul, algorithms)?;
        if let Some(attributes) = fastest.as_ref().and_then(Attributes::of) {
            table.insert(Key::of(&shape.product, shape.aligned), attributes);
        }
        Ok(fastest)
    }

    /// The fastest algorithm for a product of these matrices; its results go elsewhere.
    fn fastest(
        &self,
        product: &Product,
        described: &Described,
        matmul: &Matmul,
        mut algorithms: Vec<cublasLtMatmulAlgo_t>,
    ) -> Result<Option<cublasLtMatmulAlgo_t>> {
        let Some(elsewhere) = Elsewhere::for_product(product) else {
            return Ok(None);
        };
        let clock = GpuClock::new(self.machine.clone());
        let [left, right] = product.factors_of(matmul);
        let places = [left.at, right.at, elsewhere.0];
        let queue = |algorithm: &cublasLtMatmulAlgo_t| {
            let stream = self.machine.stream();
            // SAFETY: the factors are the caller's, the result is as large as the product
            unsafe { self.queue(product, described, algorithm, places, false, stream) }
        };
        algorithms.retain(|algorithm| queue(algorithm).is_ok());
        let mut times = vec![Vec::new(); algorithms.len()];
        for _ in 0..WARM_UP + ROUNDS {
            for (times, algorithm) in times.iter_mut().zip(&algorithms) {
                let start = clock.mark()?;
                for _ in 0..REPEATS {
                    queue(algorithm)?;
                }
                times.push((start, clock.mark()?));
            }
        }
        self.machine.synchronize()?;
        let mut fastest = None;
        for (times, algorithm) in times.iter().zip(algorithms) {
            let mut taken = Vec::new();
            for &(from, to) in times.iter().skip(WARM_UP) {
                taken.push(clock.between(from, to)?);
            }
            taken.sort_by(f64::total_cmp);
            let median = taken[taken.len() / 2];
            if fastest.is_none_or(|(least, _)| median < least) {
                fastest = Some((median, algorithm));
            }
        }
        Ok(fastest.map(|(_, algorithm)| algorithm))
    }
}

/// Memory of the GPU for one result.
struct Elsewhere(Address);

impl Elsewhere {
    /// `None` where there is no room.
    fn for_product(product: &Product) -> Option<Self> {
        let bytes = spanned(&product.out, product.batch)?.checked_mul(product.sum.bytes())?;
        // SAFETY: nobody reads it before a product is there
        unsafe { driver::malloc_sync(bytes.max(1)) }.ok().map(Self)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // SAFETY: made above, and the driver waits for what still writes to it
        let _ = unsafe { driver::memory_free(self.0) };
    }
}

/// Numbers from the first of the first matrix to the last of the last.
fn spanned(layout: &Layout, batch: i32) -> Option<usize> {
    let steps = |count: u64, step: i64| {
        let count = usize::try_from(count.saturating_sub(1)).ok()?;
        count.checked_mul(usize::try_from(step).ok()?)
    };
    let matrices = steps(u64::try_from(batch).ok()?, layout.batch_stride)?;
    let columns = steps(layout.columns, layout.leading)?;
    matrices
        .checked_add(columns)?
        .checked_add(usize::try_from(layout.rows).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_spans_all_matrices_of_its_batch() {
        let layout = Layout {
            rows: 4,
            columns: 3,
            leading: 10,
            batch_stride: 4,
        };
        assert_eq!(spanned(&layout, 1), Some(24));
        assert_eq!(spanned(&layout, 2), Some(28));
    }
}
