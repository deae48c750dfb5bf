//! What the ops of a backward pass compute and move.

use super::work::{Counter, Group, Work};
use crate::plan::{Adjoint, Op};

impl Counter<'_> {
    /// What an adjoint does. A linear's two gradients each cost what its product does; attention's backward pass has five products where the
    /// forward pass has two: logits again, and gradients of probabilities, values, queries and keys.
    pub(super) fn backward(&self, op: &Op, adjoint: &Adjoint) -> Vec<(Group, Work)> {
        let bytes = self.moved(op);
        let (group, flops) = match adjoint {
            Adjoint::LinearInput { slot, dy, .. } | Adjoint::LinearWeight { slot, dy, .. } => {
                (self.group_of(slot), 2 * self.area(slot) * self.rows(*dy))
            }
            Adjoint::AbsorbQueries { dy, .. } | Adjoint::AbsorbQueriesWeight { dy, .. } => {
                (Group::Up, self.absorption("QK_NOPE_HEAD_DIM", *dy))
            }
            Adjoint::AbsorbValues { dy, .. } | Adjoint::AbsorbValuesWeight { dy, .. } => {
                (Group::Up, self.absorption("V_HEAD_DIM", *dy))
            }
            Adjoint::Expanded { over, .. } => {
                let width = 3 * self.size("QK_HEAD_DIM") + 2 * self.size("V_HEAD_DIM");
                (
                    Group::Attention,
                    self.pairs(width, over.selection.is_some()),
                )
            }
            Adjoint::Absorbed { over, .. } => {
                let width = 5 * self.size("KV_LORA_RANK") + 3 * self.size("QK_ROPE_HEAD_DIM");
                (
                    Group::Attention,
                    self.pairs(width, over.selection.is_some()),
                )
            }
            Adjoint::Groups { .. } => (
                Group::Attention,
                self.pairs(5 * self.size("HEAD_DIM"), false),
            ),
            Adjoint::IndexerLoss { selection, .. } => {
                let teacher = self.size("NUM_ATTENTION_HEADS") * self.size("QK_HEAD_DIM");
                // Scores, and gradients of queries and keys
                let student = 3 * self.size("INDEX_N_HEADS") * self.size("INDEX_HEAD_DIM");
                let pairs =
                    self.pairs(1, selection.is_some()) / self.size("NUM_ATTENTION_HEADS").max(1);
                (Group::Indexer, pairs * (teacher + student))
            }
            _ => (Group::Projections, 0),
        };
        vec![(group, Work { flops, bytes })]
    }
}
