//! Results of many threads, each of which writes to places of its own in one buffer.

use std::marker::PhantomData;

/// A buffer that threads share.
pub(super) struct Ground<'a, A> {
    start: *mut A,
    len: usize,
    lent: PhantomData<&'a mut [A]>,
}

// SAFETY: the only access is `write`, whose callers promise that no two of them touch the same values at once; `A` may be sent.
unsafe impl<A: Send> Sync for Ground<'_, A> {}

impl<'a, A: Copy> Ground<'a, A> {
    pub(super) fn new(values: &'a mut [A]) -> Self {
        Self {
            start: values.as_mut_ptr(),
            len: values.len(),
            lent: PhantomData,
        }
    }

    /// Writes values from `first` on.
    ///
    /// # Safety
    /// No other thread writes to the same places while the buffer is shared.
    pub(super) unsafe fn write(&self, first: usize, values: &[A]) {
        assert!(
            first <= self.len && values.len() <= self.len - first,
            "a result beyond its buffer"
        );
        // SAFETY: first + values.len() ≤ self.len, as asserted, so the target lies inside the buffer, which is borrowed mutably for as
        // long as this lives; `values` is no part of it; nobody else touches the places, as the caller promises.
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), self.start.add(first), values.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn threads_write_side_by_side() {
        let mut values = vec![0_usize; 7 * 5];
        let ground = Ground::new(&mut values);
        (0..14).into_par_iter().for_each(|i| {
            // SAFETY: each `i` has another line of five or another half of it.
            unsafe { ground.write(i / 2 * 5 + i % 2 * 2, &[i, i + 100]) };
        });
        for (line, found) in values.chunks_exact(5).enumerate() {
            let (a, b) = (2 * line, 2 * line + 1);
            assert_eq!(found, [a, a + 100, b, b + 100, 0]);
        }
    }

    #[test]
    #[should_panic(expected = "beyond its buffer")]
    fn what_reaches_behind_the_last_value_is_caught() {
        let mut values = vec![0_u8; 10];
        // SAFETY: there is one thread.
        unsafe { Ground::new(&mut values).write(9, &[1, 2]) };
    }
}
