//! Logits of a caller's own queries and keys, as they are: queries in codes too.

use std::ops::Range;

use super::super::super::super::CudaDevice;
use super::super::super::super::driver::Address;
use super::super::super::facts::Reason;
use super::super::super::limits::Limit;
use super::choice::{self, Facts};
use super::maps::{Keys, Operands, Queries};
use super::works::{Dealt, Run};
use super::{Logits, Target};
use crate::error::Result;

/// Queries and where their logits go. Strides count elements.
#[derive(Debug, Clone)]
pub(crate) struct AskedLogits {
    /// Where `[rows, heads, width]` queries stand.
    pub(crate) q: Address,
    /// Whether they are codes of e4m3, as the keys then are; else they are in bf16, as the keys are.
    pub(crate) in_codes: bool,
    /// Rows, heads, width.
    pub(crate) shape: [usize; 3],
    /// From one row to the next, and from one head to the next.
    pub(crate) strides: [usize; 2],
    /// Where `[rows, heads]` of f32 stand.
    pub(crate) weights: Address,
    pub(crate) scale: f64,
    /// Which keys each row wants.
    pub(crate) wanted: Vec<Range<usize>>,
    /// Where `[rows, ..]` of f32 stand; key `k` goes to column `k`, and what is not wanted is not written.
    pub(crate) out: Address,
    pub(crate) out_stride: usize,
}

/// Where keys stand.
#[derive(Debug, Clone)]
pub(crate) enum GivenKeys<'a> {
    /// Rows, which all queries share, and where their scales stand, if they are codes.
    Rows {
        at: Address,
        scales: Address,
        rows: usize,
        stride: usize,
    },
    /// Pages, each of codes and behind them scales, or of numbers; a list for each request, of which each has as many queries.
    Pages {
        at: Address,
        pages: usize,
        page: usize,
        lists: &'a [&'a [u32]],
    },
}

impl AskedLogits {
    fn queries(&self) -> Queries {
        let [rows, heads, width] = self.shape;
        Queries {
            at: self.q,
            rows,
            heads,
            width,
            row_stride: self.strides[0],
            head_stride: self.strides[1],
        }
    }

    fn keys(&self, given: &GivenKeys<'_>) -> Keys {
        let width = self.shape[2];
        let operands = match self.in_codes {
            true => Operands::Codes,
            false => Operands::Numbers,
        };
        match *given {
            GivenKeys::Rows {
                at,
                scales,
                rows,
                stride,
            } => Keys::rows(operands, [at, scales], [rows, width, stride]),
            GivenKeys::Pages {
                at, pages, page, ..
            } if self.in_codes => Keys::codes_in_pages(operands, at, width, [pages, page]),
            GivenKeys::Pages {
                at, pages, page, ..
            } => Keys::numbers_in_pages(at, width, [pages, page]),
        }
    }
}

/// Queues the logits, where there is a kernel for them; otherwise says why there is none, and does nothing.
pub(crate) fn logits_of(
    device: &CudaDevice,
    asked: &AskedLogits,
    given: &GivenKeys<'_>,
) -> Result<Result<(), Reason>> {
    let (queries, keys) = (asked.queries(), asked.keys(given));
    let (lists, sharing): (&[&[u32]], usize) = match given {
        GivenKeys::Rows { .. } => (&[], queries.rows),
        GivenKeys::Pages { lists, .. } => (lists, queries.rows / lists.len().max(1)),
    };
    let longest = lists.iter().map(|list| list.len()).max().unwrap_or(0);
    let facts = Facts::of(device, &queries, &keys, [sharing, longest]);
    let sizes = match choice::sizes(device, &facts, asked.weights) {
        Ok(sizes) => sizes,
        Err(reason) => return Ok(Err(reason)),
    };
    let limits: Vec<Limit> = asked.wanted.iter().map(Limit::of).collect();
    let logits = Logits::new(
        device,
        sizes,
        &queries,
        &keys,
        &limits,
        (asked.weights, asked.scale),
    )?;
    let mut place = 0;
    let mut runs = Vec::new();
    for request in 0..lists.len().max(1) {
        let own = Run {
            row: request * sharing,
            out_row: request * sharing,
            count: sharing,
            place,
            column: 0,
        };
        runs.extend(own.cut(sizes.queries));
        place += lists.get(request).map_or(0, |list| list.len());
    }
    let dealt = Dealt::new(device, &sizes, &runs, runs.len(), |row| limits[row]);
    let table = device.upload(&lists.concat())?;
    let target = Target {
        table: table.at(),
        out: asked.out,
        width: asked.out_stride,
        pairs: asked.wanted.iter().map(ExactSizeIterator::len).sum(),
    };
    logits.launch_dealt(device, &dealt, &target).map(Ok)
}
