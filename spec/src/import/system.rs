//! Which system a text is of.

/// A system whose configs are imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum System {
    /// Hugging Face transformers: `config.json`.
    HuggingFace,
    /// Megatron-LM: its command line, or its YAML.
    Megatron,
    /// MaxText: a model's YAML.
    MaxText,
}

/// Keys that only MaxText's YAML has at its top.
const MAXTEXTS: &[&str] = &[
    "base_emb_dim",
    "base_num_query_heads",
    "base_num_decoder_layers",
    "decoder_block",
    "attention_type",
    "rope_max_timescale",
];

/// Keys that only Megatron's YAML has at its top.
const MEGATRONS: &[&str] = &[
    "language_model",
    "model_parallel",
    "multi_latent_attention",
    "qk_pos_emb_head_dim",
    "MODEL_ARGS",
];

impl System {
    /// How messages name it.
    pub const fn name(self) -> &'static str {
        match self {
            System::HuggingFace => "Hugging Face",
            System::Megatron => "Megatron",
            System::MaxText => "MaxText",
        }
    }

    /// The system that a text is of, where its keys leave no doubt: `None` for a spec of our own, and for anything else.
    ///
    /// ```
    /// use mla_spec::import::System;
    /// assert_eq!(System::of("# sizes\n--hidden-size 7168 \\\n"), Some(System::Megatron));
    /// assert_eq!(System::of("attention_type: mla\n"), Some(System::MaxText));
    /// assert_eq!(System::of("{ \"model_type\": \"deepseek_v3\" }"), Some(System::HuggingFace));
    /// assert_eq!(System::of("mla: 1\nname: A\n"), None);
    /// ```
    pub fn of(text: &str) -> Option<Self> {
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.starts_with('{') {
            return text.contains("\"model_type\"").then_some(Self::HuggingFace);
        }
        let keys = || text.lines().filter_map(top_level_key);
        if keys().any(|key| key == "mla") {
            return None;
        }
        if keys().any(|key| MAXTEXTS.contains(&key)) {
            return Some(Self::MaxText);
        }
        let flags = text.lines().any(starts_with_flag);
        (flags || keys().any(|key| MEGATRONS.contains(&key))).then_some(Self::Megatron)
    }
}

/// The key of a line of YAML that is not indented.
fn top_level_key(line: &str) -> Option<&str> {
    let (key, rest) = line.split_once(':')?;
    let plain = key
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (plain && (rest.is_empty() || rest.starts_with([' ', '\t', '\r']))).then_some(key)
}

/// Whether a line begins with `--name`, or with a script's words before the first one.
fn starts_with_flag(line: &str) -> bool {
    line.split_whitespace()
        .take_while(|word| !word.starts_with('#'))
        .map(|word| word.trim_start_matches(['"', '\'', '(']))
        .any(|word| {
            word.strip_prefix("--")
                .is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        })
}
