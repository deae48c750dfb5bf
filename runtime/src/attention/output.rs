//! What an attention gives: its output alone, or with what merging needs.

use crate::attended::Attended;
use crate::backend::{Attention, Backend, BytesAttention};
use crate::cache::{ByteFormat, EntryShape};
use crate::element::Scalar;
use crate::error::Result;
use crate::heads::Heads;

mod sealed {
    /// Keeps [`AttentionOutput`](super::AttentionOutput) to this crate's types: backends know how to give each.
    pub trait Sealed {}
}

/// What the functions that attend give, `[rows, H, V]`: whoever calls one says which by the type.
///
/// - [`Heads`]: the output, rounded to the element type. A device that can writes nothing else, so this is what to ask for where nobody needs
///   more.
/// - [`Attended`]: the output in the accumulation type, with its log-sum-exp and its largest logit, for sinks, for results over other keys, and
///   for training. [`Attended::into_out`] rounds it.
///
/// Where the same kernel gives both, they are the same numbers to the bit; so it is on the CPU. A device may have a faster kernel for the output
/// alone, whose sums it rounds elsewhere.
pub trait AttentionOutput<B: Backend, const H: usize, const V: usize>:
    sealed::Sealed + Sized
{
    /// The answer of a backend, over keys that are numbers. The softmax and all sizes have been checked.
    ///
    /// # Errors
    /// When the device refuses.
    #[doc(hidden)]
    fn attend<E: Scalar>(device: &B::Device, attention: &Attention<'_, B, E>) -> Result<Self>;

    /// The same over a cache of bytes; `None`, and nothing done, where the backend has no kernel for it.
    ///
    /// # Errors
    /// When the device refuses.
    #[doc(hidden)]
    fn attend_bytes<F: ByteFormat>(
        device: &B::Device,
        format: F,
        bytes: &B::Bytes,
        shape: EntryShape,
        attention: &BytesAttention<'_, B>,
    ) -> Result<Option<Self>>;

    /// What results over several sets of keys came to.
    ///
    /// # Errors
    /// When the device refuses.
    #[doc(hidden)]
    fn of(merged: Attended<B, H, V>) -> Result<Self>;
}

impl<B: Backend, const H: usize, const V: usize> sealed::Sealed for Attended<B, H, V> {}

impl<B: Backend, const H: usize, const V: usize> AttentionOutput<B, H, V> for Attended<B, H, V> {
    fn attend<E: Scalar>(device: &B::Device, attention: &Attention<'_, B, E>) -> Result<Self> {
        let parts = B::attend(device, attention)?;
        Ok(Self::new(device, attention.q.rows, parts))
    }

    fn attend_bytes<F: ByteFormat>(
        device: &B::Device,
        format: F,
        bytes: &B::Bytes,
        shape: EntryShape,
        attention: &BytesAttention<'_, B>,
    ) -> Result<Option<Self>> {
        let parts = B::attend_bytes(device, format, bytes, shape, attention)?;
        Ok(parts.map(|parts| Self::new(device, attention.q.rows, parts)))
    }

    fn of(merged: Self) -> Result<Self> {
        Ok(merged)
    }
}

impl<B: Backend, const H: usize, const V: usize> sealed::Sealed for Heads<B, H, V> {}

impl<B: Backend, const H: usize, const V: usize> AttentionOutput<B, H, V> for Heads<B, H, V> {
    fn attend<E: Scalar>(device: &B::Device, attention: &Attention<'_, B, E>) -> Result<Self> {
        Ok(Self {
            buffer: B::attend_rounded(device, attention)?,
            device: device.clone(),
            rows: attention.q.rows,
        })
    }

    fn attend_bytes<F: ByteFormat>(
        device: &B::Device,
        format: F,
        bytes: &B::Bytes,
        shape: EntryShape,
        attention: &BytesAttention<'_, B>,
    ) -> Result<Option<Self>> {
        let out = B::attend_bytes_rounded(device, format, bytes, shape, attention)?;
        Ok(out.map(|buffer| Self {
            buffer,
            device: device.clone(),
            rows: attention.q.rows,
        }))
    }

    fn of(merged: Attended<B, H, V>) -> Result<Self> {
        merged.into_out()
    }
}
