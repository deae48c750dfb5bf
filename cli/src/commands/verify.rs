//! `mla-gen verify CASE…`

use std::path::{Path, PathBuf};

use crate::args::{Backend, DType, Verify};
use crate::driver::job::{Job, Report};
use crate::driver::{Compiled, Program};
use crate::failure::Failure;
use crate::talk;
use crate::talk::counted;
use crate::verify::{Case, Gradients, Outputs, Row, Trial, name, table};

/// Why a case failed, as far as the exit code is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Its config was refused.
    Refused,
    /// A file can't be read or written.
    Io,
    /// Its layer does not compile.
    Program,
    /// Numbers differ, or the layer failed.
    Differs,
}

/// Runs every case in every way asked for, and prints how close the numbers come.
pub(crate) fn verify(args: &Verify) -> Result<(), Failure> {
    refuse_same_names(args)?;
    match args.grad {
        true => verify_by(&Gradients { args }, args),
        false => verify_by(&Outputs { args }, args),
    }
}

fn verify_by<T: Trial>(trial: &T, args: &Verify) -> Result<(), Failure> {
    let (subjects, mut faults) = load(trial, args);
    let total = subjects.len() + faults.len();
    if total == 0 {
        return Err(Failure::File(format!(
            "there is nothing to verify: no case has {}",
            T::WANTED
        )));
    }
    if !subjects.is_empty() {
        let mut program = Program::on(args.backend);
        let room =
            tempfile::tempdir().map_err(|error| Failure::write(&std::env::temp_dir(), error))?;
        let jobs: Vec<Vec<Job>> = subjects
            .iter()
            .map(|subject| trial.jobs(subject, &mut program, room.path()))
            .collect();
        if let Some(file) = &args.compile_to {
            return program.compile()?.copy_to(file);
        }
        let shared = shared(&program, subjects.len())?;
        for (i, (subject, jobs)) in subjects.iter().zip(jobs).enumerate() {
            let case = trial.case(subject);
            let Some(program) = shared
                .clone()
                .or_else(|| alone(trial, subject, room.path(), args.backend))
            else {
                faults.push(Fault::Program);
                continue;
            };
            let message = format!("{} ({} of {})", case.name, i + 1, subjects.len());
            let reports = do_jobs(&program, jobs, &message);
            let rows = trial.judge(subject, &reports);
            faults.extend(tell::<T>(case, &rows, &reports, args)?);
            // Gone with the room at the latest
            let _ = std::fs::remove_dir_all(room.path().join(&case.name));
        }
    }
    conclude(&faults, total)
}

/// One program for all cases; `None` where it does not compile and the cases are to be tried one by one.
fn shared(program: &Program, cases: usize) -> Result<Option<Compiled>, Failure> {
    match program.compile() {
        Ok(compiled) => Ok(Some(compiled)),
        Err(failure @ Failure::Program { .. }) if cases > 1 => {
            talk::failure(&failure);
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// A program for one case; `None`, and a report, where it does not compile.
fn alone<T: Trial>(
    trial: &T,
    subject: &T::Subject,
    room: &Path,
    backend: Backend,
) -> Option<Compiled> {
    let mut program = Program::on(backend);
    trial.jobs(subject, &mut program, room);
    let compiled = program.compile().map_err(|failure| {
        talk::failure(&failure);
        let name = &trial.case(subject).name;
        talk::error(&format!("case `{name}` is left out"));
    });
    compiled.ok()
}

/// Two cases of one name would write to one folder.
fn refuse_same_names(args: &Verify) -> Result<(), Failure> {
    let mut names: Vec<String> = args.cases.iter().map(|folder| name(folder)).collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) if args.out_dir.is_some() => Err(Failure::Usage(format!(
            "two cases are called `{}`, and `--out-dir` has one folder for each name",
            pair[0]
        ))),
        _ => Ok(()),
    }
}

/// The cases that can be run; the others are reported.
fn load<T: Trial>(trial: &T, args: &Verify) -> (Vec<T::Subject>, Vec<Fault>) {
    let (mut subjects, mut faults) = (Vec::new(), Vec::new());
    let mut passed_over = Vec::new();
    for folder in &args.cases {
        match trial.load(folder) {
            Ok(Some(subject)) => subjects.push(subject),
            Ok(None) => passed_over.push(format!("`{}`", name(folder))),
            Err(failure) => {
                faults.push(if failure.code() == 3 {
                    Fault::Refused
                } else {
                    Fault::Io
                });
                talk::failure(&failure);
                talk::error(&format!("case `{}` is left out", name(folder)));
            }
        }
    }
    if !passed_over.is_empty() {
        talk::note(&format!(
            "{} passed over, with no {}: {}",
            counted(passed_over.len(), "case"),
            T::WANTED,
            passed_over.join(", ")
        ));
    }
    (subjects, faults)
}

/// Does the jobs one after another, also those after one that the program does not survive.
fn do_jobs(program: &Compiled, jobs: Vec<Job>, message: &str) -> Vec<Result<Report, String>> {
    let mut waiting = jobs;
    let mut done: Vec<Result<Report, String>> = Vec::new();
    while !waiting.is_empty() {
        let (reports, failure) = program.run(&waiting, message.to_owned());
        let mut finished = reports.len();
        done.extend(
            reports
                .into_iter()
                .map(|report| match report.error.clone() {
                    Some(error) => Err(error),
                    None => Ok(report),
                }),
        );
        if let Some(failure) = failure {
            talk::failure(&failure);
            done.push(Err(failure.to_string()));
            finished += 1;
        }
        waiting.drain(..finished.min(waiting.len()));
    }
    done
}

/// Prints a case's table and keeps its last tensors.
fn tell<T: Trial>(
    case: &Case,
    rows: &[Row],
    reports: &[Result<Report, String>],
    args: &Verify,
) -> Result<Option<Fault>, Failure> {
    let layer = &case.spec.checked.layer.name;
    let title = format!("{}: {layer}, {}{}", case.name, args.dtype.word(), T::ABOUT);
    let error = match args.dtype {
        DType::Bf16 => "relative RMS",
        DType::F32 | DType::F64 => "max error",
    };
    talk::data(&(table(&title, T::COLUMNS, error, rows) + "\n"))?;
    if rows.is_empty() {
        let form = args.form.map_or("", |form| form.word());
        talk::error(&format!(
            "case `{}`: nothing was run: its layer has no form `{form}`",
            case.name
        ));
        return Ok(Some(Fault::Differs));
    }
    let failed = rows.iter().filter(|row| !row.verdict.passed()).count();
    if failed > 0 {
        talk::error(&format!(
            "case `{}`: {failed} of {} failed",
            case.name,
            counted(rows.len(), "comparison")
        ));
    }
    let last = reports.iter().flatten().next_back();
    if let (Some(out_dir), Some(last)) = (&args.out_dir, last.and_then(|last| last.out.as_ref()))
        && let Err(failure) = keep(last, &out_dir.join(&case.name))
    {
        talk::failure(&failure);
        return Ok(Some(Fault::Io));
    }
    Ok((failed > 0).then_some(Fault::Differs))
}

fn keep(last: &PathBuf, folder: &Path) -> Result<(), Failure> {
    let to = folder.join("out.safetensors");
    let temporary = folder.join("out.safetensors.tmp");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::copy(last, &temporary))
        .and_then(|_| std::fs::rename(&temporary, &to))
        .map_err(|error| Failure::write(&to, error))
}

/// 3 where nothing worse than refusals happened, 4 where no case could be read or written, 5 where none compiled, else 1.
fn conclude(faults: &[Fault], total: usize) -> Result<(), Failure> {
    let all = |fault| faults.iter().all(|found| *found == fault);
    let code = match faults.len() {
        0 => {
            talk::status("passed", &counted(total, "case"));
            return Ok(());
        }
        _ if all(Fault::Refused) => 3,
        failed if all(Fault::Io) && failed == total => 4,
        failed if all(Fault::Program) && failed == total => 5,
        _ => 1,
    };
    let summary = format!("{} of {} failed", faults.len(), counted(total, "case"));
    Err(Failure::Several { code, summary })
}
