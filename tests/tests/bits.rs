//! Results compared bit by bit: two runs of the same call, and a request's rows alone and in company. On a GPU where there is one, otherwise
//! on the host emulating one.

/// Layers of [`mla_tests::language`], and the same layers trained. They bring all their kernels along.
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "generated modules, of which tests use a part"
)]
mod layers {
    include!(concat!(env!("OUT_DIR"), "/bits.rs"));
}

use mla_runtime::weights::generator::Recipe;
use mla_runtime::{
    Backend, Batch, CacheElement, Cuda, CudaDevice, CudaElement, CudaOptions, Decode, Element,
    Extras, Forward, KvCache, Mask, NoProbe, ParameterSet, Prefill, Result, Scalar, Sequence,
    Tensor, Train, Weights, bf16,
};

/// Where layers run here.
trait Device: Backend<Device = CudaDevice, Elem: CacheElement> {}
impl<T: CudaElement + CacheElement + Element> Device for Cuda<T> where
    Cuda<T>: Backend<Device = CudaDevice, Elem = T>
{
}

/// Tokens of each request's prompt.
const PROMPTS: [usize; 4] = [5, 33, 1, 18];
/// Decode steps behind it, of one token each.
const STEPS: usize = 2;

/// A tensor's values as bits that tell any two numbers apart. All of them are numbers.
fn bits<B: Backend>(tensor: &Tensor<B>) -> Result<Vec<u64>> {
    let values = tensor.to_vec()?.into_iter().map(Scalar::to_f64);
    Ok(values
        .inspect(|value| assert!(value.is_finite(), "{value} in a result"))
        .map(f64::to_bits)
        .collect())
}

fn loaded<L: mla_runtime::Load<B>, B: Backend>(device: &B::Device) -> Result<L> {
    L::load(&Weights::random("layer", L::TENSORS, 1)?, "layer", device)
}

/// Hidden states that are named by a number.
fn hidden<B: Backend>(
    device: &B::Device,
    width: usize,
    rows: &[(usize, u64)],
) -> Result<Tensor<B>> {
    let values = rows.iter().flat_map(|&(rows, number)| {
        Recipe::for_hidden_states(number).values("hidden", rows * width)
    });
    Tensor::from_vec(device, values.map(Scalar::from_f32).collect(), width)
}

/// Prompts of some requests as one batch, and then steps of all of them, in a cache with room for `slots` tokens at least: each request's
/// rows, those of its prompt first.
fn served<L: Prefill<B> + Decode<B>, B: Device>(
    device: &CudaDevice,
    requests: &[usize],
    slots: usize,
) -> Result<Vec<Vec<u64>>> {
    let layer = loaded::<L, B>(device)?;
    let longest = PROMPTS.iter().max().map_or(0, |prompt| prompt + STEPS);
    let page = L::Cache::<B::Elem, B::Elem>::PAGE_SIZE.unwrap_or(longest);
    let each = longest.div_ceil(page);
    let blocks = slots.div_ceil(page).max(requests.len() * each);
    let mut cache = L::Cache::<B::Elem, B::Elem>::with_blocks(device, blocks, page)?;
    cache.fill(f64::NAN)?;
    // Neighbouring pages of a request lie apart
    let tables: Vec<Vec<u32>> = (0..requests.len())
        .map(|place| {
            (0..each)
                .map(|i| (i * requests.len() + place) as u32)
                .collect()
        })
        .collect();
    let mut found = vec![Vec::new(); requests.len()];
    for call in 0..=STEPS {
        let tokens = |request: usize| if call == 0 { PROMPTS[request] } else { 1 };
        let sequences: Vec<Sequence<'_>> = requests
            .iter()
            .zip(&tables)
            .map(|(&request, blocks)| Sequence {
                cached: if call == 0 {
                    0
                } else {
                    PROMPTS[request] + call - 1
                },
                new: tokens(request),
                blocks,
            })
            .collect();
        let batch = Batch::new(&sequences)?;
        let rows: Vec<(usize, u64)> = requests
            .iter()
            .map(|&request| (tokens(request), (100 * call + request) as u64))
            .collect();
        let hidden = hidden::<B>(device, L::HIDDEN_SIZE, &rows)?;
        let (extras, probe) = (&mut Extras::default(), &mut NoProbe);
        let out = match call {
            0 => layer.prefill_erased(&mut cache, &batch, &hidden, extras, probe)?,
            _ => layer.decode_erased(&mut cache, &batch, &hidden, extras, probe)?,
        };
        let mut out = bits(&out)?.into_iter();
        for (found, (rows, _)) in found.iter_mut().zip(rows) {
            found.extend(out.by_ref().take(rows * L::HIDDEN_SIZE));
        }
    }
    Ok(found)
}

/// Slots that are enough for attention to be cut into parts where it is cut by how much there is to do.
const MANY_SLOTS: usize = 600;

/// Each request's rows in the company of all others, and alone in a cache of no more than it needs.
fn together_and_alone<L: Prefill<B> + Decode<B>, B: Device>(
    options: CudaOptions,
) -> [Vec<Vec<u64>>; 2] {
    let device = CudaDevice::any(options);
    let everybody: Vec<usize> = (0..PROMPTS.len()).collect();
    let together = served::<L, B>(&device, &everybody, MANY_SLOTS).expect("runs");
    let alone = everybody.iter().map(|&request| {
        let mut rows = served::<L, B>(&device, &[request], 0).expect("runs");
        rows.remove(0)
    });
    [together, alone.collect()]
}

/// Whole sequences as one call: the rows of the one at `0`, with others behind it or none.
fn whole<L: Forward<B>, B: Device>(device: &CudaDevice, lengths: &[usize]) -> Result<Vec<u64>> {
    let layer = loaded::<L, B>(device)?;
    let mut ends = vec![0];
    let (mut rows, mut positions) = (Vec::new(), Vec::new());
    for (number, &length) in lengths.iter().enumerate() {
        rows.push((length, number as u64));
        positions.extend(0..length as u32);
        ends.push(positions.len() as u32);
    }
    let hidden = hidden::<B>(device, L::HIDDEN_SIZE, &rows)?;
    let out = layer.forward_erased(
        &hidden,
        &positions,
        &Mask::cu_seqlens(&ends),
        &mut Extras::default(),
        &mut NoProbe,
    )?;
    let mut found = bits(&out)?;
    found.truncate(lengths[0] * L::HIDDEN_SIZE);
    Ok(found)
}

fn company_changes_nothing<L: Forward<B> + Prefill<B> + Decode<B>, B: Device>() {
    let options = CudaOptions {
        batch_invariant: true,
        ..CudaOptions::default()
    };
    let [together, alone] = together_and_alone::<L, B>(options);
    for (request, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert!(together == alone, "request {request} differs in company");
    }
    let device = CudaDevice::any(options);
    let alone = whole::<L, B>(&device, &[9]).expect("runs");
    let together = whole::<L, B>(&device, &[9, 40, 2]).expect("runs");
    assert!(together == alone, "a sequence differs in company");
}

#[test]
fn without_the_option_company_matters() {
    let [together, alone] =
        together_and_alone::<layers::plain::Layer<Cuda<f32>>, Cuda<f32>>(CudaOptions::default());
    assert_ne!(together, alone, "nothing is left for the option to do");
}

/// One training step: its output, its largest logits, and every gradient.
fn trained<L: Train<B>, B: Device>(device: &CudaDevice) -> Result<Vec<(String, Vec<u64>)>> {
    let layer = loaded::<L, B>(device)?;
    let (lengths, positions): ([u32; 3], Vec<u32>) = ([0, 21, 30], (0..21).chain(0..9).collect());
    let rows = |number| [(positions.len(), number)];
    let input = hidden::<B>(device, L::HIDDEN_SIZE, &rows(1))?;
    let d_output = hidden::<B>(device, L::HIDDEN_SIZE, &rows(2))?;
    let extras = &mut Extras::default();
    let mask = Mask::cu_seqlens(&lengths);
    let (output, saved) = layer.forward_train_erased(&input, &positions, &mask, extras)?;
    let mut found = vec![
        ("output".to_owned(), bits(&output)?),
        ("largest logits".to_owned(), of_f64(L::max_logits(&saved))),
    ];
    let mut gradients = L::Parameters::zeros(device)?;
    let inputs = layer.backward_erased(saved, &input, &d_output, extras, &mut gradients)?;
    if let Some(of_hidden) = inputs.hidden {
        found.push(("gradient of hidden".to_owned(), bits(&of_hidden)?));
    }
    for tensor in gradients.tensors()? {
        found.push((tensor.name.clone(), of_f64(&tensor.values)));
    }
    Ok(found)
}

fn of_f64(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Everything twice on the process's device, and once on another that knows nothing yet.
fn runs_are_the_same<L, M, B>()
where
    L: Forward<B> + Prefill<B> + Decode<B>,
    M: Train<B>,
    B: Device,
{
    let shared = CudaDevice::shared();
    let run = |device: &CudaDevice| {
        let served = served::<L, B>(device, &[0, 1, 2, 3], MANY_SLOTS).expect("runs");
        let whole = whole::<L, B>(device, &[9, 40, 2]).expect("runs");
        (served, whole, trained::<M, B>(device).expect("runs"))
    };
    let (served, whole, trained) = run(&shared);
    for other in [&shared, &CudaDevice::any(CudaOptions::default())] {
        let again = run(other);
        assert!(again.0 == served, "prefill or decode differs");
        assert!(again.1 == whole, "forward differs");
        for ((name, found), (_, wanted)) in again.2.iter().zip(&trained) {
            assert!(found == wanted, "training: {name} differs");
        }
    }
}

macro_rules! in_bits {
    ($($module:ident $element:ident $layer:ident $trained:ident;)+) => {
        $(mod $module {
            use super::*;

            type Here = Cuda<$element>;

            #[test]
            fn a_requests_rows_are_the_same_in_any_company() {
                company_changes_nothing::<layers::$layer::Layer<Here>, Here>();
            }

            #[test]
            fn two_runs_are_the_same() {
                runs_are_the_same::<layers::$layer::Layer<Here>, layers::$trained::Layer<Here>, Here>();
            }
        })+
    };
}

in_bits! {
    dense_f32 f32 plain plain_trained;
    dense_bf16 bf16 plain plain_trained;
    sparse_f32 f32 sparse sparse_trained;
    sparse_bf16 bf16 sparse sparse_trained;
    grouped_f32 f32 grouped grouped_trained;
    grouped_bf16 bf16 grouped grouped_trained;
}
