//! What emitted text says and where it can stand.

mod specs;

use mla_codegen::{Options, Origin, emit, emit_module_text};

fn options(spec: &str) -> Options {
    Options::new(Origin {
        spec: spec.to_owned(),
        command: Some(format!("mla-gen build {spec}")),
    })
}

fn of<'a>(models: &'a [(String, mla_spec::Checked)], stem: &str) -> &'a mla_spec::Checked {
    &models.iter().find(|(name, _)| name == stem).unwrap().1
}

#[test]
fn a_name_of_a_file_can_not_end_the_header() {
    let models = specs::models();
    let evil = "a\nfn injected() {}\r\u{2028}\u{202e}*/ `.yaml";
    for text in emit(of(&models, "moonlight"), &options(evil)).0.values() {
        let header: Vec<&str> = text
            .lines()
            .take_while(|line| line.starts_with("//"))
            .collect();
        assert!(header[0].contains("fn injected() {}"), "{header:?}");
        assert!(header[1].starts_with("// Regenerate: mla-gen build a"));
        assert_eq!(text.matches("fn injected").count(), 2);
        assert!(!text.contains(['\r', '\u{2028}', '\u{202e}']));
    }
}

#[test]
fn a_module_for_macros_names_no_other_file_and_only_the_given_runtime() {
    for (name, checked) in specs::models() {
        let options = Options {
            runtime: "::renamed::runtime".to_owned(),
            ..options("x.yaml")
        };
        let text = emit_module_text(&checked, &options);
        assert!(!text.contains("mod tests"), "{name}");
        assert!(!text.contains("mla_runtime"), "{name}");
        assert!(text.contains("use ::renamed::runtime::{"), "{name}");
        assert!(
            text.contains("\n::renamed::runtime::layer_traits!("),
            "{name}"
        );
    }
}

#[test]
fn probes_are_printed_only_where_asked_for() {
    let models = specs::models();
    let checked = of(&models, "deepseek-v3");
    let plain = emit_module_text(checked, &options("x.yaml"));
    assert!(!plain.contains("probe"));
    let probed = emit_module_text(
        checked,
        &Options {
            probes: true,
            ..options("x.yaml")
        },
    );
    assert_eq!(probed.matches("probe: &mut dyn Probe,").count(), 3);
    assert!(probed.contains("probe::record(probe, \"mid.q\", &q)?;"));
    assert!(
        probed.contains("layer_traits!(DeepSeekV3Attention: probed forward, prefill, decode);")
    );
    // Without the lines about probes the two are one text
    let without: Vec<&str> = probed
        .lines()
        .filter(|line| !line.contains("probe"))
        .collect();
    for line in plain
        .lines()
        .filter(|line| line.trim_start().starts_with("let "))
    {
        assert!(without.contains(&line), "{line}");
    }
}

#[test]
fn no_lint_is_allowed_but_for_known_constants() {
    for (name, checked) in specs::models().into_iter().chain(specs::variants()) {
        for text in emit(&checked, &options("x.yaml")).0.values() {
            let allows = text.lines().filter(|line| line.contains("allow("));
            for allow in allows {
                assert!(
                    allow.contains("clippy::approx_constant") && allow.contains("// "),
                    "{name}: {allow}"
                );
                // The scales of a small layer's latents are square roots of small integers.
                let scaled = name.starts_with("dots3-note") || name.starts_with("longcat");
                assert!(name == "known-constant" || scaled, "{name}");
            }
            assert!(!text.contains("compile_error"), "{name}");
            assert!(!text.contains("  \n") && !text.contains("\n\n\n"), "{name}");
        }
    }
}
