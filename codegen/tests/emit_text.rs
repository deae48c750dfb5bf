//! What emitted text says and where it can stand.

mod specs;

use mla_codegen::{Options, Origin, emit, emit_model, emit_module_text};

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
    assert_eq!(probed.matches("probe: &mut dyn Probe,").count(), 4);
    assert!(probed.contains("probe::record(probe, \"mid.q\", &q)?;"));
    assert!(
        probed.contains(
            "layer_traits!(DeepSeekV3Attention: probed forward, prefill, decode, mixed);"
        )
    );
    // Without the lines about probes the two are one text, but where an attention's log-sum-exp is read, it is not asked to round, and where what is
    // cached is read, rows are kept
    let without: Vec<&str> = probed
        .lines()
        .filter(|line| !line.contains("probe"))
        .collect();
    for line in plain
        .lines()
        .filter(|line| line.trim_start().starts_with("let ") && !line.contains("attended"))
        .filter(|line| !line.contains("cache.prologue"))
    {
        assert!(without.contains(&line), "{line}");
    }
}

/// The text of a function, up to the next one's documentation.
fn function<'a>(text: &'a str, name: &str) -> &'a str {
    let at = text.find(&format!("pub fn {name}")).unwrap();
    let body = &text[at..];
    &body[..body.find("///").unwrap_or(body.len())]
}

#[test]
fn attention_rounds_its_output_where_nobody_reads_more_of_it() {
    let models = specs::models();
    let text = |stem: &str| emit_module_text(of(&models, stem), &options("x.yaml"));
    // Expanded, over a context, absorbed over a cache, and requests of both forms; with gates; groups, and over their cache
    for stem in [
        "deepseek-v3",
        "deepseek-v3.2",
        "axk2",
        "llama3-8b",
        "bart-large-cross",
    ] {
        let text = text(stem);
        assert!(!text.contains("Attended"), "{stem}");
        assert!(!text.contains("into_out"), "{stem}");
        assert!(text.contains("let attended: Heads<B, "), "{stem}");
    }
    let prefill = text("deepseek-v3");
    let prefill = function(&prefill, "prefill");
    assert!(prefill.contains("attention::over_context(&q, context, SOFTMAX_SCALE, |latent| {"));
    assert!(prefill.contains("let out = attended.into_rows::<OUT_WIDTH>();"));
    // A sink takes its share of what is not rounded, before it is absorbed
    let sunk = text("hy-v4");
    assert!(!sunk.contains("let attended: Heads<"), "{sunk}");
    let decode = function(&sunk, "decode");
    assert!(decode.contains("let attended: Attended<B, NUM_ATTENTION_HEADS, KV_LORA_RANK> ="));
    assert!(decode.contains("let attended = attended.with_sinks(&self.sinks)?;"));
    assert!(decode.contains("let z = attended.into_out()?;"));
    assert!(decode.contains("absorb::values(&self.linear_kv_up_proj, &z)?;"));
    // Training keeps the log-sum-exp
    let trained = text("moonlight-train");
    assert!(function(&trained, "forward(").contains("let attended: Heads<"));
    let kept = function(&trained, "forward_train");
    assert!(kept.contains("let attended: Attended<"), "{kept}");
    assert!(kept.contains("= attended.into_parts()?;"), "{kept}");
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

#[test]
fn a_model_is_a_module_of_its_different_layers() {
    for (name, model) in specs::whole_models() {
        let options = options("x.yaml");
        let files = emit_model(&model, &options).0;
        for layer in &model.layers {
            for (file, text) in emit(&layer.checked, &options).0 {
                assert_eq!(files[&format!("{}/{file}", layer.name)], text, "{name}");
            }
        }
        let root = &files["mod.rs"];
        assert_eq!(files.len(), 1 + 2 * model.layers.len(), "{name}");
        assert_eq!(
            root.matches("\npub mod ").count(),
            model.layers.len(),
            "{name}"
        );
        let rows = root.matches("    LayerAt { module: ").count();
        assert_eq!(rows, model.indices.len(), "{name}");
        for (index, at) in model.indices.iter().enumerate() {
            let row = format!(
                "    LayerAt {{ module: \"{}\", prefix: \"{}\", topk_source: {:?}, kv_source: {:?}, stage: {} }},\n",
                model.layers[at.layer].name,
                model.prefix_of(index),
                at.topk_source,
                at.kv_source,
                at.stage
            );
            assert!(root.contains(&row), "{name}: {row}");
        }
    }
}

#[test]
fn layers_named_like_words_of_rust_have_other_modules() {
    let spec = include_str!("../../spec/models/small-shared.yaml");
    let renamed = spec
        .replace("store", "mla_runtime")
        .replace("reuse", "layer");
    let model = specs::checked_model("renamed", &renamed);
    let files = emit_model(&model, &options("x.yaml")).0;
    for module in ["mla_runtime_layer", "layer_layer", "picking", "picked"] {
        assert!(files.contains_key(&format!("{module}/mod.rs")), "{module}");
        assert!(
            files["mod.rs"].contains(&format!("\npub mod {module};\n")),
            "{module}"
        );
    }
    assert!(files["mod.rs"].contains("use mla_runtime::{Backend,"));
}

#[test]
fn a_model_of_mixed_element_types_has_no_usual_backend() {
    let models = specs::whole_models();
    let (_, model) = models
        .iter()
        .find(|(name, _)| name == "small-shared")
        .unwrap();
    let mut mixed = model.clone();
    mixed.layers[1].checked.build.dtype = mla_spec::DType::F64;
    let text = &emit_model(&mixed, &options("x.yaml")).0["mod.rs"];
    assert!(
        text.contains("pub enum SmallSharedLayer<B: Backend> {"),
        "{text}"
    );
    assert!(!text.contains("Cpu"));
}
