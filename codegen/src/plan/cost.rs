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
//!
//! Where the device is known, times are compared instead: MHA also writes and reads the keys and values that it makes, MQA reads its
//! queries' long rows, and each is bound by the device's nearest roof.

use mla_spec::{Dims, Expect, Form, Phase};

use super::machine::{Machine, Roof, Work, time};

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
            Phase::Prefill | Phase::Mixed => (expect.prefill_tokens, expect.prefill_context),
            Phase::Decode => (expect.decode_tokens, expect.decode_context),
        };
        let new = u64::from(new);
        Self {
            new,
            met: new + u64::from(cached),
            picked: None,
        }
    }

    /// The lengths of a request in a part of `phase`; of a mixed batch that is one request of a prefill in the expanded form, one of a decode in
    /// the absorbed one, and both together outside the parts.
    pub fn of_part(expect: &Expect, phase: Phase, part: Option<Form>) -> Self {
        let [prefill, decode] =
            [Phase::Prefill, Phase::Decode].map(|phase| Self::of(expect, phase));
        match (phase, part) {
            (Phase::Mixed, Some(Form::Mha)) => prefill,
            (Phase::Mixed, Some(Form::Mqa)) => decode,
            (Phase::Mixed, None) => Self {
                new: prefill.new + decode.new,
                met: prefill.met + decode.met,
                picked: None,
            },
            _ => Self::of(expect, phase),
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

/// Longest context and most new tokens that [`mha_from`] looks at, as powers of two.
const LONGEST: u32 = 20;

/// For no cached tokens, and for each power of two of them, the new tokens from which on `choose` chooses MHA, `None` where it never does. What
/// is as it was for fewer cached tokens is left out.
///
/// With more new tokens MHA only gains: what it makes of cached latents serves all of them, and a pair costs it no more than MQA, or there is
/// nothing to gain at all.
pub fn mha_from(choose: impl Fn(Lengths) -> Form) -> Vec<(u64, Option<u64>)> {
    let from = |cached: u64| {
        let is_mha = |new: u64| {
            let lengths = Lengths {
                new,
                met: cached + new,
                picked: None,
            };
            choose(lengths) == Form::Mha
        };
        let mut above = (0..=LONGEST)
            .map(|power| 1 << power)
            .find(|new| is_mha(*new))?;
        let mut below = above / 2;
        while above - below > 1 {
            let between = below.midpoint(above);
            if is_mha(between) {
                above = between;
            } else {
                below = between;
            }
        }
        Some(above)
    };
    let contexts = std::iter::once(0).chain((0..=LONGEST).map(|power| 1 << power));
    let mut all: Vec<(u64, Option<u64>)> = contexts.map(|cached| (cached, from(cached))).collect();
    all.dedup_by_key(|(_, new)| *new);
    all
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

/// What a form does in one request, for all heads, with values of bf16 and cached tokens of `token_bytes` each: first what makes keys and values
/// of latents, or absorbs queries and expands what they attended to; then attention itself.
pub fn works(dims: &Dims, form: Form, lengths: Lengths, token_bytes: u64) -> [Work; 2] {
    let Lengths { new, met, picked } = lengths;
    let seen = picked.map_or(met, |picked| picked.min(met)) as f64;
    let (rows, met) = (new as f64 * f64::from(dims.num_attention_heads), met as f64);
    let heads = f64::from(dims.num_attention_heads);
    let [latent, rope] = [dims.kv_lora_rank, dims.qk_rope_head_dim].map(f64::from);
    let [nope, value] = [dims.qk_nope_head_dim, dims.v_head_dim].map(f64::from);
    let cached = met * token_bytes as f64;
    let expansion = 2.0 * latent * (nope + value);
    match form {
        Form::Mha => {
            let made = BF16 * met * heads * (nope + value);
            let key = nope + rope;
            // Queries that pick keys of their own share no tile
            let blocks = if picked.is_some() {
                rows
            } else {
                rows / EXPANDED_ROWS
            };
            [
                Work {
                    read: cached,
                    written: made,
                    flops: heads * met * expansion,
                    ..Work::default()
                },
                Work {
                    read: made + BF16 * (met * rope + rows * key),
                    written: BF16 * rows * value,
                    flops: 2.0 * rows * seen * (key + value),
                    shared: rows * seen * expanded_shared(key, value),
                    exponentials: rows * seen,
                    l2: BF16 * blocks * seen * (key + value),
                    ..Work::default()
                },
            ]
        }
        Form::Mqa => {
            // The heads of a query that picks latents of its own share them, and no other query does
            let blocks = if picked.is_some() {
                new as f64 * (heads / ABSORBED_ROWS).max(1.0)
            } else {
                rows / ABSORBED_ROWS
            };
            [
                Work {
                    read: BF16 * rows * (nope + latent),
                    written: BF16 * rows * (latent + value),
                    flops: rows * expansion,
                    ..Work::default()
                },
                Work {
                    read: cached + BF16 * rows * (latent + rope),
                    written: BF16 * rows * latent,
                    flops: 2.0 * rows * seen * (2.0 * latent + rope),
                    shared: rows * seen * absorbed_shared(latent, rope),
                    exponentials: rows * seen,
                    l2: token_bytes as f64 * seen * blocks,
                    ..Work::default()
                },
            ]
        }
    }
}

/// Bytes of a value.
pub(super) const BF16: f64 = 2.0;
/// Rows of queries that a block meets a tile of keys with: expanded, 128 of one head by 128 keys; absorbed, 64 of any heads by 64 latents.
const EXPANDED_ROWS: f64 = 128.0;
const ABSORBED_ROWS: f64 = 64.0;
/// Bytes of shared memory in a cycle, in which the costs below are counted.
const SHARED: f64 = 128.0;

/// Bytes of shared memory per query's row and key, expanded: two products of 64 rows each by 128 keys read both factors, those of weights the values
/// alone, and tiles are filled.
fn expanded_shared(key: f64, value: f64) -> f64 {
    let products = 2.0 * key / 16.0 * 48.0 + 2.0 * value / 4.0 * 8.0;
    let filled = 2.0 * (key + value);
    SHARED * (products + filled) / (EXPANDED_ROWS * EXPANDED_ROWS)
}

/// The same absorbed: 64 rows by 64 latents read both factors; one half of the values meets weights in registers, the other weights that are
/// written and read again.
fn absorbed_shared(latent: f64, rope: f64) -> f64 {
    let scores = (latent + rope) / 16.0 * 32.0;
    let values = latent / 2.0 + (latent / 2.0 + 64.0);
    let (filled, weights) = (latent + rope, 128.0);
    SHARED * (scores + values + filled + weights) / (ABSORBED_ROWS * ABSORBED_ROWS)
}

/// Seconds that a form takes on a device, and the roof that binds its longer part.
pub fn seconds(
    machine: &Machine,
    dims: &Dims,
    form: Form,
    lengths: Lengths,
    token_bytes: u64,
) -> (Roof, f64) {
    let [before, attention] =
        works(dims, form, lengths, token_bytes).map(|work| time(machine, &work).binding());
    let longer = if before.1 > attention.1 {
        before
    } else {
        attention
    };
    (longer.0, before.1 + attention.1)
}

/// The faster form on a device, and why, as the rest of a sentence after `because`. MHA where they take the same time.
pub fn faster(
    machine: &Machine,
    dims: &Dims,
    lengths: Lengths,
    token_bytes: u64,
) -> (Form, String) {
    let [mha, mqa] =
        [Form::Mha, Form::Mqa].map(|form| seconds(machine, dims, form, lengths, token_bytes));
    let tokens = if lengths.new == 1 {
        "token takes"
    } else {
        "tokens take"
    };
    let takes = |(roof, seconds): (Roof, f64)| {
        format!("{} (bound by {})", microseconds(seconds), roof.name())
    };
    let picking = match lengths.picked.filter(|picked| *picked < lengths.met) {
        Some(picked) => format!(" of which each picks {picked}"),
        None => String::new(),
    };
    let reason = format!(
        "on an {} {} new {tokens} {} as MHA and {} as MQA, over {} tokens{picking}",
        machine.name,
        lengths.new,
        takes(mha),
        takes(mqa),
        lengths.met
    );
    let form = if mqa.1 < mha.1 { Form::Mqa } else { Form::Mha };
    (form, reason)
}

/// A time as people read it: `2.15 us`, `348 us`.
pub fn microseconds(seconds: f64) -> String {
    let value = seconds * 1e6;
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$} us")
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

#[cfg(test)]
mod tests {
    use super::super::machine::H200;
    use super::*;

    /// DeepSeek-V3's.
    const DIMS: Dims = Dims {
        hidden_size: 7168,
        num_attention_heads: 128,
        kv_lora_rank: 512,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 128,
    };

    #[test]
    fn tiles_take_as_many_cycles_of_shared_memory_as_counted_by_hand() {
        let cycles = |per_pair: f64, rows: f64| per_pair * rows * rows / SHARED;
        assert_eq!(cycles(absorbed_shared(512.0, 64.0), ABSORBED_ROWS), 2432.0);
        assert_eq!(cycles(expanded_shared(192.0, 128.0), EXPANDED_ROWS), 2304.0);
    }

    #[test]
    fn few_new_tokens_are_faster_absorbed_and_many_expanded() {
        let form = |new, met| {
            let lengths = Lengths {
                new,
                met,
                picked: None,
            };
            faster(&H200, &DIMS, lengths, 1152).0
        };
        assert_eq!(form(1, 8192), Form::Mqa);
        assert_eq!(form(64, 8192), Form::Mqa);
        assert_eq!(form(512, 8192), Form::Mha);
        assert_eq!(form(4096, 4096), Form::Mha);
        // What is picked is expanded for one query alone
        let lengths = Lengths {
            new: 1,
            met: 131_072,
            picked: Some(2048),
        };
        let (form, reason) = faster(&H200, &DIMS, lengths, 656);
        assert_eq!(form, Form::Mqa);
        assert!(reason.ends_with("of which each picks 2048"), "{reason}");
    }

    #[test]
    fn mha_is_cheaper_from_as_many_tokens_on_as_the_formula_says() {
        let table = mha_from(|lengths| cheaper(&DIMS, lengths));
        // r_kv (d_n + d_v) c <= ((2 r_kv + d_r) - (d_n + d_r + d_v)) T (c + T)
        let holds = |new: u64, cached: u64| 131_072 * cached <= 768 * new * (cached + new);
        for &(cached, from) in &table {
            let from = from.expect("there is such a number for DeepSeek-V3");
            assert!(holds(from, cached), "{cached}");
            assert!(from == 1 || !holds(from - 1, cached), "{cached}");
        }
        assert_eq!(table.first(), Some(&(0, Some(1))));
        assert_eq!(table.last().map(|(_, new)| *new), Some(Some(171)));
        assert!(table.is_sorted());
    }

    #[test]
    fn on_a_device_one_number_of_new_tokens_parts_the_forms() {
        let choose = |lengths| faster(&H200, &DIMS, lengths, 1152).0;
        let table = mha_from(choose);
        for cached in [0, 1, 100, 1024, 8192, 131_072] {
            let lengths = |new| Lengths {
                new,
                met: cached + new,
                picked: None,
            };
            let forms: Vec<Form> = (1..2048).map(|new| choose(lengths(new))).collect();
            let changes = forms.windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(changes <= 1, "{cached} cached: {changes} changes");
        }
        // Over a long context both are bound by products; over a short one it counts that MQA moves long rows of queries
        let by_operations = mha_from(|lengths| cheaper(&DIMS, lengths));
        let at = |table: &[(u64, Option<u64>)], cached| {
            let pair = table.iter().find(|(from, _)| *from == cached);
            pair.and_then(|(_, new)| *new)
        };
        assert_eq!(table.last(), by_operations.last());
        assert!(at(&table, 1024) < at(&by_operations, 1024), "{table:?}");
    }

    #[test]
    fn where_mqa_never_costs_more_there_is_no_number() {
        let narrow = Dims {
            kv_lora_rank: 32,
            ..DIMS
        };
        let table = mha_from(|lengths| cheaper(&narrow, lengths));
        assert_eq!(table, [(0, None)]);
    }

    #[test]
    fn operations_are_those_that_the_rule_of_operations_counts() {
        let lengths = Lengths {
            new: 3,
            met: 1000,
            picked: None,
        };
        for form in [Form::Mha, Form::Mqa] {
            let counted: f64 = works(&DIMS, form, lengths, 1152)
                .iter()
                .map(|work| work.flops)
                .sum();
            assert_eq!(counted, (128 * flops(&DIMS, form, lengths)) as f64);
        }
    }

    #[test]
    fn times_are_written_with_three_digits() {
        assert_eq!(microseconds(2.154e-6), "2.15 us");
        assert_eq!(microseconds(34.4e-6), "34.4 us");
        assert_eq!(microseconds(4e-3), "4000 us");
    }
}
