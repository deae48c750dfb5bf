//! The section `build`.

use super::dice::Dice;
use super::draft::Draft;
use super::frame::Frame;
use super::training::kept;

/// What decides which keys the section has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    /// Has two forms, unless it is sparse and cached; then pages hold whole pools of so many tokens.
    Latent { pool: Option<u32> },
    /// Has one form, and one op for decode where nothing stands between rope and attention.
    Grouped { may_fuse_decode: bool },
}

/// Draws the section, or leaves it out.
pub(super) fn build(
    draft: &mut Draft,
    attention: Attention,
    frame: &Frame,
    rotates: bool,
    dice: &mut Dice,
) {
    if frame.phases == ["forward", "prefill", "decode"] && dice.once_in(6) {
        return; // the whole section may be absent
    }
    let mut text = format!("build:\n  phases: [{}]\n", frame.phases.join(", "));
    let dtype = dice.pick(&["f32", "f32", "f64", "bf16"]);
    text.push_str(&format!("  dtype: {dtype}\n"));
    let grouped = matches!(attention, Attention::Grouped { .. });
    let pool = match attention {
        Attention::Latent { pool } => pool,
        Attention::Grouped { .. } => None,
    };
    let sparse = pool.is_some();
    let naive = frame.caches() && !sparse && (grouped || dice.once_in(3));
    if frame.caches() && ((naive && !grouped) || !dice.once_in(5)) {
        text.push_str(&cache((naive, rotates), pool, dtype, dice));
    }
    match attention {
        Attention::Latent { .. } => forms(&mut text, frame, (naive, sparse), dice),
        Attention::Grouped { may_fuse_decode } => {
            if may_fuse_decode && frame.has("decode") && dice.once_in(2) {
                text.push_str("  flash_decode: true\n");
            }
        }
    }
    if frame.has("train") {
        text.push_str(&kept(draft, !grouped, dice));
    }
    draft.build = text;
}

fn cache(
    (naive, rotates): (bool, bool),
    pool: Option<u32>,
    dtype: &'static str,
    dice: &mut Dice,
) -> String {
    let kind = if naive { "naive" } else { "latent" };
    // Wider than what is computed is a warning; random specs have none of these.
    let mut stored = || match dtype {
        "f32" => dice.pick(&["f32", "f32", "f16", "bf16"]),
        "f64" => dice.pick(&["f64", "f64", "f32"]),
        _ => "bf16",
    };
    let (store, index) = (stored(), stored());
    let mut cache = format!("format: {kind}_{store}");
    let pages = pool.unwrap_or(1);
    if dice.once_in(2) {
        cache.push_str(&format!(
            ", page_size: {}",
            pages * dice.within(1, 9 / pages)
        ));
    }
    if rotates && dice.once_in(2) {
        let layout = dice.pick(&["interleaved", "half"]);
        cache.push_str(&format!(", rope_layout: {layout}"));
    }
    if pool.is_some() && dice.once_in(3) {
        cache.push_str(&format!(", index_format: {index}"));
    }
    format!("  cache: {{ {cache} }}\n")
}

fn forms(text: &mut String, frame: &Frame, (naive, sparse): (bool, bool), dice: &mut Dice) {
    let form = if naive {
        dice.pick(&["auto", "mha"])
    } else if sparse && frame.caches() {
        dice.pick(&["auto", "mqa"])
    } else {
        dice.pick(&["auto", "auto", "mha", "mqa"])
    };
    text.push_str(&format!("  form: {form}\n"));
    let both = form == "auto" && frame.caches() && !naive && !sparse;
    if both && dice.once_in(2) {
        *text = text.replacen("]\n", ", mixed]\n", 1);
    }
    if form == "auto" && dice.once_in(2) {
        text.push_str(&format!("  expect: {{ {} }}\n", expect(frame, dice)));
    }
    if frame.caches() && !naive && !sparse && form != "mqa" {
        text.push_str(&format!("  context_chunk: {}\n", dice.within(1, 9)));
    }
}

/// Lengths short enough that either form may win.
fn expect(frame: &Frame, dice: &mut Dice) -> String {
    let mut lengths = Vec::new();
    if frame.phases.iter().any(|phase| *phase != "decode") {
        lengths.push(format!("prefill_tokens: {}", dice.within(1, 40)));
    }
    if frame.has("prefill") {
        lengths.push(format!("prefill_context: {}", dice.within(0, 400)));
    }
    if frame.has("decode") {
        lengths.push(format!("decode_tokens: {}", dice.within(1, 60)));
        lengths.push(format!("decode_context: {}", dice.within(0, 400)));
    }
    lengths.join(", ")
}
