//! Every invalid spec of the corpus is refused with the text that stands beside it.
//!
//! `BLESS=1 cargo test -p mla-spec --test invalid_specs` writes the texts anew; read the difference before you commit it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mla_spec::{Body, Code, Diagnostics, Severity, Sources};

/// The corpus's files of one kind. It lies beside the crate in a checkout, and is absent from a packaged crate.
fn corpus(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/specs/err");
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut specs: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    specs.retain(|path| path.extension().is_some_and(|extension| extension == kind));
    specs.sort();
    specs
}

/// What is wrong with a spec, and how it is shown.
fn refused(path: &Path) -> (Diagnostics, String) {
    let text = std::fs::read_to_string(path).expect("a spec of the corpus is readable");
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("its name is UTF-8");
    let mut sources = Sources::default();
    let diagnostics = match mla_spec::read::yaml(&mut sources, name, &text) {
        Ok(document) => match &document.body {
            Body::Layer(_) => mla_spec::check(&document).1,
            Body::Model(_) => mla_spec::check_model(&document).1,
            _ => panic!("{} is another kind of spec", path.display()),
        },
        Err(diagnostics) => diagnostics,
    };
    let shown = mla_spec::render::text(&diagnostics, &sources, false);
    (diagnostics, shown)
}

#[test]
fn each_spec_is_refused_as_its_text_says() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    let specs = corpus("yaml");
    assert!(
        specs.is_empty() || specs.len() >= 200,
        "{} specs",
        specs.len()
    );
    for path in specs {
        let (diagnostics, shown) = refused(&path);
        assert!(diagnostics.has_errors(), "{} is accepted", path.display());
        let text = path.with_extension("txt");
        if bless {
            std::fs::write(&text, &shown).expect("the text can be written");
        } else if std::fs::read_to_string(&text)
            .unwrap_or_default()
            .replace("\r\n", "\n")
            != shown
        {
            wrong.push(format!("{}:\n{shown}", text.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "BLESS=1 rewrites these:\n\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_text_is_left_over() {
    for text in corpus("txt") {
        assert!(
            text.with_extension("yaml").exists(),
            "{} belongs to no spec",
            text.display()
        );
    }
}

#[test]
fn the_corpus_reaches_every_error_of_the_checks() {
    let specs = corpus("yaml");
    if specs.is_empty() {
        return;
    }
    let reached: BTreeSet<Code> = specs
        .iter()
        .flat_map(|path| refused(path).0)
        .map(|diagnostic| diagnostic.code)
        .collect();
    let missing: Vec<Code> = mla_spec::explain::all()
        .filter(|rule| (101..700).contains(&rule.code.0) && !rule.title.ends_with("(warning)"))
        .map(|rule| rule.code)
        .filter(|code| !reached.contains(code))
        .collect();
    assert!(
        missing.is_empty(),
        "no spec of the corpus shows {missing:?}"
    );
}

#[test]
fn messages_are_written_for_users() {
    const INTERNAL: [&str; 14] = [
        "NodeKind", "Spanned", "Scalar", "Option<", "Some(", "None)", "Entry", "serde", "saphyr",
        "syn::", "u32", "i64", "f64:", "unwrap",
    ];
    for path in corpus("yaml") {
        for diagnostic in refused(&path).0 {
            let labels = diagnostic
                .secondary
                .iter()
                .chain([&diagnostic.primary])
                .map(|label| &label.text);
            let texts = labels
                .chain([&diagnostic.message])
                .chain(&diagnostic.notes)
                .chain(&diagnostic.help);
            for text in texts {
                let place = format!("{}: {text}", path.display());
                assert!(
                    !INTERNAL.iter().any(|word| text.contains(word)),
                    "internal word in {place}"
                );
                assert!(
                    !text.ends_with('.') || text.ends_with(".."),
                    "full stop in {place}"
                );
                assert!(!text.starts_with(char::is_uppercase), "capital in {place}");
                assert_eq!(
                    text.matches('`').count() % 2,
                    0,
                    "unbalanced backticks in {place}"
                );
            }
            assert!(
                diagnostic.help.is_some(),
                "no remedy for {} in {}",
                diagnostic.message,
                path.display()
            );
            assert!(
                !diagnostic.primary.span.is_none(),
                "no place for {} in {}",
                diagnostic.message,
                path.display()
            );
            assert!(
                mla_spec::explain::explain(&diagnostic.code.to_string()).is_some(),
                "{} unknown",
                diagnostic.code
            );
        }
    }
}

#[test]
fn warnings_do_not_refuse() {
    let spec = mla_spec::explain::whole("submodules:\n  kv_layernorm: IdentityOp\n");
    let document =
        mla_spec::read::yaml(&mut Sources::default(), "spec.yaml", &spec).expect("the spec reads");
    let (checked, diagnostics) = mla_spec::check(&document);
    assert!(checked.is_some());
    assert!(
        diagnostics
            .iter()
            .all(|diagnostic| diagnostic.severity == Severity::Warning)
    );
    assert_eq!(diagnostics.iter().count(), 1);
}
