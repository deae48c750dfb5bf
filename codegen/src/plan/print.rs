//! Programs as text: what `--emit plan` prints. One line per op.

use std::fmt;

use mla_spec::{AttnMask, CacheDType, CacheKind, Form, NormKind, Phase, RopeLayout};

use super::{
    Aspect, CachePlan, LinearParams, LinearPart, Module, ModuleKind, NormParams, NormPart, Offset,
    Op, Plan, Program, RotaryTable, Ty, ValueId,
};

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "layer {}", self.name)?;
        writeln!(f)?;
        for constant in &self.constants {
            let formula = constant
                .formula
                .map(|formula| format!(" = {formula}"))
                .unwrap_or_default();
            writeln!(f, "const {}{formula} = {}", constant.name, constant.value)?;
        }
        writeln!(
            f,
            "softmax scale {}: {}",
            self.softmax_scale.value, self.softmax_scale.doc
        )?;
        writeln!(f, "mask {}", mask(self.mask))?;
        if let Some(table) = &self.rotary {
            writeln!(f, "{}", rotary(table))?;
        }
        if let Some(plan) = &self.cache {
            writeln!(f, "{}", cache(plan))?;
        }
        writeln!(f)?;
        for module in &self.modules {
            writeln!(f, "module {}", DisplayModule(module))?;
        }
        for plan in &self.plans {
            writeln!(f)?;
            plan.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} form, because {}",
            phase(self.phase),
            form(self.form),
            self.form_reason
        )?;
        for step in &self.steps {
            if !step.formula.is_empty() {
                writeln!(f, "  # {}", step.formula)?;
            }
            for op in &step.ops {
                write!(f, "  ")?;
                if let Some(out) = op.defines() {
                    let value = &self.values[out.0];
                    write!(f, "{} {}: {} = ", id(out), value.name, DisplayTy(&value.ty))?;
                }
                writeln!(f, "{}", DisplayOp(op))?;
            }
        }
        writeln!(f, "  return {}", id(self.output))
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    }
}

fn form(form: Form) -> &'static str {
    match form {
        Form::Mha => "MHA",
        Form::Mqa => "MQA",
    }
}

fn mask(mask: AttnMask) -> &'static str {
    match mask {
        AttnMask::CAUSAL => "causal",
        AttnMask::FULL => "no_mask",
        AttnMask::PADDING_CAUSAL => "padding_causal",
        AttnMask::PADDING => "padding",
        _ => unreachable!("check makes none yet"),
    }
}

fn layout(layout: Option<RopeLayout>) -> &'static str {
    match layout {
        Some(RopeLayout::Interleaved) => "interleaved",
        Some(RopeLayout::Half) => "half",
        None => "unrotated",
    }
}

fn rotary(table: &RotaryTable) -> String {
    format!(
        "rotary {} -> {}, cos and sin times {}: {}",
        layout(Some(table.input)),
        layout(Some(table.output)),
        table.cos_sin_factor,
        table.doc
    )
}

fn cache(plan: &CachePlan) -> String {
    let kind = match plan.kind {
        CacheKind::Latent => "latent",
        CacheKind::Naive => "naive",
    };
    let dtype = match plan.dtype {
        CacheDType::F32 => "f32",
        CacheDType::Bf16 => "bf16",
        CacheDType::F16 => "f16",
        CacheDType::F64 => "f64",
    };
    let pages = match plan.page_size {
        Some(size) => format!("pages of {size}"),
        None => "contiguous".to_owned(),
    };
    format!(
        "cache {kind}_{dtype}, {pages}, rope key {}, {} elements per token",
        layout(plan.rope_layout),
        plan.elements_per_token
    )
}

fn id(value: ValueId) -> String {
    format!("%{}", value.0)
}

struct DisplayModule<'a>(&'a Module);

impl fmt::Display for DisplayModule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Module { slot, kind, doc } = self.0;
        let kind = match kind {
            ModuleKind::Linear(params) => linear(params),
            ModuleKind::Norm(params) => norm(params),
            ModuleKind::NormLinear(inner, params) => {
                format!("{} then {}", norm(inner), linear(params))
            }
        };
        write!(f, "{slot}: {kind}  # {doc}")
    }
}

fn linear(params: &LinearParams) -> String {
    let sources: Vec<String> = params
        .sources
        .iter()
        .map(|(name, rows)| format!("{name}[{}]", rows.size))
        .collect();
    let bias = if params.bias { " + bias" } else { "" };
    format!(
        "linear {} -> {}{bias} from {}",
        params.input.size,
        params.output.size,
        sources.join(", ")
    )
}

fn norm(params: &NormParams) -> String {
    let kind = match params.kind {
        NormKind::RmsNorm => "RMSNorm",
        NormKind::LayerNorm => "LayerNorm",
        NormKind::GatedRmsNorm { .. } => "GatedRMSNorm",
    };
    format!(
        "{kind} {} (eps {:e}) from {}",
        params.width.size, params.eps, params.source
    )
}

struct DisplayTy<'a>(&'a Ty);

impl fmt::Display for DisplayTy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ty::Rows(width) => write!(f, "rows[{}]", width.size),
            Ty::Columns(width) => write!(f, "columns[{}]", width.size),
            Ty::Heads(heads, dim) => write!(f, "heads[{} x {}]", heads.size, dim.size),
            Ty::HeadPart(heads, dim) => write!(f, "part[{} x {}]", heads.size, dim.size),
            Ty::Angles(width) => write!(f, "angles[{}]", width.size / 2),
            Ty::RopeKey(width, order) => write!(f, "rope_key[{}, {}]", width.size, layout(*order)),
            Ty::Attended(heads, dim) => write!(f, "attended[{} x {}]", heads.size, dim.size),
            Ty::Segments => write!(f, "segments"),
        }
    }
}

struct DisplayOp<'a>(&'a Op);

impl fmt::Display for DisplayOp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reads: Vec<String> = self.0.reads().into_iter().map(id).collect();
        let reads = reads.join(", ");
        match self.0 {
            Op::Hidden { .. } => write!(f, "input hidden"),
            Op::MaskSegments { .. } => write!(f, "segments of mask"),
            Op::BatchSegments { .. } => write!(f, "segments of batch"),
            Op::CheckBatch => write!(f, "check batch against cache"),
            Op::Angles { .. } => write!(f, "angles at positions"),
            Op::Linear { slot, part, .. } => {
                write!(f, "linear {reads}, {}", linear_of(slot, *part))
            }
            Op::Norm { slot, part, .. } => write!(f, "norm {reads}, {}", norm_of(slot, *part)),
            Op::Columns { offset, width, .. } => {
                write!(f, "columns {reads}, {}", span(offset, width.size))
            }
            Op::IntoHeads { .. } => write!(f, "into_heads {reads}"),
            Op::HeadPart { offset, width, .. } => {
                write!(f, "head_part {reads}, {}", span(offset, width.size))
            }
            Op::RotateHeads { .. } => write!(f, "rotate_heads {reads}"),
            Op::RotateKey { .. } => write!(f, "rotate_key {reads}"),
            Op::UnrotatedKey { absent: false, .. } => write!(f, "unrotated_key {reads}"),
            Op::UnrotatedKey { absent: true, .. } => write!(f, "absent_key, rows of {reads}"),
            Op::AttendExpanded { .. } => write!(f, "attend_expanded {reads}"),
            Op::AttendAbsorbed { .. } => write!(f, "attend_absorbed {reads}"),
            Op::MergeContext {
                slot, part, chunk, ..
            } => {
                write!(
                    f,
                    "merge_context {reads}, {}, {} tokens at a time",
                    linear_of(slot, *part),
                    chunk.size
                )
            }
            Op::WriteLatent { .. } => write!(f, "write_latent {reads}"),
            Op::WriteNaive { .. } => write!(f, "write_naive {reads}"),
            Op::AttendLatentCache { .. } => write!(f, "attend_latent_cache {reads}"),
            Op::AttendNaiveCache { .. } => write!(f, "attend_naive_cache {reads}"),
            Op::AbsorbQueries { slot, part, .. } => {
                write!(f, "absorb_queries {reads}, {}", linear_of(slot, *part))
            }
            Op::AbsorbValues { slot, part, .. } => {
                write!(f, "absorb_values {reads}, {}", linear_of(slot, *part))
            }
            Op::AttendedOut { .. } => write!(f, "attended_out {reads}"),
            Op::IntoRows { .. } => write!(f, "into_rows {reads}"),
            Op::Probe { name, aspect, .. } => {
                let aspect = match aspect {
                    Aspect::Value => "",
                    Aspect::Lse => " log-sum-exp",
                    Aspect::MaxLogit => " largest logit",
                };
                write!(f, "probe {name} = {reads}{aspect}")
            }
        }
    }
}

fn linear_of(slot: &str, part: LinearPart) -> String {
    match part {
        LinearPart::Whole => slot.to_owned(),
        LinearPart::Inner => format!("{slot}.linear"),
    }
}

fn norm_of(slot: &str, part: NormPart) -> String {
    match part {
        NormPart::Whole => slot.to_owned(),
        NormPart::Inner => format!("{slot}.norm"),
    }
}

fn span(offset: &Offset, width: u32) -> String {
    let start = offset.elements();
    format!("{start}..{}", start + width)
}
