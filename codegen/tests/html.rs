//! Pages of layers: well-formed, whole, closed, the same each time.

mod models;
mod page;

use std::path::{Path, PathBuf};

use mla_codegen::plan::{Op, Plan, program};
use mla_codegen::report::Work;
use mla_codegen::report::html::{Device, Kernel, MARKER, Measured, Subject, page as written};
use mla_spec::{Body, Checked, Phase, Sources, check, check_model, read};

use models::model;
use page::Page;

/// Every layer under spec/models, those of whole models included.
fn all() -> Vec<(String, Checked)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/models");
    let mut layers = Vec::new();
    for folder in [folder.to_owned(), format!("{folder}/whole")] {
        let entries = std::fs::read_dir(folder).expect("the models are there");
        let paths = entries.map(|entry| entry.expect("the folder is readable").path());
        let is_spec = |path: &PathBuf| path.extension().is_some_and(|end| end == "yaml");
        let mut paths: Vec<PathBuf> = paths.filter(is_spec).collect();
        paths.sort();
        paths.iter().for_each(|path| layers.extend(layers_of(path)));
    }
    assert!(layers.len() > 45, "{}", layers.len());
    layers
}

fn layers_of(path: &Path) -> Vec<(String, Checked)> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).expect("the spec is readable");
    let document = read::yaml(&mut Sources::default(), &name, &text).expect("it is well-formed");
    match document.body {
        Body::Model(_) => {
            let model = check_model(&document).0.expect("the model is valid");
            let layers = model.layers.into_iter();
            layers
                .map(|layer| (format!("{name}: {}", layer.name), layer.checked))
                .collect()
        }
        _ => vec![(name, check(&document).0.expect("the layer is valid"))],
    }
}

fn subject<'a>(checked: &'a Checked, source: &'a str, measured: &'a [Measured]) -> Subject<'a> {
    Subject {
        checked,
        source,
        measured,
    }
}

fn one(checked: &Checked) -> String {
    written(&[subject(checked, "layer.yaml", &[])], None)
}

/// The functions of a layer that are drawn, by what their drawings are called.
fn functions(checked: &Checked) -> Vec<(&'static str, Plan)> {
    let program = program(checked);
    let name = |phase| match phase {
        Phase::Forward => "a-forward",
        Phase::Prefill => "a-prefill",
        Phase::Decode => "a-decode",
        Phase::Mixed => "a-mixed",
        Phase::Train => "a-train",
    };
    let plans = program
        .plans
        .iter()
        .map(|plan| (name(plan.phase), plan.clone()));
    let mut plans: Vec<(&str, Plan)> = plans.collect();
    if let Some(training) = &program.training {
        plans.push(("a-train", training.forward.clone()));
        plans.push(("a-backward", training.backward.clone()));
    }
    plans
}

#[test]
fn pages_of_all_models_are_well_formed_and_hold_every_op() {
    for (name, checked) in all() {
        let text = one(&checked);
        assert!(
            text.starts_with(MARKER),
            "{name}: {}",
            &text[..300.min(text.len())]
        );
        let page = Page::read(&text).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        page.assert_sound(&name);
        for (function, plan) in functions(&checked) {
            let count = plan.ops().count();
            for op in 0..count {
                for what in ["op", "row"] {
                    let id = format!("{function}-{what}{op}");
                    assert!(page.has_id(&id), "{name} has no {id}");
                }
            }
            let behind = format!("{function}-op{count}");
            assert!(!page.has_id(&behind), "{name} has {behind}");
        }
        page.assert_apart(&name);
    }
}

#[test]
fn what_an_op_makes_and_reads_is_marked_at_it() {
    let checked = model("deepseek-v3.2");
    let text = one(&checked);
    let page = Page::read(&text).unwrap();
    for (function, plan) in functions(&checked) {
        for (at, op) in plan.ops().enumerate() {
            let box_of = page.element(&format!("{function}-op{at}"));
            let numbers = |what: &str| -> Vec<usize> {
                let words = box_of.attribute(what).unwrap_or("").split(' ');
                words.filter_map(|word| word.parse().ok()).collect()
            };
            let reads = numbers("data-reads");
            assert!(
                op.reads().iter().all(|id| reads.contains(&id.0)),
                "{function} {at}"
            );
            if !matches!(op, Op::Adjoint(_)) {
                let makes = numbers("data-makes");
                assert!(
                    op.defines().iter().all(|id| makes.contains(&id.0)),
                    "{function} {at}"
                );
            }
            let name = box_of.attribute("aria-label").unwrap_or("");
            assert!(!name.is_empty(), "{function} {at} has no name");
        }
    }
}

#[test]
fn two_layers_stand_side_by_side_with_what_differs_marked() {
    let (v3, v32) = (model("deepseek-v3"), model("deepseek-v3.2"));
    let subjects = [subject(&v3, "v3.yaml", &[]), subject(&v32, "v32.yaml", &[])];
    let text = written(&subjects, None);
    let page = Page::read(&text).unwrap();
    page.assert_sound("two");
    page.assert_apart("two");
    assert!(
        text.contains("only in B") && !text.contains("only in A</span>\n</a>"),
        "the indexer"
    );
    assert!(
        text.contains("≠ A: does not read selection"),
        "attention over a selection"
    );
    assert!(
        text.contains("This layer has no such function."),
        "V3.2 has no `mixed`"
    );

    // A layer beside itself differs nowhere
    let text = written(
        &[subject(&v3, "a", &[]), subject(&v3, "b", &[])],
        Some(Phase::Decode),
    );
    let page = Page::read(&text).unwrap();
    let marked = page.with_class("op").filter(|element| {
        ["differs", "only"]
            .iter()
            .any(|mark| element.has_class(mark))
    });
    assert_eq!(marked.count(), 0);
    assert!(
        !page.has_id("a-forward-op0") && page.has_id("b-decode-op0"),
        "one phase alone"
    );
}

#[test]
fn mixed_families_and_widths_are_compared_too() {
    let mut other = model("llama3-8b");
    other.layer.name = "Other".to_owned();
    let v3 = model("deepseek-v3");
    let text = written(&[subject(&v3, "a", &[]), subject(&other, "b", &[])], None);
    Page::read(&text).unwrap().assert_sound("families");
    let lite = model("deepseek-v2-lite");
    let text = written(
        &[subject(&v3, "a", &[]), subject(&lite, "b", &[])],
        Some(Phase::Forward),
    );
    assert!(text.contains("≠ B: T×2048"), "another hidden size");
}

const HOSTILE: &str =
    "</script><script>alert(1)</script>\"'><img src=https://example.org/x onerror=y>&amp;{{ js }}";

#[test]
fn names_are_text_whatever_they_hold() {
    let mut checked = model("tiny-dense");
    // No spec can be called so, and nothing rests on that
    checked.layer.name = HOSTILE.to_owned();
    let work = Work {
        flops: 1_000_000,
        bytes: 1000,
    };
    let measured = [Measured {
        phase: Phase::Decode,
        with_backward: false,
        what: HOSTILE.to_owned(),
        seconds: 1e-3,
        work,
        kernels: vec![Kernel {
            name: HOSTILE.to_owned(),
            count: 2,
            seconds: 1e-4,
            work,
        }],
        device: Some(Device {
            name: HOSTILE.to_owned(),
            read: 1e12,
            products: 1e14,
        }),
    }];
    let text = written(&[subject(&checked, HOSTILE, &measured)], None);
    let page = Page::read(&text).unwrap();
    page.assert_sound("hostile");
    assert_eq!(page.count("script"), 1, "the page's own");
    assert_eq!(page.count("img"), 0);
    assert!(page.text().contains("alert(1)"), "it is shown");
}

#[test]
fn what_was_measured_stands_under_the_roof() {
    let checked = model("deepseek-v3");
    let work = Work {
        flops: 93_000_000_000,
        bytes: 640_000_000,
    };
    let call = |seconds| Measured {
        phase: Phase::Decode,
        with_backward: false,
        what: "64 × 1 tokens over 8192 cached, on a GPU".to_owned(),
        seconds,
        work,
        kernels: Vec::new(),
        device: None,
    };
    let measured = [call(400e-6), call(0.0)];
    let text = written(&[subject(&checked, "v3.yaml", &measured)], None);
    let page = Page::read(&text).unwrap();
    page.assert_sound("measured");
    let points = page
        .with_class("of-measured")
        .filter(|element| element.has_class("point"));
    assert_eq!(points.count(), 1, "no time, no point");
    assert!(
        text.contains("36 % of the roof"),
        "640 MB at 4.49 TB/s take 143 us"
    );
}

#[test]
fn the_same_layer_gives_the_same_bytes() {
    for name in ["deepseek-v3.2", "moonlight-train", "bart-large-cross"] {
        assert_eq!(one(&model(name)), one(&model(name)), "{name}");
    }
}

#[test]
fn nothing_gives_nothing() {
    assert_eq!(written(&[], None), "");
}
