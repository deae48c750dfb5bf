//! Times generated layers at real size, against PyTorch where there is one and against what the machine can do at all.
//!
//! ```text
//! cargo bench                            # our numbers and the floor
//! cargo bench -- --peer-python PATH      # and PyTorch's, taken in turns in the same run
//! cargo bench -- --sparse                # how sparse decode grows
//! cargo bench -- --train                 # forward and backward, time and memory
//! cargo bench -- --help
//! ```

mod machine;
mod options;
mod overlap;
mod peer;
mod sparse;
mod subject;
mod training;

use std::process::ExitCode;

use machine::{Clock, Fault, Machine};
use options::{Options, Parsed};
use peer::Peer;
use subject::{Phase, Subject};

/// Seconds of calls that a round aims at.
const ROUND_SECONDS: f64 = 0.2;
/// Most calls of a round.
const MOST_CALLS: usize = 40;

fn main() -> ExitCode {
    let options = match options::parse(std::env::args().skip(1)) {
        Ok(Parsed::Run(options)) => options,
        Ok(Parsed::Help) => {
            println!("{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            eprintln!("error: {mistake}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    let done = match (options.sparse, options.train) {
        (true, _) => sparse::run(&options),
        (_, true) => training::run(&options),
        _ => run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Fault> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()?;
    warn_when_busy(options);
    println!(
        "f32, {} threads, {}, {} rounds",
        options.threads, options.clock, options.rounds
    );
    println!(
        "floor: decode reads every weight and cached entry once, prefill multiplies without pause; ratio: torch's time by ours\n"
    );
    println!(
        "{:<8} {:<15} {:>18} {:>18}   {:>15} {:>9} {:>8}",
        "", "", "ours, ms", "torch, ms", "ratio", "floor, ms", "reached"
    );
    println!(
        "{:<8} {:<15} {:>9} {:>8} {:>9} {:>8}   {:>7} {:>7}",
        "shape", "phase", "min", "median", "min", "median", "min", "median"
    );
    let mut machine = Machine::default();
    for shape in &options.shapes {
        let mut subject = pool.install(|| shape.subject())?;
        let mut peer = Peer::start(options, &subject.sizes);
        for phase in Phase::ALL {
            // Again and again, for the best that there was while others may have used the machine too
            pool.install(|| machine.measure(options.clock))?;
            let (ours, theirs) = samples(&pool, options, &mut subject, &mut peer, phase)?;
            report(&subject, phase, &machine, &ours, &theirs, &peer);
        }
        if let Peer::Running(running) = &peer {
            println!("{:<8} torch {}", "", running.version());
        }
    }
    println!(
        "\nthis machine reads {:.1} GB/s and multiplies {:.0} GFLOP/s",
        machine.read / 1e9,
        machine.multiply / 1e9
    );
    Ok(())
}

/// Both sides' samples in seconds, taken in turns so that a disturbance meets both.
fn samples(
    pool: &rayon::ThreadPool,
    options: &Options,
    subject: &mut Subject,
    peer: &mut Peer,
    phase: Phase,
) -> Result<(Vec<f64>, Vec<f64>), Fault> {
    let clock = options.clock;
    let call = subject.call(phase);
    pool.install(&mut *call)?;
    let (seconds, result) = clock.time(|| pool.install(&mut *call));
    result?;
    let calls = ((ROUND_SECONDS / seconds?) as usize).clamp(1, MOST_CALLS);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        pool.install(&mut *call)?;
        for _ in 0..calls {
            let (seconds, result) = clock.time(|| pool.install(&mut *call));
            result?;
            ours.push(seconds?);
        }
        if let Peer::Running(running) = peer {
            theirs.extend(running.samples(phase, calls)?);
        }
    }
    Ok((ours, theirs))
}

fn report(
    subject: &Subject,
    phase: Phase,
    machine: &Machine,
    ours: &[f64],
    theirs: &[f64],
    peer: &Peer,
) {
    let (least, median) = summary(ours);
    let floor = match phase {
        Phase::Prefill => subject.sizes.prefill_operations() / machine.multiply,
        Phase::Decode => subject.sizes.decode_bytes() / machine.read,
    };
    let torch = match peer {
        Peer::Missing(reason) => format!("skipped: {reason}"),
        Peer::Running(_) => {
            let (torch_least, torch_median) = summary(theirs);
            format!(
                "{:>9.2} {:>8.2}   {:>6.2}x {:>6.2}x",
                torch_least * 1e3,
                torch_median * 1e3,
                torch_least / least,
                torch_median / median
            )
        }
    };
    println!(
        "{:<8} {:<15} {:>9.2} {:>8.2} {torch:<36} {:>9.2} {:>6.0} %",
        subject.name,
        phase.title(),
        least * 1e3,
        median * 1e3,
        floor * 1e3,
        100.0 * floor / least
    );
}

/// Least and median.
fn summary(samples: &[f64]) -> (f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => (f64::NAN, f64::NAN),
        [least, ..] => (*least, sorted[sorted.len() / 2]),
    }
}

/// Wall times of a machine that does something else as well are worth little.
fn warn_when_busy(options: &Options) {
    let load: Option<f64> = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok());
    if let Some(load) = load
        && load > 0.5
        && matches!(options.clock, Clock::Wall)
    {
        eprintln!(
            "note: this machine was busy during the last minute (load {load}): if other programs run now, read the minima, or compare by `--clock cpu --threads 1`"
        );
    }
}
