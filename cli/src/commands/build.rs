//! `mla-gen build SPEC`

use std::path::{Path, PathBuf};

use mla_spec::FormChoice;

use crate::args::{Build, Emit, Form};
use crate::driver::{library, variant};
use crate::emit::{self, Request};
use crate::failure::Failure;
use crate::folder::{self, Difference, Files};
use crate::package::{self, Runtime};
use crate::source::{self, Described};
use crate::talk;

/// Writes, prints or checks what a spec becomes.
pub(crate) fn build(args: &Build) -> Result<(), Failure> {
    let mut described = source::described(&args.spec, &args.config)?;
    if let Some(form) = args.form {
        force(form, &mut described)?;
    }
    if let Some(file) = &args.shared {
        return shared(&described, args, file);
    }
    if args.package && !matches!(args.emit, None | Some(Emit::All)) {
        let message = "`--crate` needs the whole module: leave `--emit` out, or `--emit all`";
        return Err(Failure::Usage(message.to_owned()));
    }
    let snake_name = mla_codegen::module_name(described.name());
    let folder = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(&snake_name));
    let folder: PathBuf = folder.components().collect(); // `out/` is `out`, also in headers
    let request = Request {
        command: regenerate(args, &described, &folder),
        emit: args.emit,
        cubins: architectures(args, &described)?,
    };
    let mut files = emit::files(&described, &request)?;
    if args.emit.is_some() && args.output.is_none() && !args.check {
        return print(&files);
    }
    if args.package {
        let runtime = Runtime::find(args.runtime.as_deref())?;
        files.extend(package::files(
            &folder,
            &snake_name,
            described.name(),
            &runtime,
        ));
    }
    // A part of a module says nothing about the rest of it
    let complete = matches!(args.emit, None | Some(Emit::All));
    if args.check {
        check(&folder, &files, complete)
    } else {
        write(&folder, &files, complete, args)
    }
}

/// What kernels are compiled for ahead of time: what is asked for, or else the GPUs that the spec names.
fn architectures(args: &Build, described: &Described) -> Result<Vec<String>, Failure> {
    if !args.cubin {
        return Ok(Vec::new());
    }
    let layers = described.layers().into_iter();
    let targets = layers.flat_map(|layer| &layer.build.targets);
    let mut named: Vec<String> = targets
        .filter(|target| target.is_gpu())
        .map(|target| target.word().to_owned())
        .collect();
    named.sort();
    named.dedup();
    if named.is_empty() {
        let message = "`--cubin` compiles kernels, and the spec's `build.targets` name no GPU; add one to them, such as `sm_90a`";
        return Err(Failure::Usage(message.to_owned()));
    }
    Ok(match args.arch.as_slice() {
        [] => named,
        asked => asked.to_vec(),
    })
}

/// Compiles one layer to a shared library.
fn shared(described: &Described, args: &Build, file: &Path) -> Result<(), Failure> {
    let Described::Layer(spec) = described else {
        let message = "`--shared` takes one layer, and the spec describes a model: choose an attention with `--layer N`";
        return Err(Failure::Usage(message.to_owned()));
    };
    let mut checked = spec.checked.clone();
    if let Some(dtype) = args.dtype {
        variant::compute_in(dtype.into(), &mut checked.build);
    }
    let header = library::build(&checked, file)?;
    talk::status(
        "wrote",
        &format!("`{}` and `{}`", file.display(), header.display()),
    );
    Ok(())
}

/// Chooses the form of every phase.
fn force(form: Form, described: &mut Described) -> Result<(), Failure> {
    for checked in described.layers_mut() {
        super::refuse_mqa_over_naive(checked, Some(form.into()))?;
        checked.build.form = FormChoice::Forced(form.into());
    }
    Ok(())
}

fn write(folder: &Path, files: &Files, complete: bool, args: &Build) -> Result<(), Failure> {
    let written = folder::write(folder, files, complete, args.force)?;
    let shown = folder.display();
    for name in &written.removed {
        talk::status("removed", &format!("`{}`", folder.join(name).display()));
    }
    match written.changed.as_slice() {
        [] => talk::status("unchanged", &format!("`{shown}`")),
        changed => talk::status("wrote", &format!("`{shown}`: {}", changed.join(", "))),
    }
    Ok(())
}

/// Differences are data; their number is the failure.
fn check(folder: &Path, files: &Files, complete: bool) -> Result<(), Failure> {
    let differences = folder::compare(folder, files, complete)?;
    if differences.is_empty() {
        talk::status("up to date", &format!("`{}`", folder.display()));
        return Ok(());
    }
    let mut text = String::new();
    for difference in &differences {
        let path = |name: &str| folder.join(name).display().to_string();
        match difference {
            Difference::Missing(name) => text.push_str(&format!("missing: {}\n", path(name))),
            Difference::Stale(name) => text.push_str(&format!("stale: {}\n", path(name))),
            Difference::Changed { diff, .. } => text.push_str(diff),
        }
    }
    talk::data(&text)?;
    let differ = match differences.len() {
        1 => "1 file differs".to_owned(),
        count => format!("{count} files differ"),
    };
    Err(Failure::Check(format!(
        "`{}` is not what mla-gen would write: {differ}",
        folder.display()
    )))
}

/// One file as it is; several each under its name.
fn print(files: &Files) -> Result<(), Failure> {
    let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    let texts: Vec<String> = if files.len() == 1 {
        files.values().map(|text| shown(text)).collect()
    } else {
        files
            .iter()
            .map(|(name, text)| format!("// ==== {name} ====\n{}", shown(text)))
            .collect()
    };
    talk::data(&texts.join("\n"))
}

/// The command that writes the same again, for the header.
fn regenerate(args: &Build, described: &Described, folder: &Path) -> String {
    let source = match args.spec.to_str() {
        Some("-") => "-".to_owned(),
        _ => word(described.shown()),
    };
    let mut words = vec!["mla-gen build".to_owned(), source];
    if let Described::Layer(spec) = described
        && let (Some(imported), Some(_)) = (&spec.imported, args.config.layer)
    {
        words.push(format!("--layer {}", imported.layer));
    }
    if let Some(form) = args.form {
        words.push(format!("--form {}", form.word()));
    }
    if args.package {
        words.push("--crate".to_owned());
    }
    if args.cubin {
        words.push("--cubin".to_owned());
    }
    if !args.arch.is_empty() {
        words.push(format!("--arch {}", word(&args.arch.join(","))));
    }
    words.push(format!("-o {}", word(&folder.display().to_string())));
    words.join(" ")
}

/// One line of a comment and one word of a shell: quoted where it must be.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=@:,".contains(c);
    if text.chars().all(plain) {
        return text.to_owned();
    }
    let printable: String = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    format!("'{}'", printable.replace('\'', r"'\''"))
}
