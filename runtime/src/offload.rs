//! Values that wait in the host's memory (features O-05): what training keeps of a forward pass and a device has no room for.

use std::fmt::Debug;

use crate::attended::PerHead;
use crate::backend::{Accum, Backend};
use crate::element::Scalar;
use crate::error::Result;
use crate::heads::Heads;
use crate::rotary::{RopeKey, RopeLayout};
use crate::rows::Rows;

/// The host's memory beside a device. Where the device computes in the host's memory, nothing moves.
pub trait HostMemory<B: Backend>: Debug {
    /// A buffer on the host.
    type Kept<S: Scalar>: Debug + Send + Sync;

    /// Moves a buffer to the host.
    ///
    /// # Errors
    /// When the device refuses, or the host has no room.
    fn put<S: Scalar>(device: &B::Device, buffer: B::Buffer<S>) -> Result<Self::Kept<S>>;

    /// Moves it back.
    ///
    /// # Errors
    /// When the device refuses, or has no room.
    fn take<S: Scalar>(device: &B::Device, kept: Self::Kept<S>) -> Result<B::Buffer<S>>;
}

/// A tensor that can wait in the host's memory.
pub trait Offload: Sized {
    #[doc(hidden)]
    type Hosted: Debug + Send + Sync;

    /// Moves it to the host.
    ///
    /// # Errors
    /// When the device refuses, or the host has no room.
    fn offload(self) -> Result<Offloaded<Self>>;

    #[doc(hidden)]
    fn restored(hosted: Self::Hosted) -> Result<Self>;
}

/// A tensor in the host's memory.
#[derive(Debug)]
pub struct Offloaded<T: Offload>(T::Hosted);

impl<T: Offload> Offloaded<T> {
    /// Moves a tensor to the host.
    ///
    /// # Errors
    /// When the device refuses, or the host has no room.
    pub fn of(tensor: T) -> Result<Self> {
        tensor.offload()
    }

    /// Moves it back to its device.
    ///
    /// # Errors
    /// When the device refuses, or has no room.
    pub fn restore(self) -> Result<T> {
        T::restored(self.0)
    }
}

/// A buffer of a tensor, the device that it goes back to, and its rows.
#[derive(Debug)]
pub struct Hosted<B: Backend, S: Scalar> {
    device: B::Device,
    kept: <B::Memory as HostMemory<B>>::Kept<S>,
    rows: usize,
}

impl<B: Backend, S: Scalar> Hosted<B, S> {
    fn of(device: B::Device, buffer: B::Buffer<S>, rows: usize) -> Result<Self> {
        Ok(Self {
            kept: B::Memory::put(&device, buffer)?,
            device,
            rows,
        })
    }

    fn buffer(self) -> Result<(B::Device, B::Buffer<S>, usize)> {
        let buffer = B::Memory::take(&self.device, self.kept)?;
        Ok((self.device, buffer, self.rows))
    }
}

impl<B: Backend, const W: usize> Offload for Rows<B, W> {
    type Hosted = Hosted<B, B::Elem>;

    fn offload(self) -> Result<Offloaded<Self>> {
        Hosted::of(self.device, self.buffer, self.rows).map(Offloaded)
    }

    fn restored(hosted: Self::Hosted) -> Result<Self> {
        let (device, buffer, rows) = hosted.buffer()?;
        Ok(Self {
            device,
            buffer,
            rows,
        })
    }
}

impl<B: Backend, const H: usize, const D: usize> Offload for Heads<B, H, D> {
    type Hosted = Hosted<B, B::Elem>;

    fn offload(self) -> Result<Offloaded<Self>> {
        Hosted::of(self.device, self.buffer, self.rows).map(Offloaded)
    }

    fn restored(hosted: Self::Hosted) -> Result<Self> {
        let (device, buffer, rows) = hosted.buffer()?;
        Ok(Self {
            device,
            buffer,
            rows,
        })
    }
}

impl<B: Backend, const H: usize> Offload for PerHead<B, H> {
    type Hosted = Hosted<B, Accum<B>>;

    fn offload(self) -> Result<Offloaded<Self>> {
        Hosted::of(self.device, self.buffer, self.rows).map(Offloaded)
    }

    fn restored(hosted: Self::Hosted) -> Result<Self> {
        let (device, buffer, rows) = hosted.buffer()?;
        Ok(Self {
            device,
            buffer,
            rows,
        })
    }
}

impl<B: Backend, L: RopeLayout, const R: usize> Offload for RopeKey<B, L, R> {
    type Hosted = Hosted<B, B::Elem>;

    fn offload(self) -> Result<Offloaded<Self>> {
        let Offloaded(hosted) = self.into_rows().offload()?;
        Ok(Offloaded(hosted))
    }

    fn restored(hosted: Self::Hosted) -> Result<Self> {
        Rows::restored(hosted).map(RopeKey::tagged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, CpuDevice, Half};

    #[test]
    fn what_comes_back_is_what_went() -> Result<()> {
        let device = CpuDevice::default();
        let values: Vec<f64> = (0..24).map(f64::from).collect();
        let rows = || Rows::<Cpu<f64>, 6>::from_vec(&device, values.clone());
        assert_eq!(rows()?.offload()?.restore()?.to_vec()?, values);
        let heads: Heads<Cpu<f64>, 2, 3> = rows()?.into_heads();
        assert_eq!(heads.offload()?.restore()?.to_vec()?, values);
        let per_head = rows()?.view().to_per_head()?;
        assert_eq!(per_head.offload()?.restore()?.to_vec()?, values);
        let key = RopeKey::<Cpu<f64>, Half, 6>::tagged(rows()?);
        let back = key.offload()?.restore()?;
        assert_eq!((back.rows(), back.to_vec()?), (4, values.clone()));
        Ok(())
    }
}
