//! Forward and backward of one layer against PyTorch's autograd over Hugging Face's module: time, and the most memory that a step takes.
//!
//! Memory is the resident set's: how far its peak during a step stands above what the process held before, the same reading in both
//! processes, gradients of weights included on both sides.

use std::path::Path;

use mla_generated::{moonlight_train, moonlight_train_lean};
use mla_runtime::weights::generator::Recipe;
use mla_runtime::{Cpu, CpuDevice, Mask, Tensor, Train, Weights};

use crate::machine::{Clock, Fault};
use crate::options::Options;
use crate::peer::Autograd;

/// Tokens of one sequence.
const LENGTHS: [usize; 2] = [512, 4096];

/// A step's least time, and its memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Seconds.
    pub(crate) seconds: f64,
    /// Bytes.
    pub(crate) bytes: f64,
}

/// Prints both sides and the slope of memory in the length.
///
/// # Errors
/// The runtime refuses, or memory can't be read off this system.
pub(crate) fn run(options: &Options) -> Result<(), Fault> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()?;
    println!(
        "forward and backward, Moonlight's layer, f32, {} threads, least of {} rounds; ratios: theirs by ours\n",
        options.threads, options.rounds
    );
    println!(
        "{:<34} {:>7} {:>12} {:>12}   ratios of time, memory",
        "", "tokens", "ms", "MiB"
    );
    let mut peer = Autograd::start(options);
    let mut slopes: Vec<(&str, Vec<Step>)> = Vec::new();
    for tokens in LENGTHS {
        let kept = pool
            .install(|| ours::<moonlight_train::MoonlightTrainAttention<Cpu>>(options, tokens))?;
        let lean = pool.install(|| {
            ours::<moonlight_train_lean::MoonlightTrainLeanAttention<Cpu>>(options, tokens)
        })?;
        let own = [
            ("ours, all kept", kept),
            ("ours, up projections again", lean),
        ];
        let mut theirs = Vec::new();
        for (name, attention) in [("HF eager autograd", "eager"), ("HF sdpa autograd", "sdpa")] {
            if let Some(peer) = &mut peer {
                theirs.push((name, peer.step(attention, tokens, options.rounds)?));
            }
        }
        for (name, step) in own {
            let ratios: Vec<String> = theirs
                .iter()
                .map(|(peer, theirs)| {
                    format!(
                        "{:.2}x, {:.2}x to {peer}",
                        theirs.seconds / step.seconds,
                        theirs.bytes / step.bytes
                    )
                })
                .collect();
            line(name, tokens, step, &ratios.join("; "));
        }
        for (name, step) in &theirs {
            line(name, tokens, *step, "");
        }
        for (name, step) in own.into_iter().chain(theirs) {
            match slopes.iter_mut().find(|(known, _)| *known == name) {
                Some((_, steps)) => steps.push(step),
                None => slopes.push((name, vec![step])),
            }
        }
    }
    if peer.is_none() {
        println!(
            "\nPyTorch skipped: no Python with torch and transformers was given (--peer-python)"
        );
    }
    println!("\nmemory per further token:");
    for (name, steps) in slopes {
        if let [short, long] = steps[..] {
            let tokens = (LENGTHS[1] - LENGTHS[0]) as f64;
            println!(
                "{name:<34} {:>10.1} KiB",
                (long.bytes - short.bytes) / tokens / 1024.0
            );
        }
    }
    Ok(())
}

fn line(name: &str, tokens: usize, step: Step, ratios: &str) {
    println!(
        "{name:<34} {tokens:>7} {:>12.1} {:>12.1}   {ratios}",
        step.seconds * 1e3,
        step.bytes / 1024.0 / 1024.0
    );
}

/// Steps of a generated layer.
fn ours<L: Train<Cpu>>(options: &Options, tokens: usize) -> Result<Step, Fault> {
    let device = CpuDevice::new();
    let weights = Weights::random("layer", L::TENSORS, 0)?;
    let layer = L::load(&weights, "layer", &device)?;
    drop(weights);
    let values = |name: &str| -> Result<Tensor<Cpu>, Fault> {
        let values = Recipe::for_hidden_states(1).values(name, tokens * L::HIDDEN_SIZE);
        Ok(Tensor::from_vec(&device, values, L::HIDDEN_SIZE)?)
    };
    let (hidden, d_output) = (values("hidden")?, values("d_output")?);
    let positions: Vec<u32> = (0..tokens as u32).collect();
    let mask = Mask::cu_seqlens(&[0, tokens as u32]);
    let step = || -> Result<(), Fault> {
        let mut extras = mla_runtime::Extras::default();
        let mut gradients = <L::Parameters as mla_runtime::ParameterSet<Cpu>>::zeros(&device)?;
        let (output, saved) =
            layer.forward_train_erased(&hidden, &positions, &mask, &mut extras)?;
        drop(output);
        let found =
            layer.backward_erased(saved, &hidden, &d_output, &mut extras, &mut gradients)?;
        let finite = found.hidden.map(|tensor| tensor.to_vec()).transpose()?;
        if finite.is_none_or(|values| values.iter().any(|value| !value.is_finite())) {
            return Err("a gradient is not finite".into());
        }
        Ok(())
    };
    step()?;
    let mut least = Step {
        seconds: f64::INFINITY,
        bytes: f64::INFINITY,
    };
    for _ in 0..options.rounds {
        let before = reset_peak()?;
        let (seconds, result) = Clock::Wall.time(step);
        result?;
        least.seconds = least.seconds.min(seconds?);
        least.bytes = least.bytes.min(status("VmHWM")? - before);
    }
    Ok(least)
}

/// Gives freed memory back and forgets the peak of the resident set; returns the set. The peer does the same.
fn reset_peak() -> Result<f64, Fault> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: glibc documents the call as safe from any thread; it moves no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
    std::fs::write("/proc/self/clear_refs", "5")?;
    status("VmRSS")
}

/// A line of the kernel's account of this process, in bytes.
fn status(name: &str) -> Result<f64, Fault> {
    let path = Path::new("/proc/self/status");
    let text = std::fs::read_to_string(path)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kilobytes.ok_or_else(|| format!("{} has no {name}", path.display()))? * 1024.0)
}
