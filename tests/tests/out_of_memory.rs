//! What does not fit into a device's memory is an error that says so, and everything that is there goes on working. On a GPU where there is
//! one, otherwise on the host emulating one.

use mla_generated::odd_small::OddSmallAttention as Layer;
use mla_runtime::weights::generator::Recipe;
use mla_runtime::{
    Batch, Cuda, CudaDevice, CudaGraph, CudaOptions, Decode, Extras, KvCache, Load, NoProbe,
    Result, Sequence, Tensor, Weights,
};

type B = Cuda<f32>;
type Cache = mla_generated::odd_small::Cache<B, f32>;

/// A layer with a request's cache, and a step of it.
struct Served {
    device: CudaDevice,
    layer: Layer<B>,
    cache: Cache,
    blocks: Vec<u32>,
}

const STEPS: usize = 3;
/// Tokens of a block.
const PAGE: usize = match Cache::PAGE_SIZE {
    Some(page) => page,
    None => 64,
};

impl Served {
    fn new() -> Result<Self> {
        let device = CudaDevice::any(CudaOptions::default());
        device.provide(mla_codegen::cuda::kernel_text);
        let weights = Weights::random("layer", <Layer<B> as Load<B>>::TENSORS, 3)?;
        let layer = Layer::<B>::load(&weights, "layer", &device)?;
        let blocks: Vec<u32> = (0..STEPS.div_ceil(PAGE) as u32).collect();
        let cache = Cache::with_blocks(&device, blocks.len(), PAGE)?;
        Ok(Self {
            device,
            layer,
            cache,
            blocks,
        })
    }

    /// The `at`th token of the request.
    fn step(&mut self, at: usize) -> Result<Tensor<B>> {
        let width = <Layer<B> as Load<B>>::HIDDEN_SIZE;
        let values = Recipe::for_hidden_states(at as u64).values("hidden", width);
        let hidden = Tensor::from_vec(&self.device, values, width)?;
        let batch = Batch::new(&[Sequence {
            cached: at,
            new: 1,
            blocks: &self.blocks,
        }])?;
        let (extras, probe) = (&mut Extras::default(), &mut NoProbe);
        self.layer
            .decode_erased::<f32, f32>(&mut self.cache, &batch, &hidden, extras, probe)
    }

    /// All steps: the outputs' bits.
    fn all(&mut self) -> Vec<u32> {
        let steps = (0..STEPS).flat_map(|at| {
            let out = self.step(at).and_then(|out| out.to_vec());
            out.expect("it still runs").into_iter().map(f32::to_bits)
        });
        steps.collect()
    }
}

/// Blocks of a cache that no device has room for: too large by far, and too large to be counted.
const ABSURD: [usize; 4] = [1 << 36, 1 << 44, 1 << 60, usize::MAX];

#[test]
fn what_does_not_fit_is_refused_and_everything_goes_on() {
    let mut served = Served::new().expect("a small layer");
    let before = served.all();
    for blocks in ABSURD {
        let error = Cache::with_blocks(&served.device, blocks, PAGE)
            .map(drop)
            .expect_err("no device has so much")
            .to_string();
        if blocks == ABSURD[0] {
            assert!(error.contains("out of memory: no room for "), "{error}");
            assert!(error.contains(" bytes of buffers in use"), "{error}");
            assert!(!error.contains("beside the 0 bytes"), "{error}");
        }
        assert_eq!(served.all(), before, "after a cache of {blocks} blocks");
    }
}

#[test]
fn a_graph_without_room_is_refused_and_everything_goes_on() {
    let mut served = Served::new().expect("a small layer");
    let before = served.all();
    let device = served.device.clone();
    let mut graph = CudaGraph::new(&device);
    for round in 0..2 {
        let error = graph
            .run(|| {
                served.step(0)?;
                Cache::with_blocks(&device, ABSURD[0], PAGE)
            })
            .map(drop)
            .expect_err("no device has so much")
            .to_string();
        assert!(error.contains("out of memory: no room for "), "{error}");
        let mut found = Vec::new();
        for at in 0..STEPS {
            let out = graph.run(|| served.step(at)).expect("it still runs");
            found.extend(out.to_vec().expect("values").into_iter().map(f32::to_bits));
        }
        assert_eq!(found, before, "round {round}");
        assert_eq!(served.all(), before, "without a graph, round {round}");
    }
}
