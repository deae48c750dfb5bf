//! `mla-gen`: compiles attention layer specs to Rust, imports them, runs what it generated and compares it with known numbers.
//!
//! stdout is data, stderr is talk. The exit code says what went wrong: see [`failure::Failure`].

mod args;
mod commands;
mod driver;
mod emit;
mod failure;
mod findings;
mod folder;
mod package;
mod source;
mod talk;
mod tensors;
mod verify;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match args::Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(told) => told.exit(), // help too; 2 where it is an error
    };
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            talk::failure(&failure);
            failure.exit_code()
        }
    }
}
