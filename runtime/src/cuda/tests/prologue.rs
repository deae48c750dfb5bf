//! The pass over rows in front of a latent cache against the kernels that do its steps one by one: the same bits.

use super::in_each_type;

in_each_type! { entries entries_and_keys }

mod cases {
    use super::super::*;
    use crate::cache::{
        AnyScale, Fp8DsMla, Fp8E4m3, Fp8E5m2, Fp8Model1, IndexFp8, IndexMxfp4, Mxfp8, PowerOfTwo,
    };
    use crate::{
        Angles, Batch, CacheFormat, Half, IndexCache, IndexedCache, Interleaved, LatentCache,
        LayerNorm, Paged, RmsNorm, RopeLayout, Rotary, Rows, Sequence, hadamard,
    };

    const Q: usize = 40;
    const C: usize = 128;
    const R: usize = 32;
    const DI: usize = 64;
    const TOKENS: usize = 5;

    /// Rows, norms and rotations of a layer.
    struct Layer<T: Number> {
        down: Rows<Cuda<T>, { Q + C + R }>,
        k: Rows<Cuda<T>, DI>,
        q_norm: RmsNorm<Cuda<T>, Q>,
        kv_norm: RmsNorm<Cuda<T>, C>,
        k_norm: LayerNorm<Cuda<T>, DI>,
        batch: Batch,
    }

    /// A device whose commands nobody else's stand among.
    fn own_device() -> CudaDevice {
        let device = CudaDevice::any(CudaOptions::default());
        device.provide(mla_codegen::cuda::kernel_text);
        device
    }

    /// The kernels that a step launches, and what it gives.
    fn kernels_of<R>(
        device: &CudaDevice,
        step: impl FnMut() -> crate::Result<R>,
    ) -> (R, Vec<String>) {
        let (result, commands) = device.time_commands(step).expect("runs");
        (
            result,
            commands.into_iter().map(|command| command.name).collect(),
        )
    }

    impl<T: Number> Layer<T> {
        fn new(dice: &mut Dice, device: &CudaDevice) -> Self {
            let sequences = [
                Sequence {
                    blocks: &[2, 0],
                    cached: 3,
                    new: 3,
                },
                Sequence {
                    blocks: &[1],
                    cached: 0,
                    new: 2,
                },
            ];
            let rms = |dice: &mut Dice, len| dice.values(len);
            Self {
                down: Rows::from_vec(device, dice.values(TOKENS * (Q + C + R))).expect("fits"),
                k: Rows::from_vec(device, dice.values(TOKENS * DI)).expect("fits"),
                q_norm: RmsNorm::new(device, rms(dice, Q), 1e-6).expect("a norm"),
                kv_norm: RmsNorm::new(device, rms(dice, C), 1e-5).expect("a norm"),
                k_norm: LayerNorm::new(device, rms(dice, DI), rms(dice, DI), 1e-4).expect("a norm"),
                batch: Batch::new(&sequences).expect("a batch"),
            }
        }

        fn rotary<In: RopeLayout, Out: RopeLayout>(
            &self,
            device: &CudaDevice,
        ) -> (Rotary<Cuda<T>, In, Out, R>, Angles<Cuda<T>, R>) {
            let frequencies: Vec<f64> = (0..R / 2).map(|i| 0.7f64.powi(i as i32)).collect();
            let rotary = Rotary::new(device, &frequencies, 1.1).expect("a table");
            let angles = rotary.angles(self.batch.positions()).expect("angles");
            (rotary, angles)
        }
    }

    pub(super) fn entries<T: Number>() {
        let dice = &mut Dice::new();
        entries_as::<T, T, Interleaved, Interleaved>(dice);
        entries_as::<T, f32, Interleaved, Half>(dice);
        entries_as::<T, Fp8DsMla<AnyScale>, Half, Half>(dice);
        if TypeId::of::<T>() == TypeId::of::<f32>() {
            entries_as::<T, Fp8DsMla<PowerOfTwo>, Half, Interleaved>(dice);
            entries_as::<T, Fp8E4m3, Interleaved, Interleaved>(dice);
            entries_as::<T, Fp8E5m2, Interleaved, Interleaved>(dice);
            entries_as::<T, Fp8Model1, Interleaved, Interleaved>(dice);
            entries_as::<T, Mxfp8, Interleaved, Interleaved>(dice);
        }
    }

    type Latents<T, F, Out> = LatentCache<Cuda<T>, F, Out, Paged<4>, C, R>;

    fn entries_as<T: Number, F: CacheFormat, In: RopeLayout, Out: RopeLayout>(dice: &mut Dice) {
        let device = &own_device();
        let layer = Layer::<T>::new(dice, device);
        let (rotary, angles) = layer.rotary::<In, Out>(device);
        let batch = &layer.batch;
        let caches = || Latents::<T, F, Out>::paged(device, 3).expect("a cache");
        let (q, latent) = (layer.down.columns::<0, Q>(), layer.down.columns::<Q, C>());
        let k_rope = layer.down.columns::<{ Q + C }, R>();

        let mut apart = caches();
        let wanted_latent = layer.kv_norm.forward(latent).expect("runs");
        let wanted_key = rotary.key(k_rope, &angles).expect("runs");
        let written = apart.write(batch, &wanted_latent, &wanted_key);
        written.expect("runs");
        let wanted_q = layer.q_norm.forward(q).expect("runs");

        let (mut at_once, mut without, mut kept) = (caches(), caches(), caches());
        let of = || (layer.kv_norm.of(latent), rotary.key_of(k_rope, &angles));
        let ((whole, (found, c, k)), kernels) = kernels_of(device, || {
            let (c, k) = of();
            let whole = at_once.prologue(batch, layer.q_norm.of(q), c, k)?;
            let (c, k) = of();
            without.prologue(batch, (), c, k)?;
            let (c, k) = of();
            Ok((whole, kept.prologue_kept(batch, layer.q_norm.of(q), c, k)?))
        });
        assert!(
            kernels.len() == 3 && kernels.iter().all(|name| name.starts_with("prologue")),
            "{}: {kernels:?}",
            F::NAME
        );
        assert_eq!(
            whole.to_vec().expect("copied"),
            wanted_q.to_vec().expect("copied")
        );
        let bytes = apart.to_bytes().expect("copied");
        for cache in [at_once, without, kept] {
            assert!(cache.to_bytes().expect("copied") == bytes, "{}", F::NAME);
        }
        let rows = [found.to_vec(), c.to_vec(), k.to_vec()];
        let wanted = [
            wanted_q.to_vec(),
            wanted_latent.to_vec(),
            wanted_key.to_vec(),
        ];
        for (found, wanted) in rows.into_iter().zip(wanted) {
            assert_eq!(found.expect("copied"), wanted.expect("copied"));
        }
    }

    pub(super) fn entries_and_keys<T: Number>() {
        let dice = &mut Dice::new();
        keys_as::<T, T, T>(dice, true, false);
        keys_as::<T, Fp8DsMla<AnyScale>, IndexFp8<AnyScale>>(dice, true, true);
        if TypeId::of::<T>() == TypeId::of::<f32>() {
            keys_as::<T, bf16, IndexFp8<PowerOfTwo>>(dice, false, true);
            keys_as::<T, Fp8E4m3, bf16>(dice, false, false);
            keys_as::<T, Mxfp8, IndexMxfp4>(dice, true, false);
        }
    }

    /// `first`: which part of a key is rotated.
    fn keys_as<T: Number, F: CacheFormat, I: CacheFormat>(
        dice: &mut Dice,
        first: bool,
        transformed: bool,
    ) {
        let device = &own_device();
        let layer = Layer::<T>::new(dice, device);
        let (rotary, angles) = layer.rotary::<Interleaved, Interleaved>(device);
        let (of_keys, key_angles) = layer.rotary::<Half, Half>(device);
        let batch = &layer.batch;
        let caches = || {
            IndexedCache::new(
                Latents::<T, F, Interleaved>::paged(device, 3).expect("a cache"),
                IndexCache::<Cuda<T>, I, Paged<4>, DI>::paged(device, 3).expect("a cache"),
            )
        };
        let (q, latent) = (layer.down.columns::<0, Q>(), layer.down.columns::<Q, C>());
        let k_rope = layer.down.columns::<{ Q + C }, R>();

        let mut apart = caches();
        let wanted_latent = layer.kv_norm.forward(latent).expect("runs");
        let wanted_key = rotary.key(k_rope, &angles).expect("runs");
        let written = apart.kv.write(batch, &wanted_latent, &wanted_key);
        written.expect("runs");
        let k = layer.k_norm.forward(&layer.k).expect("runs");
        let k = match first {
            true => of_keys.rows_first(k, &key_angles),
            false => of_keys.rows_last(k, &key_angles),
        };
        let k = match transformed {
            true => hadamard::rows(k.expect("runs")),
            false => k,
        };
        let written = apart.index.write(batch, &k.expect("runs"));
        written.expect("runs");

        let mut at_once = caches();
        let (found, kernels) = kernels_of(device, || {
            let normed = layer.k_norm.of(&layer.k);
            let key = match first {
                true => of_keys.first_of(normed, &key_angles),
                false => of_keys.last_of(normed, &key_angles),
            };
            let key = if transformed { key.transformed() } else { key };
            let (c, k_rope) = (layer.kv_norm.of(latent), rotary.key_of(k_rope, &angles));
            at_once.prologue(batch, layer.q_norm.of(q), c, k_rope, key)
        });
        assert!(
            matches!(&kernels[..], [one] if one.starts_with("prologue")),
            "{} and {}: {kernels:?}",
            F::NAME,
            I::NAME
        );
        let wanted_q = layer.q_norm.forward(q).expect("runs");
        assert_eq!(
            found.to_vec().expect("copied"),
            wanted_q.to_vec().expect("copied")
        );
        let bytes = |cache: &IndexedCache<Latents<T, F, Interleaved>, IndexCache<_, I, _, DI>>| {
            let (kv, index) = (cache.kv.to_bytes(), cache.index.to_bytes());
            (kv.expect("copied"), index.expect("copied"))
        };
        assert!(
            bytes(&at_once) == bytes(&apart),
            "{} and {}",
            F::NAME,
            I::NAME
        );
    }
}
