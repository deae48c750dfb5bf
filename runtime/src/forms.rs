//! Both forms of attention over one batch: which of its requests are attended to in the expanded form (MHA), and which in the absorbed
//! one (MQA).
//!
//! The expanded form reads queries where they stand among the batch's rows, and writes its result there: they are many, and copies of them
//! would be large. The queries of the absorbed form are few by comparison, and are picked. Where all requests take one form, nothing is
//! copied at all.

use crate::backend::{Backend, Place};
use crate::batch::Batch;
use crate::error::{Error, Result, expect_count};
use crate::heads::Heads;

/// A batch's requests by the form that is the cheaper for each.
#[derive(Debug)]
pub struct Forms {
    expanded: Option<Part>,
    absorbed: Option<Part>,
}

/// The requests of a batch that take one form.
#[derive(Debug)]
pub struct Part {
    batch: Batch,
    /// The batch's rows that are picked, padding included; `None` where all of them are there.
    rows: Option<Vec<usize>>,
}

impl Forms {
    /// The forms of a batch's requests. `mha_from` says from how many new tokens on MHA is the cheaper: pairs of tokens already cached,
    /// ascending from 0, and new tokens; a pair holds up to the next one.
    pub(crate) fn of(batch: &Batch, mha_from: &[(usize, usize)]) -> Result<Self> {
        if mha_from.first().is_none_or(|(cached, _)| *cached > 0)
            || !mha_from.is_sorted_by_key(|(cached, _)| *cached)
        {
            return Err(Error::BadConstant(
                "the lengths from which on MHA is the cheaper are not in order, from 0 on"
                    .to_owned(),
            ));
        }
        let expands = |cached: usize, new: usize| {
            let after = mha_from.partition_point(|(from, _)| *from <= cached);
            new >= mha_from[after - 1].1
        };
        let requests = || batch.requests.iter();
        let expanded: Vec<bool> = requests()
            .map(|request| request.live > 0 && expands(request.cached, request.live))
            .collect();
        let absorbed: Vec<bool> = requests()
            .zip(&expanded)
            .map(|(request, expanded)| request.live > 0 && !expanded)
            .collect();
        let some = |all: &[bool]| all.contains(&true);
        Ok(match (some(&expanded), some(&absorbed)) {
            (true, true) => Self {
                expanded: Some(Part {
                    batch: batch.silenced(&expanded),
                    rows: None,
                }),
                absorbed: Some(Part {
                    batch: batch.only(&absorbed)?,
                    rows: Some(batch.rows_of(&absorbed)),
                }),
            },
            (true, false) => Self {
                expanded: Some(Part::whole(batch)),
                absorbed: None,
            },
            (false, _) => Self {
                expanded: None,
                absorbed: Some(Part::whole(batch)),
            },
        })
    }

    /// Whether some requests take one form and some the other.
    pub fn are_mixed(&self) -> bool {
        self.expanded.is_some() && self.absorbed.is_some()
    }

    /// What `attend` makes of the requests in the expanded form, a row for each of the batch's tokens; `None` where there are no such requests.
    ///
    /// # Errors
    /// Those of `attend`.
    pub fn expanded<T>(&self, attend: impl FnOnce(&Part) -> Result<T>) -> Result<Option<T>> {
        self.expanded.as_ref().map(attend).transpose()
    }

    /// What `attend` makes of the requests in the absorbed form, a row for each of their tokens; `None` where there are no such requests.
    ///
    /// # Errors
    /// Those of `attend`.
    pub fn absorbed<T>(&self, attend: impl FnOnce(&Part) -> Result<T>) -> Result<Option<T>> {
        self.absorbed.as_ref().map(attend).transpose()
    }

    /// The results of both forms, a row for each of the batch's tokens: what [`absorbed`](Self::absorbed) gave is put into the rows that
    /// [`expanded`](Self::expanded) left at zeros.
    ///
    /// # Errors
    /// When a form's result is missing or too many, has another number of rows, or the device refuses.
    pub fn join<B: Backend, const H: usize, const D: usize>(
        &self,
        expanded: Option<Heads<B, H, D>>,
        absorbed: Option<Heads<B, H, D>>,
    ) -> Result<Heads<B, H, D>> {
        match (expanded, absorbed, self.absorbed.as_ref()) {
            (
                Some(mut all),
                Some(some),
                Some(Part {
                    rows: Some(rows), ..
                }),
            ) => {
                expect_count("rows in the absorbed form", some.rows(), rows.len())?;
                let slots: Vec<Option<usize>> = rows.iter().copied().map(Some).collect();
                if rows.last().is_some_and(|last| *last >= all.rows()) {
                    return Err(Error::BadBatch(
                        "the expanded form has fewer rows than the batch".to_owned(),
                    ));
                }
                let place = Place {
                    stride: H * D,
                    offset: 0,
                    head_stride: D,
                };
                let device = all.device.clone();
                B::scatter(
                    &device,
                    some.view().strided(),
                    &mut all.buffer,
                    &slots,
                    place,
                )?;
                Ok(all)
            }
            (Some(all), None, None) | (None, Some(all), Some(Part { rows: None, .. })) => Ok(all),
            _ => Err(Error::BadBatch(
                "the forms of a batch's requests are not those that were attended in".to_owned(),
            )),
        }
    }
}

impl Part {
    fn whole(batch: &Batch) -> Self {
        Self {
            batch: batch.clone(),
            rows: None,
        }
    }

    /// The batch as attention in this form sees it. Expanded: the same rows, those of other requests being nobody's. Absorbed: these
    /// requests alone.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The heads of these requests' tokens.
    ///
    /// # Errors
    /// When `x` has fewer rows than the batch, or the device refuses.
    pub fn heads<B: Backend, const H: usize, const D: usize>(
        &self,
        x: Heads<B, H, D>,
    ) -> Result<Heads<B, H, D>> {
        let Some(rows) = self.picked(x.rows())? else {
            return Ok(x);
        };
        let place = Place {
            stride: H * D,
            offset: 0,
            head_stride: D,
        };
        Ok(Heads {
            buffer: B::gather(&x.device, &x.buffer, rows, place, H * D)?,
            rows: rows.len(),
            device: x.device,
        })
    }

    /// The rows to be picked of so many; `None` where that is all of them.
    fn picked(&self, of: usize) -> Result<Option<&[usize]>> {
        let Some(rows) = self.rows.as_deref() else {
            return Ok(None);
        };
        match rows.last() {
            Some(last) if *last >= of => Err(Error::BadBatch(format!(
                "there are {of} rows to pick from, fewer than the batch has tokens"
            ))),
            _ => Ok(Some(rows)),
        }
    }
}

#[cfg(test)]
mod tests;
