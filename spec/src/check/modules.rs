//! Module names: which may fill a slot, and what other systems' names are called here.

use super::codes;
use super::foreign::Place;
use super::text::{one_of, quoted};
use super::value::Table;
use super::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{ModuleSpec, Submodule};
use crate::suggest::suggest;

/// A module that may fill a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Module {
    Linear,
    ColumnParallelLinear,
    LayerNormColumnParallelLinear,
    RowParallelLinear,
    IdentityOp,
    RmsNorm,
    LayerNorm,
    GatedRmsNorm,
    DotProductAttention,
    SparseAttention,
    LightningIndexer,
    SharedIndexer,
}

const MODULES: &[(&str, Module)] = &[
    ("Linear", Module::Linear),
    ("ColumnParallelLinear", Module::ColumnParallelLinear),
    (
        "LayerNormColumnParallelLinear",
        Module::LayerNormColumnParallelLinear,
    ),
    ("RowParallelLinear", Module::RowParallelLinear),
    ("IdentityOp", Module::IdentityOp),
    ("RMSNorm", Module::RmsNorm),
    ("LayerNorm", Module::LayerNorm),
    ("GatedRMSNorm", Module::GatedRmsNorm),
    ("DotProductAttention", Module::DotProductAttention),
    ("SparseAttention", Module::SparseAttention),
    ("LightningIndexer", Module::LightningIndexer),
    ("SharedIndexer", Module::SharedIndexer),
];

/// Other systems' names of these modules.
const ALIASES: &[(&str, Module)] = &[
    ("TELinear", Module::Linear),
    ("ReplicatedLinear", Module::Linear),
    ("MergedColumnParallelLinear", Module::Linear),
    ("DenseGeneral", Module::Linear),
    ("nn.Linear", Module::Linear),
    ("TEColumnParallelLinear", Module::ColumnParallelLinear),
    (
        "TELayerNormColumnParallelLinear",
        Module::LayerNormColumnParallelLinear,
    ),
    ("TERowParallelLinear", Module::RowParallelLinear),
    ("IdentityFuncOp", Module::IdentityOp),
    ("Identity", Module::IdentityOp),
    ("nn.Identity", Module::IdentityOp),
    ("None", Module::IdentityOp),
    ("TENorm", Module::RmsNorm),
    ("WrappedTorchNorm", Module::RmsNorm),
    ("DeepseekV2RMSNorm", Module::RmsNorm),
    ("DeepseekV3RMSNorm", Module::RmsNorm),
    ("L2Norm", Module::RmsNorm),
    ("FusedLayerNorm", Module::LayerNorm),
    ("WrappedTorchLayerNorm", Module::LayerNorm),
    ("AXK2GatedRMSNorm", Module::GatedRmsNorm),
    ("TEDotProductAttention", Module::DotProductAttention),
    ("FlashAttention", Module::DotProductAttention),
    ("DSAttention", Module::SparseAttention),
    ("SparseAttnIndexer", Module::LightningIndexer),
    ("DSAIndexer", Module::LightningIndexer),
    ("Indexer", Module::LightningIndexer),
    ("DeepseekV32Indexer", Module::LightningIndexer),
];

impl Module {
    /// Its name in a spec.
    pub(super) fn name(self) -> &'static str {
        MODULES
            .iter()
            .find(|(_, module)| *module == self)
            .map_or("", |(name, _)| name)
    }

    /// Whether it has submodules, which its own check reads.
    fn has_slots(self) -> bool {
        matches!(
            self,
            Module::SparseAttention | Module::LightningIndexer | Module::SharedIndexer
        )
    }
}

/// An attention module, or a name so near one that its parameters are worth checking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    /// `MLASelfAttention`.
    Mla,
    /// `SelfAttention`.
    Grouped,
    /// `CrossAttention`.
    Cross,
    /// Another: nothing can be said about its parameters.
    Other,
}

const ATTENTION: &[(&str, Attention)] = &[
    ("MLASelfAttention", Attention::Mla),
    ("SelfAttention", Attention::Grouped),
    ("CrossAttention", Attention::Cross),
];

/// Other systems' attention modules, with ours.
#[rustfmt::skip] // a table
const OTHER_ATTENTION: &[(&str, &str)] = &[
    ("MultiLatentAttention", "use `MLASelfAttention`: this is only its abstract base"),
    ("FusedMLASelfAttention", "use `MLASelfAttention` and fill the slot `linear_qkv_down_proj`"),
    ("AbsorbedMLASelfAttention", "use `MLASelfAttention` and write `form: mqa` in `build`"),
    ("MultiHeadLatentAttentionWrapper", "use `MLASelfAttention`"),
    ("MLA", "use `MLASelfAttention`"),
    ("Attention", "use `SelfAttention` or `CrossAttention`: this is only their abstract base"),
    ("GroupedQueryAttention", "use `SelfAttention`; `num_query_groups` says how many heads share a key"),
    ("MultiQueryAttention", "use `SelfAttention` with `num_query_groups: 1`"),
    ("MultiHeadAttention", "use `SelfAttention` with as many `num_query_groups` as heads, or `CrossAttention`"),
    ("MultiheadAttention", "use `SelfAttention` with as many `num_query_groups` as heads, or `CrossAttention`"),
];

impl Attention {
    /// Its name in a spec.
    pub(super) fn name(self) -> &'static str {
        ATTENTION
            .iter()
            .find(|(_, module)| *module == self)
            .map_or("", |(name, _)| name)
    }

    /// Whether it is known to make no latents.
    pub(super) fn has_no_latents(self) -> bool {
        matches!(self, Attention::Grouped | Attention::Cross)
    }
}

/// Checks the name of the attention module.
pub(super) fn attention(spec: &ModuleSpec, out: &mut Diagnostics) -> Attention {
    let name = spec.module.value.as_str();
    let named = |wanted: &str| {
        let known = ATTENTION.iter().find(|(known, _)| *known == wanted);
        known.map_or(Attention::Other, |(_, module)| *module)
    };
    if named(name) != Attention::Other {
        return named(name);
    }
    let message = format!("there is no attention module `{}`", quoted(name));
    let unknown = Diagnostic::error(
        codes::UNKNOWN_MODULE,
        message,
        spec.module.span,
        "not known",
    );
    if let Some((_, remedy)) = OTHER_ATTENTION.iter().find(|(other, _)| *other == name) {
        out.push(unknown.help(*remedy));
        return Attention::Other;
    }
    let names: Vec<&str> = ATTENTION.iter().map(|(name, _)| *name).collect();
    let near = suggest(name, names.iter().copied());
    out.push(match near {
        Some(near) => unknown.help(format!("did you mean `{near}`?")),
        None => unknown.help(format!("write {}", one_of(&names))),
    });
    near.map_or(Attention::Other, named)
}

/// The module in a slot, if it is one of `allowed`. `why_not` may know a better reason than a list of names.
pub(super) fn in_slot(
    submodule: &Submodule,
    allowed: &[Module],
    why_not: impl Fn(Module) -> Option<Diagnostic>,
    out: &mut Diagnostics,
) -> Option<Module> {
    let name = submodule.spec.module.value.as_str();
    let slot = submodule.slot.value.as_str();
    let span = submodule.spec.module.span;
    let known = MODULES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, module)| *module);
    if let Some(module) = known.filter(|module| allowed.contains(module)) {
        if !module.has_slots() {
            leaf(&submodule.spec, out);
        }
        return Some(module);
    }
    let found = quoted(name);
    let alias = ALIASES
        .iter()
        .find(|(alias, _)| *alias == name)
        .map(|(_, module)| *module);
    if let Some(reason) = known
        .or(alias)
        .filter(|module| !allowed.contains(module))
        .and_then(why_not)
    {
        out.push(reason);
        return None;
    }
    let names: Vec<&str> = allowed.iter().map(|module| module.name()).collect();
    let choice = one_of(&names);
    let (code, message, label) = match known {
        Some(_) => (
            codes::WRONG_MODULE_IN_SLOT,
            format!("`{slot}` can't be filled with `{found}`"),
            "not in this slot",
        ),
        None => (
            codes::UNKNOWN_MODULE,
            format!("there is no module `{found}`"),
            "not known",
        ),
    };
    let wrong = Diagnostic::error(code, message, span, label);
    let ours = alias
        .filter(|module| allowed.contains(module))
        .map(Module::name);
    out.push(match ours {
        Some(ours) => wrong.help(format!("here it is called `{ours}`")),
        None => match suggest(name, names.iter().copied()).filter(|_| known.is_none()) {
            Some(near) => wrong.help(format!("did you mean `{near}`?")),
            None => wrong.help(format!("fill it with {choice}")),
        },
    });
    None
}

/// Modules in slots have no submodules of their own.
fn leaf(spec: &ModuleSpec, out: &mut Diagnostics) {
    if let Some(first) = spec.submodules.first() {
        let message = format!("`{}` has no submodules", quoted(&spec.module.value));
        let leaf = Diagnostic::error(
            codes::SUBMODULES_OF_A_LEAF,
            message,
            first.slot.span,
            "no such slot",
        );
        out.push(
            leaf.and(spec.module.span, "this module is whole")
                .help("remove `submodules` here"),
        );
    }
}

/// Reads a module that takes no parameters.
pub(super) fn no_params(spec: &ModuleSpec, out: &mut Diagnostics) {
    Table::params(spec, Place::Leaf).finish(out);
}

/// Reads the one parameter `bias`, false where it is not written.
pub(super) fn bias(spec: &ModuleSpec, out: &mut Diagnostics) -> Option<bool> {
    let mut table = Table::params(spec, Place::Leaf);
    let bias = bias_in(&mut table, out);
    table.finish(out);
    bias
}

/// As [`bias`], from a table that has more keys.
pub(super) fn bias_in(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<bool> {
    table.stated("bias", |field| field.boolean(out)).or(false)
}

/// Reads `dtype: f32` of a projection: whether it is computed in f32 whatever `build.dtype` says.
pub(super) fn full_precision(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<bool> {
    table
        .stated("dtype", |field| field.word(&FULL_PRECISION, out))
        .and_then(|word| Some(word.value))
        .or(false)
}

const FULL_PRECISION: Words<'static, bool> = Words {
    choices: &[("f32", true)],
    aliases: &[("float32", "f32"), ("fp32", "f32"), ("float", "f32")],
    others: None,
};

/// Refuses `bias` at a projection that has none in any checkpoint (B-06); absorption relies on it.
pub(super) fn refuse_bias(table: &mut Table<'_>, slot: &str, out: &mut Diagnostics) {
    if let Some(field) = table.take("bias").or_else(|| table.take("add_bias_linear")) {
        let message = format!("`{slot}` has no bias");
        let bias = Diagnostic::error(
            codes::NO_BIAS_HERE,
            message,
            field.key.span,
            "no checkpoint has one here",
        );
        out.push(bias.help(
            "remove it; the down projections, `linear_gate_proj` and `linear_proj` may have one",
        ));
    }
}
