//! `SparseAttention` with a `LightningIndexer`.

use super::dice::Dice;
use super::draft::plain_norm;
use super::training::loss;

/// An indexer's choices that others must agree with.
#[derive(Debug)]
pub(super) struct Sparse {
    /// Whether its queries come from the query latent, which then can't be normed inside a projection.
    from_latent: bool,
    /// How much of its head is rotated; 0 for none.
    rotated: u32,
    hadamard: bool,
    /// Whether it may have a loss.
    trains: bool,
    /// Tokens per pool; 1 where keys are not pooled.
    pub(super) pool: u32,
}

impl Sparse {
    /// An indexer of a layer with (or without) a query latent that rotates so many elements and may be trained.
    pub(super) fn roll(lora: bool, rotated: u32, trains: bool, dice: &mut Dice) -> Self {
        let hadamard = dice.once_in(3);
        let pools = rotated == 0 && !hadamard && dice.once_in(2);
        Self {
            from_latent: lora && !dice.once_in(3),
            rotated,
            hadamard,
            trains,
            pool: if pools { dice.within(2, 3) } else { 1 },
        }
    }

    /// Whether the normed query latent has another reader.
    pub(super) fn reads_latent(&self) -> bool {
        self.from_latent
    }

    /// `core_attention`, as a flow mapping.
    pub(super) fn core(&self, dice: &mut Dice) -> String {
        let mut params = vec![format!("num_heads: {}", dice.within(1, 3))];
        let head_dim = if self.hadamard {
            8 * dice.within(1, 2)
        } else {
            // A LayerNorm of one element makes the same key of every token, and rounding alone would pick among them.
            self.rotated.max(2) + dice.within(0, 5)
        };
        params.push(format!("head_dim: {head_dim}"));
        let topk = self.pool * dice.within(1, 5);
        params.push(format!("topk: {topk}"));
        if self.rotated > 0 {
            let (layout, split) = (
                dice.pick(&["interleaved", "half"]),
                dice.pick(&["rope_first", "nope_first"]),
            );
            params.push(format!("rope_layout: {layout}, split_order: {split}"));
        }
        let input = if self.from_latent {
            "q_latent"
        } else {
            "hidden"
        };
        params.push(format!("query_input: {input}"));
        params.push(format!("relu: {}", !dice.once_in(4)));
        if self.hadamard {
            params.push("hadamard: true".to_owned());
        }
        if dice.once_in(4) {
            params.push("query_scaling: { type: log_position }".to_owned());
        }
        if self.pool > 1 {
            params.push(format!(
                "pool: {{ size: {}, always_select_tail: {} }}",
                self.pool,
                dice.once_in(2)
            ));
        } else if topk > 2 && dice.once_in(3) {
            let initial = dice.within(0, 1);
            let local = dice.within(1 - initial, topk - 1 - initial);
            params.push(format!("forced: {{ initial: {initial}, local: {local} }}"));
        }
        let share_topk = dice.once_in(5);
        if share_topk {
            params.push("share_topk: true".to_owned());
        }
        if self.trains && self.pool == 1 && dice.once_in(2) {
            params.push(loss(share_topk, dice));
        }
        format!(
            "{{ module: SparseAttention, submodules: {{ indexer: {{ module: LightningIndexer, params: {{ {} }}, submodules: {{ {} }} }} }} }}",
            params.join(", "),
            self.slots(dice)
        )
    }

    fn slots(&self, dice: &mut Dice) -> String {
        let weights = dice.pick(&["Linear", "{ module: Linear, params: { dtype: f32 } }"]);
        let mut slots = format!(
            "linear_wq_b: Linear, linear_wk: Linear, linear_weights_proj: {weights}, k_norm: {}",
            plain_norm(dice)
        );
        if !self.from_latent && dice.once_in(2) {
            slots.push_str(&format!(", q_input_norm: {}", plain_norm(dice)));
        }
        slots
    }
}
