//! Everything that is trained, as one thing: gradients, master weights, an optimiser's moments.

use mla_generated::{tiny_dense, tiny_sparse};
use mla_runtime::backend::Accum;
use mla_runtime::{Backend, ParameterAt, ParameterSet, Result, Weights};

use super::block::{BlockParameters, around_prefix, attention_prefix};
use super::ends;
use super::model::{BLOCKS, ENDS};

/// A number in the accumulation type for each parameter of the model.
#[derive(Debug)]
pub(crate) struct Parameters<B: Backend> {
    pub(crate) ends: ends::Parameters<B>,
    pub(crate) dense: BlockParameters<B, tiny_dense::Parameters<B>>,
    pub(crate) sparse: BlockParameters<B, tiny_sparse::Parameters<B>>,
}

impl<B: Backend> Parameters<B> {
    pub(crate) fn zeros(device: &B::Device) -> Result<Self> {
        Ok(Self {
            ends: ends::Parameters::zeros(device)?,
            dense: BlockParameters::zeros(device)?,
            sparse: BlockParameters::zeros(device)?,
        })
    }

    /// The sets that it consists of, and where each one's tensors lie in a checkpoint.
    pub(crate) fn sets(&self) -> Vec<(String, &dyn ParameterSet<B>)> {
        let [dense, sparse] = BLOCKS;
        vec![
            (ENDS.to_owned(), &self.ends),
            (attention_prefix(dense), &self.dense.attention),
            (around_prefix(dense), &self.dense.around),
            (attention_prefix(sparse), &self.sparse.attention),
            (around_prefix(sparse), &self.sparse.around),
        ]
    }

    /// As [`sets`](Self::sets), to be changed.
    pub(crate) fn sets_mut(&mut self) -> Vec<&mut dyn ParameterSet<B>> {
        vec![
            &mut self.ends,
            &mut self.dense.attention,
            &mut self.dense.around,
            &mut self.sparse.attention,
            &mut self.sparse.around,
        ]
    }

    /// Walks through all parameters side by side, as [`ParameterSet::update`] does through those of one set.
    pub(crate) fn update<const N: usize, const M: usize>(
        mut changed: [&mut Self; N],
        read: [&Self; M],
        mut work: impl FnMut(ParameterAt<'_>, [&mut [Accum<B>]; N], [&[Accum<B>]; M]),
    ) -> Result<()> {
        macro_rules! part {
            ($($field:ident).+) => {
                ParameterSet::update(
                    changed.each_mut().map(|all| &mut all.$($field).+),
                    read.map(|all| &all.$($field).+),
                    &mut work,
                )?;
            };
        }
        part!(ends);
        part!(dense.attention);
        part!(dense.around);
        part!(sparse.attention);
        part!(sparse.around);
        Ok(())
    }

    /// Reads all values from a checkpoint's tensors, whose names begin with `before`.
    pub(crate) fn load(&mut self, weights: &Weights, before: &str) -> Result<()> {
        let names: Vec<String> = self.sets().into_iter().map(|(name, _)| name).collect();
        for (set, name) in self.sets_mut().into_iter().zip(names) {
            set.load(weights, &format!("{before}{name}"))?;
        }
        Ok(())
    }

    pub(crate) fn fill_zero(&mut self) -> Result<()> {
        self.sets_mut()
            .into_iter()
            .try_for_each(|set| set.fill_zero())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> Result<usize> {
        let mut count = 0;
        Self::update([], [self], |at, [], [_]| count += at.layout.len())?;
        Ok(count)
    }

    /// The root of the sum of all squares.
    fn norm(&self) -> Result<f64> {
        let squares = self.sets().into_iter().map(|(_, set)| set.square_norm());
        Ok(squares.sum::<Result<f64>>()?.sqrt())
    }

    /// Scales gradients down so that their norm is at most `most`; what it was before.
    pub(crate) fn clip_norm(&mut self, most: f64) -> Result<f64> {
        let norm = self.norm()?;
        if norm > most {
            for set in self.sets_mut() {
                set.scale(most / norm)?;
            }
        }
        Ok(norm)
    }
}
