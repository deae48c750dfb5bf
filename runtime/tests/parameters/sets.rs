//! What can be done with whole sets.

use mla_runtime::{Cpu, CpuDevice, LossScaler, LossScaling, ParameterSet, Trainable};

use crate::layers::{PREFIX, checkpoint, grouped, latent};

const DEVICE: CpuDevice = CpuDevice::new();

fn weights() -> latent::Parameters<Cpu> {
    let checkpoint = checkpoint(&latent::TENSORS);
    let layer = latent::Latent::<Cpu>::load(&checkpoint, PREFIX, &DEVICE).unwrap();
    layer.parameters(&DEVICE).unwrap()
}

fn flat(set: &impl ParameterSet<Cpu>) -> Vec<f64> {
    let tensors = set.tensors().unwrap();
    tensors
        .into_iter()
        .flat_map(|tensor| tensor.values)
        .collect()
}

#[test]
fn sets_walk_side_by_side() {
    let mut master = weights();
    let start = flat(&master);
    let gradients = weights();
    let mut moment = latent::Parameters::<Cpu>::zeros(&DEVICE).unwrap();
    let mut seen = Vec::new();
    ParameterSet::update(
        [&mut master, &mut moment],
        [&gradients],
        |at, [w, m], [g]| {
            let names: Vec<String> = at.layout.names().map(str::to_owned).collect();
            seen.push((at.slot, names, at.layout.shape(), at.layout.is_matrix()));
            assert_eq!((w.len(), m.len()), (g.len(), at.layout.len()));
            for ((w, m), g) in w.iter_mut().zip(m).zip(g) {
                *m = 2.0 * g;
                *w -= 0.5 * *m;
            }
        },
    )
    .unwrap();
    assert!(flat(&master).iter().all(|&value| value == 0.0));
    assert_eq!(
        flat(&moment),
        start.iter().map(|x| 2.0 * x).collect::<Vec<_>>()
    );
    assert_eq!(seen.len(), 19);
    let names = |all: &[&str]| all.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let down = names(&["q_a_proj.weight", "kv_a_proj_with_mqa.weight"]);
    assert_eq!(seen[0], ("down", down, vec![8, 6], true));
    assert_eq!(
        seen[2],
        ("q_up", names(&["q_a_layernorm.weight"]), vec![3], false)
    );
}

#[test]
fn sets_of_different_layers_are_refused() {
    let mut set = weights();
    let before = flat(&set);
    let biased = || grouped::Parameters::<Cpu>::zeros(&DEVICE).unwrap();
    // One type, other contents
    let mut renamed = latent::Parameters::<Cpu>::zeros(&DEVICE).unwrap();
    renamed.down = mla_runtime::LinearParameters::zeros(&DEVICE, &[("down", 8)]).unwrap();
    let error = set.add(&renamed).unwrap_err();
    assert!(error.to_string().contains("`down`"), "{error}");
    let touched = ParameterSet::update([&mut set], [&renamed], |_, [x], [_]| x.fill(0.0));
    assert!(touched.is_err());
    assert_eq!(flat(&set), before);
    assert!(biased().add(&biased()).is_ok());
}

#[test]
fn updates_of_nothing_end() {
    ParameterSet::update::<0, 0>([], [] as [&latent::Parameters<Cpu>; 0], |_, [], []| {
        panic!("there is nothing to walk through")
    })
    .unwrap();
    let mut count = 0;
    let set = weights();
    ParameterSet::update([], [&set], |_, [], [values]| count += values.len()).unwrap();
    assert_eq!(count, flat(&set).len());
}

#[test]
fn sets_scale_add_and_measure() {
    let mut set = weights();
    let start = flat(&set);
    set.scale(2.0).unwrap();
    set.add(&weights()).unwrap();
    let wanted: Vec<f64> = start
        .iter()
        .map(|&x| f64::from(2.0 * x as f32 + x as f32))
        .collect();
    assert_eq!(flat(&set), wanted);
    let norm: f64 = wanted.iter().map(|x| x * x).sum();
    assert!((set.square_norm().unwrap() / norm - 1.0).abs() < 1e-14);
    assert!(set.scale(f64::NAN).is_err());
    assert_eq!(flat(&set), wanted);
    set.fill_zero().unwrap();
    assert_eq!(set.square_norm().unwrap(), 0.0);
}

#[test]
fn zeros_replace_a_nan() {
    let mut set = weights();
    assert!(set.is_finite().unwrap());
    let last = flat(&set).len() - 1;
    let mut at = 0;
    ParameterSet::update([&mut set], [], |_, [values], []| {
        for value in values {
            if at == last {
                *value = f32::NAN;
            }
            at += 1;
        }
    })
    .unwrap();
    assert!(!set.is_finite().unwrap());
    assert!(set.square_norm().unwrap().is_nan());
    set.fill_zero().unwrap();
    assert!(flat(&set).iter().all(|value| value.to_bits() == 0));
}

#[test]
fn a_loss_scale_is_taken_off_finite_gradients_only() {
    let mut scaler = LossScaler::new(LossScaling {
        initial: 1024.0,
        growth_interval: 2,
        ..LossScaling::default()
    })
    .unwrap();
    let mut gradients = weights();
    let start = flat(&gradients);
    gradients.scale(scaler.scale()).unwrap();
    assert!(scaler.unscale(&mut gradients).unwrap());
    assert_eq!(flat(&gradients), start);
    // One layer's infinity spoils the step of all
    let mut other = weights();
    ParameterSet::update([&mut other], [], |_, [values], []| {
        values.fill(f32::INFINITY)
    })
    .unwrap();
    let took = scaler.unscale_all::<Cpu>(&mut [&mut gradients, &mut other]);
    assert!(!took.unwrap());
    assert_eq!(flat(&gradients), start);
    assert_eq!((scaler.scale(), scaler.clean_steps()), (512.0, 0));
    assert!(scaler.unscale_all::<Cpu>(&mut [&mut gradients]).unwrap());
    assert!(scaler.unscale_all::<Cpu>(&mut [&mut gradients]).unwrap());
    assert_eq!(scaler.scale(), 1024.0);
}
