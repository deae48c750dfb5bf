//! Layers in other systems' words: what comes back is the same layer, and what can't be said is refused with its key.

use std::path::Path;

use mla_spec::compare::{self, Topic};
use mla_spec::export::{self, Exported};
use mla_spec::import::{self, Options, System};
use mla_spec::{Checked, Diagnostics, Severity, Sources, check, explain, read, render};

const SYSTEMS: [System; 3] = [System::Megatron, System::MaxText, System::HuggingFace];

fn export(system: System, spec: &str) -> (Result<Exported, Diagnostics>, Checked, Sources) {
    let mut sources = Sources::default();
    let document = read::yaml(&mut sources, "spec.yaml", spec).expect("the spec reads");
    let checked = check(&document).0.unwrap_or_else(|| panic!("{spec}"));
    let exported = export::layer(system, &mut sources, &document, &checked);
    (exported, checked, sources)
}

#[track_caller]
fn accept(system: System, spec: &str) -> Exported {
    let (exported, _, sources) = export(system, spec);
    exported.unwrap_or_else(|found| panic!("{}", render::text(&found, &sources, false)))
}

/// Messages of what is refused.
#[track_caller]
fn refused(system: System, spec: &str) -> Vec<String> {
    let found = export(system, spec).0.expect_err("this can't be said");
    let errors = found.iter().filter(|one| one.severity == Severity::Error);
    errors.map(|one| one.message.clone()).collect()
}

fn model(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn deepseek_comes_back_from_every_system() {
    for name in [
        "deepseek-v3.yaml",
        "deepseek-v2.yaml",
        "youtu.yaml",
        "deepseek-v3.2.yaml",
    ] {
        for system in SYSTEMS {
            // Its indexer's pairs, or none of them, are what each of the three can say.
            let (exported, checked, sources) = export(system, &model(name));
            let exported = exported.unwrap_or_else(|found| {
                panic!("{name}: {}", render::text(&found, &sources, false))
            });
            let mut sources = Sources::default();
            let options = Options::default();
            let again = import::layer(system, &mut sources, "text", &exported.text, &options);
            let again = check(&again.unwrap().document).0.unwrap();
            let found = compare::differences(&compare::facts(&checked), &compare::facts(&again));
            let differs = found.iter().any(|one| one.topic == Topic::Mathematics);
            assert!(!differs, "{name}, {}: {found:?}", system.name());
            assert_eq!(
                System::of(&exported.text),
                Some(system),
                "its keys tell whose it is"
            );
        }
    }
}

#[test]
fn every_model_is_said_or_refused_with_what_cant_be_said() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let mut said = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let spec = std::fs::read_to_string(&path).unwrap();
        if spec.contains("\nmodel:") {
            continue;
        }
        for system in SYSTEMS {
            let (exported, _, sources) = export(system, &spec);
            match exported {
                Ok(_) => said += 1,
                Err(found) => {
                    assert!(found.has_errors(), "{}", path.display());
                    render::text(&found, &sources, false);
                }
            }
        }
    }
    assert!(said >= 20, "only {said} were said");
}

#[test]
fn what_cant_be_said_is_named_by_its_key() {
    let gated = refused(System::Megatron, &model("hy-v4.yaml"));
    assert!(
        gated
            .iter()
            .any(|said| said.contains("`attention_output_gate`")),
        "{gated:?}"
    );
    let kimi = refused(System::Megatron, &model("kimi-k2.yaml"));
    assert!(
        kimi == ["Megatron can't say `rope` (rope)"],
        "its beta_fast has no flag: {kimi:?}"
    );
    accept(System::MaxText, &model("kimi-k2.yaml"));
    let scaled = refused(System::MaxText, &model("longcat-flash.yaml"));
    assert!(
        scaled.iter().any(|said| said.contains("`kv_lora_scale`")),
        "{scaled:?}"
    );
    let still = refused(System::MaxText, &model("kimi-linear.yaml"));
    assert!(
        still.iter().any(|said| said.contains("`rope`")),
        "{still:?}"
    );
    let plain = refused(System::Megatron, &model("moonlight.yaml"));
    assert!(plain[0].contains("norm of the layer's input"), "{plain:?}");
    let grouped = refused(System::HuggingFace, &model("llama3-8b.yaml"));
    assert_eq!(
        grouped,
        ["only latent attention is written as another system's config"]
    );
}

#[test]
fn two_mscales_are_one_too_many_for_maxtext() {
    let spec = model("deepseek-v3.yaml").replace("mscale: 1.0,", "mscale: 0.5,");
    let found = refused(System::MaxText, &spec);
    assert_eq!(found, ["MaxText can't say `rope` (cos and sin times)"]);
    accept(System::Megatron, &spec);
}

#[test]
fn what_is_laid_out_or_scheduled_otherwise_is_pointed_out() {
    let exported = accept(System::Megatron, &model("deepseek-v3.yaml"));
    let messages: Vec<_> = exported
        .lints
        .iter()
        .map(|one| one.message.as_str())
        .collect();
    assert!(
        messages.iter().any(|said| said.contains("`kv_layernorm`")),
        "{messages:?}"
    );
    assert!(
        messages
            .iter()
            .any(|said| said.contains("phases (forward, prefill, decode, mixed)")),
        "{messages:?}"
    );
    assert!(
        exported.text.contains("--cache-mla-latents"),
        "pages of 64: {}",
        exported.text
    );
}

#[test]
fn every_code_is_explained_by_a_spec_that_meets_it() {
    for rule in explain::export::RULES {
        let found = |spec: &str| -> Vec<u16> {
            let list = match export(System::Megatron, &explain::whole(spec)).0 {
                Ok(exported) => exported.lints,
                Err(found) => found,
            };
            list.iter().map(|one| one.code.0).collect()
        };
        let (wrong, right) = (found(rule.wrong), found(rule.right));
        assert!(wrong.contains(&rule.code.0), "{}: {wrong:?}", rule.code);
        assert!(!right.contains(&rule.code.0), "{}: {right:?}", rule.code);
        let right = export(System::Megatron, &explain::whole(rule.right)).0;
        assert!(right.is_ok(), "{}", rule.code);
    }
}
