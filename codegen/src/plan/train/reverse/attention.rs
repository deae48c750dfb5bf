//! The gradients of attention, and of what learns from it.

use mla_spec::LossStage;

use super::Tape;
use crate::plan::train::Gradient;
use crate::plan::train::normal::Learner;
use crate::plan::{Adjoint, Op, Over, Step, Teacher, Ty, ValueId};

impl Tape<'_> {
    /// Attention's ops: their gradients are made together, of the output behind all sinks and of a log-sum-exp that counts them.
    pub(super) fn of_attention(&mut self, op: &Op) -> bool {
        match *op {
            Op::AttendedParts { x, out, lse, .. } => {
                if let Some(dy) = self.take(out) {
                    self.attended.insert(x, [out, lse, dy]);
                }
            }
            Op::Sink { x, slot, out } => {
                if let Some([attended, lse, dy]) = self.attended.remove(&out) {
                    if let Some(slot) = slot {
                        self.push(Adjoint::Sink {
                            attended,
                            lse,
                            dy,
                            slot,
                        });
                    }
                    self.attended.insert(x, [attended, lse, dy]);
                }
            }
            Op::AttendExpanded { out, .. }
            | Op::AttendAbsorbed { out, .. }
            | Op::AttendGroups { out, .. } => {
                if let Some(parts) = self.attended.remove(&out) {
                    self.attention(op, parts);
                }
            }
            _ => return false,
        }
        true
    }

    fn attention(&mut self, op: &Op, [attended, lse, dy]: [ValueId; 3]) {
        let d_bias = self.program.softmax.bias.then(|| {
            let d_bias = self.define("d_bias".to_owned(), Ty::Bias);
            self.results.push((Gradient::Bias, d_bias));
            d_bias
        });
        let over = |segments, selection| Over {
            segments,
            selection,
            attended,
            lse,
            dy,
            d_bias,
        };
        match *op {
            Op::AttendExpanded {
                q,
                kv,
                k_rope,
                segments,
                selection,
                ..
            } => {
                let [d_q, d_kv, d_k_rope] = [q, kv, k_rope].map(|of| self.gradient(of));
                self.push(Adjoint::Expanded {
                    q,
                    kv,
                    k_rope,
                    over: over(segments, selection),
                    d_q,
                    d_kv,
                    d_k_rope,
                });
                self.tell(q, d_q);
                self.tell(kv, d_kv);
                self.tell(k_rope, d_k_rope);
            }
            Op::AttendAbsorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                segments,
                selection,
                ..
            } => {
                let of = [q_latent, q_rope, latent, k_rope];
                let [d_q_latent, d_q_rope, d_latent, d_k_rope] = of.map(|of| self.gradient(of));
                self.push(Adjoint::Absorbed {
                    q_latent,
                    q_rope,
                    latent,
                    k_rope,
                    over: over(segments, selection),
                    d_q_latent,
                    d_q_rope,
                    d_latent,
                    d_k_rope,
                });
                for (of, d) in of
                    .into_iter()
                    .zip([d_q_latent, d_q_rope, d_latent, d_k_rope])
                {
                    self.tell(of, d);
                }
            }
            Op::AttendGroups {
                q, k, v, segments, ..
            } => {
                let [d_q, d_k, d_v] = [q, k, v].map(|of| self.gradient(of));
                self.push(Adjoint::Groups {
                    q,
                    k,
                    v,
                    over: over(segments, None),
                    d_q,
                    d_k,
                    d_v,
                });
                for (of, d) in [(q, d_q), (k, d_k), (v, d_v)] {
                    self.tell(of, d);
                }
            }
            _ => {}
        }
    }

    /// The indexer's loss, whose gradients are where its own modules' begin.
    pub(super) fn loss(&mut self, learner: Learner, stage: LossStage) -> Option<Step> {
        let lse = self.forward.ops().find_map(|op| match op {
            Op::AttendedParts { lse, .. } => Some(*lse),
            _ => None,
        })?;
        let (teacher, segments, selection) = self.forward.ops().find_map(|op| match *op {
            Op::AttendExpanded {
                q,
                kv,
                k_rope,
                segments,
                selection,
                ..
            } => Some((Teacher::Expanded { q, kv, k_rope }, segments, selection)),
            Op::AttendAbsorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                segments,
                selection,
                ..
            } => Some((
                Teacher::Absorbed {
                    q_latent,
                    q_rope,
                    latent,
                    k_rope,
                },
                segments,
                selection,
            )),
            _ => None,
        })?;
        let Learner { q, k, weights } = learner;
        let [d_q, d_k, d_weights] = [q, k, weights].map(|of| self.gradient(of));
        let loss = self.define("indexer_loss".to_owned(), Ty::Number);
        self.push(Adjoint::IndexerLoss {
            teacher,
            segments,
            selection: selection.filter(|_| stage == LossStage::Sparse),
            lse,
            q,
            k,
            weights,
            loss,
            d_q,
            d_k,
            d_weights,
        });
        self.tell(q, d_q);
        self.tell(k, d_k);
        self.tell(weights, d_weights);
        self.results.push((Gradient::IndexerLoss, loss));
        Some(Step::new("Indexer's loss", std::mem::take(&mut self.ops)))
    }
}
