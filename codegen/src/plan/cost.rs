//! What the two forms of attention cost, and where one becomes cheaper than the other.
//!
//! Per head, with `T` new tokens that meet `S` tokens (themselves included):
//!
//! - MHA: `2 r_kv (d_n + d_v) S + 2 (d_n + d_r + d_v) T S`: every key and value is made from its latent, then met.
//! - MQA: `2 (2 r_kv + d_r) T S + 2 r_kv (d_n + d_v) T`: queries meet latents, and are absorbed before and expanded after.
//!
//! Where attention is sparse, `S` in a product with `T` is the number of tokens that each picks, if that is less.
//!
//! What both share (the projections of `T` tokens) is left out, and so is what a causal mask saves: both forms save it alike.

use mla_spec::{Dims, Expect, Form, Phase};

/// How many tokens a call brings and meets, per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// `T`, new tokens.
    pub new: u64,
    /// `S`, the tokens they meet: what is cached, and themselves.
    pub met: u64,
    /// How many of those each new token attends to at most; `None` where it attends to all.
    pub picked: Option<u64>,
}

impl Lengths {
    /// The lengths that `expect` gives for `phase`. A forward is a prefill without context.
    pub fn of(expect: &Expect, phase: Phase) -> Self {
        let (new, cached) = match phase {
            Phase::Forward | Phase::Train => (expect.prefill_tokens, 0),
            Phase::Prefill => (expect.prefill_tokens, expect.prefill_context),
            Phase::Decode => (expect.decode_tokens, expect.decode_context),
        };
        let new = u64::from(new);
        Self {
            new,
            met: new + u64::from(cached),
            picked: None,
        }
    }

    /// The same, where each new token attends to so many tokens at most.
    pub fn picking(self, picked: Option<u32>) -> Self {
        Self {
            picked: picked.map(u64::from),
            ..self
        }
    }
}

/// Floating-point operations of one head, in one request.
pub fn flops(dims: &Dims, form: Form, lengths: Lengths) -> u128 {
    let Lengths { new, met, picked } = lengths;
    let seen = u128::from(picked.map_or(met, |picked| picked.min(met)));
    let (new, met) = (u128::from(new), u128::from(met));
    let up = 2 * expansion(dims);
    match form {
        Form::Mha => up * met + 2 * expanded_pair(dims) * new * seen,
        Form::Mqa => 2 * absorbed_pair(dims) * new * seen + up * new,
    }
}

/// `T*`, the new tokens from which on MHA is cheaper where many more are met: `r_kv (d_n + d_v) / ((2 r_kv + d_r) - (d_n + d_r + d_v))`.
/// `None` where MQA never costs more.
pub fn crossover(dims: &Dims) -> Option<f64> {
    let saved = absorbed_pair(dims)
        .checked_sub(expanded_pair(dims))
        .filter(|saved| *saved > 0)?;
    Some(expansion(dims) as f64 / saved as f64)
}

/// The cheaper form; MHA where they cost the same, since it is the plainer one.
pub fn cheaper(dims: &Dims, lengths: Lengths) -> Form {
    if flops(dims, Form::Mqa, lengths) < flops(dims, Form::Mha, lengths) {
        Form::Mqa
    } else {
        Form::Mha
    }
}

/// Why [`cheaper`] chooses what it chooses, as the rest of a sentence after `because`.
pub fn reason(dims: &Dims, lengths: Lengths) -> String {
    let [mha, mqa] = [Form::Mha, Form::Mqa].map(|form| flops(dims, form, lengths));
    let tokens = if lengths.new == 1 {
        "token costs"
    } else {
        "tokens cost"
    };
    if let Some(picked) = lengths.picked.filter(|picked| *picked < lengths.met) {
        return format!(
            "{} new {tokens} {} as MHA and {} as MQA, per head over {} tokens of which each picks {picked}",
            lengths.new,
            readable(mha),
            readable(mqa),
            lengths.met
        );
    }
    let crossover = match crossover(dims) {
        Some(crossover) => format!(
            "over a long context MHA is the cheaper from {} new tokens on",
            crossover.ceil()
        ),
        None => "MQA is never dearer for this layer".to_owned(),
    };
    format!(
        "{} new {tokens} {} as MHA and {} as MQA, per head over {} tokens ({crossover})",
        lengths.new,
        readable(mha),
        readable(mqa),
        lengths.met
    )
}

/// Multiplications that make one token's key and value of one head.
fn expansion(dims: &Dims) -> u128 {
    u128::from(dims.kv_lora_rank)
        * (u128::from(dims.qk_nope_head_dim) + u128::from(dims.v_head_dim))
}

/// Multiplications where one query meets one expanded key and value.
pub fn expanded_pair(dims: &Dims) -> u128 {
    u128::from(dims.qk_nope_head_dim)
        + u128::from(dims.qk_rope_head_dim)
        + u128::from(dims.v_head_dim)
}

/// Multiplications where one absorbed query meets one latent.
pub fn absorbed_pair(dims: &Dims) -> u128 {
    2 * u128::from(dims.kv_lora_rank) + u128::from(dims.qk_rope_head_dim)
}

fn readable(flops: u128) -> String {
    const UNITS: [(f64, &str); 4] = [
        (1e12, "TFLOP"),
        (1e9, "GFLOP"),
        (1e6, "MFLOP"),
        (1e3, "kFLOP"),
    ];
    let value = flops as f64;
    match UNITS.iter().find(|(unit, _)| value >= *unit) {
        Some((unit, name)) => {
            let scaled = value / unit;
            let digits = if scaled < 10.0 {
                2
            } else if scaled < 100.0 {
                1
            } else {
                0
            };
            format!("{scaled:.digits$} {name}")
        }
        None => format!("{flops} FLOP"),
    }
}
