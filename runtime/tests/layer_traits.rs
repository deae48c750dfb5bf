//! `layer_traits!` from another crate: it needs nothing but the items that its documentation names.

use mla_runtime::{Cpu, CpuDevice, Extras, Forward, Load, Mask, NoProbe, Tensor, Weights};

/// A layer without probes and without a cache.
mod whole {
    use mla_runtime::{Backend, Linear, Mask, Result, Rows, TensorShape, Weights};

    const HIDDEN_SIZE: usize = 2;
    const TENSORS: [TensorShape; 1] = [TensorShape {
        name: "o_proj.weight",
        shape: &[2, 2],
    }];

    pub(crate) struct Whole<B: Backend> {
        out: Linear<B, HIDDEN_SIZE, HIDDEN_SIZE>,
    }

    impl<B: Backend> Whole<B> {
        pub(crate) fn load(weights: &Weights, prefix: &str, device: &B::Device) -> Result<Self> {
            let weights = weights.exactly(prefix, &TENSORS)?;
            Ok(Self {
                out: Linear::load(&weights, &["o_proj"], device)?,
            })
        }

        pub(crate) fn forward(
            &self,
            hidden: &Rows<B, HIDDEN_SIZE>,
            _positions: &[u32],
            _mask: &Mask,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            self.out.forward(hidden)
        }
    }

    mla_runtime::layer_traits!(Whole: forward);
}

/// A layer without probes, with a cache, and without `forward`.
mod stepping {
    use mla_runtime::{
        Backend, Batch, CacheFormat, Contiguous, LatentCache, Result, RopeKey, Rows, TensorShape,
        Unrotated, Weights, bf16,
    };

    const HIDDEN_SIZE: usize = 2;
    const TENSORS: [TensorShape; 0] = [];

    pub(crate) type Cache<B, E = bf16> = LatentCache<B, E, Unrotated, Contiguous, HIDDEN_SIZE, 0>;

    pub(crate) struct Stepping<B: Backend> {
        device: B::Device,
    }

    impl<B: Backend> Stepping<B> {
        pub(crate) fn load(_weights: &Weights, _prefix: &str, device: &B::Device) -> Result<Self> {
            Ok(Self {
                device: device.clone(),
            })
        }

        pub(crate) fn decode<E: CacheFormat>(
            &self,
            cache: &mut Cache<B, E>,
            batch: &Batch,
            hidden: &Rows<B, HIDDEN_SIZE>,
        ) -> Result<Rows<B, HIDDEN_SIZE>> {
            cache.check(batch, hidden.rows())?;
            cache.write(
                batch,
                hidden,
                &RopeKey::absent(&self.device, hidden.rows())?,
            )?;
            hidden.view().to_rows()
        }
    }

    mla_runtime::layer_traits!(Stepping: decode);
}

#[test]
fn a_layer_is_loaded_and_called_through_its_traits() {
    let weights =
        Weights::from_tensors([("l.o_proj.weight", (vec![2, 2], vec![0.0, 1.0, 2.0, 0.0]))])
            .unwrap();
    let layer: whole::Whole<Cpu<f32>> = Load::load(&weights, "l", &CpuDevice::default()).unwrap();
    let hidden = Tensor::from_vec(&CpuDevice::default(), vec![3.0, 5.0], 2).unwrap();
    let out = layer
        .forward_erased(
            &hidden,
            &[0],
            &Mask::dense(1, 1),
            &mut Extras::default(),
            &mut NoProbe,
        )
        .unwrap();
    assert_eq!(out.to_vec().unwrap(), [5.0, 6.0]);
    let narrow = Tensor::from_vec(&CpuDevice::default(), vec![3.0], 1).unwrap();
    assert!(
        layer
            .forward_erased(
                &narrow,
                &[0],
                &Mask::dense(1, 1),
                &mut Extras::default(),
                &mut NoProbe
            )
            .is_err()
    );
}

#[test]
fn a_cache_stores_the_spec_s_format_or_any_other() {
    use mla_runtime::{Batch, CacheFormat, Caches, Decode, KvCache, Sequence};

    /// What a cache of `E` holds of one token.
    fn cached<E: CacheFormat>() -> Vec<f64> {
        type Layer = stepping::Stepping<Cpu<f64>>;
        let device = CpuDevice::default();
        let layer =
            <Layer as Load<Cpu<f64>>>::load(&Weights::random("", &[], 0).unwrap(), "", &device)
                .unwrap();
        let mut cache =
            <Layer as Caches<Cpu<f64>>>::Cache::<E, E>::with_blocks(&device, 2, 3).unwrap();
        let batch = Batch::new(&[Sequence {
            cached: 0,
            new: 1,
            blocks: &[1],
        }])
        .unwrap();
        let hidden = Tensor::from_vec(&device, vec![1.001, 2.0], 2).unwrap();
        layer
            .decode_erased::<E, E>(
                &mut cache,
                &batch,
                &hidden,
                &mut Extras::default(),
                &mut NoProbe,
            )
            .unwrap();
        let (latent, k_pe) = cache.latent_rows(&[1], 1).unwrap().unwrap();
        assert!(k_pe.is_empty());
        latent
    }

    type Stored = <stepping::Stepping<Cpu<f64>> as Caches<Cpu<f64>>>::Stored;
    assert_eq!(cached::<f64>(), [1.001, 2.0]);
    assert_eq!(cached::<Stored>(), [1.0, 2.0]);
}
