//! Chores of mla-gen's developers: `cargo xtask bundle`.

mod bundle;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask bundle [--cases DIR…] [--out DIR]

  Packs what tests and times the CUDA backend on a machine with a GPU's driver and NVRTC, but no Rust: stripped binaries, the golden
  cases, a script. DIR [default: target/bundle] gets the folder `mla-bundle` and its archive in parts of at most 22 MB.
  There: cat mla-bundle.tar.xz.* | tar -xJ && mla-bundle/run.sh [tests|verify|gradients|full|bench|tune|peers]…";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    match arguments.next().as_deref() {
        Some("bundle") => {}
        Some("--help" | "-h") | None => {
            println!("{USAGE}");
            return Ok(());
        }
        Some(other) => return Err(format!("no chore `{other}`\n\n{USAGE}")),
    }
    let (mut cases, mut out, mut of_cases) = (Vec::new(), None, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--cases" => of_cases = true,
            "--out" => {
                of_cases = false;
                let folder = arguments.next().ok_or("`--out` wants a folder")?;
                out = Some(PathBuf::from(folder));
            }
            folder if of_cases && !folder.starts_with("--") => cases.push(PathBuf::from(folder)),
            other => return Err(format!("`{other}` is not expected here\n\n{USAGE}")),
        }
    }
    bundle::bundle(&cases, out)
}
