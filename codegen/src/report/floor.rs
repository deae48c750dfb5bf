//! How long a layer's phases take on a device at least.

use mla_spec::{CacheDType, Checked, DType, Dims, Form, Phase, Store};
use mla_tuned::Shape;

use super::{Group, report};
use crate::plan::absorbed::{AbsorbedChoice, Codes, absorbed_kernel, coded_kernel};
use crate::plan::cost::{Lengths, works};
use crate::plan::machine::{Machine, Roof, Work, time};
use crate::plan::passes::token_bytes;
use crate::plan::tuned::{Measured, measured};

/// A phase on a device, for one request at `build.expect`'s lengths.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseFloor {
    /// Which one.
    pub phase: Phase,
    /// New tokens, and those they meet.
    pub lengths: Lengths,
    /// Seconds of each group of ops, and the roof that binds it.
    pub groups: Vec<(Group, Roof, f64)>,
    /// The kernel that attends to cached latents, where the device has one of its own for that.
    pub absorbed: Option<AbsorbedChoice>,
    /// The kernel that runs there instead, since it was measured to be faster.
    pub measured: Option<Measured>,
}

impl PhaseFloor {
    /// All groups, one after the other.
    pub fn seconds(&self) -> f64 {
        self.groups.iter().map(|(.., seconds)| seconds).sum()
    }
}

/// The layer in bf16, its cache too where that holds plain numbers.
pub(super) fn in_bf16(checked: &Checked) -> Checked {
    let mut checked = checked.clone();
    checked.build.dtype = DType::Bf16;
    if let Store::Plain(_) = checked.build.cache.store {
        checked.build.cache.store = Store::Plain(CacheDType::Bf16);
    }
    checked
}

/// The least that each phase takes in bf16, its cache too where that holds plain numbers: each group of ops at the roof that binds it. What is
/// between groups is written and read again, as the plan says; launches cost nothing.
pub fn floors(checked: &Checked, machine: &Machine) -> Vec<PhaseFloor> {
    let checked = in_bf16(checked);
    let latent = checked.layer.latent();
    let of = |phase: super::PhaseReport| {
        // Where each request has its own form, what is counted says it all
        let attention = latent.zip(phase.form).map(|(latent, form)| {
            let token = token_bytes(&checked.build, &latent.dims, phase.phase);
            let [_, attention] = works(&latent.dims, form, phase.lengths, token);
            attention
        });
        let groups = phase.groups.iter().map(|(group, counted)| {
            let mut work = Work {
                read: counted.bytes as f64,
                flops: counted.flops as f64,
                ..Work::default()
            };
            if let Some(modelled) = attention.filter(|_| *group == Group::Attention) {
                // The model meets every pair, the plan only those that the mask lets through
                let share = (work.flops / modelled.flops.max(1.0)).min(1.0);
                work.shared = modelled.shared * share;
                work.exponentials = modelled.exponentials * share;
                work.l2 = modelled.l2 * share;
            }
            let (roof, seconds) = time(machine, &work).binding();
            (*group, roof, seconds)
        });
        let store = checked.build.cache.store;
        let dense = phase.form == Some(Form::Mqa) && phase.lengths.picked.is_none();
        let absorbed = latent.filter(|_| dense).and_then(|latent| {
            let Dims {
                num_attention_heads,
                kv_lora_rank,
                qk_rope_head_dim,
                ..
            } = latent.dims;
            let rows = phase.lengths.new.saturating_mul(num_attention_heads.into());
            let rows = u32::try_from(rows).unwrap_or(u32::MAX);
            let (latent, rope) = (kv_lora_rank, qk_rope_head_dim);
            match store {
                Store::Plain(_) => absorbed_kernel(machine, rows, latent, rope),
                _ => coded_kernel(machine, Codes::of(store)?, rows, latent, rope),
            }
        });
        // Tables have times over caches in bf16 alone
        let is_plain = matches!(store, Store::Plain(_));
        let tabled = latent.filter(|_| absorbed.is_some() && is_plain);
        let measured = tabled.and_then(|latent| {
            let shape = Shape {
                keys: "bf16",
                heads: latent.dims.num_attention_heads,
                new: u32::try_from(phase.lengths.new).ok()?,
                latent: latent.dims.kv_lora_rank,
                rope: latent.dims.qk_rope_head_dim,
            };
            measured(machine.name, &shape)
        });
        PhaseFloor {
            phase: phase.phase,
            lengths: phase.lengths,
            groups: groups.collect(),
            absorbed,
            measured,
        }
    };
    report(&checked).phases.into_iter().map(of).collect()
}
