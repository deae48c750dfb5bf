//! Parameters in checkpoints.

use std::fs;

use mla_runtime::{Cpu, CpuDevice, CpuElement, ParameterSet, Trainable, Weights, bf16, parameters};

use crate::layers::{PREFIX, checkpoint, grouped, latent};

const DEVICE: CpuDevice = CpuDevice::new();

/// Numbers that need every bit of the accumulation type.
fn scrambled<T: CpuElement>() -> latent::Parameters<Cpu<T>> {
    let mut set = latent::Parameters::<Cpu<T>>::zeros(&DEVICE).unwrap();
    let mut state = 1.0_f64;
    ParameterSet::update([&mut set], [], |_, [values], []| {
        for value in values {
            state = (state * 997.0 + 0.123_456_789).fract();
            *value = mla_runtime::Scalar::from_f64(state - 0.5);
        }
    })
    .unwrap();
    set
}

fn bit_for_bit<T: CpuElement>() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let set = scrambled::<T>();
    set.save(&path, PREFIX).unwrap();
    let mut back = latent::Parameters::<Cpu<T>>::zeros(&DEVICE).unwrap();
    // A folder that holds one file is a checkpoint
    let weights = Weights::open(folder.path()).unwrap();
    back.load(&weights, &format!("{PREFIX}.")).unwrap();
    assert_eq!(back.tensors().unwrap(), set.tensors().unwrap());
    // The layer itself, too, can be loaded from it
    let layer = latent::Latent::<Cpu<T>>::load(&weights, PREFIX, &DEVICE).unwrap();
    let mut assigned =
        latent::Latent::<Cpu<T>>::load(&checkpoint(&latent::TENSORS), PREFIX, &DEVICE).unwrap();
    assigned.assign(&set).unwrap();
    assert_eq!(
        layer.parameters(&DEVICE).unwrap().tensors().unwrap(),
        assigned.parameters(&DEVICE).unwrap().tensors().unwrap()
    );
}

#[test]
fn f32_parameters_survive_a_file_bit_for_bit() {
    bit_for_bit::<f32>();
}

#[test]
fn f64_parameters_survive_a_file_bit_for_bit() {
    bit_for_bit::<f64>();
}

#[test]
fn masters_of_a_bf16_layer_survive_a_file_bit_for_bit() {
    bit_for_bit::<bf16>();
}

#[test]
fn several_layers_lie_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layers.safetensors");
    let first = scrambled::<f32>();
    let layer = grouped::Grouped::<Cpu>::load(&checkpoint(&grouped::TENSORS), PREFIX, &DEVICE);
    let second = layer.unwrap().parameters(&DEVICE).unwrap();
    parameters::save::<Cpu>(&path, &[("layers.0", &first), ("layers.1.", &second)]).unwrap();
    let weights = Weights::open(&path).unwrap();
    let mut back = grouped::Parameters::<Cpu>::zeros(&DEVICE).unwrap();
    back.load(&weights, "layers.1").unwrap();
    assert_eq!(back.tensors().unwrap(), second.tensors().unwrap());
    let mut back = latent::Parameters::<Cpu>::zeros(&DEVICE).unwrap();
    back.load(&weights, "layers.0").unwrap();
    assert_eq!(back.tensors().unwrap(), first.tensors().unwrap());
    // The same bytes every time
    let again = folder.path().join("again.safetensors");
    parameters::save::<Cpu>(&again, &[("layers.1.", &second), ("layers.0", &first)]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(&again).unwrap());
}

#[test]
fn other_code_reads_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let set = scrambled::<f32>();
    set.save(&path, "").unwrap();
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), latent::TENSORS.len());
    let sinks = file.tensor("sinks").unwrap();
    assert_eq!(
        (sinks.dtype(), sinks.shape()),
        (safetensors::Dtype::F32, &[2][..])
    );
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn a_file_that_cannot_be_written_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let set = scrambled::<f32>();
    // A folder stands where the file should go
    let path = folder.path().join("taken");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("inside"), "x").unwrap();
    let error = set.save(&path, PREFIX).unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert!(
        set.save(folder.path().join("no/such/folder"), PREFIX)
            .is_err()
    );
    assert!(set.save("/", PREFIX).is_err());
}

#[test]
fn two_layers_below_one_prefix_are_refused_and_the_old_file_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    fs::write(&path, "old").unwrap();
    let set = scrambled::<f32>();
    let error = parameters::save::<Cpu>(&path, &[("a", &set), ("a.", &set)]).unwrap_err();
    assert!(
        error.to_string().contains("`a.from_nothing.weight`"),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"old");
    set.save(&path, "a").unwrap();
    assert!(fs::read(&path).unwrap().len() > 3);
}

#[test]
fn a_checkpoint_of_other_tensors_is_refused_and_changes_nothing() {
    let mut set = scrambled::<f32>();
    let before = set.tensors().unwrap();
    let other = checkpoint(&grouped::TENSORS);
    assert!(set.load(&other, PREFIX).is_err());
    assert_eq!(set.tensors().unwrap(), before);
}

#[test]
fn a_checkpoint_that_keeps_groups_together_is_read() {
    // Megatron's one tensor: the working order
    let set = |rows: usize, width: usize| -> Vec<f32> {
        (0..rows * width).map(|i| i as f32 / 7.0).collect()
    };
    let weights = Weights::from_tensors([
        ("l.linear_qkv.weight", (vec![24, 3], set(24, 3))),
        ("l.linear_qkv.bias", (vec![24], set(24, 1))),
    ])
    .unwrap();
    let mut parameters = grouped::Parameters::<Cpu>::zeros(&DEVICE).unwrap();
    parameters.load(&weights, "l").unwrap();
    let layer = grouped::Grouped::<Cpu>::load(&weights, "l", &DEVICE).unwrap();
    let wanted = layer.parameters(&DEVICE).unwrap().tensors().unwrap();
    assert_eq!(parameters.tensors().unwrap(), wanted);
    assert_ne!(wanted[0].values[6..9], wanted[0].values[9..12]);
}

#[test]
fn who_opens_the_file_while_it_is_written_finds_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = &folder.path().join("model.safetensors");
    let sets = [scrambled::<f32>(), scrambled::<f32>()];
    sets[0].save(path, PREFIX).unwrap();
    std::thread::scope(|scope| {
        for set in &sets {
            scope.spawn(move || (0..50).for_each(|_| set.save(path, PREFIX).unwrap()));
        }
        let mut back = latent::Parameters::<Cpu>::zeros(&DEVICE).unwrap();
        let wanted = sets[0].tensors().unwrap();
        for _ in 0..50 {
            back.load(&Weights::open(path).unwrap(), PREFIX).unwrap();
            assert_eq!(back.tensors().unwrap(), wanted);
        }
    });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
