//! Imports of Megatron-LM's arguments and of MaxText's configs: what they say, what is pointed out, and what is refused.

use std::path::PathBuf;

use mla_spec::compare::{self, Difference, Topic};
use mla_spec::export;
use mla_spec::import::{self, Imported, Options, System};
use mla_spec::{
    Activation, CacheKind, Checked, Diagnostics, Norm, NormKind, Phase, Query, Rope, RopeLayout,
    Sink, Sources, check, explain, read, render, write,
};
use proptest::prelude::*;

#[path = "import_systems/maxtext.rs"]
mod maxtext;
#[path = "import_systems/megatron.rs"]
mod megatron;

fn configs(path: &str) -> String {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/configs"));
    std::fs::read_to_string(folder.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn import(text: &str) -> Result<Imported, Diagnostics> {
    let system = System::of(text).unwrap_or(System::Megatron);
    import::layer(
        system,
        &mut Sources::default(),
        "config",
        text,
        &Options::default(),
    )
}

/// Imports, or shows why not.
#[track_caller]
fn accept(text: &str) -> Imported {
    accept_with(text, &Options::default())
}

#[track_caller]
fn accept_with(text: &str, options: &Options) -> Imported {
    let mut sources = Sources::default();
    let system = System::of(text).unwrap_or(System::Megatron);
    match import::layer(system, &mut sources, "config", text, options) {
        Ok(imported) => imported,
        Err(found) => panic!("{}", render::text(&found, &sources, false)),
    }
}

#[track_caller]
fn checked(imported: &Imported) -> Checked {
    check(&imported.document)
        .0
        .expect("what is imported is accepted")
}

/// Codes of what is refused.
#[track_caller]
fn refused(text: &str) -> Vec<u16> {
    let found = import(text).expect_err("this is refused");
    let errors = found
        .iter()
        .filter(|one| one.severity == mla_spec::Severity::Error);
    errors.map(|one| one.code.0).collect()
}

/// Messages of the lints of a code.
#[track_caller]
fn lints(text: &str, code: u16) -> Vec<String> {
    let imported = accept(text);
    let of_code = imported.lints.iter().filter(|one| one.code.0 == code);
    of_code.map(|one| one.message.clone()).collect()
}

#[track_caller]
fn differences(left: &str, right: &str) -> Vec<Difference> {
    let facts = |text| compare::facts(&checked(&accept(text)));
    compare::differences(&facts(left), &facts(right))
}

#[track_caller]
fn mathematics(left: &str, right: &str) -> Vec<Difference> {
    let mut found = differences(left, right);
    found.retain(|difference| difference.topic == Topic::Mathematics);
    found
}

#[test]
fn released_models_are_the_same_layers_in_every_system() {
    for (hugging_face, other) in [
        ("deepseek-v2-lite.json", "maxtext/deepseek2-16b.yml"),
        ("deepseek-v3.json", "maxtext/deepseek3-671b.yml"),
        ("deepseek-v3.2.json", "maxtext/deepseek3.2-671b.yml"),
        ("kimi-k2-instruct.json", "maxtext/kimi-k2-1t.yml"),
        ("deepseek-v3.json", "megatron/deepseek-v3.sh"),
        ("deepseek-v3.json", "megatron/deepseek-v3.flags.yaml"),
        ("deepseek-v3.2.json", "megatron/deepseek-v3.2.yaml"),
    ] {
        let found = mathematics(&configs(hugging_face), &configs(other));
        assert!(found.is_empty(), "{other}: {found:?}");
    }
}

#[test]
fn fused_norms_and_caches_are_layout_not_mathematics() {
    let found = differences(
        &configs("deepseek-v3.json"),
        &configs("megatron/deepseek-v3.sh"),
    );
    let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "norm of the query latent stands",
            "norm of the key-value latent stands"
        ]
    );
    assert!(found.iter().all(|one| one.topic == Topic::Layout));
    let indexers = differences(
        &configs("deepseek-v3.2.json"),
        &configs("megatron/deepseek-v3.2.yaml"),
    );
    let topics: Vec<_> = indexers.iter().map(|one| one.topic).collect();
    assert_eq!(topics, [Topic::Layout, Topic::Schedule], "{indexers:?}");
}

#[test]
fn whatever_is_imported_is_written_and_reads_back() {
    for path in [
        "maxtext/deepseek2-16b.yml",
        "maxtext/deepseek3.2-671b.yml",
        "megatron/deepseek-v3.sh",
        "megatron/deepseek-v3.2.yaml",
    ] {
        let imported = accept(&configs(path));
        let written = write::yaml(&imported.document, &imported.comments);
        let again = read::yaml(&mut Sources::default(), "spec.yaml", &written);
        assert_eq!(again.ok().as_ref(), Some(&imported.document), "{written}");
    }
}

#[test]
fn every_code_is_explained_by_a_text_that_meets_it() {
    for rule in explain::systems::RULES {
        let found = |text: &str| -> Vec<u16> {
            let list = match import(text) {
                Ok(imported) => imported.lints,
                Err(found) => found,
            };
            list.iter().map(|one| one.code.0).collect()
        };
        let wrong = found(rule.wrong);
        assert!(wrong.contains(&rule.code.0), "{}: {wrong:?}", rule.code);
        let right = found(rule.right);
        assert!(!right.contains(&rule.code.0), "{}: {right:?}", rule.code);
        assert!(import(rule.right).is_ok(), "{}: {right:?}", rule.code);
    }
}

#[test]
fn systems_are_told_apart() {
    for (text, wanted) in [
        ("# x\n\nbase_emb_dim: 1\n", Some(System::MaxText)),
        (
            "torchrun pretrain_gpt.py --hidden-size 4",
            Some(System::Megatron),
        ),
        ("MODEL_ARGS:\n  --hidden-size: 4\n", Some(System::Megatron)),
        (
            "language_model:\n  hidden_size: 4\n",
            Some(System::Megatron),
        ),
        ("mla: 1\nattention_type: mla\n", None),
        ("{ \"mla\": 1 }", None),
        ("", None),
        ("-- \n", None),
    ] {
        assert_eq!(System::of(text), wanted, "{text}");
    }
}

proptest! {
    /// Any text is imported or refused; what is imported passes the check, and is exported or refused.
    #[test]
    fn changed_texts_are_imported_or_refused(which in 0usize..4, line in 0usize..60, change in 0usize..6, word in "[-a-z_0-9.\"({:]{0,12}") {
        let paths = ["maxtext/deepseek3.2-671b.yml", "megatron/deepseek-v3.sh", "megatron/deepseek-v3.2.yaml", "megatron/deepseek-v3.flags.yaml"];
        let text = configs(paths[which]);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = line % lines.len();
        match change {
            0 => drop(lines.remove(at)),
            1 => lines[at] = word,
            2 => lines[at].push_str(&word),
            3 => { let end = lines[at].chars().count() / 2; lines[at] = lines[at].chars().take(end).collect(); }
            4 => { let copy = lines[at].clone(); lines.push(copy); }
            _ => lines[at] = lines[at].replace(['1', '2', '6'], &word),
        }
        let text = lines.join("\n");
        for system in [System::MaxText, System::Megatron] {
            let mut sources = Sources::default();
            match import::layer(system, &mut sources, "config", &text, &Options::default()) {
                Ok(imported) => {
                    let (checked, found) = check(&imported.document);
                    prop_assert!(checked.is_some() && !found.has_errors());
                    let to = [System::Megatron, System::MaxText, System::HuggingFace][line % 3];
                    let exported = export::layer(to, &mut sources, &imported.document, &checked.unwrap());
                    match exported {
                        Ok(exported) => prop_assert!(!exported.lints.has_errors()),
                        Err(found) => prop_assert!(found.has_errors()),
                    }
                    render::text(&imported.lints, &sources, false);
                }
                Err(found) => {
                    prop_assert!(found.has_errors());
                    render::text(&found, &sources, false);
                }
            }
        }
    }
}
