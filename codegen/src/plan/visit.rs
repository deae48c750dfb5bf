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
        let (reads, defines) = self.values();
        reads
            .into_iter()
            .for_each(|value| visit(Role::Reads, value));
        defines
            .into_iter()
            .for_each(|value| visit(Role::Defines, value));
    }

    /// The values that the op reads, and those that it defines.
    fn values(&mut self) -> (Vec<&mut ValueId>, Vec<&mut ValueId>) {
        match self {
            Op::Adjoint(adjoint) => adjoint.values(),
            Op::Learn { q, k, weights } => (vec![q, k, weights], vec![]),
            Op::AttendedParts {
                x,
                out,
                lse,
                max_logit,
            } => (vec![x], vec![out, lse, max_logit]),
            Op::CheckBatch => (vec![], vec![]),
            Op::Hidden { out }
            | Op::Context { out }
            | Op::BatchSegments { out }
            | Op::Angles { out }
            | Op::Forms { out }
            | Op::TakeKv { out, .. }
            | Op::TakeSelection { out } => (vec![], vec![out]),
            Op::MaskSegments { context, out } => (context.iter_mut().collect(), vec![out]),
            Op::Linear { x, out, .. }
            | Op::TakenLatent { x, out }
            | Op::TakenKey { x, out }
            | Op::GiveSelection { x, out }
            | Op::Norm { x, out, .. }
            | Op::HeadNorm { x, out, .. }
            | Op::L2Norm { x, out, .. }
            | Op::Scale { x, out, .. }
            | Op::ScaleByPosition { x, out, .. }
            | Op::Hadamard { x, out }
            | Op::Columns { x, out, .. }
            | Op::IntoHeads { x, out, .. }
            | Op::HeadPart { x, out, .. }
            | Op::CutHeads { x, out }
            | Op::GroupPart { x, out, .. }
            | Op::IntoPerHead { x, out }
            | Op::PoolGates { x, out, .. }
            | Op::UnrotatedKey { x, out, .. }
            | Op::AbsorbQueries { q_nope: x, out, .. }
            | Op::AbsorbValues { z: x, out, .. }
            | Op::AttendGroupCache { q: x, out }
            | Op::Sink { x, out, .. }
            | Op::AttendedOut { x, out }
            | Op::AsRows { x, out, .. }
            | Op::Copy { x, out }
            | Op::Pick { x, out }
            | Op::IntoRows { x, out, .. } => (vec![x], vec![out]),
            Op::RotateHeads { x, angles, out, .. }
            | Op::RotateKey { x, angles, out }
            | Op::RotateRows { x, angles, out, .. } => (vec![x, angles], vec![out]),
            Op::Concat {
                left: a,
                right: b,
                out,
            }
            | Op::Gate {
                x: a, gate: b, out, ..
            }
            | Op::SelectCached {
                q: a,
                weights: b,
                out,
            } => (vec![a, b], vec![out]),
            Op::AttendContext {
                q,
                latent,
                k_rope,
                out,
                ..
            } => (vec![q, latent, k_rope], vec![out]),
            Op::GiveKv {
                latent: a,
                k_rope: b,
            }
            | Op::WriteLatent {
                latent: a,
                k_rope: b,
            }
            | Op::WriteNaive { kv: a, k_rope: b }
            | Op::WriteGroups { k: a, v: b } => (vec![a, b], vec![]),
            Op::Join {
                forms,
                expanded,
                absorbed,
                out,
            } => (vec![forms, expanded, absorbed], vec![out]),
            Op::WriteIndex { k, gates } => ([k].into_iter().chain(gates).collect(), vec![]),
            Op::Select {
                q,
                k,
                gates,
                weights,
                segments,
                out,
            } => {
                let reads = [q, k, weights, segments];
                (reads.into_iter().chain(gates).collect(), vec![out])
            }
            Op::Probe { value, .. } => (vec![value], vec![]),
            Op::AttendExpanded { .. }
            | Op::AttendAbsorbed { .. }
            | Op::AttendGroups { .. }
            | Op::AttendLatentCache { .. }
            | Op::AttendNaiveCache { .. }
            | Op::FlashDecode { .. } => self.attention_values(),
        }
    }

    /// [`values`](Self::values) of the ops that attend.
    fn attention_values(&mut self) -> (Vec<&mut ValueId>, Vec<&mut ValueId>) {
        let (reads, maybe, out) = match self {
            Op::AttendExpanded {
                q,
                kv,
                k_rope,
                segments,
                selection,
                out,
            } => (vec![q, kv, k_rope, segments], selection.as_mut(), out),
            Op::AttendAbsorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                segments,
                selection,
                out,
            } => (
                vec![q_latent, q_rope, latent, k_rope, segments],
                selection.as_mut(),
                out,
            ),
            Op::AttendGroups {
                q,
                k,
                v,
                segments,
                out,
            } => (vec![q, k, v, segments], None, out),
            Op::AttendLatentCache {
                q_latent,
                q_rope,
                selection,
                out,
            } => (vec![q_latent, q_rope], selection.as_mut(), out),
            Op::AttendNaiveCache { q, selection, out } => (vec![q], selection.as_mut(), out),
            Op::FlashDecode { q, k, v, out } => (vec![q, k, v], None, out),
            _ => return (vec![], vec![]),
        };
        (reads.into_iter().chain(maybe).collect(), vec![out])
    }

    /// The values that the op reads.
    pub fn reads(&self) -> Vec<ValueId> {
        self.values_in(Role::Reads)
    }

    /// The values that the op defines.
    pub fn defines(&self) -> Vec<ValueId> {
        self.values_in(Role::Defines)
    }

    /// Whether the op defines `value`.
    pub fn makes(&self, value: ValueId) -> bool {
        self.defines().contains(&value)
    }

    /// Whether the op matters even where nobody reads what it defines.
    pub fn has_effect(&self) -> bool {
        matches!(
            self,
            Op::Hidden { .. }
                | Op::CheckBatch
                | Op::GiveKv { .. }
                | Op::GiveSelection { .. }
                | Op::WriteIndex { .. }
                | Op::WriteLatent { .. }
                | Op::WriteNaive { .. }
                | Op::WriteGroups { .. }
                | Op::FlashDecode { .. }
                | Op::Learn { .. }
                | Op::Probe { .. }
        ) || matches!(self, Op::Adjoint(adjoint) if adjoint.has_effect())
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
