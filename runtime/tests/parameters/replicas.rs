//! Replicas that hold the same weights, and such that don't.

use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use mla_runtime::consistency::TensorDiffers;
use mla_runtime::{
    Alone, Cpu, CpuDevice, Error, Fingerprint, MaxLogits, ParameterSet, Replicas, Result,
    Trainable, check_replicas,
};

use crate::layers::{PREFIX, checkpoint, grouped, latent};

const DEVICE: CpuDevice = CpuDevice::new();

/// One thread's place among others of this process.
struct Thread {
    rank: usize,
    meeting: Arc<(Barrier, Mutex<Vec<Vec<u8>>>)>,
}

impl Replicas for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.1.lock().unwrap().len()
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (barrier, table) = &*self.meeting;
        table.lock().unwrap()[self.rank] = mine.to_vec();
        barrier.wait();
        let all = table.lock().unwrap().clone();
        barrier.wait();
        Ok(all)
    }
}

/// What each of `size` threads gets from `work`.
fn together<R: Send>(size: usize, work: impl Fn(&Thread) -> R + Sync) -> Vec<R> {
    let meeting = Arc::new((Barrier::new(size), Mutex::new(vec![Vec::new(); size])));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                let (meeting, work) = (meeting.clone(), &work);
                scope.spawn(move || work(&Thread { rank, meeting }))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

fn weights() -> latent::Parameters<Cpu> {
    let checkpoint = checkpoint(&latent::TENSORS);
    let layer = latent::Latent::<Cpu>::load(&checkpoint, PREFIX, &DEVICE).unwrap();
    layer.parameters(&DEVICE).unwrap()
}

fn fingerprint(set: &latent::Parameters<Cpu>) -> Fingerprint {
    Fingerprint::of::<Cpu>(&[("", set)]).unwrap()
}

/// Changes the second value of the slot's first parameter.
fn with(slot: &str, change: impl Fn(f32) -> f32) -> latent::Parameters<Cpu> {
    let mut set = weights();
    let mut first = true;
    ParameterSet::update([&mut set], [], |at, [values], []| {
        if at.slot == slot && first {
            values[1] = change(values[1]);
            first = false;
        }
    })
    .unwrap();
    set
}

/// The tensors in which replicas differ, as every rank sees them: all see the same.
fn differences(size: usize, of: impl Fn(usize) -> Fingerprint + Sync) -> Vec<TensorDiffers> {
    let answers = together(size, |replica| {
        match check_replicas(&of(replica.rank()), replica) {
            Ok(()) => Vec::new(),
            Err(Error::Replicas(differ)) => differ.tensors,
            Err(other) => panic!("{other}"),
        }
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    answers.into_iter().next().unwrap()
}

#[test]
fn equal_replicas_pass() {
    assert!(differences(3, |_| fingerprint(&weights())).is_empty());
    check_replicas(&fingerprint(&weights()), &Alone).unwrap();
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let odd = with("q_up", |value| f32::from_bits(value.to_bits() ^ 1));
    let found = differences(4, |rank| match rank {
        2 => fingerprint(&odd),
        _ => fingerprint(&weights()),
    });
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, "q_a_layernorm.weight");
    let ranks: Vec<&[usize]> = found[0]
        .versions
        .iter()
        .map(|(_, ranks)| &ranks[..])
        .collect();
    assert_eq!(ranks, [&[0, 1, 3][..], &[2]]);
}

#[test]
fn an_error_says_who_has_what() {
    let mut lacking = fingerprint(&weights());
    lacking.retain(|name| name != "sinks");
    let errors = together(2, |replica| {
        let mine = match replica.rank() {
            0 => fingerprint(&weights()),
            _ => lacking.clone(),
        };
        check_replicas(&mine, replica).unwrap_err().to_string()
    });
    let norm = fingerprint(&weights()).tensors()["sinks"].norm();
    assert!(
        errors[0].starts_with(&format!(
            "2 replicas hold different weights in 1 tensors\n  `sinks`: rank 0 has [2] of norm {norm:e}, hash "
        )),
        "{}",
        errors[0]
    );
    assert!(errors[0].ends_with("; rank 1 lacks it"), "{}", errors[0]);
    assert_eq!(errors[0], errors[1]);
}

#[test]
fn zeros_of_different_signs_differ() {
    let (plus, minus) = (with("sinks", |_| 0.0), with("sinks", |_| -0.0));
    let found = differences(2, |rank| {
        fingerprint(if rank == 0 { &plus } else { &minus })
    });
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, "sinks");
}

#[test]
fn the_same_nan_everywhere_is_no_difference_and_one_nan_is() {
    let nan = with("sinks", |_| f32::NAN);
    assert!(fingerprint(&nan).tensors()["sinks"].norm().is_nan());
    assert!(differences(2, |_| fingerprint(&nan)).is_empty());
    let found = differences(2, |rank| match rank {
        0 => fingerprint(&nan),
        _ => fingerprint(&weights()),
    });
    assert_eq!(found[0].name, "sinks");
    let other = with("sinks", |_| f32::from_bits(f32::NAN.to_bits() | 1));
    let found = differences(2, |rank| fingerprint(if rank == 0 { &nan } else { &other }));
    assert_eq!(found.len(), 1);
}

#[test]
fn other_layers_differ_in_every_tensor() {
    let layer = grouped::Grouped::<Cpu>::load(&checkpoint(&grouped::TENSORS), PREFIX, &DEVICE);
    let other = Fingerprint::of_layer::<Cpu>(&layer.unwrap(), &DEVICE).unwrap();
    let found = differences(2, |rank| match rank {
        0 => other.clone(),
        _ => fingerprint(&weights()),
    });
    assert_eq!(found.len(), grouped::TENSORS.len() + latent::TENSORS.len());
}

#[test]
fn several_layers_make_one_fingerprint() {
    let (first, second) = (weights(), weights());
    let both = Fingerprint::of::<Cpu>(&[("layers.0", &first), ("layers.1.", &second)]).unwrap();
    assert_eq!(both.tensors().len(), 2 * latent::TENSORS.len());
    let tensors = both.tensors();
    assert_eq!(tensors["layers.0.sinks"], tensors["layers.1.sinks"]);
    let error = Fingerprint::of::<Cpu>(&[("a", &first), ("a.", &second)]).unwrap_err();
    assert!(error.to_string().contains("a.q_a_proj.weight"), "{error}");
}

#[test]
fn a_replica_that_sends_something_else_is_named() {
    let errors = together(2, |replica| match replica.rank() {
        0 => check_replicas(&fingerprint(&weights()), replica),
        _ => replica.all_gather(b"{").map(drop),
    });
    let error = errors[0].as_ref().unwrap_err().to_string();
    assert!(error.contains("rank 1"), "{error}");
}

#[test]
fn largest_logits_are_those_of_all_replicas() {
    let merged = together(3, |replica| {
        let mut seen = MaxLogits::from(vec![replica.rank() as f64, -(replica.rank() as f64)]);
        seen.merge_replicas(replica).unwrap();
        seen
    });
    assert!(merged.iter().all(|seen| seen.as_slice() == [2.0, 0.0]));
    let uneven = together(2, |replica| {
        MaxLogits::new(replica.rank() + 1)
            .merge_replicas(replica)
            .is_err()
    });
    assert_eq!(uneven, [true, true]);
}
