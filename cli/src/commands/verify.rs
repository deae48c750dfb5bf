//! `mla-gen verify CASE…`

use std::path::{Path, PathBuf};

use crate::args::{DType, Verify};
use crate::driver::job::{Input, Job, Report, Rope, Stored};
use crate::driver::{Compiled, Program};
use crate::failure::Failure;
use crate::source::counted;
use crate::talk;
use crate::tensors::TensorFile;
use crate::verify::{Case, Row, Run, Verdict, compare, name, runs, table};

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
    let (cases, mut faults) = load(args);
    let total = args.cases.len();
    if !cases.is_empty() {
        let mut program = Program::default();
        let room =
            tempfile::tempdir().map_err(|error| Failure::write(&std::env::temp_dir(), error))?;
        let jobs: Vec<Vec<Job>> = cases
            .iter()
            .map(|case| jobs(case, &ways(case, args), args, &mut program, room.path()))
            .collect();
        let shared = shared(&program, &cases)?;
        for (i, (case, case_jobs)) in cases.iter().zip(jobs).enumerate() {
            let Some(program) = shared
                .clone()
                .or_else(|| alone(case, &ways(case, args), args, room.path()))
            else {
                faults.push(Fault::Program);
                continue;
            };
            let message = format!("{} ({} of {})", case.name, i + 1, cases.len());
            let reports = do_jobs(&program, case_jobs, &message);
            faults.extend(judge(case, &ways(case, args), &reports, args)?);
            // Gone with the room at the latest
            let _ = std::fs::remove_dir_all(room.path().join(&case.name));
        }
    }
    conclude(&faults, total)
}

/// In which ways a case is run.
fn ways(case: &Case, args: &Verify) -> Vec<Run> {
    let cut = args.chunks.is_some() || case.io.get("decode.chunks").is_some();
    runs(args, &case.spec.checked.layer, cut)
}

/// One program for all cases; `None` where it does not compile and the cases are to be tried one by one.
fn shared(program: &Program, cases: &[Case]) -> Result<Option<Compiled>, Failure> {
    match program.compile() {
        Ok(compiled) => Ok(Some(compiled)),
        Err(failure @ Failure::Program { .. }) if cases.len() > 1 => {
            talk::failure(&failure);
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// A program for one case; `None`, and a report, where it does not compile.
fn alone(case: &Case, ways: &[Run], args: &Verify, room: &Path) -> Option<Compiled> {
    let mut program = Program::default();
    jobs(case, ways, args, &mut program, room);
    let compiled = program.compile().map_err(|failure| {
        talk::failure(&failure);
        talk::error(&format!("case `{}` is left out", case.name));
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
fn load(args: &Verify) -> (Vec<Case>, Vec<Fault>) {
    let (mut cases, mut faults) = (Vec::new(), Vec::new());
    for folder in &args.cases {
        match Case::load(folder, args.layer) {
            Ok(case) => cases.push(case),
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
    (cases, faults)
}

/// One job for each way.
fn jobs(case: &Case, ways: &[Run], args: &Verify, program: &mut Program, room: &Path) -> Vec<Job> {
    let padded = case.rows().is_some();
    let chunks = args
        .chunks
        .as_ref()
        .map(|chunks| chunks.iter().map(|chunk| *chunk as usize).collect());
    let job = |(i, run): (usize, &Run)| {
        let layer = program.add(&run.variant().of(&case.spec.checked, padded));
        Job {
            name: format!("{} {}", case.name, i + 1),
            layer: layer.key,
            weights: case.weights.clone(),
            input: Input::Io {
                path: case.io_path.clone(),
            },
            modes: vec![run.mode],
            chunks: chunks.clone(),
            cache: Stored::Exact,
            rope: Rope {
                found: layer.rope,
                wanted: case.manifest.rope_layout(),
            },
            out: Some(room.join(&case.name).join(format!("{i}.safetensors"))),
        }
    };
    ways.iter().enumerate().map(job).collect()
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
fn judge(
    case: &Case,
    ways: &[Run],
    reports: &[Result<Report, String>],
    args: &Verify,
) -> Result<Option<Fault>, Failure> {
    let mut rows = Vec::new();
    let mut last: Option<&PathBuf> = None;
    for (run, report) in ways.iter().zip(reports) {
        let broken = |problem: String| Row {
            run: *run,
            tensor: "output".to_owned(),
            verdict: Verdict::Broken(problem),
        };
        let written = report.as_ref().map_err(Clone::clone).and_then(|report| {
            let out = report.out.as_ref().ok_or("the run wrote no tensors")?;
            let file = TensorFile::open(out)
                .map_err(|problem| format!("can't read `{}`: {problem}", out.display()))?;
            Ok((out, file))
        });
        match written {
            Ok((out, file)) => {
                last = Some(out);
                rows.extend(compare(case, *run, &file, args.dtype));
            }
            Err(problem) => rows.push(broken(problem)),
        }
    }
    let title = format!(
        "{}: {}, {}",
        case.name,
        case.spec.checked.layer.name,
        args.dtype.word()
    );
    let error = match args.dtype {
        DType::Bf16 => "relative RMS",
        DType::F32 | DType::F64 => "max error",
    };
    talk::data(&(table(&title, error, &rows) + "\n"))?;
    let failed = rows.iter().filter(|row| !row.verdict.passed()).count();
    if failed > 0 {
        talk::error(&format!(
            "case `{}`: {failed} of {} failed",
            case.name,
            counted(rows.len(), "comparison")
        ));
    }
    if let (Some(out_dir), Some(last)) = (&args.out_dir, last)
        && let Err(failure) = keep(last, &out_dir.join(&case.name))
    {
        talk::failure(&failure);
        return Ok(Some(Fault::Io));
    }
    Ok((failed > 0).then_some(Fault::Differs))
}

fn keep(last: &Path, folder: &Path) -> Result<(), Failure> {
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
