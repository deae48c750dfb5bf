//! Compiling a crate with cargo.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::kept::Kind;
use crate::failure::Failure;
use crate::{package, talk};

/// What cargo says when it can't reach a registry.
const NETWORK: [&str; 6] = [
    "failed to download",
    "failed to fetch",
    "failed to update",
    "Could not resolve host",
    "unable to update registry",
    "network failure",
];

/// Compiles the crate in `folder`, optimised; the path of what it became.
pub(super) fn build(folder: &Path, target: &Path, kind: Kind) -> Result<PathBuf, Failure> {
    let first = run(folder, target, false)?;
    let output = if !first.status.success() && is_network(&first) {
        // Everything needed may be on this machine all the same
        let second = run(folder, target, true)?;
        if second.status.success() {
            second
        } else {
            first
        }
    } else {
        first
    };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let failed = |problem: String, stderr| Failure::Program {
        message: format!(
            "`cargo {} {}` {problem}",
            words(false).join(" "),
            manifest(folder).display()
        ),
        stderr,
    };
    if !output.status.success() {
        return Err(failed(format!("failed ({})", output.status), stderr));
    }
    let built = match kind {
        Kind::Program => executable(&output.stdout),
        Kind::Library => library(&output.stdout),
    };
    built.ok_or_else(|| failed("named nothing that it built".to_owned(), stderr))
}

/// What cargo is asked; the manifest's path comes last.
fn words(offline: bool) -> Vec<&'static str> {
    let mut words = vec![
        "build",
        "--release",
        "--message-format=json-render-diagnostics",
    ];
    words.extend(offline.then_some("--offline"));
    words.push("--manifest-path");
    words
}

fn manifest(folder: &Path) -> PathBuf {
    folder.join(package::MANIFEST)
}

fn run(folder: &Path, target: &Path, offline: bool) -> Result<Output, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    // A checkout names its compiler, and rustup looks for that name where cargo is started
    let start = package::checkout().unwrap_or_else(|| folder.to_owned());
    Command::new(&cargo)
        .args(words(offline))
        .arg(manifest(folder))
        .current_dir(start)
        .env("CARGO_TARGET_DIR", target)
        .env(
            "CARGO_TERM_COLOR",
            if talk::color() { "always" } else { "never" },
        )
        // Set by a `cargo clippy` or a CI that this process may be a child of; they would only compile everything again
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_INCREMENTAL")
        .output()
        .map_err(|error| Failure::Program {
            message: format!(
                "`{}` can't be started: {error}; generated code is compiled with it",
                cargo.display()
            ),
            stderr: String::new(),
        })
}

fn is_network(output: &Output) -> bool {
    let stderr = String::from_utf8_lossy(&output.stderr);
    NETWORK.iter().any(|sign| stderr.contains(sign))
}

/// The last executable that cargo's messages name.
fn executable(stdout: &[u8]) -> Option<PathBuf> {
    last_named(stdout, |message| {
        message.get("executable")?.as_str().map(PathBuf::from)
    })
}

/// The last shared library for C that cargo's messages name.
fn library(stdout: &[u8]) -> Option<PathBuf> {
    last_named(stdout, |message| {
        let kinds = message.get("target")?.get("crate_types")?.as_array()?;
        if !kinds.iter().any(|kind| kind == "cdylib") {
            return None;
        }
        let files = message.get("filenames")?.as_array()?.iter();
        files
            .filter_map(|file| file.as_str().map(PathBuf::from))
            .find(|file| file.extension() == Some(OsStr::new(std::env::consts::DLL_EXTENSION)))
    })
}

fn last_named(
    stdout: &[u8],
    named: impl Fn(&serde_json::Value) -> Option<PathBuf>,
) -> Option<PathBuf> {
    let text = String::from_utf8_lossy(stdout);
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| named(&message))
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::{executable, library};
    use std::path::Path;

    #[test]
    fn the_library_is_found_among_the_messages() {
        let named = |kind: &str, file: &str| {
            format!("{{\"target\":{{\"crate_types\":[\"{kind}\"]}},\"filenames\":[\"{file}\"]}}\n")
        };
        let file = format!("/t/libx.{}", std::env::consts::DLL_EXTENSION);
        let stdout = named("cdylib", &file) + &named("lib", "/t/liby.rlib");
        assert_eq!(
            library(stdout.as_bytes()).as_deref(),
            Some(Path::new(&file))
        );
        assert_eq!(library(b""), None);
    }

    #[test]
    fn the_executable_is_found_among_the_messages() {
        let stdout = "{\"reason\":\"compiler-artifact\",\"executable\":null}\nnoise\n\
                      {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/x\"}\n{\"reason\":\"build-finished\"}\n";
        assert_eq!(
            executable(stdout.as_bytes()).as_deref(),
            Some(Path::new("/t/release/x"))
        );
        assert_eq!(executable(b""), None);
    }
}
