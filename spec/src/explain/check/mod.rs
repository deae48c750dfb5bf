//! Rules of the `check` stage.

mod activations;
mod build;
mod folds;
mod formats;
mod gates;
mod grouped;
mod index_queries;
mod masks;
mod model;
mod norms;
mod params;
mod rope;
mod slots;
mod sparse;
mod training;
mod weights;

use super::Rule;

/// In the order of the codes.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    let tables = [
        params::RULES,
        slots::RULES,
        gates::RULES,
        norms::RULES,
        rope::RULES,
        masks::RULES,
        sparse::RULES,
        training::RULES,
        build::RULES,
        formats::RULES,
        activations::RULES,
        folds::RULES,
        index_queries::RULES,
        weights::RULES,
        grouped::RULES,
        model::RULES,
    ];
    tables.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use crate::diagnostic::{Code, Diagnostics, Severity};
    use crate::document::Body;
    use crate::explain::{BASE, CROSS, GROUPED, MODEL, check::rules, whole};
    use crate::span::Sources;

    fn diagnostics(spec: &str) -> Diagnostics {
        let mut sources = Sources::default();
        let document =
            crate::read::yaml(&mut sources, "example.yaml", spec).expect("an example reads");
        let (checked, diagnostics) = match &document.body {
            Body::Layer(_) => {
                let (checked, diagnostics) = crate::check(&document);
                (checked.is_some(), diagnostics)
            }
            Body::Model(_) => {
                let (checked, diagnostics) = crate::check_model(&document);
                (checked.is_some(), diagnostics)
            }
        };
        assert_eq!(checked, !diagnostics.has_errors(), "{spec}");
        diagnostics
    }

    #[test]
    fn the_bases_are_valid() {
        for base in [BASE, GROUPED, CROSS, MODEL] {
            assert_eq!(diagnostics(base), Diagnostics::new());
        }
    }

    #[test]
    fn each_wrong_example_breaks_its_rule_alone() {
        for rule in rules() {
            let codes: Vec<Code> = diagnostics(&whole(rule.wrong))
                .iter()
                .map(|found| found.code)
                .collect();
            assert!(
                !codes.is_empty() && codes.iter().all(|code| *code == rule.code),
                "{}: {codes:?}",
                rule.code
            );
        }
    }

    #[test]
    fn each_right_example_passes() {
        for rule in rules() {
            assert!(diagnostics(&whole(rule.right)).is_empty(), "{}", rule.code);
        }
    }

    #[test]
    fn warnings_say_so() {
        for rule in rules() {
            let warns = diagnostics(&whole(rule.wrong))
                .iter()
                .all(|found| found.severity == Severity::Warning);
            assert_eq!(warns, rule.title.ends_with("(warning)"), "{}", rule.code);
        }
    }
}
