//! The C functions themselves, which a library defines: symbols of a dependency are not those of a shared library.

/// Defines the functions of `mla.h` for a generated layer: once in a library.
///
/// ```text
/// mla_runtime::export_layer!(layer::Name<mla_runtime::Cuda<mla_runtime::bf16>> as "Name" in mla_runtime::bf16:
///     forward, cache, prefill, decode, mixed; prepared by operations::add);
/// ```
///
/// It names the layer, what it computes in, its phases, with `cache` before the cached ones, and a
/// `fn(&CudaDevice) -> Result<()>` that gives a device whatever kernels the bare operations need.
#[macro_export]
macro_rules! export_layer {
    ($layer:path as $name:literal in $elem:ty: $($phase:ident),+ $(,)?; prepared by $prepare:path) => {
        mod mla_exported {
            #[allow(unused_imports)]
            use super::*;
            use $crate::c_abi::{self, AnyCache, Library, Outcome};

            /// The layer of this library.
            pub(crate) struct Exported($layer);

            impl Library for Exported {
                type Elem = $elem;
                const NAME: &'static str = concat!($name, "\0");
                const HIDDEN_SIZE: usize = <$layer as $crate::Load<$crate::Cuda<$elem>>>::HIDDEN_SIZE;
                const PHASES: u32 = 0 $(| $crate::export_layer!(@bit $phase))+;

                fn prepare(device: &$crate::CudaDevice) -> $crate::Result<()> {
                    $prepare(device)
                }

                fn load(weights: &$crate::Weights, prefix: &str, device: &$crate::CudaDevice) -> $crate::Result<Self> {
                    let loaded = <$layer as $crate::Load<$crate::Cuda<$elem>>>::load(weights, prefix, device)?;
                    Ok(Self(loaded))
                }

                $($crate::export_layer!(@phase $phase ($layer) $elem);)+
            }

            type B = $crate::Cuda<$elem>;
        }

        $crate::export_layer!(@functions mla_exported::Exported);
    };
    (@bit forward) => { 1 };
    (@bit cache) => { 0 };
    (@bit prefill) => { 2 };
    (@bit decode) => { 4 };
    (@bit mixed) => { 8 };
    (@phase forward ($layer:path) $elem:ty) => {
        fn forward(&self, hidden: &$crate::Tensor<B>, positions: &[u32], mask: &$crate::Mask) -> Outcome<Self> {
            let (mut extras, mut probe) = ($crate::Extras::default(), $crate::NoProbe);
            Ok($crate::Forward::forward_erased(&self.0, hidden, positions, mask, &mut extras, &mut probe)?)
        }
    };
    (@phase cache ($layer:path) $elem:ty) => {
        fn new_cache(
            device: &$crate::CudaDevice,
            blocks: usize,
            tokens_per_block: usize,
        ) -> Result<AnyCache, c_abi::Fault> {
            type Layer = $layer;
            c_abi::new_cache::<$elem, Layer>(device, blocks, tokens_per_block)
        }
    };
    (@phase prefill ($layer:path) $elem:ty) => {
        $crate::export_layer!(@cached prefill Prefill prefill_erased ($layer));
    };
    (@phase decode ($layer:path) $elem:ty) => {
        $crate::export_layer!(@cached decode Decode decode_erased ($layer));
    };
    (@phase mixed ($layer:path) $elem:ty) => {
        $crate::export_layer!(@cached mixed Mixed mixed_erased ($layer));
    };
    (@cached $function:ident $trait:ident $erased:ident ($layer:path)) => {
        fn $function(&self, cache: &mut AnyCache, batch: &$crate::Batch, hidden: &$crate::Tensor<B>) -> Outcome<Self> {
            type Layer = $layer;
            type Stored = <Layer as $crate::Caches<B>>::Stored;
            type Index = <Layer as $crate::Caches<B>>::StoredIndex;
            let cache = c_abi::cache_of::<<Layer as $crate::Caches<B>>::Cache<Stored, Index>>(cache)?;
            let (mut extras, mut probe) = ($crate::Extras::default(), $crate::NoProbe);
            Ok($crate::$trait::$erased::<Stored, Index>(&self.0, cache, batch, hidden, &mut extras, &mut probe)?)
        }
    };
    (@functions $library:path) => {
        /// What the thread's last failing call had to say.
        #[unsafe(no_mangle)]
        extern "C" fn mla_last_error() -> *const ::std::ffi::c_char {
            $crate::c_abi::last_error()
        }

        $crate::export_layer!(@each $library;
            mla_describe = describe(into: *mut $crate::c_abi::CDescription);
            mla_device_open = device_open(ordinal: i32, device: *mut *const $crate::c_abi::Device<$library>);
            mla_device_free = device_free(device: *const $crate::c_abi::Device<$library>);
            mla_layer_open = layer_open(
                device: *const $crate::c_abi::Device<$library>,
                path: *const ::std::ffi::c_char,
                prefix: *const ::std::ffi::c_char,
                layer: *mut *const $crate::c_abi::Layer<$library>,
            );
            mla_layer_from_tensors = layer_from_tensors(
                device: *const $crate::c_abi::Device<$library>,
                tensors: *const $crate::c_abi::CNamedTensor,
                count: i64,
                stream: *mut ::std::ffi::c_void,
                layer: *mut *const $crate::c_abi::Layer<$library>,
            );
            mla_layer_free = layer_free(layer: *const $crate::c_abi::Layer<$library>);
            mla_cache_new = cache_new(
                device: *const $crate::c_abi::Device<$library>,
                blocks: i64,
                tokens_per_block: i64,
                cache: *mut *const $crate::c_abi::Cache<$library>,
            );
            mla_cache_free = cache_free(cache: *const $crate::c_abi::Cache<$library>);
            mla_forward = forward(
                layer: *const $crate::c_abi::Layer<$library>,
                stream: *mut ::std::ffi::c_void,
                hidden: *const $crate::c_abi::CTensor,
                positions: *const u32,
                cu_seqlens: *const u32,
                sequences: i64,
                out: *const $crate::c_abi::CTensor,
            );
            mla_prefill = prefill(
                layer: *const $crate::c_abi::Layer<$library>,
                cache: *const $crate::c_abi::Cache<$library>,
                stream: *mut ::std::ffi::c_void,
                batch: *const $crate::c_abi::CBatch,
                hidden: *const $crate::c_abi::CTensor,
                out: *const $crate::c_abi::CTensor,
            );
            mla_decode = decode(
                layer: *const $crate::c_abi::Layer<$library>,
                cache: *const $crate::c_abi::Cache<$library>,
                stream: *mut ::std::ffi::c_void,
                batch: *const $crate::c_abi::CBatch,
                hidden: *const $crate::c_abi::CTensor,
                out: *const $crate::c_abi::CTensor,
            );
            mla_mixed = mixed(
                layer: *const $crate::c_abi::Layer<$library>,
                cache: *const $crate::c_abi::Cache<$library>,
                stream: *mut ::std::ffi::c_void,
                batch: *const $crate::c_abi::CBatch,
                hidden: *const $crate::c_abi::CTensor,
                out: *const $crate::c_abi::CTensor,
            );
            mla_step_forward = step_forward(
                layer: *const $crate::c_abi::Layer<$library>,
                hidden: *const $crate::c_abi::CTensor,
                positions: *const u32,
                cu_seqlens: *const u32,
                sequences: i64,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_prefill = step_prefill(
                layer: *const $crate::c_abi::Layer<$library>,
                cache: *const $crate::c_abi::Cache<$library>,
                batch: *const $crate::c_abi::CBatch,
                hidden: *const $crate::c_abi::CTensor,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_decode = step_decode(
                layer: *const $crate::c_abi::Layer<$library>,
                cache: *const $crate::c_abi::Cache<$library>,
                batch: *const $crate::c_abi::CBatch,
                hidden: *const $crate::c_abi::CTensor,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_mixed = step_mixed(
                layer: *const $crate::c_abi::Layer<$library>,
                cache: *const $crate::c_abi::Cache<$library>,
                batch: *const $crate::c_abi::CBatch,
                hidden: *const $crate::c_abi::CTensor,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_attend_paged = attend_paged(
                device: *const $crate::c_abi::Device<$library>,
                q: *const $crate::c_abi::CTensor,
                cache: *const $crate::c_abi::CTensor,
                latent: i64,
                blocks: *const u32,
                blocks_each: i64,
                lengths: *const i64,
                scale: f64,
                causal: i32,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_attend_selected = attend_selected(
                device: *const $crate::c_abi::Device<$library>,
                q: *const $crate::c_abi::CTensor,
                entries: *const $crate::c_abi::CTensor,
                latent: i64,
                indices: *const $crate::c_abi::CTensor,
                counts: *const $crate::c_abi::CTensor,
                scale: f64,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_attend_rows = attend_rows(
                device: *const $crate::c_abi::Device<$library>,
                q: *const $crate::c_abi::CTensor,
                k: *const $crate::c_abi::CTensor,
                k_shared: *const $crate::c_abi::CTensor,
                v: *const $crate::c_abi::CTensor,
                cu_seqlens: *const u32,
                sequences: i64,
                scale: f64,
                causal: i32,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_attend_rows_lse = attend_rows_lse(
                device: *const $crate::c_abi::Device<$library>,
                q: *const $crate::c_abi::CTensor,
                k: *const $crate::c_abi::CTensor,
                k_shared: *const $crate::c_abi::CTensor,
                v: *const $crate::c_abi::CTensor,
                cu_seqlens: *const u32,
                sequences: i64,
                scale: f64,
                causal: i32,
                out: *const $crate::c_abi::CTensor,
                lse: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_attend_rows_backward = attend_rows_backward(
                device: *const $crate::c_abi::Device<$library>,
                q: *const $crate::c_abi::CTensor,
                k: *const $crate::c_abi::CTensor,
                k_shared: *const $crate::c_abi::CTensor,
                v: *const $crate::c_abi::CTensor,
                cu_seqlens: *const u32,
                sequences: i64,
                scale: f64,
                causal: i32,
                out: *const $crate::c_abi::CTensor,
                lse: *const $crate::c_abi::CTensor,
                d_out: *const $crate::c_abi::CTensor,
                deterministic: i32,
                d_q: *const $crate::c_abi::CTensor,
                d_k: *const $crate::c_abi::CTensor,
                d_k_shared: *const $crate::c_abi::CTensor,
                d_v: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_attend_chunked = attend_chunked(
                device: *const $crate::c_abi::Device<$library>,
                q: *const $crate::c_abi::CTensor,
                cache: *const $crate::c_abi::CTensor,
                blocks: *const u32,
                block_count: i64,
                cached: i64,
                latents: *const $crate::c_abi::CTensor,
                k_rope: *const $crate::c_abi::CTensor,
                w_kv: *const $crate::c_abi::CTensor,
                chunk: i64,
                scale: f64,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_index_logits = index_logits(
                device: *const $crate::c_abi::Device<$library>,
                q: *const $crate::c_abi::CTensor,
                k: *const $crate::c_abi::CTensor,
                k_scale: *const $crate::c_abi::CTensor,
                weights: *const $crate::c_abi::CTensor,
                starts: *const i64,
                ends: *const i64,
                scale: f64,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_index_logits_paged = index_logits_paged(
                device: *const $crate::c_abi::Device<$library>,
                q: *const $crate::c_abi::CTensor,
                cache: *const $crate::c_abi::CTensor,
                weights: *const $crate::c_abi::CTensor,
                blocks: *const u32,
                blocks_each: i64,
                lengths: *const i64,
                scale: f64,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
            mla_step_topk = topk(
                device: *const $crate::c_abi::Device<$library>,
                scores: *const $crate::c_abi::CTensor,
                ends: *const i64,
                blocks: *const u32,
                blocks_each: i64,
                page: i64,
                out: *const $crate::c_abi::CTensor,
                step: *mut *const $crate::c_abi::Step,
            );
        );

        /// Queues a step in a stream.
        ///
        /// # Safety
        /// `mla.h`'s contract.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn mla_step_run(
            step: *const $crate::c_abi::Step,
            stream: *mut ::std::ffi::c_void,
        ) -> i32 {
            // SAFETY: this function's contract
            unsafe { $crate::c_abi::step_run(step, stream) }
        }

        /// Frees a step.
        ///
        /// # Safety
        /// `mla.h`'s contract.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn mla_step_free(step: *const $crate::c_abi::Step) -> i32 {
            // SAFETY: this function's contract
            unsafe { $crate::c_abi::step_free(step) }
        }
    };
    (@each $library:path; $($name:ident = $function:ident($($argument:ident: $type:ty),* $(,)?);)+) => {
        $(
            /// A function of `mla.h`.
            ///
            /// # Safety
            /// `mla.h`'s contract.
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($argument: $type),*) -> i32 {
                // SAFETY: this function's contract
                unsafe { $crate::c_abi::$function::<$library>($($argument),*) }
            }
        )+
    };
}
