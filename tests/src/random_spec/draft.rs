//! A spec under construction.

use std::fmt::Display;

use super::dice::Dice;

/// The lines of a spec, section by section.
#[derive(Debug, Default)]
pub(super) struct Draft {
    params: String,
    slots: String,
    /// The section `build`; absent where empty.
    pub(super) build: String,
}

impl Draft {
    /// A parameter of the layer.
    pub(super) fn param(&mut self, key: &str, value: impl Display) {
        self.params.push_str(&format!("  {key}: {value}\n"));
    }

    /// What fills a slot.
    pub(super) fn slot(&mut self, slot: &str, module: impl Display) {
        self.slots.push_str(&format!("  {slot}: {module}\n"));
    }

    /// Whether the layer has a parameter.
    pub(super) fn has_param(&self, key: &str) -> bool {
        let start = format!("  {key}: ");
        self.params.lines().any(|line| line.starts_with(&start))
    }

    /// Whether a slot is filled with more than an identity.
    pub(super) fn fills(&self, slot: &str) -> bool {
        let start = format!("  {slot}: ");
        let mut modules = self
            .slots
            .lines()
            .filter_map(|line| line.strip_prefix(&start));
        modules.any(|module| module != "IdentityOp")
    }

    /// Whether any slot is filled with a module of this name.
    pub(super) fn has_module(&self, name: &str) -> bool {
        self.slots.contains(&format!("module: {name},"))
    }

    /// The whole spec.
    pub(super) fn yaml(&self, name: &str, module: &str) -> String {
        let Self {
            params,
            slots,
            build,
        } = self;
        format!(
            "mla: 1\nname: {name}\nmodule: {module}\nparams:\n{params}submodules:\n{slots}{build}"
        )
    }
}

/// A linear with a bias, without one, or one that says nothing of it.
pub(super) fn with_bias(module: &str, dice: &mut Dice) -> String {
    match dice.within(0, 3) {
        0 => format!("{{ module: {module}, params: {{ bias: true }} }}"),
        1 => format!("{{ module: {module}, params: {{ bias: false }} }}"),
        _ => module.to_owned(),
    }
}

/// An epsilon.
pub(super) fn eps(dice: &mut Dice) -> &'static str {
    dice.pick(&["1.0e-6", "1.0e-5", "3.0e-3"])
}

/// A norm of a slot that takes any of them.
pub(super) fn norm(dice: &mut Dice) -> String {
    if dice.once_in(6) {
        let (eps, rank) = (eps(dice), dice.within(1, 7));
        return format!("{{ module: GatedRMSNorm, params: {{ eps: {eps}, rank: {rank} }} }}");
    }
    plain_norm(dice)
}

/// A norm of a slot that takes no gated one.
pub(super) fn plain_norm(dice: &mut Dice) -> String {
    let kind = dice.pick(&["RMSNorm", "RMSNorm", "LayerNorm"]);
    format!("{{ module: {kind}, params: {{ eps: {} }} }}", eps(dice))
}

/// `linear_gate_proj`, in every precision.
pub(super) fn gate_projection(dice: &mut Dice) -> String {
    let params = dice.pick(&["", "dtype: f32", "bias: true", "dtype: f32, bias: true"]);
    if params.is_empty() {
        return "ColumnParallelLinear".to_owned();
    }
    format!("{{ module: ColumnParallelLinear, params: {{ {params} }} }}")
}
