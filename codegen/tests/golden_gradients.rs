//! The oracle's gradients against those that other people's code computed: transformers' by PyTorch's autograd in `f64`, and MaxText's
//! loss of an indexer.

#[allow(dead_code)] // this file looks at gradients alone
mod golden_case;

use std::path::Path;

use golden_case::{Case, Numbers, Tensors, cases, tensors};
use mla_codegen::plan::interpret::{Gradients, Incoming, Lent, Oracle};
use mla_codegen::plan::{Gradient, program};
use mla_spec::{
    Checked, Core, Form, FormChoice, Indexer, IndexerLoss, LossEpsilon, LossReduction, LossStage,
    Phase,
};

/// A case with gradients.
struct Trained {
    case: Case,
    wanted: Tensors,
}

impl Trained {
    /// The cases that have a file.
    fn with(file: &str) -> Vec<Self> {
        let read = |folder: &Path| Self {
            case: Case::read(folder),
            wanted: tensors(&folder.join(file)),
        };
        let folders = cases().into_iter();
        folders
            .filter(|folder| folder.join(file).is_file())
            .map(|folder| read(&folder))
            .collect()
    }

    fn name(&self) -> &str {
        &self.case.name
    }

    fn prefix(&self) -> &str {
        self.case.manifest["weight_prefix"]
            .as_str()
            .expect("a prefix")
    }

    /// The layer, trained, in a form.
    fn checked(&self, form: Form) -> Checked {
        let mut checked = self.case.checked.clone();
        checked.build.phases = vec![Phase::Train];
        checked.build.form = FormChoice::Forced(form);
        checked
    }

    /// A step of training: its gradients, and the largest logit of each head.
    fn step(&self, checked: &Checked, d_output: &[f64]) -> (Gradients, Vec<f64>) {
        let program = program(checked);
        let oracle = Oracle::new(&program, &self.case.weights).expect("the weights fit");
        let (positions, sequences) = (self.case.positions(), self.case.sequences());
        let given = self.case.given();
        let lent = Lent {
            hidden: &self.case.io["hidden_states"].values,
            positions: &positions,
            sequences: &sequences,
            extras: given.extras(),
        };
        let incoming = Incoming {
            output: d_output,
            shared_kv: None,
            loss_scale: 1.0,
        };
        let made = oracle.forward_train(lent).expect("the forward pass runs");
        let gradients = oracle.backward(&made.saved, lent, incoming);
        let gradients = gradients.expect("the backward pass runs");
        (gradients, made.max_logits)
    }

    /// Compares each element to so much of itself and of the tensor's root mean square.
    fn assert_close(&self, what: &str, found: &[f64], tolerance: f64) {
        let wanted = self.wanted.get(what);
        let wanted = wanted.unwrap_or_else(|| panic!("{}: there is no {what}", self.name()));
        self.compare(what, wanted, found, tolerance);
    }

    fn compare(&self, what: &str, wanted: &Numbers, found: &[f64], tolerance: f64) {
        assert_eq!(found.len(), wanted.values.len(), "{}: {what}", self.name());
        let squares: f64 = wanted.values.iter().map(|value| value * value).sum();
        let rms = (squares / wanted.values.len() as f64).sqrt();
        for (i, (found, wanted)) in found.iter().zip(&wanted.values).enumerate() {
            assert!(
                (found - wanted).abs() <= tolerance * (wanted.abs() + rms),
                "{}: {what}, element {i}: found {found}, wanted {wanted}",
                self.name()
            );
        }
    }

    /// How many gradients the manifest says are not in the file, and why.
    fn listed(&self, why: &str) -> usize {
        let list = self.case.manifest["grads"][why].as_array();
        list.expect("a list").len()
    }

    /// Names of tensors behind a prefix, and the layer's prefix.
    fn of_weights(&self, before: &str) -> Vec<(String, String)> {
        let before = format!("{before}{}", self.prefix());
        let names = self.wanted.keys();
        let name = |what: &String| {
            let name = what.strip_prefix(&before)?;
            Some((what.clone(), name.to_owned()))
        };
        names.filter_map(name).collect()
    }
}

#[test]
fn every_gradient_is_what_others_compute() {
    let cases = Trained::with("grads.safetensors");
    assert!(cases.len() > 12, "found {} cases", cases.len());
    for case in cases {
        for form in [Form::Mha, Form::Mqa] {
            let d_output = &case.wanted["grad_output"].values;
            let (found, max_logits) = case.step(&case.checked(form), d_output);
            if let Some(wanted) = case.case.io.get("mid.max_logit") {
                case.compare("mid.max_logit", wanted, &max_logits, 2e-7);
            }
            let hidden = &found.inputs[&Gradient::Hidden];
            case.assert_close("grad.hidden_states", hidden, 2e-7);
            let weights = case.of_weights("grad.");
            let rest = ["left_out", "no_grad"].map(|what| case.listed(what));
            let all = weights.len() + rest.iter().sum::<usize>();
            assert_eq!(all, found.parameters.len(), "{}: {weights:?}", case.name());
            for (what, name) in &weights {
                case.assert_close(what, &found.parameters[name], 2e-7);
            }
            for (name, gradient) in &found.parameters {
                let is_indexers = name.starts_with("indexer.");
                let has_none = gradient.iter().all(|d| *d == 0.0);
                assert_eq!(is_indexers, has_none, "{}: {name}", case.name());
            }
        }
    }
}

#[test]
fn an_indexers_loss_and_its_gradients_are_maxtexts() {
    let cases = Trained::with("indexer_loss.safetensors");
    assert!(!cases.is_empty());
    for case in cases {
        for (word, stage) in [("sparse", LossStage::Sparse), ("dense", LossStage::Dense)] {
            for form in [Form::Mha, Form::Mqa] {
                let mut checked = case.checked(form);
                let Core::Sparse(Indexer::Lightning(indexer)) = &mut checked.layer.core else {
                    panic!("{} has no indexer", case.name());
                };
                indexer.loss = Some(IndexerLoss {
                    coeff: 1.0,
                    stage,
                    reduction: LossReduction::MeanAll,
                    epsilon: LossEpsilon::Add,
                });
                let nothing = vec![0.0; case.case.io["hidden_states"].values.len()];
                let (found, _) = case.step(&checked, &nothing);
                let loss = &found.inputs[&Gradient::IndexerLoss];
                let loss_name = format!("indexer_loss.{word}");
                case.assert_close(&format!("{loss_name}.f64"), loss, 1e-14);
                case.assert_close(&loss_name, loss, 1e-6);
                let weights = case.of_weights(&format!("{loss_name}.grad."));
                assert_eq!(weights.len(), 5, "{}: {weights:?}", case.name());
                for (what, name) in &weights {
                    // MaxText's are in single precision
                    case.assert_close(what, &found.parameters[name], 1e-4);
                }
            }
        }
    }
}
