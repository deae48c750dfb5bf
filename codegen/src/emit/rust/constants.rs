//! The constants of a module.

use std::f64::consts as known;

use super::imports::occurs;
use super::parts::Look;
use super::visible;
use crate::plan::{ByLength, IndexerPlan, MhaFrom, Module, Numeral, Program, RotaryTable};

/// Clippy denies literals that are a constant of std's, also where they are so by chance.
const ALLOW_KNOWN: &str =
    "#[allow(clippy::approx_constant)] // a computed value that happens to be a constant of std's";

/// The constants that clippy knows.
const KNOWN: [f64; 21] = [
    known::E,
    known::FRAC_1_PI,
    known::FRAC_1_SQRT_2,
    known::FRAC_2_PI,
    known::FRAC_2_SQRT_PI,
    known::FRAC_PI_2,
    known::FRAC_PI_3,
    known::FRAC_PI_4,
    known::FRAC_PI_6,
    known::FRAC_PI_8,
    known::LN_2,
    known::LN_10,
    known::LOG10_2,
    known::LOG10_E,
    known::LOG2_10,
    known::LOG2_E,
    known::PI,
    known::SQRT_2,
    known::TAU,
    1.618_033_988_749_895,
    0.577_215_664_901_532_9,
];

/// A constant: its name and the text of its item.
struct Declared<'a> {
    name: &'a str,
    text: String,
    public: bool,
}

/// The constants that `code` needs; in a layer's own module also all public ones.
pub(crate) fn constants(program: &Program, code: &str, look: Look) -> String {
    let all = declarations(program, look);
    let mut kept: Vec<&str> = Vec::new();
    let mut needed = code.to_owned();
    // Derived constants come after what they derive from
    for constant in all.iter().rev() {
        if constant.public && look.documented || occurs(&needed, constant.name, "") {
            needed.push_str(&constant.text);
            kept.push(&constant.text);
        }
    }
    kept.reverse();
    kept.join("\n")
}

fn declarations(program: &Program, look: Look) -> Vec<Declared<'_>> {
    let mut all = Vec::new();
    for constant in &program.constants {
        let value = constant
            .formula
            .as_deref()
            .map_or_else(|| constant.value.to_string(), str::to_owned);
        let item = (constant.name, "usize", value.as_str());
        all.push(declared(item, constant.doc, constant.public, look));
    }
    let scale = &program.softmax_scale;
    let value = float(scale.value);
    all.push(declared(
        ("SOFTMAX_SCALE", "f64", &value),
        &scale.doc,
        true,
        look,
    ));
    for norm in program.modules.iter().filter_map(Module::norm) {
        let (value, doc) = (float(norm.eps), format!("ε of `{}`.", norm.source));
        all.push(declared((norm.eps_name, "f64", &value), &doc, false, look));
    }
    for number in &program.numbers {
        let (ty, value) = match number.value {
            Numeral::Real(value) => ("f64", float(value)),
            Numeral::Position(value) => ("u32", value.to_string()),
        };
        all.push(declared(
            (number.name, ty, &value),
            &number.doc,
            false,
            look,
        ));
    }
    all.extend(program.mha_from.as_ref().map(|table| mha_from(table, look)));
    all.extend(softmax(program, look));
    all.extend(program.rotary.iter().flat_map(|table| rotary(table, look)));
    all.extend(program.indexer.as_ref().map(|plan| selecting(plan, look)));
    all.extend(training(program, look));
    all
}

/// What stands between scaled logits and probabilities, and what queries see.
fn softmax(program: &Program, look: Look) -> Vec<Declared<'static>> {
    let mut all = Vec::new();
    if let Some(cap) = program.softmax.soft_cap {
        let doc = "Bound of the logits: s becomes cap · tanh(s / cap).";
        all.push(declared(("SOFT_CAP", "f64", &float(cap)), doc, false, look));
    }
    if program.softmax.dropout > 0.0 {
        let value = float(program.softmax.dropout);
        let doc = "Probability of dropping an attention probability in training.";
        all.push(declared(
            ("ATTENTION_DROPOUT", "f64", &value),
            doc,
            true,
            look,
        ));
    }
    all.extend(visible::constant(program.mask, look).map(|text| Declared {
        name: "VISIBILITY",
        text,
        public: false,
    }));
    all
}

/// From where on a request is attended to in the expanded form.
fn mha_from(table: &MhaFrom, look: Look) -> Declared<'static> {
    let pair = |(cached, new): &(u64, Option<u64>)| match new {
        Some(new) => format!("({cached}, {new})"),
        None => format!("({cached}, usize::MAX)"),
    };
    let pairs: Vec<String> = table.from.iter().map(pair).collect();
    let mut lines = look.lines();
    look.doc(&table.doc, &mut lines);
    let head = format!(
        "{}const MHA_FROM: [(usize, usize); {}]",
        visibility(true, look),
        pairs.len()
    );
    lines.array(&head, &pairs);
    Declared {
        name: "MHA_FROM",
        text: lines.into_text(),
        public: true,
    }
}

fn rotary(table: &RotaryTable, look: Look) -> Vec<Declared<'static>> {
    let mut all = Vec::new();
    let length = |tokens: u32, doc| {
        declared(
            ("ROPE_LENGTH", "u32", &tokens.to_string()),
            doc,
            false,
            look,
        )
    };
    match &table.by_length {
        None => all.push(frequencies(("INV_FREQ", &table.doc), &table.inv_freq, look)),
        Some(ByLength::LongRope {
            long,
            original_max_position_embeddings,
        }) => {
            all.push(frequencies(("INV_FREQ", &table.doc), &table.inv_freq, look));
            let doc = "Rope frequencies of longer calls.";
            all.push(frequencies(("LONG_INV_FREQ", doc), long, look));
            let doc = "The longest call of `INV_FREQ`, in positions.";
            all.push(length(*original_max_position_embeddings, doc));
        }
        Some(ByLength::Dynamic {
            theta,
            factor,
            max_position_embeddings,
        }) => {
            let real =
                |name, value, doc: &str| declared((name, "f64", &float(value)), doc, false, look);
            all.push(real("ROPE_THETA", *theta, &table.doc));
            let doc = "How the base grows with the length of a call.";
            all.push(real("ROPE_FACTOR", *factor, doc));
            let doc = "The longest call whose base is as it is, in positions.";
            all.push(length(*max_position_embeddings, doc));
            return all;
        }
    }
    let value = float(table.cos_sin_factor);
    let doc = "What cos and sin are multiplied by.";
    all.push(declared(
        ("COS_SIN_FACTOR", "f64", &value),
        doc,
        false,
        look,
    ));
    all
}

/// What only training reads.
fn training(program: &Program, look: Look) -> Vec<Declared<'static>> {
    let mut all = Vec::new();
    let loss = program.indexer.as_ref().and_then(|plan| plan.loss);
    if let Some(loss) = loss.filter(|_| program.training.is_some()) {
        let fields = [
            format!("coeff: {}", float(loss.coeff)),
            format!("reduction: LossReduction::{:?}", loss.reduction),
            format!("epsilon: LossEpsilon::{:?}", loss.epsilon),
        ];
        let doc = "The loss that the indexer learns by.";
        all.push(structure(
            ("INDEXER_LOSS", "IndexerLoss"),
            &fields,
            doc,
            look,
        ));
    }
    if let Some(clip) = program.qk_clip.as_ref().map(|plan| plan.clip) {
        let fields = [
            format!("threshold: {}", float(clip.threshold)),
            format!("alpha: {}", float(clip.alpha)),
        ];
        let doc = "QK-clip: the bound of the logits, and the queries' share of a head's factor.";
        all.push(structure(("QK_CLIP", "QkClip"), &fields, doc, look));
    }
    all
}

/// A constant of a struct's type, a line for each field.
fn structure(
    (name, ty): (&'static str, &str),
    fields: &[String],
    doc: &str,
    look: Look,
) -> Declared<'static> {
    let mut lines = look.lines();
    look.doc(doc, &mut lines);
    let open = format!("{}const {name}: {ty} = {ty} {{", visibility(false, look));
    lines.block(&open, "};", |lines| {
        fields
            .iter()
            .for_each(|field| lines.line(&format!("{field},")));
    });
    Declared {
        name,
        text: lines.into_text(),
        public: false,
    }
}

/// How an indexer scores and picks.
fn selecting(plan: &IndexerPlan, look: Look) -> Declared<'static> {
    let mut lines = look.lines();
    look.doc(
        "How the indexer scores keys, and which it always picks.",
        &mut lines,
    );
    let visibility = visibility(false, look);
    let ty = match plan.pool {
        None => "Selecting",
        Some(_) => "SelectingPools",
    };
    let open = format!("{visibility}const SELECTING: {ty} = {ty} {{");
    lines.block(&open, "};", |lines| {
        lines.line("scale: INDEX_SCALE,");
        lines.line(&format!("relu: {},", plan.relu));
        match plan.pool {
            None => {
                lines.line(&format!("initial: {},", plan.forced.initial));
                lines.line(&format!("local: {},", plan.forced.local));
            }
            Some(pool) => lines.line(&format!("always_select_tail: {},", pool.tail)),
        }
    });
    Declared {
        name: "SELECTING",
        text: lines.into_text(),
        public: false,
    }
}

fn declared<'a>(
    (name, ty, value): (&'a str, &str, &str),
    doc: &str,
    public: bool,
    look: Look,
) -> Declared<'a> {
    let mut lines = look.lines();
    look.doc(doc, &mut lines);
    if value
        .parse()
        .is_ok_and(|value| ty == "f64" && is_known(value))
    {
        lines.line(ALLOW_KNOWN);
    }
    lines.assignment(
        &format!("{}const {name}: {ty}", visibility(public, look)),
        value,
    );
    let text = lines.into_text();
    Declared { name, text, public }
}

fn frequencies(
    (name, doc): (&'static str, &str),
    inv_freq: &[f64],
    look: Look,
) -> Declared<'static> {
    let values: Vec<String> = inv_freq.iter().map(|&value| float(value)).collect();
    let mut lines = look.lines();
    look.doc(doc, &mut lines);
    if inv_freq.iter().any(|&value| is_known(value)) {
        lines.line(ALLOW_KNOWN);
    }
    let head = format!(
        "{}const {name}: [f64; {}]",
        visibility(false, look),
        values.len()
    );
    lines.array(&head, &values);
    Declared {
        name,
        text: lines.into_text(),
        public: false,
    }
}

/// Users of a layer see some of its constants; the modules beside a twin see all of the twin's.
fn visibility(public: bool, look: Look) -> &'static str {
    if public || !look.documented {
        look.visibility
    } else {
        ""
    }
}

/// Whether clippy takes a literal for one of the constants that it knows: they agree in all digits printed.
fn is_known(value: f64) -> bool {
    let text = float(value);
    let digits = text.len().saturating_sub(2);
    digits >= 2
        && KNOWN.iter().any(|known| {
            known.to_string().starts_with(&text) || format!("{known:.digits$}") == text
        })
}

/// The shortest decimal that reads back as `value`.
fn float(value: f64) -> String {
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_known_by_their_digits() {
        for text in ["0.7071067811865476", "0.707", "3.14", "0.318", "2.7182818"] {
            assert!(is_known(text.parse().unwrap()), "{text}");
        }
        for text in ["1.0", "0.3", "0.319", "0.31622776601683794", "1e-6"] {
            assert!(!is_known(text.parse().unwrap()), "{text}");
        }
    }
}
