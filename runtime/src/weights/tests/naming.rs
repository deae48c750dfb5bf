//! One layer under every system's names.

use std::collections::BTreeMap;

use crate::{Cpu, CpuDevice, Error, GroupPart, Linear, Mistake, Naming, TensorShape, Weights};

const HIDDEN: usize = 5;
const Q_RANK: usize = 3;
const RANK: usize = 4;
const ROPE: usize = 2;

const fn shape(name: &'static str, shape: &'static [usize]) -> TensorShape {
    TensorShape { name, shape }
}

/// An MLA layer with two heads of 6 (queries) and 7 (keys and values, of which 3 values), and an indexer of two heads of 4.
const MLA: [TensorShape; 12] = [
    shape("q_a_proj.weight", &[Q_RANK, HIDDEN]),
    shape("q_a_layernorm.weight", &[Q_RANK]),
    shape("q_b_proj.weight", &[12, Q_RANK]),
    shape("kv_a_proj_with_mqa.weight", &[RANK + ROPE, HIDDEN]),
    shape("kv_a_layernorm.weight", &[RANK]),
    shape("kv_b_proj.weight", &[14, RANK]),
    shape("o_proj.weight", &[HIDDEN, 6]),
    shape("indexer.wq_b.weight", &[8, Q_RANK]),
    shape("indexer.wk.weight", &[4, HIDDEN]),
    shape("indexer.k_norm.weight", &[4]),
    shape("indexer.k_norm.bias", &[4]),
    shape("indexer.weights_proj.weight", &[2, HIDDEN]),
];

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Values that tell tensors and places apart.
fn values(tensor: &TensorShape) -> Vec<f32> {
    let name: u32 = tensor.name.bytes().map(u32::from).sum();
    (0..tensor.shape.iter().product())
        .map(|i: usize| name as f32 + i as f32 / 256.0)
        .collect()
}

/// The layer's tensors below `p.`, each as `rename` says.
fn stored(
    wanted: &[TensorShape],
    rename: impl Fn(&TensorShape) -> (&'static str, Vec<usize>, Vec<f32>),
) -> Tensors {
    wanted
        .iter()
        .map(|tensor| {
            let (name, shape, values) = rename(tensor);
            (format!("p.{name}"), (shape, values))
        })
        .collect()
}

fn renamed(wanted: &[TensorShape], names: &[(&str, &'static str)]) -> Tensors {
    stored(wanted, |tensor| {
        let entry = names.iter().find(|(ours, _)| *ours == tensor.name);
        let name = entry.map_or(tensor.name, |(_, theirs)| theirs);
        (name, tensor.shape.to_vec(), values(tensor))
    })
}

/// Loads `tensors` as `wanted` and compares every value with its own.
fn loads(tensors: Tensors, wanted: &[TensorShape], naming: Naming) {
    let weights = Weights::from_tensors(tensors).unwrap();
    let selected = weights.exactly("p", wanted).unwrap();
    assert_eq!(selected.naming(), naming);
    for tensor in wanted {
        let (shape, found) = selected.read::<f32>(tensor.name).unwrap();
        assert_eq!(shape, tensor.shape, "{}", tensor.name);
        assert_eq!(found, values(tensor), "{naming} {}", tensor.name);
    }
    assert!(weights.exactly_named(naming, "p.", wanted).is_ok());
}

fn refused(tensors: Tensors, wanted: &[TensorShape]) -> (Vec<Mistake>, String) {
    match Weights::from_tensors(tensors).unwrap().exactly("p", wanted) {
        Err(Error::WeightSet(set)) => (set.mistakes.clone(), set.to_string()),
        other => panic!("wanted a list of mistakes, found {other:?}"),
    }
}

const DEEPSEEK: [(&str, &str); 7] = [
    ("q_a_proj.weight", "wq_a.weight"),
    ("q_a_layernorm.weight", "q_norm.weight"),
    ("q_b_proj.weight", "wq_b.weight"),
    ("kv_a_proj_with_mqa.weight", "wkv_a.weight"),
    ("kv_a_layernorm.weight", "kv_norm.weight"),
    ("kv_b_proj.weight", "wkv_b.weight"),
    ("o_proj.weight", "wo.weight"),
];

const MISTRAL: [(&str, &str); 7] = [
    ("q_a_proj.weight", "wq_a.weight"),
    ("q_a_layernorm.weight", "q_a_norm.weight"),
    ("q_b_proj.weight", "wq_b.weight"),
    ("kv_a_proj_with_mqa.weight", "wkv_a_with_mqa.weight"),
    ("kv_a_layernorm.weight", "kv_a_norm.weight"),
    ("kv_b_proj.weight", "wkv_b.weight"),
    ("o_proj.weight", "wo.weight"),
];

const MEGATRON: [(&str, &str); 12] = [
    ("q_a_proj.weight", "linear_q_down_proj.weight"),
    ("q_a_layernorm.weight", "q_layernorm.weight"),
    ("q_b_proj.weight", "linear_q_up_proj.weight"),
    ("kv_a_proj_with_mqa.weight", "linear_kv_down_proj.weight"),
    (
        "kv_a_layernorm.weight",
        "linear_kv_up_proj.layer_norm_weight",
    ),
    ("kv_b_proj.weight", "linear_kv_up_proj.weight"),
    ("o_proj.weight", "linear_proj.weight"),
    (
        "indexer.wq_b.weight",
        "core_attention.indexer.linear_wq_b.weight",
    ),
    (
        "indexer.wk.weight",
        "core_attention.indexer.linear_wk.weight",
    ),
    (
        "indexer.k_norm.weight",
        "core_attention.indexer.k_norm.weight",
    ),
    ("indexer.k_norm.bias", "core_attention.indexer.k_norm.bias"),
    (
        "indexer.weights_proj.weight",
        "core_attention.indexer.linear_weights_proj.weight",
    ),
];

#[test]
fn renamed_tensors_are_the_layers() {
    loads(renamed(&MLA, &[]), &MLA, Naming::HuggingFace);
    loads(renamed(&MLA, &DEEPSEEK), &MLA, Naming::DeepSeek);
    loads(renamed(&MLA, &MISTRAL), &MLA, Naming::Mistral);
    loads(renamed(&MLA, &MEGATRON), &MLA, Naming::Megatron);
}

#[test]
fn a_gate_and_sinks_have_other_names_elsewhere() {
    let wanted = [
        shape("o_proj.weight", &[2, 2]),
        shape("g_proj.weight", &[2, 2]),
        shape("sinks", &[2]),
    ];
    let gate = [("g_proj.weight", "gate_proj.weight")];
    loads(renamed(&wanted, &gate), &wanted, Naming::HuggingFace);
    let megatron = [
        ("o_proj.weight", "linear_proj.weight"),
        ("g_proj.weight", "linear_gate_proj.weight"),
        ("sinks", "core_attention.softmax_offset"),
    ];
    loads(renamed(&wanted, &megatron), &wanted, Naming::Megatron);
    let mut both = renamed(&wanted, &gate);
    both.insert("p.g_proj.weight".to_owned(), (vec![2, 2], vec![0.0; 4]));
    let (mistakes, message) = refused(both, &wanted);
    assert_eq!(mistakes.len(), 1, "{message}");
    assert!(
        message.contains("left over `p.gate_proj.weight`"),
        "{message}"
    );
}

#[test]
fn the_output_projection_of_bart_has_another_name() {
    let wanted = [
        shape("q_proj.weight", &[2, 3]),
        shape("q_proj.bias", &[2]),
        shape("o_proj.weight", &[3, 2]),
        shape("o_proj.bias", &[3]),
    ];
    let bart = [
        ("o_proj.weight", "out_proj.weight"),
        ("o_proj.bias", "out_proj.bias"),
    ];
    loads(renamed(&wanted, &bart), &wanted, Naming::HuggingFace);
}

#[test]
fn maxtexts_kernels_are_turned() {
    const NAMES: [(&str, &str, &[usize]); 12] = [
        ("q_a_proj.weight", "wq_a.kernel", &[HIDDEN, Q_RANK]),
        ("q_a_layernorm.weight", "q_norm.scale", &[Q_RANK]),
        ("q_b_proj.weight", "wq_b.kernel", &[Q_RANK, 2, 6]),
        ("kv_a_proj_with_mqa.weight", "wkv_a.kernel", &[HIDDEN, 6]),
        ("kv_a_layernorm.weight", "kv_norm.scale", &[RANK]),
        ("kv_b_proj.weight", "wkv_b.kernel", &[RANK, 2, 7]),
        ("o_proj.weight", "out.kernel", &[2, 3, HIDDEN]),
        (
            "indexer.wq_b.weight",
            "indexer.wq_b.kernel",
            &[Q_RANK, 2, 4],
        ),
        ("indexer.wk.weight", "indexer.wk.kernel", &[HIDDEN, 4]),
        ("indexer.k_norm.weight", "indexer.k_norm.scale", &[4]),
        ("indexer.k_norm.bias", "indexer.k_norm.bias", &[4]),
        (
            "indexer.weights_proj.weight",
            "indexer.weights_proj.kernel",
            &[HIDDEN, 2],
        ),
    ];
    let turned = || {
        stored(&MLA, |tensor| {
            let (_, name, shape) = NAMES
                .iter()
                .find(|(ours, ..)| *ours == tensor.name)
                .unwrap();
            let values = values(tensor);
            let turned = match tensor.shape {
                [rows, columns] => (0..columns * rows)
                    .map(|i| values[i % rows * columns + i / rows])
                    .collect(),
                _ => values,
            };
            (name, shape.to_vec(), turned)
        })
    };
    loads(turned(), &MLA, Naming::MaxText);
    let mut wrong = turned();
    wrong.get_mut("p.wq_b.kernel").unwrap().0 = vec![2, 6, Q_RANK];
    let (mistakes, message) = refused(wrong, &MLA);
    assert_eq!(mistakes.len(), 1, "{message}");
    let line = "misshapen `p.wq_b.kernel`: found [2, 6, 3], wanted [3, 12]";
    assert!(message.contains(line), "{message}");
}

#[test]
fn megatrons_stacked_down_projection_is_cut() {
    let stacked = |rows: usize| {
        let mut tensors = renamed(&MLA, &MEGATRON);
        let (_, mut all) = tensors.remove("p.linear_q_down_proj.weight").unwrap();
        let (_, kv) = tensors.remove("p.linear_kv_down_proj.weight").unwrap();
        all.extend(kv);
        all.truncate(rows * HIDDEN);
        tensors.insert(
            "p.linear_qkv_down_proj.weight".to_owned(),
            (vec![rows, HIDDEN], all),
        );
        tensors.insert(
            "p.linear_proj._extra_state".to_owned(),
            (vec![1], vec![0.0]),
        );
        tensors
    };
    loads(stacked(9), &MLA, Naming::Megatron);
    let (mistakes, message) = refused(stacked(8), &MLA);
    assert_eq!(mistakes.len(), 1, "{message}");
    let line = "misshapen `p.linear_qkv_down_proj.weight`: found [8, 5], wanted [9, 5]";
    assert!(message.contains(line), "{message}");
}

#[test]
fn megatrons_grouped_projection_is_read_as_it_is() {
    // Two groups of two query heads, one key and one value head, all 3 wide
    let wanted = [
        shape("q_proj.weight", &[12, HIDDEN]),
        shape("k_proj.weight", &[6, HIDDEN]),
        shape("v_proj.weight", &[6, HIDDEN]),
        shape("o_proj.weight", &[HIDDEN, 12]),
        shape("q_norm.weight", &[3]),
        shape("k_norm.weight", &[3]),
    ];
    let parts = [
        GroupPart::heads("q_proj", 2, 3),
        GroupPart::heads("k_proj", 1, 3),
        GroupPart::heads("v_proj", 1, 3),
    ];
    let load = |tensors: Tensors| {
        let weights = Weights::from_tensors(tensors).unwrap();
        let selected = weights.exactly("p", &wanted).unwrap();
        let linear =
            Linear::<Cpu, HIDDEN, 24>::load_grouped(&selected, 2, &parts, &CpuDevice::new());
        let alone = selected.read::<f32>("k_proj.weight");
        (
            linear.unwrap().weight().clone(),
            alone.map_err(|error| error.to_string()),
        )
    };
    let (grouped, alone) = load(renamed(&wanted, &[]));
    assert!(alone.is_ok());
    let mut tensors = renamed(
        &wanted[3..],
        &[
            ("o_proj.weight", "linear_proj.weight"),
            ("q_norm.weight", "q_layernorm.weight"),
            ("k_norm.weight", "k_layernorm.weight"),
        ],
    );
    tensors.insert(
        "p.linear_qkv.weight".to_owned(),
        (vec![24, HIDDEN], grouped.clone()),
    );
    let (found, alone) = load(tensors);
    assert_eq!(found, grouped);
    let message = alone.unwrap_err();
    assert!(
        message.contains("group by group among others in `p.linear_qkv.weight`"),
        "{message}"
    );
}

#[test]
fn a_mixture_is_refused_with_both_systems_named() {
    let mut tensors = renamed(&MLA, &DEEPSEEK);
    let kv = tensors.remove("p.wkv_b.weight").unwrap();
    tensors.insert("p.linear_kv_up_proj.weight".to_owned(), kv);
    let (mistakes, message) = refused(tensors, &MLA);
    assert_eq!(mistakes.len(), 2, "{message}");
    for line in [
        "are not the layer's under DeepSeek's reference's names",
        "missing `p.wkv_b.weight`, wanted [14, 4]",
        "left over `p.linear_kv_up_proj.weight`, [14, 4]",
        "`p.linear_kv_up_proj.weight` is Megatron's name",
    ] {
        assert!(message.contains(line), "{message}\nwanted: {line}");
    }
    // Both names of one tensor, equal values or not
    let mut tensors = renamed(&MLA, &[]);
    tensors.insert("p.wo.weight".to_owned(), (vec![HIDDEN, 6], values(&MLA[6])));
    let (mistakes, message) = refused(tensors, &MLA);
    assert_eq!(mistakes.len(), 1, "{message}");
    assert!(
        message.contains("`p.wo.weight` is Mistral's name"),
        "{message}"
    );
}

#[test]
fn mistakes_are_listed_in_the_systems_own_names() {
    let mut tensors = renamed(&MLA, &MEGATRON);
    tensors.remove("p.linear_proj.weight").unwrap();
    tensors.get_mut("p.q_layernorm.weight").unwrap().0 = vec![1, 3];
    let (mistakes, message) = refused(tensors, &MLA);
    assert_eq!(mistakes.len(), 2, "{message}");
    for line in [
        "under Megatron's names",
        "missing `p.linear_proj.weight`, wanted [5, 6]",
        "misshapen `p.q_layernorm.weight`: found [1, 3], wanted [3]",
    ] {
        assert!(message.contains(line), "{message}\nwanted: {line}");
    }
    let weights = Weights::from_tensors(renamed(&MLA, &MEGATRON)).unwrap();
    let message = weights.exactly("decoder", &MLA).unwrap_err().to_string();
    assert!(message.contains("such tensors lie below `p`"), "{message}");
    let message = weights
        .exactly_named(Naming::MaxText, "p", &MLA)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("missing `p.wq_b.kernel`, wanted [3, 12]"),
        "{message}"
    );
}
