//! The choice of the best scores over a caller's memory, as a step.

use super::Library;
use super::arguments::lists_of_blocks;
use super::calls::Device;
use super::fault::{Fault, guarded};
use super::pointers::{array, handed_out, handle, named};
use super::step::Step;
use super::tensor::{CTensor, Given};
use crate::backend::{Accum, Pages};
use crate::cuda::{Cuda, Scores, choose};
use crate::element::Scalar;

/// `mla_step_topk`.
///
/// # Safety
/// `mla.h`'s contract.
#[allow(clippy::too_many_arguments)] // What is given of rows, and of their lists of blocks
pub unsafe fn topk<L: Library>(
    device: *const Device<L>,
    scores: *const CTensor,
    ends: *const i64,
    blocks: *const u32,
    blocks_each: i64,
    page: i64,
    out: *const CTensor,
    step: *mut *const Step,
) -> i32 {
    guarded(|| {
        // SAFETY: this function's contract, here and below
        let device = &unsafe { handle("device", device)? }.device;
        // SAFETY: as above
        let (scores, out) = unsafe { (Given::read("scores", scores)?, Given::read("out", out)?) };
        scores.of_type(<Accum<Cuda<L::Elem>> as Scalar>::NAME)?;
        out.of_type("i32")?;
        out.without_gaps()?;
        let (lines, wanted) = (scores.rows()?, out.rows()?);
        if wanted.rows != lines.rows {
            return Err(out.refused(format!(
                "has shape {:?}, wanted a list for each of {} rows of scores",
                out.shape, lines.rows
            )));
        }
        // SAFETY: as above
        let ends = unsafe { array("ends", ends, lines.rows)? };
        let ends = ends.iter().enumerate().map(|(row, &end)| {
            usize::try_from(end)
                .ok()
                .filter(|&end| end <= lines.width)
                .ok_or_else(|| {
                    Fault::argument(
                        format!("ends[{row}]"),
                        format!("is {end}, wanted 0 to the {} scores of a row", lines.width),
                    )
                })
        });
        let ends: Vec<usize> = ends.collect::<Result<_, _>>()?;
        // SAFETY: as above
        let pages = unsafe { pages_of(blocks, [blocks_each, page], &ends)? };
        let record = || {
            Step::record(device, Vec::new(), || {
                // SAFETY: the caller's memory is there whenever the step runs, as `mla.h` demands
                let (scores, into) = unsafe { (scores.buffer(device), out.buffer(device)) };
                let given = Scores::<L::Elem> {
                    scores: &scores,
                    width: lines.row_stride,
                    ends: &ends,
                    pages: pages.as_ref(),
                };
                Ok(choose(device, &given, &into, wanted.width)?)
            })
        };
        // SAFETY: as above
        unsafe { handed_out("step", step, record) }
    })
}

/// Each row's list of blocks, which has to hold all that the row may choose; `None` where there are no lists.
///
/// # Safety
/// `mla.h`'s contract.
unsafe fn pages_of(
    blocks: *const u32,
    [each, page]: [i64; 2],
    ends: &[usize],
) -> Result<Option<Pages>, Fault> {
    if blocks.is_null() {
        return Ok(None);
    }
    let (each, page) = (
        named("blocks_each", "it", each)?,
        named("page", "it", page)?,
    );
    let room = each.saturating_mul(page);
    if let Some((row, end)) = ends.iter().enumerate().find(|&(_, &end)| end > room) {
        return Err(Fault::argument(
            format!("ends[{row}]"),
            format!("is {end}, wanted at most the {room} that {each} blocks of {page} hold"),
        ));
    }
    // SAFETY: this function's contract
    let lists = unsafe { lists_of_blocks(blocks, each, ends.len())? };
    let numbered = (i32::MAX as usize + 1) / page.max(1);
    for (row, (list, end)) in lists.iter().zip(ends).enumerate() {
        let used = &list[..end.div_ceil(page.max(1))];
        if let Some(block) = used.iter().find(|&&block| block as usize >= numbered) {
            return Err(Fault::argument(
                "blocks",
                format!("row {row} names block {block}, whose {page} slots have no numbers in i32"),
            ));
        }
    }
    let lists = lists.into_iter().map(<[u32]>::to_vec).collect();
    Ok(Some(Pages::new(page, lists)))
}
