//! Norms, rotations and what caches keep, in one pass over rows.

use bytemuck::{Pod, Zeroable};

use super::super::driver::Address;
use super::super::kernels::Kernel;
use super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::args::{THREADS, Turn, Window, bytes};
use super::bytes::Places;
use super::entries::signed;
use crate::backend::{Prologue, PrologueParts};
use crate::cache::{ByteLayout, CacheFormat, CodedMemory, Coding, Entries, EntryShape};
use crate::element::Scalar;
use crate::error::Result;
use crate::prologue::NormedRows;

const UNIT: &str = "prologue";

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Normed {
    x: Window,
    gamma: Address,
    beta: Address,
    eps: f64,
}

impl Normed {
    fn of<T: CudaElement>(rows: &NormedRows<'_, Cuda<T>>) -> Self {
        Self {
            x: (&rows.x).into(),
            gamma: rows.gamma.at(),
            beta: rows.beta.map_or(0, CudaBuffer::at),
            eps: rows.eps,
        }
    }
}

/// `Store` of `stores.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Store {
    memory: Address,
    places: Places,
    scale: f64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Args {
    queries: Normed,
    latent: Normed,
    key: Normed,
    rope: Window,
    rope_turn: Turn,
    key_turn: Turn,
    entries: Store,
    keys: Store,
    queries_out: Address,
    latent_out: Address,
    rope_out: Address,
    transformed: i64,
}

/// How a cache stores rows, and where it is.
struct Kept {
    /// `StoreKind` of `stores.cuh`.
    kind: usize,
    /// The number type of a plain cache.
    numbers: Option<&'static str>,
    /// Bytes of an entry.
    bytes: usize,
    memory: Address,
    shape: EntryShape,
    /// Where the bytes of codes stand.
    layout: Option<ByteLayout>,
    /// Of formats that have one for the whole cache.
    scale: f64,
}

impl Kept {
    /// `None` where there is no memory to speak of.
    fn of<T: CudaElement, F: CacheFormat>(entries: &Entries<Cuda<T>, F>) -> Option<Self> {
        let (store, shape) = entries.memory();
        if let Some(numbers) = F::plain::<Cuda<T>>(store) {
            return Some(Self {
                kind: 0,
                numbers: Some(<F::Element as Scalar>::NAME),
                bytes: shape.width() * size_of::<F::Element>(),
                memory: numbers.at(),
                shape,
                layout: None,
                scale: 1.0,
            });
        }
        let CodedMemory {
            coding,
            layout,
            bytes: memory,
        } = F::coded::<Cuda<T>>(entries)?;
        let (kind, scale) = match coding {
            Coding::FlatE4m3 { k_scale } => (1, k_scale),
            Coding::FlatE5m2 { k_scale } => (2, k_scale),
            Coding::DsMla { power_of_two } => (3 + usize::from(power_of_two), 1.0),
            Coding::Model1 => (5, 1.0),
            Coding::Mxfp8 => (6, 1.0),
            Coding::IndexFp8 { power_of_two } => (7 + usize::from(power_of_two), 1.0),
            Coding::IndexMxfp4 => (9, 1.0),
        };
        Some(Self {
            kind,
            numbers: None,
            bytes: layout.data + layout.scales,
            memory: memory.at(),
            shape,
            layout: Some(layout),
            scale: f64::from(scale),
        })
    }

    /// As the kernel is told.
    fn store(&self, slots: &CudaBuffer<i64>) -> Store {
        Store {
            memory: self.memory,
            places: match self.layout {
                None => Places::of_numbers(slots, self.shape, self.bytes),
                Some(layout) => Places::new(slots, self.shape, layout),
            },
            scale: self.scale,
        }
    }
}

/// The one number type of those that are stored; `None` where there are two. Where nothing is stored as a number, a layer's own.
fn number_type<T: CudaElement>(kept: &[&Kept]) -> Option<&'static str> {
    let mut numbers = kept.iter().filter_map(|kept| kept.numbers);
    let first = numbers.next().unwrap_or(T::NAME);
    numbers.all(|other| other == first).then_some(first)
}

/// `None` where the layer has brought along no kernel for these widths and caches, or they are of two number types.
pub(super) fn prologue<T: CudaElement, F: CacheFormat, I: CacheFormat>(
    device: &CudaDevice,
    asked: &Prologue<'_, Cuda<T>, F, I>,
) -> Result<Option<PrologueParts<Cuda<T>>>> {
    let (rows, latent, rope) = (asked.slots.len(), asked.latent.x.width, asked.rope.width);
    let key = asked.key.as_ref().map_or(0, |key| key.rows.x.width);
    let queries = asked.queries.map_or(0, |queries| queries.x.width);
    if rope == 0 || rope.max(key) > 2 * THREADS {
        return Ok(None);
    }
    let Some(entries) = Kept::of(asked.entries) else {
        return Ok(None);
    };
    let keys = match &asked.key {
        None => None,
        Some(key) => match Kept::of(key.entries) {
            None => return Ok(None),
            keys => keys,
        },
    };
    let kept: Vec<&Kept> = [&entries].into_iter().chain(&keys).collect();
    let Some(numbers) = number_type::<T>(&kept) else {
        return Ok(None);
    };
    let key_kind = keys.as_ref().map_or(0, |keys| keys.kind);
    let dims = [queries, latent, rope, entries.kind, key, key_kind];
    if !device.shared.kernels.has(UNIT, &dims) {
        return Ok(None);
    }
    let slots = device.upload(&signed(asked.slots))?;
    let room = |width: usize| device.room::<T>(rows * width);
    let queries_out = asked.queries.map(|_| room(queries)).transpose()?;
    let parts = if asked.keeps {
        Some([room(latent)?, room(rope)?])
    } else {
        None
    };
    let args = Args {
        queries: asked.queries.map_or_else(Zeroable::zeroed, Normed::of),
        latent: Normed::of(asked.latent),
        key: asked
            .key
            .as_ref()
            .map_or_else(Zeroable::zeroed, |key| Normed::of(key.rows)),
        rope: (&asked.rope).into(),
        rope_turn: Turn::of(asked.rotation),
        key_turn: asked
            .key
            .as_ref()
            .map_or_else(Zeroable::zeroed, |key| Turn::of(key.rotation)),
        entries: entries.store(&slots),
        keys: keys
            .as_ref()
            .map_or_else(Zeroable::zeroed, |keys| keys.store(&slots)),
        queries_out: queries_out.as_ref().map_or(0, CudaBuffer::at),
        latent_out: parts.as_ref().map_or(0, |[latent, _]| latent.at()),
        rope_out: parts.as_ref().map_or(0, |[_, rope]| rope.at()),
        transformed: asked
            .key
            .as_ref()
            .map_or(0, |key| i64::from(key.transformed)),
    };
    let read = bytes(&asked.latent.x)
        + bytes(&asked.rope)
        + asked.queries.map_or(0, |queries| 2 * bytes(&queries.x))
        + asked.key.as_ref().map_or(0, |key| bytes(&key.rows.x));
    let written = rows * kept.iter().map(|kept| kept.bytes).sum::<usize>()
        + parts.iter().flatten().map(CudaBuffer::bytes).sum::<usize>();
    let kernel = Kernel {
        unit: UNIT,
        entry: UNIT,
        dims: &dims,
        elem: T::NAME,
        key: numbers,
    };
    let blocks = 1 + usize::from(queries > 0) + usize::from(key > 0);
    device.launch(
        &kernel,
        [rows, blocks, 1],
        Work::moving(read + written),
        &args,
    )?;
    Ok(Some(PrologueParts {
        queries: queries_out,
        entries: parts,
    }))
}
