//! Random valid specs: small layers over everything that the language has. The same seed gives the same spec everywhere.

use mla_spec::{Checked, Sources, check, read};

/// A random spec as YAML.
pub fn yaml(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let layer = Choices::roll(&mut dice);
    let mut text =
        format!("mla: 1\nname: Random{seed}Attention\nmodule: MLASelfAttention\nparams:\n");
    layer.params(&mut text, &mut dice);
    text.push_str("submodules:\n");
    layer.submodules(&mut text, &mut dice);
    layer.build(&mut text, &mut dice);
    text
}

/// The checked layer of [`yaml`].
///
/// # Panics
/// When the reader or the checks refuse it: then this generator and the language disagree.
pub fn checked(seed: u64) -> Checked {
    let text = yaml(seed);
    let mut sources = Sources::default();
    let document = match read::yaml(&mut sources, "random.yaml", &text) {
        Ok(document) => document,
        Err(diagnostics) => panic!("seed {seed}: {diagnostics:#?}\n{text}"),
    };
    let (checked, diagnostics) = check::check(&document);
    checked.unwrap_or_else(|| panic!("seed {seed}: {diagnostics:#?}\n{text}"))
}

/// A small deterministic generator (splitmix64), so that a seed means the same on every platform and in every release.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall as `seed` says.
    pub fn new(seed: u64) -> Self {
        Self(
            seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(0x5851_F42D_4C95_7F2D),
        )
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A whole number from `low` to `high`, both included.
    pub fn within(&mut self, low: u32, high: u32) -> u32 {
        let span = u64::from(high - low) + 1;
        low + u32::try_from(self.bits() % span).unwrap_or(0)
    }

    /// True once in `sides` throws.
    pub fn once_in(&mut self, sides: u32) -> bool {
        self.within(1, sides) == 1
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let last = u32::try_from(choices.len()).unwrap_or(1).saturating_sub(1);
        choices[self.within(0, last) as usize]
    }

    /// A number from -1 up to 1, evenly spread.
    pub fn signed(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// What the sections of a spec must agree on.
struct Choices {
    lora: bool,
    rope_dim: u32,
    rotated: bool,
    mask: &'static str,
    phases: Vec<&'static str>,
}

impl Choices {
    fn roll(dice: &mut Dice) -> Self {
        let mask = dice.pick(&[
            "causal",
            "causal",
            "causal",
            "padding_causal",
            "padding",
            "no_mask",
        ]);
        let cacheable = mask.ends_with("causal");
        let phases = if cacheable && !dice.once_in(6) {
            dice.pick(&[
                &["forward", "prefill", "decode"][..],
                &["forward", "prefill", "decode"],
                &["decode", "forward", "prefill"],
                &["prefill", "decode"],
                &["forward", "decode"],
                &["forward", "prefill"],
                &["decode"],
                &["prefill"],
            ])
        } else {
            &["forward"][..]
        };
        let rope_dim = 2 * dice.within(0, 4);
        Self {
            lora: dice.once_in(2),
            rope_dim,
            rotated: rope_dim > 0 && !dice.once_in(6),
            mask,
            phases: phases.to_vec(),
        }
    }

    fn caches(&self) -> bool {
        self.phases.iter().any(|phase| *phase != "forward")
    }

    fn params(&self, text: &mut String, dice: &mut Dice) {
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            text.push_str(&format!("  {key}: {value}\n"))
        };
        line("hidden_size", &dice.within(2, 40));
        line("num_attention_heads", &dice.within(1, 5));
        if self.lora {
            line("q_lora_rank", &dice.within(1, 24));
        }
        line("kv_lora_rank", &dice.within(1, 24));
        line("qk_nope_head_dim", &dice.within(1, 13));
        line("qk_rope_head_dim", &self.rope_dim);
        line("v_head_dim", &dice.within(1, 13));
        line("attn_mask_type", &self.mask);
        if self.rotated {
            line("rope", &rope(dice));
        } else if self.rope_dim > 0 || dice.once_in(2) {
            line("rope", &"{ type: none }");
        }
    }

    fn submodules(&self, text: &mut String, dice: &mut Dice) {
        let fused_down = self.lora && dice.once_in(3);
        if fused_down {
            slot(text, "linear_qkv_down_proj", &with_bias("Linear", dice));
        }
        if self.lora {
            if !fused_down {
                slot(text, "linear_q_down_proj", &with_bias("Linear", dice));
            }
            norm_and_up(text, ("q_layernorm", "linear_q_up_proj"), dice);
        } else {
            slot(text, "linear_q_proj", "ColumnParallelLinear");
        }
        if !fused_down {
            slot(text, "linear_kv_down_proj", &with_bias("Linear", dice));
        }
        norm_and_up(text, ("kv_layernorm", "linear_kv_up_proj"), dice);
        slot(text, "core_attention", "DotProductAttention");
        slot(text, "linear_proj", &with_bias("RowParallelLinear", dice));
    }

    fn build(&self, text: &mut String, dice: &mut Dice) {
        if self.phases == ["forward", "prefill", "decode"] && dice.once_in(6) {
            return; // the whole section may be absent
        }
        text.push_str(&format!("build:\n  phases: [{}]\n", self.phases.join(", ")));
        let dtype = dice.pick(&["f32", "f32", "f64", "bf16"]);
        text.push_str(&format!("  dtype: {dtype}\n"));
        let naive = self.caches() && dice.once_in(3);
        if self.caches() && (naive || !dice.once_in(5)) {
            let kind = if naive { "naive" } else { "latent" };
            // Wider than what is computed is a warning; random specs have none.
            let stored = match dtype {
                "f32" => dice.pick(&["f32", "f32", "f16", "bf16"]),
                "f64" => dice.pick(&["f64", "f64", "f32"]),
                _ => "bf16",
            };
            let mut cache = format!("format: {kind}_{stored}");
            if dice.once_in(2) {
                cache.push_str(&format!(", page_size: {}", dice.within(1, 9)));
            }
            if self.rotated && dice.once_in(2) {
                cache.push_str(&format!(
                    ", rope_layout: {}",
                    dice.pick(&["interleaved", "half"])
                ));
            }
            text.push_str(&format!("  cache: {{ {cache} }}\n"));
        }
        let form = if naive {
            dice.pick(&["auto", "mha"])
        } else {
            dice.pick(&["auto", "auto", "mha", "mqa"])
        };
        text.push_str(&format!("  form: {form}\n"));
        if form == "auto" && dice.once_in(2) {
            text.push_str(&format!("  expect: {{ {} }}\n", self.expect(dice)));
        }
        if self.caches() && !naive && form != "mqa" {
            text.push_str(&format!("  context_chunk: {}\n", dice.within(1, 9)));
        }
    }

    /// Lengths short enough that either form may win.
    fn expect(&self, dice: &mut Dice) -> String {
        let mut lengths = Vec::new();
        if self.phases.contains(&"forward") || self.phases.contains(&"prefill") {
            lengths.push(format!("prefill_tokens: {}", dice.within(1, 40)));
        }
        if self.phases.contains(&"prefill") {
            lengths.push(format!("prefill_context: {}", dice.within(0, 400)));
        }
        if self.phases.contains(&"decode") {
            lengths.push(format!("decode_tokens: {}", dice.within(1, 60)));
            lengths.push(format!("decode_context: {}", dice.within(0, 400)));
        }
        lengths.join(", ")
    }
}

fn slot(text: &mut String, slot: &str, module: &str) {
    text.push_str(&format!("  {slot}: {module}\n"));
}

fn with_bias(module: &str, dice: &mut Dice) -> String {
    match dice.within(0, 3) {
        0 => format!("{{ module: {module}, params: {{ bias: true }} }}"),
        1 => format!("{{ module: {module}, params: {{ bias: false }} }}"),
        _ => module.to_owned(),
    }
}

/// A norm slot and its up projection: no norm, a norm of its own, or one inside the projection.
fn norm_and_up(text: &mut String, (norm, up): (&str, &str), dice: &mut Dice) {
    let kind = dice.pick(&["RMSNorm", "RMSNorm", "LayerNorm"]);
    let eps = dice.pick(&["1.0e-6", "1.0e-5", "3.0e-3"]);
    let (norm_module, up_module) = match dice.within(0, 4) {
        0 => ("IdentityOp".to_owned(), "ColumnParallelLinear".to_owned()),
        1 | 2 => (
            "IdentityOp".to_owned(),
            format!(
                "{{ module: LayerNormColumnParallelLinear, params: {{ normalization: {kind}, eps: {eps} }} }}"
            ),
        ),
        _ => (
            format!("{{ module: {kind}, params: {{ eps: {eps} }} }}"),
            "ColumnParallelLinear".to_owned(),
        ),
    };
    slot(text, norm, &norm_module);
    slot(text, up, &up_module);
}

fn rope(dice: &mut Dice) -> String {
    let theta = dice.pick(&["10000.0", "50000.0", "777.5"]);
    let layout = dice.pick(&["interleaved", "half"]);
    let common = format!("theta: {theta}, layout: {layout}");
    let factor = dice.pick(&["1.0", "3.5", "40.0"]);
    match dice.within(0, 3) {
        0 => format!("{{ type: plain, {common} }}"),
        1 => format!("{{ type: linear, {common}, factor: {factor} }}"),
        _ => {
            let context = dice.pick(&[16, 50, 4096]);
            let betas = dice.pick(&[
                "beta_fast: 32.0, beta_slow: 1.0",
                "beta_fast: 4.0, beta_slow: 0.5",
                "beta_fast: 2.0, beta_slow: 2.0",
            ]);
            let magnitude = dice.pick(&[
                "mscale: 1.0",
                "mscale: 0.7",
                "mscale: 0.0",
                "attention_factor: 0.9",
            ]);
            let all_dim = dice.pick(&["0.0", "0.4", "1.0"]);
            let truncate = dice.pick(&["", ", truncate: true", ", truncate: false"]);
            format!(
                "{{ type: yarn, {common}, factor: {factor}, original_max_position_embeddings: {context}, {betas}, {magnitude}, mscale_all_dim: {all_dim}{truncate} }}"
            )
        }
    }
}
