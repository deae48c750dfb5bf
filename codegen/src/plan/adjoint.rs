//! The ops that only a backward pass has: what an op's adjoint does with the gradient of its result.
//!
//! `dy` is the gradient of a result, `d_x` that of what was read. Ops without a variant here are their own adjoints (a Hadamard matrix, a
//! factor), or move values about, which [`Adjoint::Assemble`] reverses.

use mla_spec::GateGranularity;

use super::{Dim, GroupPart, LinearPart, NormPart, Offset, Turn, ValueId};

/// One op of a backward pass. Parameters' gradients are added to the `gradients` that the function is given.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "fields are the mathematics' symbols, which each op's line explains"
)]
pub enum Adjoint {
    // What a backward function is given
    /// The gradient of the layer's output.
    OutputGradient { out: ValueId },
    /// The gradients of the latents and rotated keys that the layer handed out, summed over those that attended to them.
    GivenKvGradient { latent: ValueId, k_rope: ValueId },
    /// What `forward_train` kept.
    Saved { out: Vec<ValueId> },
    /// What `backward_input` left for the weights' gradients.
    Deferred { out: Vec<ValueId> },

    // Modules
    /// `d_x = dy W`, of a linear or of the linear inside a norm-linear.
    LinearInput {
        dy: ValueId,
        slot: &'static str,
        part: LinearPart,
        out: ValueId,
    },
    /// `dW += dyᵀ x`, and `db += Σ dy` where there is a bias.
    LinearWeight {
        x: ValueId,
        dy: ValueId,
        slot: &'static str,
        part: LinearPart,
    },
    /// `d_x` of a norm; adds to its parameters' gradients.
    Norm {
        x: ValueId,
        dy: ValueId,
        slot: &'static str,
        part: NormPart,
        out: ValueId,
    },
    /// [`Adjoint::Norm`] where nobody needs `d_x`.
    NormWeight {
        x: ValueId,
        dy: ValueId,
        slot: &'static str,
        part: NormPart,
    },
    /// `d_x` of a norm on every head; adds to its parameters' gradients.
    HeadNorm {
        x: ValueId,
        dy: ValueId,
        slot: &'static str,
        out: ValueId,
    },
    /// `d_x` of a norm without parameters on every head.
    L2Norm {
        x: ValueId,
        dy: ValueId,
        eps: &'static str,
        out: ValueId,
    },
    /// `d_x` of a learned scale by position; adds to its parameters' gradients, and consumes `dy`.
    LearnedScale {
        x: ValueId,
        dy: ValueId,
        slot: &'static str,
        out: ValueId,
    },
    /// `dq_n,h = W_UK,h dq̃_h`.
    AbsorbQueries {
        dy: ValueId,
        slot: &'static str,
        part: LinearPart,
        out: ValueId,
    },
    /// `dW_UK,h += q_n,h dq̃_hᵀ`.
    AbsorbQueriesWeight {
        q_nope: ValueId,
        dy: ValueId,
        slot: &'static str,
        part: LinearPart,
    },
    /// `dz_h = W_UV,hᵀ do_h`.
    AbsorbValues {
        dy: ValueId,
        slot: &'static str,
        part: LinearPart,
        out: ValueId,
    },
    /// `dW_UV,h += do_h z_hᵀ`.
    AbsorbValuesWeight {
        z: ValueId,
        dy: ValueId,
        slot: &'static str,
        part: LinearPart,
    },
    /// `ds_h -= Σ e^(s_h - l) dy·o`, with the logits in `slot`.
    Sink {
        attended: ValueId,
        lse: ValueId,
        dy: ValueId,
        slot: &'static str,
    },

    // Rows and heads
    /// The transposed rotation of every head; consumes `dy`.
    RotateHeads {
        dy: ValueId,
        angles: ValueId,
        turn: Turn,
        out: ValueId,
    },
    /// The transposed rotation of the shared key; consumes `dy`.
    RotateKey {
        dy: ValueId,
        angles: ValueId,
        out: ValueId,
    },
    /// The transposed rotation of an indexer's keys; consumes `dy`.
    RotateRows {
        dy: ValueId,
        angles: ValueId,
        turn: Turn,
        out: ValueId,
    },
    /// `d_x = dy σ(g)` and `d_g = dy x σ'(g)`, summed over a head where the gate is one per head.
    Gate {
        x: ValueId,
        gate: ValueId,
        dy: ValueId,
        granularity: GateGranularity,
        d_x: ValueId,
        d_gate: ValueId,
    },
    /// One value per head, rounded to rows.
    Narrow { x: ValueId, out: ValueId },
    /// Zeros, with the gradients of parts where they were taken from; parts that overlap are added.
    Assemble {
        parts: Vec<(Piece, ValueId)>,
        out: ValueId,
    },
    /// The sum of two gradients of the same value; consumes `into`.
    Add {
        into: ValueId,
        x: ValueId,
        out: ValueId,
    },

    // Attention
    /// Gradients of expanded attention.
    Expanded {
        q: ValueId,
        kv: ValueId,
        k_rope: ValueId,
        over: Over,
        d_q: ValueId,
        d_kv: ValueId,
        d_k_rope: ValueId,
    },
    /// Gradients of absorbed attention.
    Absorbed {
        q_latent: ValueId,
        q_rope: ValueId,
        latent: ValueId,
        k_rope: ValueId,
        over: Over,
        d_q_latent: ValueId,
        d_q_rope: ValueId,
        d_latent: ValueId,
        d_k_rope: ValueId,
    },
    /// Gradients of grouped attention.
    Groups {
        q: ValueId,
        k: ValueId,
        v: ValueId,
        over: Over,
        d_q: ValueId,
        d_k: ValueId,
        d_v: ValueId,
    },
    /// An indexer's loss against the probabilities of this layer's attention, and its gradients.
    IndexerLoss {
        teacher: Teacher,
        segments: ValueId,
        selection: Option<ValueId>,
        lse: ValueId,
        q: ValueId,
        k: ValueId,
        weights: ValueId,
        loss: ValueId,
        d_q: ValueId,
        d_k: ValueId,
        d_weights: ValueId,
    },
    /// Frees a value that nothing reads any more.
    Drop { x: ValueId },
}

/// What attention was over, what it gave, and the gradient of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Which queries see which keys.
    pub segments: ValueId,
    /// The selected ones of these.
    pub selection: Option<ValueId>,
    /// Attention's output, sinks counted.
    pub attended: ValueId,
    /// Its log-sum-exp, sinks counted.
    pub lse: ValueId,
    /// The gradient of the output.
    pub dy: ValueId,
    /// The gradient of a bias of the logits, where there is one.
    pub d_bias: Option<ValueId>,
}

/// The attention whose probabilities an indexer learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the operands of the attention's op")]
pub enum Teacher {
    /// Of expanded attention.
    Expanded {
        q: ValueId,
        kv: ValueId,
        k_rope: ValueId,
    },
    /// Of absorbed attention.
    Absorbed {
        q_latent: ValueId,
        q_rope: ValueId,
        latent: ValueId,
        k_rope: ValueId,
    },
}

/// Where a part was taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Columns of a row.
    Columns(Offset, Dim),
    /// A part of every head.
    Head(Offset, Dim),
    /// The heads of one kind of a grouped row.
    Group(GroupPart),
}

impl Teacher {
    /// The operands.
    pub fn values(&self) -> Vec<ValueId> {
        match *self {
            Self::Expanded { q, kv, k_rope } => vec![q, kv, k_rope],
            Self::Absorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
            } => vec![q_latent, q_rope, latent, k_rope],
        }
    }

    fn values_mut(&mut self) -> Vec<&mut ValueId> {
        match self {
            Self::Expanded { q, kv, k_rope } => vec![q, kv, k_rope],
            Self::Absorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
            } => vec![q_latent, q_rope, latent, k_rope],
        }
    }
}

impl Over {
    fn reads(&mut self) -> (Vec<&mut ValueId>, Option<&mut ValueId>) {
        let reads = [
            &mut self.segments,
            &mut self.attended,
            &mut self.lse,
            &mut self.dy,
        ];
        let all = reads.into_iter().chain(&mut self.selection).collect();
        (all, self.d_bias.as_mut())
    }
}

impl Adjoint {
    /// Whether the op matters even where nobody reads what it defines.
    pub fn has_effect(&self) -> bool {
        matches!(
            self,
            Adjoint::OutputGradient { .. }
                | Adjoint::GivenKvGradient { .. }
                | Adjoint::Saved { .. }
                | Adjoint::Deferred { .. }
                | Adjoint::LinearWeight { .. }
                | Adjoint::Norm { .. }
                | Adjoint::NormWeight { .. }
                | Adjoint::HeadNorm { .. }
                | Adjoint::LearnedScale { .. }
                | Adjoint::AbsorbQueriesWeight { .. }
                | Adjoint::AbsorbValuesWeight { .. }
                | Adjoint::Sink { .. }
                | Adjoint::IndexerLoss { .. }
                | Adjoint::Drop { .. }
        )
    }

    /// Whether the op adds to the gradients of parameters.
    pub fn adds(&self) -> bool {
        self.weight_of().is_some()
            || matches!(
                self,
                Adjoint::Norm { .. }
                    | Adjoint::NormWeight { .. }
                    | Adjoint::HeadNorm { .. }
                    | Adjoint::LearnedScale { .. }
                    | Adjoint::Sink { .. }
            )
    }

    /// The module whose weight's gradient this op adds to and does nothing else: what `backward_dw` does later.
    pub fn weight_of(&self) -> Option<&'static str> {
        match self {
            Adjoint::LinearWeight { slot, .. }
            | Adjoint::AbsorbQueriesWeight { slot, .. }
            | Adjoint::AbsorbValuesWeight { slot, .. } => Some(slot),
            _ => None,
        }
    }

    /// The value that the op takes and does not leave behind.
    pub fn consumes(&self) -> Option<ValueId> {
        match *self {
            Adjoint::LearnedScale { dy, .. }
            | Adjoint::RotateHeads { dy, .. }
            | Adjoint::RotateKey { dy, .. }
            | Adjoint::RotateRows { dy, .. } => Some(dy),
            Adjoint::Add { into, .. } => Some(into),
            Adjoint::Drop { x } => Some(x),
            _ => None,
        }
    }

    /// The values that the op reads, and those that it defines.
    pub(super) fn values(&mut self) -> (Vec<&mut ValueId>, Vec<&mut ValueId>) {
        match self {
            Adjoint::OutputGradient { out } => (vec![], vec![out]),
            Adjoint::GivenKvGradient { latent, k_rope } => (vec![], vec![latent, k_rope]),
            Adjoint::Saved { out } | Adjoint::Deferred { out } => {
                (vec![], out.iter_mut().collect())
            }
            Adjoint::LinearInput { dy, out, .. }
            | Adjoint::AbsorbQueries { dy, out, .. }
            | Adjoint::AbsorbValues { dy, out, .. }
            | Adjoint::Narrow { x: dy, out } => (vec![dy], vec![out]),
            Adjoint::LinearWeight { x, dy, .. }
            | Adjoint::NormWeight { x, dy, .. }
            | Adjoint::AbsorbQueriesWeight { q_nope: x, dy, .. }
            | Adjoint::AbsorbValuesWeight { z: x, dy, .. } => (vec![x, dy], vec![]),
            Adjoint::Norm { x, dy, out, .. }
            | Adjoint::HeadNorm { x, dy, out, .. }
            | Adjoint::L2Norm { x, dy, out, .. }
            | Adjoint::LearnedScale { x, dy, out, .. }
            | Adjoint::RotateHeads {
                dy: x,
                angles: dy,
                out,
                ..
            }
            | Adjoint::RotateKey {
                dy: x,
                angles: dy,
                out,
            }
            | Adjoint::RotateRows {
                dy: x,
                angles: dy,
                out,
                ..
            }
            | Adjoint::Add {
                into: x,
                x: dy,
                out,
            } => (vec![x, dy], vec![out]),
            Adjoint::Sink {
                attended, lse, dy, ..
            } => (vec![attended, lse, dy], vec![]),
            Adjoint::Gate {
                x,
                gate,
                dy,
                d_x,
                d_gate,
                ..
            } => (vec![x, gate, dy], vec![d_x, d_gate]),
            Adjoint::Assemble { parts, out } => {
                (parts.iter_mut().map(|(_, x)| x).collect(), vec![out])
            }
            Adjoint::Drop { x } => (vec![x], vec![]),
            Adjoint::Expanded { .. }
            | Adjoint::Absorbed { .. }
            | Adjoint::Groups { .. }
            | Adjoint::IndexerLoss { .. } => self.attention_values(),
        }
    }

    /// [`values`](Self::values) of the ops of attention.
    fn attention_values(&mut self) -> (Vec<&mut ValueId>, Vec<&mut ValueId>) {
        let (mut reads, over, mut defines) = match self {
            Adjoint::Expanded {
                q,
                kv,
                k_rope,
                over,
                d_q,
                d_kv,
                d_k_rope,
            } => (vec![q, kv, k_rope], over, vec![d_q, d_kv, d_k_rope]),
            Adjoint::Absorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                over,
                d_q_latent,
                d_q_rope,
                d_latent,
                d_k_rope,
            } => (
                vec![q_latent, q_rope, latent, k_rope],
                over,
                vec![d_q_latent, d_q_rope, d_latent, d_k_rope],
            ),
            Adjoint::Groups {
                q,
                k,
                v,
                over,
                d_q,
                d_k,
                d_v,
            } => (vec![q, k, v], over, vec![d_q, d_k, d_v]),
            Adjoint::IndexerLoss {
                teacher,
                segments,
                selection,
                lse,
                q,
                k,
                weights,
                loss,
                d_q,
                d_k,
                d_weights,
            } => {
                let mut reads = teacher.values_mut();
                reads.extend([segments, lse, q, k, weights]);
                reads.extend(selection);
                return (reads, vec![loss, d_q, d_k, d_weights]);
            }
            _ => return (vec![], vec![]),
        };
        let (more, d_bias) = over.reads();
        reads.extend(more);
        defines.extend(d_bias);
        (reads, defines)
    }
}
