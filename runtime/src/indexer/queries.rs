//! An indexer's queries on their way to scores, said before they are computed, so that a device may turn and round them in one pass.

use crate::backend::{Backend, QueryRounding, Rotation};
use crate::error::{Result, expect_count};
use crate::heads::Heads;

/// An indexer's queries, `[rows, HI, W]`, a part of which is to be rotated yet, and all of which are perhaps to be transformed.
#[derive(Debug)]
pub struct IndexQueries<'a, B: Backend, const HI: usize, const W: usize> {
    heads: &'a Heads<B, HI, W>,
    turn: Option<Turn<'a, B>>,
    transformed: bool,
}

#[derive(Debug)]
struct Turn<'a, B: Backend> {
    rotation: Rotation<'a, B>,
    /// Rows that there are angles for.
    angles: usize,
}

/// Queries that nothing is to be done to.
impl<'a, B: Backend, const HI: usize, const W: usize> From<&'a Heads<B, HI, W>>
    for IndexQueries<'a, B, HI, W>
{
    fn from(heads: &'a Heads<B, HI, W>) -> Self {
        Self {
            heads,
            turn: None,
            transformed: false,
        }
    }
}

impl<'a, B: Backend, const HI: usize, const W: usize> IndexQueries<'a, B, HI, W> {
    pub(crate) fn rotated(
        heads: &'a Heads<B, HI, W>,
        rotation: Rotation<'a, B>,
        angles: usize,
    ) -> Self {
        Self {
            turn: Some(Turn { rotation, angles }),
            ..Self::from(heads)
        }
    }

    /// The same, times the normalised Hadamard matrix.
    #[must_use]
    pub fn transformed(self) -> Self {
        const {
            assert!(
                W.is_power_of_two(),
                "the Hadamard matrix is of powers of two"
            )
        };
        Self {
            transformed: true,
            ..self
        }
    }

    /// As they are, before anything is done to them.
    pub(crate) fn given(&self) -> &'a Heads<B, HI, W> {
        self.heads
    }

    /// What is done to them, and that they are rounded then.
    pub(crate) fn rounding(&self) -> QueryRounding<'_, B> {
        QueryRounding {
            rotation: self.turn.as_ref().map(|turn| &turn.rotation),
            transformed: self.transformed,
        }
    }

    /// Refuses other rows than a batch has tokens.
    pub(crate) fn check(&self, tokens: usize) -> Result<()> {
        expect_count("rows of an indexer's queries", self.heads.rows(), tokens)?;
        match &self.turn {
            Some(turn) => expect_count("positions of index queries", turn.angles, tokens),
            None => Ok(()),
        }
    }

    /// Computes them, op by op.
    pub(crate) fn compute(&self) -> Result<Heads<B, HI, W>> {
        let mut heads = self.heads.copied()?;
        if let Some(Turn { rotation, .. }) = &self.turn {
            B::rotate(&heads.device, &mut heads.buffer, HI, W, rotation)?;
        }
        if self.transformed {
            B::hadamard(&heads.device, &mut heads.buffer, W)?;
        }
        Ok(heads)
    }
}
