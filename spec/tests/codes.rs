//! Every code that the source defines has a rule, and every rule's code is defined.

use std::collections::BTreeSet;
use std::path::Path;

/// Numbers in `.. Code = Code(103);`, below a folder.
fn defined(folder: &Path, codes: &mut BTreeSet<u16>) {
    for entry in std::fs::read_dir(folder).expect("the source is readable") {
        let path = entry.expect("the source is readable").path();
        if path.is_dir() {
            defined(&path, codes);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("the source is UTF-8");
            let numbers = text
                .split(": Code = Code(")
                .skip(1)
                .filter_map(|rest| rest.split(')').next()?.parse::<u16>().ok());
            for number in numbers {
                assert!(
                    codes.insert(number),
                    "MLA{number:04} is defined twice, again in {}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn every_code_has_a_rule_and_every_rule_a_code() {
    let mut codes = BTreeSet::new();
    defined(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut codes,
    );
    assert!(codes.len() > 50, "the source defines only {codes:?}");
    let ruled: BTreeSet<u16> = mla_spec::explain::all().map(|rule| rule.code.0).collect();
    let without_rule: Vec<_> = codes.difference(&ruled).collect();
    let without_code: Vec<_> = ruled.difference(&codes).collect();
    assert!(without_rule.is_empty(), "no rule explains {without_rule:?}");
    assert!(without_code.is_empty(), "nothing reports {without_code:?}");
}
