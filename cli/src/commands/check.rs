//! `mla-gen check SPEC…`

use std::path::{Path, PathBuf};

use crate::args::{Check, MessageFormat};
use crate::failure::Failure;
use crate::findings::Findings;
use crate::source::{self, Described};
use crate::talk;
use crate::watch::Watched;

/// Checks every spec, whatever became of the ones before. One that is refused counts more than one that can't be read.
pub(crate) fn check(args: &Check) -> Result<(), Failure> {
    if args.watch {
        return watch(args);
    }
    match (args.specs.as_slice(), args.message_format) {
        // Its failure is the command's
        ([one], MessageFormat::Human) => checked(one, args),
        _ => round(args),
    }
}

/// Checks again and again; ends when the user does.
fn watch(args: &Check) -> Result<(), Failure> {
    let files: Option<Vec<PathBuf>> = args.specs.iter().map(|path| source::file(path)).collect();
    let Some(files) = files else {
        let message = "`--watch` goes with files, and `-` is none";
        return Err(Failure::Usage(message.to_owned()));
    };
    let count = talk::counted(files.len(), "file");
    let mut watched = Watched::new(files);
    loop {
        if let Err(failure) = round(args) {
            talk::failure(&failure);
        }
        talk::status("watching", &format!("{count}; Ctrl-C ends it"));
        watched.wait();
    }
}

/// Checks all once; says of each what became of it.
fn round(args: &Check) -> Result<(), Failure> {
    let mut codes = Vec::new();
    for path in &args.specs {
        if let Err(failure) = checked(path, args) {
            if let (Failure::Refused { findings, .. }, MessageFormat::Json) =
                (&failure, args.message_format)
            {
                talk::data(&findings.json)?;
                talk::error(&failure.to_string());
            } else {
                talk::failure(&failure);
            }
            codes.push(failure.code());
        }
    }
    if args.message_format == MessageFormat::Json {
        talk::data(&finished(args.specs.len(), codes.len()))?;
    }
    let refused = codes.iter().find(|code| **code == 3);
    match refused.or(codes.first()) {
        None => Ok(()),
        Some(&code) => {
            let summary = format!(
                "{} of {} failed",
                codes.len(),
                talk::counted(args.specs.len(), "spec")
            );
            Err(Failure::Several { code, summary })
        }
    }
}

/// Checks one spec, and says that it is accepted.
fn checked(path: &Path, args: &Check) -> Result<(), Failure> {
    let (described, warnings) = source::with_warnings(path, &args.config)?;
    let Findings { text, json } = warnings;
    match args.message_format {
        MessageFormat::Human => talk::plain(&text),
        MessageFormat::Json => talk::data(&json)?,
    }
    talk::status("accepted", &said(&described));
    Ok(())
}

/// The last line of a round, for programs that wait for one.
fn finished(specs: usize, failed: usize) -> String {
    format!("{{\"$message_type\":\"check_finished\",\"specs\":{specs},\"failed\":{failed}}}\n")
}

/// The spec, and what it describes.
fn said(described: &Described) -> String {
    match described {
        Described::Layer(spec) => format!("`{}`: {}", spec.shown, spec.checked.layer.name),
        Described::Model(shown, model) => format!(
            "`{shown}`: {}, {}, {} of them different",
            model.name,
            talk::counted(model.indices.len(), "attention"),
            model.layers.len()
        ),
    }
}
