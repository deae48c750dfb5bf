//! `mla-gen show SPEC --html FILE`: a page of a layer, or of two side by side.

use std::path::Path;

use mla_codegen::report::html::{self, Measured, Subject};
use mla_spec::Phase;

use super::{scheduled, timed, without};
use crate::args::{FromConfig, Show};
use crate::failure::Failure;
use crate::source::{self, Described, Spec};
use crate::{folder, talk};

/// Writes the page.
pub(super) fn write(args: &Show, file: &Path) -> Result<(), Failure> {
    let mut specs = vec![source::spec(&args.spec, &args.config)?];
    if let Some(other) = &args.against {
        specs.push(second(other, &args.config)?);
    }
    if args.bench.len() > specs.len() {
        return Err(Failure::Usage(format!(
            "`--bench` is given {} times, and there {}; the second one goes with `--against`",
            args.bench.len(),
            if specs.len() == 1 {
                "is one layer"
            } else {
                "are two layers"
            }
        )));
    }
    for spec in &mut specs {
        spec.checked = scheduled(args, spec.checked.clone())?;
    }
    let phase = args.phase.map(Phase::from);
    refuse_unplanned(&specs, phase)?;
    let measured: Vec<Vec<Measured>> = specs
        .iter()
        .enumerate()
        .map(|(at, spec)| match args.bench.get(at) {
            Some(path) => timed::read(path, &spec.checked),
            None => Ok(Vec::new()),
        })
        .collect::<Result<_, Failure>>()?;
    let subjects = specs.iter().zip(&measured).map(|(spec, measured)| Subject {
        checked: &spec.checked,
        source: &spec.shown,
        measured,
    });
    let subjects: Vec<Subject> = subjects.collect();
    put(file, &html::page(&subjects, phase))
}

/// The layer to compare with. `--layer` chooses its attention too, where it is a config's or a model's.
fn second(path: &Path, config: &FromConfig) -> Result<Spec, Failure> {
    if path == Path::new("-") {
        return Err(Failure::Usage(
            "only SPEC can come from stdin; write the other layer's spec into a file".to_owned(),
        ));
    }
    let found = source::described(path, &FromConfig::default())?;
    let has_layers = match &found {
        Described::Layer(spec) => spec.imported.is_some(),
        Described::Model(..) => true,
    };
    match found {
        Described::Layer(spec) if config.layer.is_none() || !has_layers => Ok(*spec),
        // What a model says without a choice is said of this one too
        _ => source::spec(
            path,
            &FromConfig {
                layer: config.layer,
                strict: false,
            },
        ),
    }
}

/// A phase that is asked for has to be there in at least one layer.
fn refuse_unplanned(specs: &[Spec], phase: Option<Phase>) -> Result<(), Failure> {
    let Some(phase) = phase else {
        return Ok(());
    };
    let mut all = specs.iter().map(|spec| &spec.checked.build.phases);
    match all.any(|phases| phases.contains(&phase)) {
        true => Ok(()),
        false => Err(without(&specs[0].shown, phase)),
    }
}

/// Writes a page into a file that is new or an earlier page; `-` prints it.
fn put(file: &Path, page: &str) -> Result<(), Failure> {
    if file == Path::new("-") {
        return talk::data(page);
    }
    if file.is_dir() {
        let inside = file.join("layer.html");
        let hint = format!(
            "it is a folder; name a file, such as `{}`",
            inside.display()
        );
        return Err(Failure::write(file, hint));
    }
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        let hint = format!("there is no folder `{}`; make it first", parent.display());
        return Err(Failure::write(file, hint));
    }
    if file.exists() {
        let there = std::fs::read(file).map_err(|error| Failure::read(file, error))?;
        if !there.starts_with(html::MARKER.as_bytes()) {
            let hint = "mla-gen did not write what stands there; choose another name, or remove it";
            return Err(Failure::write(file, hint));
        }
    }
    folder::write_file(file, page.as_bytes())?;
    talk::status("Wrote", &file.display().to_string());
    Ok(())
}
