//! Programs that are run, and what they build.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cargo_metadata::Message;

/// The checkout.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Runs a program in the checkout.
pub(crate) fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr]) -> Result<(), String> {
    let shown = program.as_ref().to_string_lossy().into_owned();
    let status = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .status()
        .map_err(|error| format!("`{shown}` did not run: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("`{shown}` failed: {status}")),
    }
}

/// Builds with cargo; the executables.
pub(crate) fn cargo(arguments: &[&str]) -> Result<Vec<PathBuf>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    eprintln!("cargo {}", arguments.join(" "));
    let output = Command::new(cargo)
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo did not run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`cargo {}` failed", arguments.join(" ")));
    }
    let built = Message::parse_stream(output.stdout.as_slice()).filter_map(|message| {
        let Ok(Message::CompilerArtifact(artifact)) = message else {
            return None;
        };
        artifact.executable.map(Into::into)
    });
    Ok(built.collect())
}

/// Copies a file, or a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", from.display());
    if from.is_dir() {
        fs::create_dir_all(to).map_err(failed)?;
        for entry in fs::read_dir(from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    fs::copy(from, to).map(drop).map_err(failed)
}
