//! What every op reads and defines, in one place, so that passes need not know each op.

use super::{Op, ValueId};

/// What an op does with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The value was defined before.
    Reads,
    /// The value is this op's result.
    Defines,
}

impl Op {
    /// Visits the op's values, those it reads first; `visit` may rename them.
    pub fn visit_values(&mut self, mut visit: impl FnMut(Role, &mut ValueId)) {
        let (reads, defines): (Vec<&mut ValueId>, Option<&mut ValueId>) = match self {
            Op::CheckBatch => (vec![], None),
            Op::Hidden { out }
            | Op::MaskSegments { out }
            | Op::BatchSegments { out }
            | Op::Angles { out } => (vec![], Some(out)),
            Op::Linear { x, out, .. }
            | Op::Norm { x, out, .. }
            | Op::Columns { x, out, .. }
            | Op::IntoHeads { x, out, .. }
            | Op::HeadPart { x, out, .. }
            | Op::UnrotatedKey { x, out, .. }
            | Op::AbsorbQueries { q_nope: x, out, .. }
            | Op::AbsorbValues { z: x, out, .. }
            | Op::AttendNaiveCache { q: x, out }
            | Op::AttendedOut { x, out }
            | Op::IntoRows { x, out, .. } => (vec![x], Some(out)),
            Op::RotateHeads { x, angles, out } | Op::RotateKey { x, angles, out } => {
                (vec![x, angles], Some(out))
            }
            Op::AttendExpanded {
                q,
                kv,
                k_rope,
                segments,
                out,
            } => (vec![q, kv, k_rope, segments], Some(out)),
            Op::AttendAbsorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                segments,
                out,
            } => (vec![q_latent, q_rope, latent, k_rope, segments], Some(out)),
            Op::MergeContext { q, into, out, .. } => (vec![q, into], Some(out)),
            Op::WriteLatent { latent, k_rope } => (vec![latent, k_rope], None),
            Op::WriteNaive { kv, k_rope } => (vec![kv, k_rope], None),
            Op::AttendLatentCache {
                q_latent,
                q_rope,
                out,
            } => (vec![q_latent, q_rope], Some(out)),
            Op::Probe { value, .. } => (vec![value], None),
        };
        reads
            .into_iter()
            .for_each(|value| visit(Role::Reads, value));
        defines
            .into_iter()
            .for_each(|value| visit(Role::Defines, value));
    }

    /// The values that the op reads.
    pub fn reads(&self) -> Vec<ValueId> {
        self.values_in(Role::Reads)
    }

    /// The value that the op defines, if it does.
    pub fn defines(&self) -> Option<ValueId> {
        self.values_in(Role::Defines).pop()
    }

    /// Whether the op matters even where nobody reads what it defines.
    pub fn has_effect(&self) -> bool {
        matches!(
            self,
            Op::Hidden { .. }
                | Op::CheckBatch
                | Op::WriteLatent { .. }
                | Op::WriteNaive { .. }
                | Op::Probe { .. }
        )
    }

    fn values_in(&self, wanted: Role) -> Vec<ValueId> {
        let mut found = Vec::new();
        self.clone().visit_values(|role, value| {
            if role == wanted {
                found.push(*value);
            }
        });
        found
    }
}
