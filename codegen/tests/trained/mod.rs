//! Random layers in training: over the whole language, what a call brings besides hidden states included.

#[path = "../sample/mod.rs"]
#[allow(dead_code)] // a module of several test crates
pub(crate) mod sample;
pub(crate) mod step;

#[path = "../../../tests/src/language.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "a library's file, of which each test crate reads a copy"
)]
mod language;

use mla_spec::{
    AttnMask, Checked, Core, Cross, DownProjection, Form, FormChoice, Indexer, IndexerLoss,
    KvSource, Latent, LightningIndexer, Logits, LossEpsilon, LossReduction, LossStage, MaskKind,
    Norm, Projections, QueryScaling, Rope, Sink,
};

use sample::random_spec::{Dice, checked};

/// A random layer of which nothing but training is wanted, its schedule empty.
pub(crate) fn layer(seed: u64) -> Checked {
    let mut layer = checked(seed);
    let mut dice = Dice::new(seed ^ 0x7261_696e);
    layer.build = layer.build.for_training();
    layer.build.recompute.clear();
    layer.build.offload.clear();
    match dice.within(0, 9) {
        0 => cross(&mut layer, &mut dice),
        1 => take_kv(&mut layer),
        2 => give_kv(&mut layer),
        _ => {}
    }
    match layer.layer.core {
        Core::Dense => mask_and_bias(&mut layer, &mut dice),
        Core::Sparse(_) => indexer(&mut layer, &mut dice),
    }
    if dice.once_in(6) {
        layer.layer.logits.dropout = dice.pick(&[0.1, 0.5]);
    }
    layer
}

/// The layers that together use every option of the language, likewise.
pub(crate) fn named() -> Vec<(String, Checked)> {
    let trained = |(name, mut layer): (String, Checked)| {
        layer.build = layer.build.for_training();
        layer.build.recompute.clear();
        layer.build.offload.clear();
        (name, layer)
    };
    language::language().into_iter().map(trained).collect()
}

/// The layer in a form.
pub(crate) fn in_form(layer: &Checked, form: Form) -> Checked {
    let mut changed = layer.clone();
    changed.build.form = FormChoice::Forced(form);
    changed
}

/// The forms that the layer has.
pub(crate) fn forms(layer: &Checked) -> &'static [Form] {
    match layer.layer.latent() {
        Some(_) => &[Form::Mha, Form::Mqa],
        None => &[Form::Mha],
    }
}

/// The loss of the layer's indexer.
pub(crate) fn loss(layer: &Checked) -> Option<IndexerLoss> {
    match layer.layer.indexer() {
        Some(Indexer::Lightning(own)) => own.loss,
        _ => None,
    }
}

/// Whether nothing but the layer's indexer is trained.
pub(crate) fn is_warm_up(layer: &Checked) -> bool {
    loss(layer).is_some_and(|loss| loss.stage == LossStage::Dense)
}

fn latent(layer: &mut Checked) -> Option<&mut Latent> {
    match &mut layer.layer.projections {
        Projections::Latent(latent) => Some(latent),
        _ => None,
    }
}

fn cross(layer: &mut Checked, dice: &mut Dice) {
    let inner = &mut layer.layer;
    inner.projections = Projections::Cross(Cross {
        hidden_size: inner.hidden_size(),
        context_hidden_size: dice.within(2, 12),
        num_attention_heads: dice.within(1, 4),
        kv_channels: dice.within(1, 6),
        q_bias: dice.once_in(2),
        kv_bias: dice.once_in(2),
    });
    inner.rope = Rope::None;
    inner.query_scaling = QueryScaling::None;
    inner.mask = match dice.within(0, 2) {
        0 => AttnMask::of(MaskKind::CausalBottomRight, false),
        1 => AttnMask::PADDING,
        _ => AttnMask::FULL,
    };
    inner.core = Core::Dense;
    inner.gate = None;
}

/// Latents come from another layer.
fn take_kv(layer: &mut Checked) {
    if let Some(latent) = latent(layer)
        && matches!(latent.down, DownProjection::Separate { .. })
    {
        latent.kv_source = KvSource::Other;
        latent.kv_norm = Norm::Identity;
        (latent.kv_scale, latent.k_rope_norm) = (None, None);
    }
}

fn give_kv(layer: &mut Checked) {
    if let Some(latent) = latent(layer) {
        latent.kv_source = KvSource::Own { shared: true };
    }
}

/// What comes with a call of dense attention.
fn mask_and_bias(layer: &mut Checked, dice: &mut Dice) {
    let is_cross = matches!(layer.layer.projections, Projections::Cross(_));
    let (mask, logits) = (&mut layer.layer.mask, &mut layer.layer.logits);
    match dice.within(0, 5) {
        0 if !is_cross => *mask = AttnMask::of(MaskKind::Arbitrary, false),
        1 if mask.kind == MaskKind::Causal => mask.bidirectional_blocks = true,
        _ => {}
    }
    match dice.within(0, 5) {
        0 => logits.bias = true,
        1 => {
            *logits = Logits {
                bias: true,
                soft_cap: Some(1.5),
                sink: Sink::Learned,
                ..*logits
            }
        }
        _ => {}
    }
}

/// Another layer's selection, or a loss.
fn indexer(layer: &mut Checked, dice: &mut Dice) {
    let Core::Sparse(Indexer::Lightning(own)) = &mut layer.layer.core else {
        return;
    };
    if dice.once_in(5) {
        let topk = own.topk;
        layer.layer.core = Core::Sparse(Indexer::Shared { topk, tail: 0 });
    } else if own.loss.is_none() && own.pool.is_none() && !dice.once_in(3) {
        own.loss = Some(any_loss(own, dice));
    }
}

fn any_loss(own: &LightningIndexer, dice: &mut Dice) -> IndexerLoss {
    IndexerLoss {
        coeff: dice.pick(&[1.0, 0.3]),
        stage: match own.shared {
            true => LossStage::Sparse,
            false => dice.pick(&[LossStage::Dense, LossStage::Sparse]),
        },
        reduction: dice.pick(&[
            LossReduction::MeanValid,
            LossReduction::MeanAll,
            LossReduction::Sum,
        ]),
        epsilon: dice.pick(&[LossEpsilon::Clamp, LossEpsilon::Add]),
    }
}
