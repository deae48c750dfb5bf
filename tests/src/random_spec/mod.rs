//! Random valid specs: small layers over everything that the language has. The same seed gives the same spec everywhere.
//!
//! What a layer needs besides hidden states at run time (arbitrary masks, blocks, biases, another layer's selection, latents or
//! sequence) is left to tests that bring it, and so are quantised caches, which only some sizes have.

mod build;
mod dice;
mod draft;
mod frame;
mod grouped;
mod latent;
mod rope;
mod sparse;
mod training;

use mla_spec::{Checked, Document, Sources, check, read};

pub use dice::Dice;
use draft::Draft;

/// A random spec as YAML.
pub fn yaml(seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let mut draft = Draft::default();
    let module = if dice.once_in(4) {
        grouped::draw(&mut draft, &mut dice);
        "SelfAttention"
    } else {
        latent::draw(&mut draft, &mut dice);
        "MLASelfAttention"
    };
    let text = draft.yaml(&format!("Random{seed}Attention"), module);
    let text = if dice.once_in(2) {
        with(text, "fold: [input_projections]")
    } else {
        text
    };
    if dice.once_in(4) {
        with(text, "weights: fp8_blocks")
    } else {
        text
    }
}

/// The spec with one more line in `build`, where `check` takes it: where there is something to fold, say.
fn with(text: String, line: &str) -> String {
    let longer = text.replacen("\nbuild:\n", &format!("\nbuild:\n  {line}\n"), 1);
    let document = read::yaml(&mut Sources::default(), "random.yaml", &longer).ok();
    match document.and_then(|document| check::check(&document).0) {
        Some(_) => longer,
        None => text,
    }
}

/// The document of [`yaml`].
///
/// # Panics
/// When the reader refuses it: then this generator and the language disagree.
pub fn document(seed: u64) -> Document {
    let text = yaml(seed);
    match read::yaml(&mut Sources::default(), "random.yaml", &text) {
        Ok(document) => document,
        Err(diagnostics) => panic!("seed {seed}: {diagnostics:#?}\n{text}"),
    }
}

/// The checked layer of [`yaml`].
///
/// # Panics
/// When the reader or the checks refuse it: then this generator and the language disagree.
pub fn checked(seed: u64) -> Checked {
    let (checked, diagnostics) = check::check(&document(seed));
    checked.unwrap_or_else(|| panic!("seed {seed}: {diagnostics:#?}\n{}", yaml(seed)))
}
