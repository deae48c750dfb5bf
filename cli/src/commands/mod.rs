//! One file per subcommand.

pub(crate) mod bench;
mod build;
mod check;
mod diff;
mod explain;
mod import;
mod init;
mod kernels;
mod run;
mod show;
mod tune;
mod verify;

use std::fmt::Write as _;

use clap::CommandFactory;
use mla_spec::{CacheKind, Checked, Form};

use crate::args::{Cli, Command, Completions};
use crate::failure::Failure;
use crate::talk;

pub(crate) use bench::Shape;

/// Does what the command line asks for.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Bench(args) => bench::bench(&args),
        Command::Build(args) => build::build(&args),
        Command::Check(args) => check::check(&args),
        Command::Show(args) => show::show(&args),
        Command::Import(args) => import::import(&args),
        Command::Diff(args) => diff::diff(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Init(args) => init::init(&args),
        Command::Run(args) => run::run(&args),
        Command::Kernels(args) => kernels::kernels(&args),
        Command::Tune(args) => tune::tune(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Completions(args) => completions(&args),
    }
}

/// Refuses the form that reads latents where the cache holds none.
fn refuse_mqa_over_naive(checked: &Checked, form: Option<Form>) -> Result<(), Failure> {
    if checked.build.cache.kind == CacheKind::Naive && form == Some(Form::Mqa) {
        let message = "`--form mqa` reads latents, and the spec's naive cache holds none; choose a `latent_*` format";
        return Err(Failure::Usage(message.to_owned()));
    }
    Ok(())
}

/// Columns of equal width, the first to the left and numbers to the right.
fn aligned<const N: usize>(table: &[[String; N]]) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in table {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string does not fail
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

fn completions(args: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mla-gen", &mut script);
    talk::data(&String::from_utf8_lossy(&script))
}
