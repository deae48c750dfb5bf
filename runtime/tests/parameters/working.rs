//! Working weights and parameters.

use mla_runtime::{
    Backend, Cpu, CpuDevice, CpuElement, LayerNorm, Linear, LinearParameters, Module,
    NormParameters, ParameterSet, RmsNorm, Rows, Trainable, bf16,
};

use crate::layers::{PREFIX, checkpoint, grouped, latent};

const DEVICE: CpuDevice = CpuDevice::new();

/// Every value's bits, as f64.
fn bits<B: Backend>(set: &impl ParameterSet<B>) -> Vec<(String, Vec<usize>, Vec<u64>)> {
    let tensors = set.tensors().unwrap().into_iter();
    tensors
        .map(|tensor| {
            let bits = tensor.values.into_iter().map(f64::to_bits).collect();
            (tensor.name, tensor.shape, bits)
        })
        .collect()
}

/// Parameters are the checkpoint's numbers, rounded as the working weights are; assigning them changes nothing.
fn there_and_back<T: CpuElement>() {
    let weights = checkpoint(&latent::TENSORS);
    let mut layer = latent::Latent::<Cpu<T>>::load(&weights, PREFIX, &DEVICE).unwrap();
    let parameters = layer.parameters(&DEVICE).unwrap();
    let selected = weights.exactly(PREFIX, &latent::TENSORS).unwrap();
    let tensors = parameters.tensors().unwrap();
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    for tensor in &tensors {
        let (shape, values) = selected.read::<f64>(&tensor.name).unwrap();
        // What is computed in the accumulation type is held in it
        let wide = tensor.name.starts_with("weights_proj") || tensor.name == "sinks";
        let wanted: Vec<f64> = values
            .into_iter()
            .map(|value| {
                if wide {
                    value
                } else {
                    T::from_f64(value).to_f64()
                }
            })
            .collect();
        assert_eq!(
            (&shape, &wanted),
            (&tensor.shape, &tensor.values),
            "{}",
            tensor.name
        );
    }
    for tensor in latent::TENSORS {
        assert_eq!(names.iter().filter(|&&name| name == tensor.name).count(), 1);
    }
    let x = Rows::<Cpu<T>, 6>::from_f64(&DEVICE, &[0.3, -1.0, 2.5, 0.7, 1.1, -0.2]).unwrap();
    let before = layer.down.forward(&x).unwrap().to_vec().unwrap();
    layer.assign(&parameters).unwrap();
    assert_eq!(bits(&layer.parameters(&DEVICE).unwrap()), bits(&parameters));
    assert_eq!(layer.down.forward(&x).unwrap().to_vec().unwrap(), before);
}

#[test]
fn a_layer_in_f32_survives_its_parameters() {
    there_and_back::<f32>();
}

#[test]
fn a_layer_in_f64_survives_its_parameters() {
    there_and_back::<f64>();
}

#[test]
fn a_layer_in_bf16_survives_its_parameters() {
    there_and_back::<bf16>();
}

#[test]
fn groups_are_sorted_back_into_the_checkpoint_s_tensors() {
    let weights = checkpoint(&grouped::TENSORS);
    let mut layer = grouped::Grouped::<Cpu>::load(&weights, PREFIX, &DEVICE).unwrap();
    let parameters = layer.parameters(&DEVICE).unwrap();
    let selected = weights.exactly(PREFIX, &grouped::TENSORS).unwrap();
    let tensors = parameters.tensors().unwrap();
    assert_eq!(tensors.len(), grouped::TENSORS.len());
    for tensor in tensors {
        let (shape, values) = selected.read::<f64>(&tensor.name).unwrap();
        assert_eq!(
            (shape, values),
            (tensor.shape, tensor.values),
            "{}",
            tensor.name
        );
    }
    let x = Rows::<Cpu, 3>::from_f64(&DEVICE, &[0.3, -1.0, 2.5]).unwrap();
    let before = layer.linear_qkv.forward(&x).unwrap().to_vec().unwrap();
    layer.assign(&parameters).unwrap();
    assert_eq!(
        layer.linear_qkv.forward(&x).unwrap().to_vec().unwrap(),
        before
    );
}

#[test]
fn assigning_rounds_to_nearest_even() {
    type B = Cpu<bf16>;
    let mut norm = RmsNorm::<B, 3>::new(&DEVICE, vec![bf16::ZERO; 3], 1e-6).unwrap();
    let mut parameters = NormParameters::<B, 3>::zeros(&DEVICE, "norm").unwrap();
    set(
        &mut parameters,
        &[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 2.0 / 256.0],
    );
    norm.assign(&parameters).unwrap();
    norm.read(&mut parameters).unwrap();
    assert_eq!(
        get(&parameters),
        [1.0, 1.0 + 4.0 / 256.0, 1.0 + 2.0 / 256.0]
    );
}

/// Writes a norm's γ from outside, through a set of one slot.
fn set(parameters: &mut NormParameters<Cpu<bf16>, 3>, values: &[f32]) {
    let mut set = One(parameters);
    One::update([&mut set], [], |_, [to], []| to.copy_from_slice(values)).unwrap();
}

fn get(parameters: &NormParameters<Cpu<bf16>, 3>) -> Vec<f32> {
    use mla_runtime::ParameterGroup;
    parameters.parameter(0).unwrap().to_vec().unwrap()
}

/// A set of one slot that is somebody else's.
struct One<'a>(&'a mut NormParameters<Cpu<bf16>, 3>);

impl ParameterSet<Cpu<bf16>> for One<'_> {
    fn zeros(_: &CpuDevice) -> mla_runtime::Result<Self> {
        Err(mla_runtime::Error::Device("it is lent".to_owned()))
    }
    fn tensor_shapes(&self) -> &'static [mla_runtime::TensorShape] {
        &[]
    }
    fn group(
        &self,
        index: usize,
    ) -> Option<(&'static str, &dyn mla_runtime::ParameterGroup<Cpu<bf16>>)> {
        (index == 0).then_some(("norm", &*self.0))
    }
    fn group_mut(
        &mut self,
        index: usize,
    ) -> Option<(
        &'static str,
        &mut dyn mla_runtime::ParameterGroup<Cpu<bf16>>,
    )> {
        (index == 0).then_some(("norm", &mut *self.0))
    }
}

#[test]
fn a_bias_on_one_side_only_is_refused() {
    let linear = Linear::<Cpu, 2, 1>::new(&DEVICE, vec![1.0, 2.0], None).unwrap();
    let mut biased = LinearParameters::zeros_biased(&DEVICE, &[("o_proj", 1)]).unwrap();
    assert!(linear.read(&mut biased).is_err());
    let mut linear = Linear::<Cpu, 2, 1>::new(&DEVICE, vec![1.0, 2.0], Some(vec![3.0])).unwrap();
    let plain = LinearParameters::zeros(&DEVICE, &[("o_proj", 1)]).unwrap();
    assert!(linear.assign(&plain).is_err());
    let norm = LayerNorm::<Cpu, 1>::new(&DEVICE, vec![1.0], vec![0.0], 0.0).unwrap();
    let mut unshifted = NormParameters::zeros(&DEVICE, "norm").unwrap();
    assert!(norm.read(&mut unshifted).is_err());
}

#[test]
fn rows_that_are_not_the_linear_s_are_refused() {
    let error = LinearParameters::<Cpu, 2, 5>::zeros(&DEVICE, &[("a", 2), ("b", 2)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a.weight and b.weight has shape [4], wanted [5]"
    );
}

#[test]
fn slots_are_listed_in_the_set_s_order() {
    let slots = <latent::Latent<Cpu> as Trainable<Cpu>>::TRAINABLE;
    let set = latent::Parameters::<Cpu>::zeros(&DEVICE).unwrap();
    let groups: Vec<&str> = (0..)
        .map_while(|index| set.group(index).map(|(slot, _)| slot))
        .collect();
    assert_eq!(slots, groups);
    assert_eq!(groups[..2], ["down", "q_up"]);
}
