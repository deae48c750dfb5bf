//! A case through `forward_train` and `backward`.

use std::path::Path;
use std::time::Instant;

use super::case::{Case, IoFile};
use super::error::DriveError;
use super::job::{Input, Job, Rope, WeightsSource};
use super::outputs::Outputs;
use super::report::{Call, Gradient, Phase, Split};
use crate::proof::ProofBackend;
use crate::weights::generator::Recipe;
use crate::{ErasedGradients, Extras, ParameterSet, Result, Scalar, Tensor, Train};

/// What all passes over a case are given.
pub(super) struct Feed<'a, B: ProofBackend> {
    case: &'a Case,
    rope: Rope,
    /// Which row of the padded input each row is; `None` for padding.
    rows: Vec<Option<usize>>,
    hidden: Tensor<B>,
    /// `[batch * seq, width]`, 0 on padding.
    d_output: Vec<f64>,
    /// The gradients of latents and rotated keys that later layers would give.
    handed: Option<[Tensor<B>; 2]>,
}

/// What a forward and a backward pass give.
pub(super) struct Pass<P> {
    pub(super) output: Vec<f64>,
    pub(super) max_logits: Vec<f64>,
    pub(super) indexer_loss: Option<f64>,
    /// By name: the width of a row, and all rows.
    inputs: Vec<(&'static str, usize, Vec<f64>)>,
    parameters: P,
    pub(super) calls: [Call; 2],
}

/// How the weights' gradients are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backward {
    /// With the rest.
    Whole,
    /// `backward_input`, then `backward_dw`.
    Split,
}

impl<'a, B: ProofBackend> Feed<'a, B> {
    /// Reads or makes what belongs to `case` besides its input.
    pub(super) fn new(case: &'a Case, job: &Job) -> Result<Self, DriveError> {
        let mut rows = vec![None; case.batch * case.seq];
        for row in case.requests.iter().cloned().flatten() {
            rows[row] = Some(row);
        }
        let given = d_output(case, job)?;
        let mut d_output = vec![0.0; given.len()];
        for row in rows.iter().flatten() {
            let values = row * case.width..(row + 1) * case.width;
            d_output[values.clone()].copy_from_slice(&given[values]);
        }
        let zeros = |width: usize| tensor::<B>(&vec![0.0; rows.len() * width], width);
        let handed = match job.grad.hands_on {
            Some([latent, k_rope]) => Some([zeros(latent)?, zeros(k_rope)?]),
            None => None,
        };
        Ok(Self {
            rope: job.rope,
            hidden: tensor(&case.hidden, case.width)?,
            case,
            rows,
            d_output,
            handed,
        })
    }

    /// One forward and one backward pass, the gradients added to zeros.
    pub(super) fn pass<L: Train<B>>(
        &self,
        layer: &L,
        how: Backward,
    ) -> Result<Pass<L::Parameters>, DriveError> {
        let device = B::Device::default();
        let mut extras = self.extras();
        let start = Instant::now();
        let (output, saved) = self.forward(layer, &mut extras)?;
        let forward = start.elapsed().as_secs_f64();
        let max_logits = L::max_logits(&saved).to_vec();
        let mut parameters = L::Parameters::zeros(&device)?;
        let d_output = tensor::<B>(&self.d_output, self.case.width)?;
        let (hidden, into) = (&self.hidden, &mut parameters);
        let start = Instant::now();
        let found = match how {
            Backward::Whole => {
                layer.backward_erased(saved, hidden, &d_output, &mut extras, into)?
            }
            Backward::Split => {
                let (found, deferred) =
                    layer.backward_input_erased(saved, hidden, &d_output, &mut extras, into)?;
                layer.backward_dw_erased(deferred, hidden, &d_output, &mut extras, into)?;
                found
            }
        };
        let backward = start.elapsed().as_secs_f64();
        let call = |phase, seconds| Call {
            phase,
            tokens: self.rows.len(),
            seconds,
        };
        Ok(Pass {
            output: host(&output)?,
            max_logits,
            indexer_loss: found.indexer_loss,
            inputs: inputs(&found)?,
            parameters,
            calls: [
                call(Phase::ForwardTrain, forward),
                call(Phase::Backward, backward),
            ],
        })
    }

    /// The forward pass alone: the output, and the largest logit of each head.
    pub(super) fn output<L: Train<B>>(&self, layer: &L) -> Result<(Vec<f64>, Vec<f64>)> {
        let (output, saved) = self.forward(layer, &mut self.extras())?;
        Ok((host(&output)?, L::max_logits(&saved).to_vec()))
    }

    fn forward<L: Train<B>>(
        &self,
        layer: &L,
        extras: &mut Extras<'_, B>,
    ) -> Result<(Tensor<B>, L::Saved)> {
        layer.forward_train_erased(&self.hidden, &self.case.positions, &self.case.mask, extras)
    }

    fn extras(&self) -> Extras<'_, B> {
        let given = &self.case.given;
        let mut extras: Extras<'_, B> = given.extras(&B::Device::default(), &self.rows, self.rope);
        extras.d_shared_kv = self
            .handed
            .as_ref()
            .map(|[latent, k_rope]| [latent, k_rope]);
        extras
    }

    /// Puts what a pass gave under a golden case's names; `prefix` is that of the checkpoint's tensors.
    pub(super) fn record<P: ParameterSet<B>>(
        &self,
        pass: &Pass<P>,
        prefix: &str,
        outputs: &mut Outputs,
    ) -> Result<()> {
        let Self { case, rows, .. } = self;
        outputs.put("grad_output", &[case.width], rows, &self.d_output);
        outputs.put("output", &[case.width], rows, &pass.output);
        for (name, width, values) in &pass.inputs {
            outputs.put(&format!("grad.{name}"), &[*width], rows, values);
        }
        for tensor in pass.parameters.tensors()? {
            let name = format!("grad.{prefix}{}", tensor.name);
            outputs.put_whole(name, tensor.shape, tensor.values);
        }
        outputs.put_per_head("mid.max_logit", &pass.max_logits);
        if let Some(loss) = pass.indexer_loss {
            outputs.put_whole("indexer_loss".to_owned(), vec![1], vec![loss]);
        }
        Ok(())
    }

    /// Scales the layer's weights by what `max_logits` says, and puts the factors, the weights that changed, and what the layer gives then
    /// under a golden case's names.
    pub(super) fn record_clip<L: Train<B>>(
        &self,
        layer: &mut L,
        clip: fn(&mut L, &[f64]) -> Result<Vec<f64>>,
        prefix: &str,
        max_logits: &[f64],
        outputs: &mut Outputs,
    ) -> Result<()> {
        let device = B::Device::default();
        let before = layer.parameters(&device)?.tensors()?;
        let factors = clip(layer, max_logits)?;
        let after = layer.parameters(&device)?.tensors()?;
        for (before, after) in before.into_iter().zip(after) {
            if before.values != after.values {
                let name = format!("qkclip.after.{prefix}{}", after.name);
                outputs.put_whole(name, after.shape, after.values);
            }
        }
        let (output, largest) = self.output(layer)?;
        outputs.put_per_head("qkclip.s_max", max_logits);
        outputs.put_per_head("qkclip.gamma", &factors);
        outputs.put_per_head("qkclip.s_max_after", &largest);
        let width = self.case.width;
        outputs.put("qkclip.output_after", &[width], &self.rows, &output);
        Ok(())
    }
}

impl<P> Pass<P> {
    /// How large the gradients are: those of the inputs, and of the slots that `trained` names.
    pub(super) fn gradients<B: ProofBackend>(&self, trained: &[&str]) -> Result<Vec<Gradient>>
    where
        P: ParameterSet<B>,
    {
        let gradient = |name: &str, square: f64| Gradient {
            name: name.to_owned(),
            norm: square.is_finite().then(|| square.sqrt()),
        };
        let mut all: Vec<Gradient> = self
            .inputs
            .iter()
            .map(|(name, _, values)| gradient(name, values.iter().map(|x| x * x).sum()))
            .collect();
        self.parameters.visit(&mut |slot, parameter| {
            if !trained.contains(&slot) {
                return Ok(());
            }
            for index in 0.. {
                let Some((name, _)) = parameter.layout().piece(index) else {
                    break;
                };
                let values = parameter.piece(index)?;
                let square = values.iter().map(|x| x.to_f64() * x.to_f64()).sum();
                all.push(gradient(name, square));
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Whether another pass gave the same bits.
    pub(super) fn against<B: ProofBackend>(&self, split: &Self) -> Result<Split>
    where
        P: ParameterSet<B>,
    {
        let (mut tensors, mut differs) = (0, None);
        let mut compare = |name: &str, found: &[f64], wanted: &[f64]| {
            tensors += 1;
            if differs.is_none() {
                differs = difference(name, found, wanted);
            }
        };
        for ((name, _, whole), (_, _, parts)) in self.inputs.iter().zip(&split.inputs) {
            compare(name, parts, whole);
        }
        for (loss, parts) in self.indexer_loss.iter().zip(&split.indexer_loss) {
            compare("indexer_loss", &[*parts], &[*loss]);
        }
        P::update(
            [],
            [&self.parameters, &split.parameters],
            |at, [], [whole, parts]| {
                let names: Vec<&str> = (0..)
                    .map_while(|index| Some(at.layout.piece(index)?.0))
                    .collect();
                let f64s = |values: &[_]| -> Vec<f64> {
                    values
                        .iter()
                        .map(|value: &crate::backend::Accum<B>| value.to_f64())
                        .collect()
                };
                compare(&names.join(" and "), &f64s(parts), &f64s(whole));
            },
        )?;
        Ok(Split { tensors, differs })
    }
}

/// The first value of `found` that is not the bits of `wanted`, in words.
fn difference(name: &str, found: &[f64], wanted: &[f64]) -> Option<String> {
    let same = |a: &f64, b: &f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let at = found.iter().zip(wanted).position(|(a, b)| !same(a, b))?;
    Some(format!(
        "value {at} of the gradient of `{name}` is {:e} in two parts and {:e} in one",
        found[at], wanted[at]
    ))
}

/// The gradients of what the forward pass was given.
fn inputs<B: ProofBackend>(
    found: &ErasedGradients<B>,
) -> Result<Vec<(&'static str, usize, Vec<f64>)>> {
    let named = [
        ("hidden_states", &found.hidden),
        ("shared_kv.kv_latent", &found.latent),
        ("shared_kv.k_pe", &found.k_rope),
    ];
    let mut all = Vec::new();
    for (name, tensor) in named {
        if let Some(tensor) = tensor {
            all.push((name, tensor.width(), host(tensor)?));
        }
    }
    Ok(all)
}

/// The gradient of the output, `[batch * seq, width]`.
fn d_output(case: &Case, job: &Job) -> Result<Vec<f64>, DriveError> {
    const NAME: &str = "grad_output";
    let shape = [case.batch, case.seq, case.width];
    let random = |seed| -> Vec<f64> {
        let values = Recipe::for_hidden_states(seed).values(NAME, case.hidden.len());
        values.into_iter().map(f64::from).collect()
    };
    let read = |path: &Path| -> Result<Option<Vec<f64>>, DriveError> {
        let file = IoFile::open(path)?;
        if !file.shard.tensors.contains_key(NAME) {
            return Ok(None);
        }
        file.floats(NAME, &shape).map(Some)
    };
    match (&job.grad.output, &job.input) {
        (Some(path), _) => match read(path)? {
            Some(values) => Ok(values),
            None => {
                let problem = format!(
                    "there is no tensor `{NAME}` {shape:?} in it, the gradient of the output"
                );
                let path = path.clone();
                Err(DriveError::Input { path, problem })
            }
        },
        (None, Input::Io { path }) => Ok(read(path)?.unwrap_or_else(|| random(0))),
        (None, Input::Random { seed, .. }) => Ok(random(*seed)),
    }
}

/// What stands before a tensor's name below the prefix of these weights; nothing where they are random.
pub(super) fn prefix(weights: &WeightsSource) -> String {
    match weights {
        WeightsSource::Random { .. } => String::new(),
        WeightsSource::File { prefix, .. } | WeightsSource::Generated { prefix, .. } => {
            match prefix.is_empty() || prefix.ends_with('.') {
                true => prefix.clone(),
                false => format!("{prefix}."),
            }
        }
    }
}

fn tensor<B: ProofBackend>(values: &[f64], width: usize) -> Result<Tensor<B>> {
    let values = values.iter().map(|&value| B::Elem::from_f64(value));
    Tensor::from_vec(&B::Device::default(), values.collect(), width)
}

fn host<B: ProofBackend>(tensor: &Tensor<B>) -> Result<Vec<f64>> {
    Ok(tensor.to_vec()?.into_iter().map(Scalar::to_f64).collect())
}
