//! The procedural macros of mla-gen. Use them through `mla-runtime`, which re-exports both.
//!
//! This crate is a shell: tokens go to `mla-spec`, which reads and checks them, and to `mla-codegen`, which writes the
//! layer; what comes back becomes tokens again.

#![forbid(unsafe_code)]

mod attribute;
mod derive;
mod errors;
mod layer;
mod skeleton;
mod spec_file;

use std::panic::{AssertUnwindSafe, catch_unwind};

use proc_macro2::TokenStream;

/// Replaces a struct by the attention layer it describes, `Name<B: Backend = Cpu>`.
///
/// The arguments are the layer's parameters, the fields its slots, a field's type the module in the slot, and
/// `#[mla(...)]` on a field that module's parameters. A YAML mapping is written `key(...)`, a list `key = [...]`.
///
/// ```ignore
/// #[mla_layer(
///     hidden_size = 2048, num_attention_heads = 16, kv_lora_rank = 512,
///     qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128,
///     attn_mask_type = causal, rope(type = plain, theta = 50000.0, layout = interleaved),
/// )]
/// pub struct MoonlightAttention {
///     linear_q_proj: ColumnParallelLinear,
///     linear_kv_down_proj: Linear,
///     #[mla(eps = 1e-6)]
///     kv_layernorm: RMSNorm,
///     linear_kv_up_proj: ColumnParallelLinear,
///     core_attention: DotProductAttention,
///     linear_proj: RowParallelLinear,
/// }
///
/// #[mla_layer(spec = "spec/models/deepseek-v3.yaml")]
/// pub struct DeepSeekV3Attention;
/// ```
///
/// Beside the layer come its cache, `NameCache`, where it has phases that keep one, its gradients' type,
/// `NameParameters`, where it trains, and a module named after the layer in snake case with its sizes, its tensors and
/// whatever else it works with. `build(...)` says how the layer is built, `crate = path` where `mla_runtime` is.
///
/// A path is relative to the folder of `Cargo.toml`, else to the source file; a change of the file recompiles.
#[proc_macro_attribute]
pub fn mla_layer(
    args: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    let (args, item) = (TokenStream::from(args), TokenStream::from(item));
    guarded(|| attribute::expand(args, item)).into()
}

/// Generates `NameLayer<B: Backend = Cpu>` from a struct that stays as its description.
///
/// As [`macro@mla_layer`], with the parameters in `#[mla(...)]` on the struct. The struct implements
/// `mla_runtime::Describes`, whose `Layer<B>` is the generated layer.
#[proc_macro_derive(MlaLayer, attributes(mla))]
pub fn derive_mla_layer(item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let item = TokenStream::from(item);
    guarded(|| derive::expand(item)).into()
}

/// Runs an expansion; a panic in it becomes an error that says whose fault it is.
fn guarded(expand: impl FnOnce() -> TokenStream) -> TokenStream {
    catch_unwind(AssertUnwindSafe(expand)).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let reason = reason.unwrap_or("no reason given");
        errors::at(
            proc_macro2::Span::call_site(),
            &format!("this is a bug in mla-macros, please report it: {reason}"),
        )
    })
}
