//! `layer_traits!` for layers whose functions take more than hidden states.

use mla_runtime::{
    AttentionBias, Batch, Caches, Cpu, CpuDevice, Decode, Dropout, Error, Extras, Forward, KvCache,
    Load, Mask, NoCache, NoProbe, Sequence, Tensor, Weights,
};

type F64 = Cpu<f64>;

const DEVICE: CpuDevice = CpuDevice::new();

/// A layer that selects keys and hands over latents: each query its own key, the hidden state as latent.
mod leading {
    use mla_runtime::{
        AttentionBias, Backend, Batch, CacheFormat, Contiguous, Dropout, IndexCache, IndexedCache,
        LatentCache, Mask, Probe, Result, RopeKey, Rows, Selection, SharedKv, TensorShape, TopK,
        Unrotated, Weights, bf16, probe,
    };

    pub(crate) const HIDDEN_SIZE: usize = 2;
    const TENSORS: [TensorShape; 0] = [];

    pub(crate) type Cache<B, F = bf16, I = f32> = IndexedCache<
        LatentCache<B, F, Unrotated, Contiguous, HIDDEN_SIZE, 0>,
        IndexCache<B, I, Contiguous, HIDDEN_SIZE>,
    >;

    pub(crate) struct Leading<B: Backend> {
        device: B::Device,
    }

    impl<B: Backend> Leading<B> {
        pub(crate) fn load(_weights: &Weights, _prefix: &str, device: &B::Device) -> Result<Self> {
            Ok(Self {
                device: device.clone(),
            })
        }

        #[allow(clippy::too_many_arguments)] // As many as a generated function may have
        pub(crate) fn forward(
            &self,
            hidden: &Rows<B, HIDDEN_SIZE>,
            _positions: &[u32],
            _mask: &Mask,
            shared_kv: &mut SharedKv<B, Unrotated, HIDDEN_SIZE, 0>,
            topk: &mut TopK<B, 1>,
            _bias: &AttentionBias<B>,
            dropout: Option<Dropout>,
            probe: &mut dyn Probe,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            shared_kv.set(hidden, &RopeKey::absent(&self.device, hidden.rows())?)?;
            let own: Vec<[u32; 1]> = (0..hidden.rows() as u32).map(|row| [row]).collect();
            topk.set(Selection::from_lists(&self.device, &own)?);
            probe::record(probe, "hidden", hidden)?;
            let out = hidden.view().to_rows()?;
            out.scaled(if dropout.is_some() { 0.0 } else { 2.0 })
        }

        pub(crate) fn decode<F: CacheFormat, I: CacheFormat>(
            &self,
            cache: &mut Cache<B, F, I>,
            batch: &Batch,
            hidden: &Rows<B, HIDDEN_SIZE>,
            topk: &mut TopK<B, 1>,
            _probe: &mut dyn Probe,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            cache.check(batch, hidden.rows())?;
            let k_rope = RopeKey::absent(&self.device, hidden.rows())?;
            cache.kv.write(batch, hidden, &k_rope)?;
            cache.index.write(batch, hidden)?;
            topk.set(Selection::from_lists(&self.device, &[[0]])?);
            hidden.view().to_rows()
        }
    }

    mla_runtime::layer_traits!(
        Leading: probed indexed forward(shared_kv: write, topk: write, bias, dropout), decode(topk: write)
    );
}

/// A layer with no cache of its own.
mod following {
    use mla_runtime::{
        Backend, Batch, CacheFormat, Contiguous, LatentCache, Mask, Result, Rows, SharedKv,
        TensorShape, TopK, Unrotated, Weights, bf16,
    };

    pub(crate) const HIDDEN_SIZE: usize = 2;
    const TENSORS: [TensorShape; 0] = [];

    pub(crate) type SourceCache<B, F = bf16> =
        LatentCache<B, F, Unrotated, Contiguous, HIDDEN_SIZE, 0>;

    pub(crate) struct Following<B: Backend> {
        _device: B::Device,
    }

    impl<B: Backend> Following<B> {
        pub(crate) fn load(_weights: &Weights, _prefix: &str, device: &B::Device) -> Result<Self> {
            Ok(Self {
                _device: device.clone(),
            })
        }

        pub(crate) fn forward(
            &self,
            hidden: &Rows<B, HIDDEN_SIZE>,
            _positions: &[u32],
            _mask: &Mask,
            shared_kv: &SharedKv<B, Unrotated, HIDDEN_SIZE, 0>,
            topk: &TopK<B, 1>,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            topk.get(hidden.rows())?;
            shared_kv.get(hidden.rows())?.0.view().to_rows()
        }

        pub(crate) fn decode<F: CacheFormat>(
            &self,
            batch: &Batch,
            hidden: &Rows<B, HIDDEN_SIZE>,
            source: &SourceCache<B, F>,
            topk: &TopK<B, 1>,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            topk.get(hidden.rows())?;
            Ok(source.latents(batch)?.0)
        }
    }

    mla_runtime::layer_traits!(
        Following: no_cache forward(shared_kv: read, topk: read), decode(source, topk: read)
    );
}

/// A layer that attends to another layer's latents and has index keys of its own.
mod choosing {
    use mla_runtime::{
        Backend, Batch, CacheFormat, Contiguous, IndexCache, LatentCache, Result, Rows,
        TensorShape, Unrotated, Weights, bf16, f16,
    };

    const HIDDEN_SIZE: usize = 2;
    const TENSORS: [TensorShape; 0] = [];

    pub(crate) type Cache<B, I = f16> = IndexCache<B, I, Contiguous, HIDDEN_SIZE>;
    pub(crate) type SourceCache<B, F = bf16> =
        LatentCache<B, F, Unrotated, Contiguous, HIDDEN_SIZE, 0>;

    pub(crate) struct Choosing<B: Backend> {
        _device: B::Device,
    }

    impl<B: Backend> Choosing<B> {
        pub(crate) fn load(_weights: &Weights, _prefix: &str, device: &B::Device) -> Result<Self> {
            Ok(Self {
                _device: device.clone(),
            })
        }

        pub(crate) fn decode<F: CacheFormat, I: CacheFormat>(
            &self,
            cache: &mut Cache<B, I>,
            batch: &Batch,
            hidden: &Rows<B, HIDDEN_SIZE>,
            source: &SourceCache<B, F>,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            cache.write(batch, hidden)?;
            Ok(source.latents(batch)?.0)
        }
    }

    mla_runtime::layer_traits!(Choosing: index_only decode(source));
}

/// A layer over a context of another width.
mod crossing {
    use mla_runtime::{Backend, Mask, Padding, Result, Rows, TensorShape, Visibility, Weights};

    const HIDDEN_SIZE: usize = 2;
    const CONTEXT_HIDDEN_SIZE: usize = 3;
    const TENSORS: [TensorShape; 0] = [];

    pub(crate) struct Crossing<B: Backend> {
        _device: B::Device,
    }

    impl<B: Backend> Crossing<B> {
        pub(crate) fn load(_weights: &Weights, _prefix: &str, device: &B::Device) -> Result<Self> {
            Ok(Self {
                _device: device.clone(),
            })
        }

        pub(crate) fn forward(
            &self,
            _hidden: &Rows<B, HIDDEN_SIZE>,
            _positions: &[u32],
            _mask: &Mask,
            context: &Rows<B, CONTEXT_HIDDEN_SIZE>,
            context_mask: &Mask,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            context_mask.segments(context.rows(), Visibility::FULL, Padding::Refused)?;
            context.columns::<1, HIDDEN_SIZE>().to_rows()
        }
    }

    mla_runtime::layer_traits!(Crossing: forward(context, context_mask));
}

fn loaded<L: Load<F64>>() -> L {
    L::load(&Weights::random("", &[], 0).unwrap(), "", &DEVICE).unwrap()
}

fn tensor(values: &[f64], width: usize) -> Tensor<F64> {
    Tensor::from_vec(&DEVICE, values.to_vec(), width).unwrap()
}

fn is_missing<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::MissingExtra(_)))
}

#[test]
fn what_one_layer_hands_over_the_next_one_gets() {
    let (leading, following) = (
        loaded::<leading::Leading<F64>>(),
        loaded::<following::Following<F64>>(),
    );
    let (hidden, mask) = (tensor(&[1.0, 2.0, 3.0, 4.0], 2), Mask::dense(1, 2));
    let bias = AttentionBias::from_f64(&DEVICE, &[0.0; 4], [1, 2, 2]).unwrap();
    let mut extras = Extras {
        bias: Some(&bias),
        ..Extras::default()
    };
    let follow = |extras: &mut Extras<'_, F64>, hidden: &Tensor<F64>| {
        following.forward_erased(hidden, &[0, 1], &mask, extras, &mut NoProbe)
    };
    assert!(is_missing(follow(&mut extras, &hidden)));
    let lead = |extras: &mut Extras<'_, F64>| {
        leading.forward_erased(&hidden, &[0, 1], &mask, extras, &mut NoProbe)
    };
    let out = lead(&mut extras).unwrap();
    assert_eq!(out.to_vec().unwrap(), [2.0, 4.0, 6.0, 8.0]);
    let out = follow(&mut extras, &tensor(&[0.0; 4], 2)).unwrap();
    assert_eq!(out.to_vec().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    // For other rows than it was written for
    assert!(follow(&mut extras, &tensor(&[0.0; 6], 2)).is_err());

    extras.dropout = Some(Dropout {
        probability: 0.5,
        seed: 1,
    });
    assert_eq!(lead(&mut extras).unwrap().to_vec().unwrap(), [0.0; 4]);
    extras.bias = None;
    assert!(is_missing(lead(&mut extras)));
}

#[test]
fn cached_phases_use_their_own_cache_and_the_source_s() {
    type Leading = leading::Leading<F64>;
    type Following = following::Following<F64>;
    type Choosing = choosing::Choosing<F64>;
    let mut cache =
        <Leading as Caches<F64>>::Cache::<f64, f64>::with_blocks(&DEVICE, 1, 4).unwrap();
    let batch = Batch::new(&[Sequence {
        cached: 0,
        new: 1,
        blocks: &[0],
    }])
    .unwrap();
    let mut extras = Extras::default();
    loaded::<Leading>()
        .decode_erased::<f64, f64>(
            &mut cache,
            &batch,
            &tensor(&[1.001, 2.0], 2),
            &mut extras,
            &mut NoProbe,
        )
        .unwrap();
    assert_eq!(cache.index_rows(&[0], 1).unwrap().unwrap(), [1.001, 2.0]);
    assert_eq!(cache.latent_rows(&[0], 1).unwrap().unwrap().0, [1.001, 2.0]);

    let follow = |extras: &mut Extras<'_, F64>| {
        let mut none = NoCache;
        let hidden = tensor(&[0.0, 0.0], 2);
        loaded::<Following>().decode_erased::<f64, f64>(
            &mut none,
            &batch,
            &hidden,
            extras,
            &mut NoProbe,
        )
    };
    assert!(is_missing(follow(&mut extras)));
    extras.source = Some(&cache.kv);
    assert_eq!(follow(&mut extras).unwrap().to_vec().unwrap(), [1.001, 2.0]);
    // A source in another format is not the one that the call is about
    let other = following::SourceCache::<F64, f32>::contiguous(&DEVICE, 1, 4).unwrap();
    extras.source = Some(&other);
    assert!(is_missing(follow(&mut extras)));

    let mut own = <Choosing as Caches<F64>>::Cache::<f64, f32>::with_blocks(&DEVICE, 1, 4).unwrap();
    extras.source = Some(&cache.kv);
    let out = loaded::<Choosing>()
        .decode_erased::<f64, f32>(
            &mut own,
            &batch,
            &tensor(&[3.0, 4.0], 2),
            &mut extras,
            &mut NoProbe,
        )
        .unwrap();
    assert_eq!(out.to_vec().unwrap(), [1.001, 2.0]);
    assert_eq!(own.index_rows(&[0], 1).unwrap().unwrap(), [3.0, 4.0]);
    assert!(own.latent_rows(&[0], 1).unwrap().is_none());
}

#[test]
fn formats_are_the_spec_s() {
    fn stored<L: Caches<F64>>() -> [&'static str; 2] {
        use mla_runtime::CacheFormat;
        [L::Stored::NAME, L::StoredIndex::NAME]
    }
    assert_eq!(stored::<leading::Leading<F64>>(), ["bf16", "f32"]);
    assert_eq!(stored::<following::Following<F64>>(), ["bf16", "bf16"]);
    assert_eq!(stored::<choosing::Choosing<F64>>(), ["bf16", "f16"]);
    type Cache = <leading::Leading<F64> as Caches<F64>>::Cache<f64, f32>;
    assert_eq!(<Cache as KvCache<F64>>::bytes_per_token(), 2 * 8 + 2 * 4);
    assert_eq!(<Cache as KvCache<F64>>::ELEMENTS_PER_TOKEN, 4);
}

#[test]
fn a_context_has_a_width_and_a_mask_of_its_own() {
    let layer = loaded::<crossing::Crossing<F64>>();
    let (context, narrow) = (tensor(&[1.0, 2.0, 3.0], 3), tensor(&[1.0], 1));
    let (mask, wrong) = (Mask::dense(1, 1), Mask::dense(1, 2));
    let run = |context: Option<&Tensor<F64>>, context_mask: Option<&Mask>| {
        let mut extras = Extras {
            context,
            context_mask,
            ..Extras::default()
        };
        layer.forward_erased(
            &tensor(&[0.0, 0.0], 2),
            &[0],
            &mask,
            &mut extras,
            &mut NoProbe,
        )
    };
    let out = run(Some(&context), Some(&mask)).unwrap();
    assert_eq!(out.to_vec().unwrap(), [2.0, 3.0]);
    assert!(is_missing(run(None, Some(&mask))));
    assert!(is_missing(run(Some(&context), None)));
    assert!(run(Some(&narrow), Some(&mask)).is_err());
    assert!(run(Some(&context), Some(&wrong)).is_err());
}
