//! The example that trains, at work: losses fall, gradients are those of finite differences, and a training that was stopped goes on as
//! if it had not been, to the bit.

#[path = "../examples/train/curve.rs"]
mod curve;
#[allow(dead_code)] // The example uses the rest
#[path = "../examples/train/tiny/mod.rs"]
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};

use mla_generated::tiny_dense::TinyDenseAttention;
use mla_generated::tiny_sparse::TinySparseAttention;
use mla_runtime::{
    Backend, Cpu, CpuDevice, LossScaler, LossScaling, Scalar, Trainable, Weights, bf16, parameters,
};
use safetensors::tensor::{SafeTensors, TensorView};
use tiny::Fault;
use tiny::checkpoint::Checkpoint;
use tiny::model::{Largest, Losses, Model};
use tiny::parameters::Parameters;
use tiny::random::Random;
use tiny::sample::sample;
use tiny::text::{Batch, SONNETS, VOCABULARY, decode, encode};
use tiny::trainer::{Report, Settings, Trainer};

const DEVICE: CpuDevice = CpuDevice::new();

/// QK-clip's threshold of both attentions.
const THRESHOLD: f64 = 30.0;

fn trainer<B: Backend<Device = CpuDevice>>(steps: usize) -> Trainer<B> {
    Trainer::new(Settings { steps, seed: 7 }, &DEVICE).unwrap()
}

fn steps<B: Backend>(trainer: &mut Trainer<B>, count: usize) -> Vec<Report> {
    (0..count).map(|_| trainer.step().unwrap()).collect()
}

/// The mean of the model's losses.
fn mean(history: &[Losses]) -> f64 {
    history.iter().map(|losses| losses.model).sum::<f64>() / history.len() as f64
}

/// What a model loses that knows the alphabet and nothing else.
fn guess() -> f64 {
    (VOCABULARY as f64).ln()
}

#[test]
fn losses_fall() {
    let mut trainer = trainer::<Cpu>(40);
    let reports = steps(&mut trainer, 40);
    assert!(reports.iter().all(|report| report.taken));
    let history = &trainer.history;
    let first = history[0].model;
    assert!((first - guess()).abs() < 0.05, "it begins at {first}");
    let last = mean(&history[35..]);
    assert!(last < guess() - 1.3, "it ends at {last}");
    let held_out = trainer.held_out_loss().unwrap();
    assert!(held_out < guess() - 1.3, "{held_out} on text held out");
    assert!(history.iter().all(|losses| losses.indexer > 0.0));
}

#[test]
fn losses_fall_in_bf16() {
    let mut trainer = trainer::<Cpu<bf16>>(25);
    let reports = steps(&mut trainer, 25);
    assert!(reports.iter().all(|report| report.taken));
    let last = mean(&trainer.history[20..]);
    assert!(last < guess() - 1.1, "it ends at {last}");
    assert_eq!(trainer.scaler.scale(), LossScaling::default().initial);
    // Master weights have moved by less than bf16 can tell, too
    let mut finer = 0;
    Parameters::update([], [&trainer.master], |_, [], [values]| {
        let coarse = |x: &&f32| bf16::from_f32(**x).to_f32() != **x;
        finer += values.iter().filter(coarse).count();
    })
    .unwrap();
    assert!(finer > trainer.master.count().unwrap() / 2, "{finer}");
}

/// Two runs of 40 characters: more than the 24 keys that the second attention picks.
fn batch(from: usize) -> Batch {
    let text = encode(SONNETS).unwrap();
    Batch::whole(&text[from..from + 81], 40).unwrap()
}

fn copy<B: Backend<Device = CpuDevice>>(from: &Parameters<B>) -> Parameters<B> {
    let mut to = Parameters::zeros(&DEVICE).unwrap();
    Parameters::update([&mut to], [from], |_, [to], [from]| {
        to.copy_from_slice(from)
    })
    .unwrap();
    to
}

fn gradients<B: Backend<Device = CpuDevice>>(
    model: &Model<B>,
    batches: &[Batch],
) -> (Losses, Parameters<B>) {
    let mut gradients = Parameters::zeros(&DEVICE).unwrap();
    let mut largest = Largest::none();
    let mut losses = Losses::default();
    let share = 1.0 / batches.len() as f64;
    for batch in batches {
        let found = model
            .learn(batch, share, &mut gradients, &mut largest)
            .unwrap();
        losses.model += found.model * share;
        losses.indexer += found.indexer * share;
    }
    (losses, gradients)
}

/// Along a random direction of each tensor, the gradient is what central differences of the loss give: of the indexer's own loss for what
/// it learns by, of the model's for everything else.
#[test]
fn gradients_are_finite_differences() {
    // So small that hardly a product of the indexer crosses 0 on the way, where relu bends
    const STEP: f64 = 1e-7;
    let mut trainer = trainer::<Cpu<f64>>(40);
    // Away from where it begins: norms are 1 there, and biases 0
    steps(&mut trainer, 3);
    let (model, here) = (&mut trainer.model, &trainer.master);
    let batch = [batch(0)];
    let (_, slopes) = gradients(model, &batch);

    let mut tensors = Vec::new();
    Parameters::update([], [&slopes], |at, [], [slopes]| {
        let index = tensors.len();
        let toward = direction(index, slopes.len());
        let slope: f64 = slopes.iter().zip(toward).map(|(g, d)| g * d).sum();
        let name = at.layout.names().collect::<Vec<_>>().join(", ");
        tensors.push((name, at.slot.starts_with("indexer_"), slope));
    })
    .unwrap();
    assert_eq!(tensors.len(), 3 + (7 + 5) + (12 + 5));

    for (index, (name, of_indexer, slope)) in tensors.iter().enumerate() {
        let mut loss = |step: f64| {
            let mut there = copy(here);
            let mut nth = 0;
            Parameters::update([&mut there], [], |_, [values], []| {
                if nth == index {
                    let toward = direction(index, values.len());
                    values
                        .iter_mut()
                        .zip(toward)
                        .for_each(|(x, d)| *x += step * d);
                }
                nth += 1;
            })
            .unwrap();
            model.assign(&there).unwrap();
            let (losses, _) = gradients(model, &batch);
            if *of_indexer {
                losses.indexer
            } else {
                losses.model
            }
        };
        let wanted = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
        let error = (slope - wanted).abs();
        assert!(slope.abs() > 1e-6, "{index}, {name}: nothing depends on it");
        assert!(
            error < 1e-5 * wanted.abs() + 1e-8,
            "{index}, {name}: {slope}, but {wanted} by differences"
        );
    }
}

/// Values from -1 to 1 that an index decides.
fn direction(index: usize, len: usize) -> Vec<f64> {
    let mut random = Random::new(index as u64);
    (0..len).map(|_| 2.0 * random.unit() - 1.0).collect()
}

#[test]
fn micro_batches_add_up_to_their_batch() {
    let model = trainer::<Cpu<f64>>(40).model;
    let (first, second) = (batch(0), batch(500));
    let both = Batch {
        tokens: [&first.tokens[..], &second.tokens].concat(),
        targets: [&first.targets[..], &second.targets].concat(),
        length: first.length,
    };
    let (losses, apart) = gradients(&model, &[first, second]);
    let (wanted, together) = gradients(&model, &[both]);
    assert!((losses.model - wanted.model).abs() < 1e-12);
    assert!((losses.indexer - wanted.indexer).abs() < 1e-12);
    Parameters::update([], [&apart, &together], |at, [], [apart, together]| {
        for (found, wanted) in apart.iter().zip(together) {
            assert!((found - wanted).abs() < 1e-12, "{at:?}: {found}, {wanted}");
        }
    })
    .unwrap();
}

/// Multiplies the weights of all slots of a name.
fn magnify<B: Backend>(trainer: &mut Trainer<B>, slot: &str, by: f64) {
    Parameters::update([&mut trainer.master], [], |at, [values], []| {
        if at.slot == slot {
            for value in values {
                *value = Scalar::from_f64(value.to_f64() * by);
            }
        }
    })
    .unwrap();
    trainer.model.assign(&trainer.master).unwrap();
}

/// Makes attention's logits so large that QK-clip has something to do.
fn excite<B: Backend>(trainer: &mut Trainer<B>) {
    magnify(trainer, "linear_q_up_proj", 40.0);
}

#[test]
fn qk_clip_brings_logits_down() {
    let mut trainer = trainer::<Cpu>(100);
    excite(&mut trainer);
    let logits = |trainer: &Trainer<Cpu>| {
        let (mut scratch, mut largest) = (Parameters::zeros(&DEVICE).unwrap(), Largest::none());
        let model = &trainer.model;
        model
            .learn(&batch(0), 1.0, &mut scratch, &mut largest)
            .unwrap();
        let all = [largest.dense.as_slice(), largest.sparse.as_slice()].concat();
        all.into_iter().fold(0.0, f64::max)
    };
    let before = logits(&trainer);
    assert!(before > 1.5 * THRESHOLD, "{before}");
    assert!(steps(&mut trainer, 1)[0].clipped_heads > 0);
    // Adam has moved the weights meanwhile
    let after = logits(&trainer);
    assert!(after < 1.1 * THRESHOLD, "{after}");
    // The model's weights are the master weights, clipped as they are
    let master = copy(&trainer.master);
    let logits_before = trainer.model.logits(&batch(0).tokens, 40).unwrap();
    trainer.model.assign(&master).unwrap();
    assert_eq!(
        trainer.model.logits(&batch(0).tokens, 40).unwrap(),
        logits_before
    );
}

#[test]
fn a_step_that_overflows_is_not_taken() {
    let mut trainer = trainer::<Cpu<bf16>>(40);
    let scaling = LossScaling {
        initial: 2_f64.powi(126),
        ..LossScaling::default()
    };
    trainer.scaler = LossScaler::new(scaling).unwrap();
    magnify(&mut trainer, "head", 1e6);
    let before = copy(&trainer.master);
    assert!(!steps(&mut trainer, 1)[0].taken);
    Parameters::update([], [&before, &trainer.master], |_, [], [before, after]| {
        assert_eq!(before, after);
    })
    .unwrap();
    assert_eq!(trainer.scaler.scale(), 2_f64.powi(125));
    assert_eq!((trainer.adam.taken, trainer.done()), (0, 1));
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn resumed<B: Backend<Device = CpuDevice>>(path: &Path) -> Result<Trainer<B>, Fault> {
    Trainer::resume(&Checkpoint::open(path)?, &DEVICE)
}

fn resumes_to_the_bit<B: Backend<Device = CpuDevice>>() {
    let folder = Folder::new();
    let (whole, halves) = (folder.file("whole"), folder.file("halves"));
    let mut trainer = trainer::<B>(6);
    excite(&mut trainer);
    let mut reports = steps(&mut trainer, 3);
    trainer.save(&halves).unwrap();
    reports.extend(steps(&mut trainer, 3));
    trainer.save(&whole).unwrap();
    // Not only where there is nothing to clip
    assert!(reports[..3].iter().any(|report| report.clipped_heads > 0));

    let mut trainer = resumed::<B>(&halves).unwrap();
    assert_eq!(trainer.done(), 3);
    steps(&mut trainer, 3);
    trainer.save(&halves).unwrap();
    assert!(fs::read(&whole).unwrap() == fs::read(&halves).unwrap());
}

#[test]
fn a_training_goes_on_to_the_bit() {
    resumes_to_the_bit::<Cpu>();
    resumes_to_the_bit::<Cpu<bf16>>();
    resumes_to_the_bit::<Cpu<f64>>();
}

#[test]
fn a_checkpoint_is_what_was_saved() {
    let folder = Folder::new();
    let (path, again) = (folder.file("one"), folder.file("two"));
    let mut trainer = trainer::<Cpu>(6);
    steps(&mut trainer, 2);
    trainer.save(&path).unwrap();
    let reopened = resumed::<Cpu>(&path).unwrap();
    reopened.save(&again).unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap());
    assert_eq!(reopened.history, trainer.history);
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 2);

    // Nothing but the layers is needed to use what was learnt
    let weights = Weights::open(&path).unwrap();
    let dense = TinyDenseAttention::<Cpu>::load(&weights, "blocks.0.attention", &DEVICE).unwrap();
    TinySparseAttention::<Cpu>::load(&weights, "blocks.1.attention", &DEVICE).unwrap();
    let found = dense.parameters(&DEVICE).unwrap();
    let wanted = &trainer.master.dense.attention;
    mla_runtime::ParameterSet::<Cpu>::update([], [&found, wanted], |at, [], [found, wanted]| {
        assert_eq!(found, wanted, "{at:?}");
    })
    .unwrap();
}

/// Why a checkpoint is refused.
fn refusal(path: &Path) -> String {
    resumed::<Cpu>(path).unwrap_err().to_string()
}

/// The checkpoint without a tensor, or with another one in its place.
fn with(bytes: &[u8], name: &str, other: Option<TensorView<'_>>) -> Vec<u8> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let mut tensors = SafeTensors::deserialize(bytes).unwrap().tensors();
    tensors.retain(|(tensor, _)| tensor != name);
    tensors.extend(other.map(|other| (name.to_owned(), other)));
    safetensors::serialize(tensors, header.metadata().clone()).unwrap()
}

#[test]
fn broken_checkpoints_are_refused() {
    let folder = Folder::new();
    let path = folder.file("checkpoint.safetensors");
    let expect = |words: &str| {
        let said = refusal(&path);
        assert!(said.contains(words), "{said}");
    };
    expect("can't resume: ");

    let mut trainer = trainer::<Cpu>(6);
    steps(&mut trainer, 1);
    trainer.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let other = resumed::<Cpu<bf16>>(&path).unwrap_err().to_string();
    assert!(
        other.contains("is of a model in f32, not in bf16"),
        "{other}"
    );

    let put = |bytes: &[u8]| fs::write(&path, bytes).unwrap();
    put(&[]);
    expect("it is empty");
    put(&bytes[..bytes.len() / 2]);
    expect("no valid safetensors file");
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    put(&flipped);
    expect("is damaged: ");

    let missing = "adam.second.blocks.1.attention.indexer.wk.weight";
    put(&with(&bytes, missing, None));
    expect(missing);
    let values = [0; 4 * 3 * 64];
    let smaller = || TensorView::new(safetensors::Dtype::F32, vec![3, 64], &values).unwrap();
    put(&with(&bytes, "ends.head.weight", Some(smaller())));
    expect("ends.head.weight");
    put(&with(&bytes, "ends.tail.weight", Some(smaller())));
    expect("ends.tail.weight");
    put(&with(&bytes, "history", Some(smaller())));
    expect("`history` is not F64 [steps, 2]");

    parameters::save::<Cpu>(&path, &[("ends", &trainer.master.ends)]).unwrap();
    expect("says nothing of a training");
}

/// Whatever a byte of the header becomes, the checkpoint opens or is refused.
#[test]
fn no_header_makes_a_panic() {
    let folder = Folder::new();
    let path = folder.file("checkpoint.safetensors");
    trainer::<Cpu>(6).save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let (header, _) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut random = Random::new(1);
    for trial in 0..68 {
        // The header's length, then its text
        let at = if trial < 8 {
            trial
        } else {
            8 + random.below(header)
        };
        let mut broken = bytes.clone();
        broken[at] ^= 1 << random.below(8);
        fs::write(&path, &broken).unwrap();
        let _ = resumed::<Cpu>(&path);
    }
}

#[test]
fn what_can_not_be_written_leaves_the_old_checkpoint() {
    let folder = Folder::new();
    let path = folder.file("checkpoint.safetensors");
    let mut trainer = trainer::<Cpu>(6);
    trainer.save(&path).unwrap();
    let before = fs::read(&path).unwrap();
    steps(&mut trainer, 1);
    // The place where the new one is written first is taken by a folder
    fs::create_dir(folder.file("checkpoint.part")).unwrap();
    let error = trainer.save(&path).unwrap_err().to_string();
    assert!(error.contains("can't be written"), "{error}");
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn a_model_writes_characters() {
    let model = trainer::<Cpu>(6).model;
    let start = encode("When ").unwrap();
    let write = || sample(&model, &start, 70, &mut Random::new(3)).unwrap();
    let text = decode(&write());
    assert_eq!(text.chars().count(), 70);
    assert_eq!(text, decode(&write()));
    assert_eq!(decode(&encode(SONNETS).unwrap()), SONNETS);
    let error = encode("When é").unwrap_err().to_string();
    assert!(error.contains("'é' at byte 5"), "{error}");
}

#[test]
fn a_curve_is_drawn_whatever_was_lost() {
    let losses = |model: f64, indexer: f64| Losses { model, indexer };
    for history in [
        vec![],
        vec![losses(4.0, 0.2)],
        vec![
            losses(4.0, 0.2),
            losses(f64::NAN, f64::INFINITY),
            losses(3.0, 0.1),
        ],
        (0..500)
            .map(|step| losses(4.0 - f64::from(step) / 250.0, 0.0))
            .collect(),
    ] {
        let drawn = curve::svg(&history, guess());
        assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        assert!(!drawn.contains("http://") || drawn.matches("http").count() == 1);
    }
}
