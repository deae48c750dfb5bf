//! `build.weights`: what it becomes, that it is written as it is read, and what a model's layers say of it.

use mla_spec::compare::{self, Topic};
use mla_spec::explain::{MODEL, whole};
use mla_spec::write::{self, Comments};
use mla_spec::{Checked, Document, Sources, WeightStore, check, check_model, read};

fn document(text: &str) -> Document {
    read::yaml(&mut Sources::default(), "spec.yaml", text)
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The layer of an excerpt (see [`whole`]), which must be accepted without a word.
fn accepted(excerpt: &str) -> Checked {
    let (checked, found) = check(&document(&whole(excerpt)));
    assert!(found.is_empty(), "{found}\n{excerpt}");
    checked.expect("a spec without errors is a layer")
}

fn weights(excerpt: &str, word: &str) -> WeightStore {
    let text = format!("{excerpt}build:\n  weights: {word}\n");
    accepted(&text).build.weights
}

/// An up projection with its norm inside.
fn inside(latent: &str) -> String {
    format!(
        "submodules:\n  {latent}_layernorm: IdentityOp\n  linear_{latent}_up_proj: {{ module: LayerNormColumnParallelLinear, \
         params: {{ normalization: RMSNorm, eps: 1.0e-6 }} }}\n"
    )
}

#[test]
fn weights_are_numbers_unless_a_spec_says_otherwise() {
    assert_eq!(accepted("").build.weights, WeightStore::Numbers);
    assert_eq!(WeightStore::default(), WeightStore::ALL[0]);
    for store in WeightStore::ALL {
        assert_eq!(weights("", store.word()), store);
        assert_eq!(weights("module: SelfAttention\n", store.word()), store);
    }
}

#[test]
fn a_norm_inside_a_projection_is_refused_where_its_matrix_would_be_coded() {
    assert_eq!(weights(&inside("kv"), "fp8_blocks"), WeightStore::Fp8Blocks);
    assert_eq!(weights(&inside("q"), "numbers"), WeightStore::Numbers);
    let coded = format!("{}build:\n  weights: fp8_blocks\n", inside("q"));
    let (_, found) = check(&document(&whole(&coded)));
    let codes: Vec<u16> = found.iter().map(|one| one.code.0).collect();
    assert_eq!(codes, [630]);
}

#[test]
fn what_is_written_reads_back_equal() {
    let read = document(&whole("build:\n  weights: fp8_blocks\n"));
    let written = write::yaml(&read, &Comments::default());
    assert!(written.contains("weights: fp8_blocks"), "{written}");
    assert_eq!(document(&written), read);
}

#[test]
fn it_is_a_difference_of_schedule() {
    let facts = |word: &str| compare::facts(&accepted(&format!("build:\n  weights: {word}\n")));
    let found = compare::differences(&facts("numbers"), &facts("fp8_blocks"));
    let [found] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(found.topic, Topic::Schedule);
    assert_eq!(found.left.as_deref(), Some("numbers"));
    assert_eq!(found.right.as_deref(), Some("fp8 e4m3 in blocks"));
}

#[test]
fn a_layer_of_a_model_may_keep_numbers() {
    let text = format!("{MODEL}build:\n  weights: fp8_blocks\n").replacen(
        "      like: full\n",
        "      like: full\n      build: { weights: numbers }\n",
        1,
    );
    let (checked, found) = check_model(&document(&text));
    assert!(found.is_empty(), "{found}\n{text}");
    let layers = checked.expect("nothing was refused").layers;
    let stores: Vec<WeightStore> = layers
        .iter()
        .map(|layer| layer.checked.build.weights)
        .collect();
    let (coded, plain) = (WeightStore::Fp8Blocks, WeightStore::Numbers);
    assert_eq!(stores[..2], [coded, plain]);
}
