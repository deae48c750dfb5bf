//! Where gradients go: lines of shared buffers, each written by one thread only.

use std::marker::PhantomData;

use crate::backend::{AttentionBackward, Landing, Landings};
use crate::cpu::keys::values_are_keys;
use crate::cpu::{Cpu, CpuElement};
use crate::error::{Error, Result};

/// A buffer of lines that threads share.
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

    /// Writes values to their place in a line.
    ///
    /// # Safety
    /// No other thread writes to the same places while the buffer is shared.
    pub(super) unsafe fn write(&self, line: usize, landing: Landing, values: &[A]) {
        assert!(
            landing.offset + values.len() <= landing.line
                && line < self.len.checked_div(landing.line).unwrap_or(0),
            "a gradient beyond its buffer"
        );
        // SAFETY: line · landing.line + offset + len ≤ self.len, as asserted, so the target lies inside the buffer, which is borrowed
        // mutably for as long as this lives; `values` is no part of it; nobody else touches the places, as the caller promises.
        unsafe {
            let to = self.start.add(line * landing.line + landing.offset);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }
}

/// Refuses heads of keys that do not go together, and landings that are not lines of their buffers, or where two gradients would meet.
pub(super) fn checked<T: CpuElement>(
    backward: &AttentionBackward<'_, Cpu<T>>,
    landings: &Landings,
    into: &[Vec<T::Accum>],
) -> Result<()> {
    let attention = &backward.attention;
    let heads = attention.k.heads;
    if attention.v.heads != heads || ![1, heads].contains(&attention.k_rope.heads) {
        return Err(Error::Device(
            "keys have other heads than values, or their second part neither as many nor one"
                .to_owned(),
        ));
    }
    let mut all = vec![
        (landings.q, attention.q.heads, &attention.q),
        (landings.q_rope, attention.q.heads, &attention.q_rope),
        (landings.k, attention.k.heads, &attention.k),
        (landings.k_rope, attention.k_rope.heads, &attention.k_rope),
    ];
    match landings.v {
        Some(landing) => all.push((landing, heads, &attention.v)),
        None if values_are_keys(attention) => {}
        None => {
            return Err(Error::Device(
                "values that are no keys have no place for their gradient".to_owned(),
            ));
        }
    }
    all.retain(|(.., window)| window.width > 0);
    for (i, (landing, heads, window)) in all.iter().enumerate() {
        let lines = window.rows * heads;
        let inside = into.get(landing.buffer).is_some_and(|buffer| {
            buffer.len() == lines * landing.line && landing.offset + window.width <= landing.line
        });
        let meets = all[..i].iter().any(|(other, other_heads, other_window)| {
            other.buffer == landing.buffer
                && ((other.line, other_heads) != (landing.line, heads)
                    || (other.offset < landing.offset + window.width
                        && landing.offset < other.offset + other_window.width))
        });
        if !inside || meets {
            return Err(Error::Device(
                "gradients of attention land beside their buffers or on each other".to_owned(),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn threads_write_lines_side_by_side() {
        let mut values = vec![0_usize; 7 * 5];
        let ground = Ground::new(&mut values);
        (0..14).into_par_iter().for_each(|i| {
            let landing = Landing {
                buffer: 0,
                line: 5,
                offset: i % 2 * 2,
            };
            // SAFETY: each `i` has another line or another offset, two values apart.
            unsafe { ground.write(i / 2, landing, &[i, i + 100]) };
        });
        for (line, found) in values.chunks_exact(5).enumerate() {
            let (a, b) = (2 * line, 2 * line + 1);
            assert_eq!(found, [a, a + 100, b, b + 100, 0]);
        }
    }

    #[test]
    #[should_panic(expected = "beyond its buffer")]
    fn a_line_behind_the_last_is_caught() {
        let mut values = vec![0_u8; 10];
        let landing = Landing {
            buffer: 0,
            line: 4,
            offset: 0,
        };
        // SAFETY: there is one thread.
        unsafe { Ground::new(&mut values).write(2, landing, &[1, 2]) };
    }
}
