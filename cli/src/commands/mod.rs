//! One file per subcommand.

mod build;
mod check;
mod explain;
mod import;
mod init;
mod kernels;
mod run;
mod show;
mod verify;

use clap::CommandFactory;

use crate::args::{Cli, Command, Completions};
use crate::failure::Failure;
use crate::talk;

/// Does what the command line asks for.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Build(args) => build::build(&args),
        Command::Check(args) => check::check(&args),
        Command::Show(args) => show::show(&args),
        Command::Import(args) => import::import(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Init(args) => init::init(&args),
        Command::Run(args) => run::run(&args),
        Command::Kernels(args) => kernels::kernels(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Completions(args) => completions(&args),
    }
}

fn completions(args: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mla-gen", &mut script);
    talk::data(&String::from_utf8_lossy(&script))
}
