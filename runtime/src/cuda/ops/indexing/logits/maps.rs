//! Queries and keys as the copy engine takes them: in lines of up to 128 bytes.

use bytemuck::Zeroable;

use super::super::super::super::driver::{Address, Axis, NumberType, Swizzle, TensorMap, Tiling};
use super::super::super::super::{Cuda, CudaDevice, CudaElement};
use super::super::super::facts::Window;
use super::KEYS;
use super::choice::Sizes;
use crate::backend::{Pages, Strided};
use crate::element::Scalar;
use crate::error::Result;

/// Most bytes of a line.
const LINE: usize = 128;

/// What is multiplied, by the numbers that `index_tiles.cuh` knows it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operands {
    /// Codes of e4m3, each key with a scale.
    Codes = 1,
    /// Numbers of bf16.
    Numbers = 2,
    /// Keys in codes by queries in bf16.
    Mixed = 3,
}

impl Operands {
    fn of_queries(self) -> NumberType {
        match self {
            Self::Codes => NumberType::E4m3,
            Self::Numbers | Self::Mixed => NumberType::Bf16,
        }
    }

    fn of_keys(self) -> NumberType {
        match self {
            Self::Codes | Self::Mixed => NumberType::E4m3,
            Self::Numbers => NumberType::Bf16,
        }
    }
}

/// Queries, their strides in elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queries {
    pub(super) at: Address,
    pub(super) rows: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
    pub(super) row_stride: usize,
    pub(super) head_stride: usize,
}

impl Queries {
    pub(super) fn of<T: CudaElement>(q: &Strided<'_, Cuda<T>, T>) -> Self {
        Self {
            at: q.buffer.place(q.offset),
            rows: q.rows,
            heads: q.heads,
            width: q.width,
            row_stride: q.row_stride,
            head_stride: q.head_stride,
        }
    }

    pub(super) fn window(&self, operands: Operands) -> Window {
        let bytes = operands.of_queries().bytes();
        let shape = [self.rows, self.heads, self.width];
        Window::at(self.at, shape, [self.row_stride, self.head_stride], bytes)
    }

    /// As many as a work has at a time.
    pub(super) fn map(&self, device: &CudaDevice, sizes: &Sizes) -> Result<TensorMap> {
        let rows = Rows {
            at: self.at,
            number: sizes.operands.of_queries(),
            width: self.width,
            axes: [
                [self.heads, self.head_stride, self.heads],
                [self.rows, self.row_stride, sizes.queries],
            ],
        };
        tiles_of(device, &rows, true)
    }
}

/// Keys, in pages or as rows, which are a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys {
    pub(super) operands: Operands,
    at: Address,
    width: usize,
    /// Elements from one key to the next.
    stride: usize,
    /// How many pages there are, keys of each, and bytes from one to the next.
    pages: usize,
    page: usize,
    page_bytes: usize,
    /// Where the first page's scales begin.
    scales: Address,
    /// Whether the page of a key is told.
    paged: bool,
}

/// What the copy engine is told of keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyMaps {
    pub(super) k: TensorMap,
    pub(super) scales: TensorMap,
    /// Keys of a page; 0 where they are rows.
    pub(super) page: usize,
    /// Keys that are brought at once.
    pub(super) at_once: usize,
}

impl Keys {
    pub(super) fn numbers<T: CudaElement, E: Scalar>(
        k: &Strided<'_, Cuda<T>, E>,
        pages: Option<&Pages>,
    ) -> Self {
        let page = pages.map_or(k.rows, Pages::page);
        Self {
            operands: Operands::Numbers,
            at: k.buffer.place(k.offset),
            width: k.width,
            stride: k.row_stride,
            pages: k.rows.checked_div(page).unwrap_or(0),
            page,
            page_bytes: page * k.row_stride * size_of::<E>(),
            scales: 0,
            paged: pages.is_some(),
        }
    }

    /// A page's codes, then its scales.
    pub(super) fn codes_in_pages(
        operands: Operands,
        at: Address,
        width: usize,
        [pages, page]: [usize; 2],
    ) -> Self {
        Self {
            operands,
            at,
            width,
            stride: width,
            pages,
            page,
            page_bytes: page * (width + size_of::<f32>()),
            scales: at + (page * width) as Address,
            paged: true,
        }
    }

    /// Pages of bf16.
    pub(super) fn numbers_in_pages(at: Address, width: usize, [pages, page]: [usize; 2]) -> Self {
        Self {
            operands: Operands::Numbers,
            page_bytes: page * width * NumberType::Bf16.bytes(),
            scales: 0,
            ..Self::codes_in_pages(Operands::Numbers, at, width, [pages, page])
        }
    }

    /// Rows of codes, or of bf16, which have no scales.
    pub(super) fn rows(
        operands: Operands,
        [at, scales]: [Address; 2],
        [rows, width, stride]: [usize; 3],
    ) -> Self {
        Self {
            operands,
            at,
            width,
            stride,
            pages: 1,
            page: rows,
            page_bytes: rows * stride * operands.of_keys().bytes(),
            scales,
            paged: false,
        }
    }

    pub(super) fn page(&self) -> Option<usize> {
        self.paged.then_some(self.page)
    }

    pub(super) fn window(&self) -> Window {
        let bytes = self.stride * self.operands.of_keys().bytes();
        let next_page = self.pages < 2 || self.page_bytes.is_multiple_of(16);
        Window {
            rows: self.pages * self.page,
            heads: 1,
            width: self.width,
            aligned: [self.at, self.scales, bytes as Address]
                .iter()
                .all(|place| place.is_multiple_of(16))
                && next_page,
        }
    }

    pub(super) fn maps(&self, device: &CudaDevice) -> Result<KeyMaps> {
        let number = self.operands.of_keys();
        // Those of a page of a size that makes no whole tiles all lie in one page
        let at_once = match self.paged && self.page.is_power_of_two() {
            true => self.page.min(KEYS),
            false => KEYS,
        };
        let rows = Rows {
            at: self.at,
            number,
            width: self.width,
            axes: [
                [self.page, self.stride, at_once],
                [self.pages, self.page_bytes / number.bytes(), 1],
            ],
        };
        let scales = match self.operands {
            Operands::Numbers => TensorMap::zeroed(),
            Operands::Codes | Operands::Mixed => self.scales_map(device, at_once)?,
        };
        Ok(KeyMaps {
            k: tiles_of(device, &rows, false)?,
            scales,
            page: self.page().unwrap_or(0),
            at_once,
        })
    }

    fn scales_map(&self, device: &CudaDevice, at_once: usize) -> Result<TensorMap> {
        let number = NumberType::F32;
        let next = self.page_bytes / number.bytes();
        device.tensor_map(&Tiling {
            at: self.scales,
            number,
            axes: &[
                Axis {
                    len: self.page,
                    stride: 1,
                    tile: at_once,
                },
                Axis::outer(number, self.pages, next, 1),
            ],
            swizzle: Swizzle::None,
        })
    }
}

/// How rows lie of which tiles are brought.
struct Rows {
    at: Address,
    number: NumberType,
    width: usize,
    /// What they are counted by: `[len, stride, tile]`.
    axes: [[usize; 3]; 2],
}

/// Rows in lines, all first ones of a tile before all second ones; with all `lines` at a time, or one.
fn tiles_of(device: &CudaDevice, rows: &Rows, all_lines: bool) -> Result<TensorMap> {
    let Rows {
        at, number, width, ..
    } = *rows;
    let columns = width.min(LINE / number.bytes());
    let axis = |len, stride, tile| Axis::outer(number, len, stride, tile);
    let [second, third] = rows.axes.map(|[len, stride, tile]| axis(len, stride, tile));
    let lines = width / columns;
    device.tensor_map(&Tiling {
        at,
        number,
        axes: &[
            Axis {
                len: columns,
                stride: 1,
                tile: columns,
            },
            second,
            third,
            axis(lines, columns, if all_lines { lines } else { 1 }),
        ],
        swizzle: match columns * number.bytes() {
            LINE => Swizzle::Rows128,
            _ => Swizzle::Rows64,
        },
    })
}
