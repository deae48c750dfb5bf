//! `mla-gen explain CODE|KEY`

use std::collections::BTreeMap;

use mla_spec::{explain, reference};

use crate::args::Explain;
use crate::failure::Failure;
use crate::talk;

/// Subjects of the codes, by their first two digits.
const SUBJECTS: [(u16, &str); 9] = [
    (0, "syntax and shape of a spec"),
    (1, "dims and params"),
    (2, "slots and modules"),
    (3, "norms"),
    (4, "rope and softmax scale"),
    (5, "masks, gates, indexers and attention"),
    (6, "build, grouped and cross attention, models"),
    (7, "import"),
    (8, "macros"),
];

/// Prints the rule behind a code, why it is there, a wrong and a right example; or what a key of the language means.
pub(crate) fn explain(args: &Explain) -> Result<(), Failure> {
    match explain::explain(&args.word).or_else(|| reference::explain(&args.word)) {
        Some(text) => talk::data(&(text.trim_end().to_owned() + "\n")),
        None => Err(Failure::Usage(format!(
            "no code and no key `{}`{}\n\n{}",
            args.word,
            nearest(&args.word),
            ranges()
        ))),
    }
}

/// `; the nearest is ...`, where the word holds a number.
fn nearest(code: &str) -> String {
    let digits: String = code.chars().filter(char::is_ascii_digit).collect();
    let Ok(number) = digits.parse::<u16>() else {
        return String::new();
    };
    let nearest = explain::all().min_by_key(|rule| rule.code.0.abs_diff(number));
    nearest.map_or_else(String::new, |rule| {
        format!("; did you mean {}: {}?", rule.code, rule.title)
    })
}

/// The codes that exist, by subject.
fn ranges() -> String {
    let mut by_subject: BTreeMap<u16, Vec<mla_spec::Code>> = BTreeMap::new();
    for rule in explain::all() {
        by_subject
            .entry(rule.code.0 / 100)
            .or_default()
            .push(rule.code);
    }
    let line = |(subject, codes): (&u16, &Vec<mla_spec::Code>)| {
        let name = SUBJECTS
            .iter()
            .find(|(number, _)| number == subject)
            .map_or("", |(_, name)| name);
        let (first, last) = (codes.first()?, codes.last()?);
        Some(format!("  {first} to {last}  {name}"))
    };
    let lines: Vec<String> = by_subject.iter().filter_map(line).collect();
    format!("codes:\n{}", lines.join("\n"))
}
