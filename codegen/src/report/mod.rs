//! What a layer costs: parameters, FLOPs, bytes, caches; and what the passes made of it. Pure: numbers first, then their text.

mod backward;
mod bytes;
mod compare;
mod floor;
pub mod html;
mod model;
mod pairs;
mod passes;
mod text;
mod training;
mod work;

use mla_spec::{Checked, DType, Dims, Form, Phase};

pub use bytes::Stored;
pub(crate) use bytes::latent_bytes;
pub use compare::comparable_facts;
pub use floor::{PhaseFloor, floors};
pub use model::{LayerRow, ModelReport, model};
pub use pairs::{Met, met};
pub use passes::Change;
pub use training::{KeptReport, ScheduleReport, TrainingReport, cheapest};
pub use work::{Group, Work};

use crate::plan::cost::{self, Lengths};
use crate::plan::{Op, Plan, Program, Ty, print, stages};
use work::Counter;

/// Everything there is to say about a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Name of the generated type.
    pub name: String,
    /// The language's module.
    pub module: &'static str,
    /// Sizes that the spec states, with their meaning.
    pub sizes: Vec<(&'static str, u32, &'static str)>,
    /// Softmax scale, mask, rope, indexer, caches: a line each.
    pub facts: Vec<String>,
    /// Every module's parameters.
    pub parameters: Vec<Parameters>,
    /// What a cached token takes; `None` where nothing is cached.
    pub cache: Option<CacheReport>,
    /// What the two forms of latent attention cost; `None` for layers without latents.
    pub forms: Option<Forms>,
    /// Every phase at `build.expect`'s lengths.
    pub phases: Vec<PhaseReport>,
    /// Training; `None` where the layer is not trained.
    pub training: Option<TrainingReport>,
    /// What each pass took away and put in its place.
    pub changes: Vec<Change>,
}

/// The parameters of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Its slot.
    pub slot: &'static str,
    /// How many numbers.
    pub count: u128,
    /// What they take in memory.
    pub bytes: u128,
    /// What it is.
    pub doc: String,
}

/// What a layer keeps of each token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheReport {
    /// The parts, scales included.
    pub parts: Vec<Stored>,
    /// A latent and a naive cache's bytes per token in bf16, the indexer's keys apart; `None` for layers without latents of their own.
    pub kinds: Option<(u64, u64)>,
}

impl CacheReport {
    /// Bytes per token and layer.
    pub fn bytes_per_token(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// The two forms of latent attention (features 0.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forms {
    /// FLOPs of one head where one query meets one key, expanded: `2 (d_n + d_r + d_v)`.
    pub expanded_pair: u128,
    /// The same, absorbed: `2 (2 r_kv + d_r)`.
    pub absorbed_pair: u128,
    /// New tokens from which on MHA is the cheaper over a long context; `None` where MQA never costs more.
    pub crossover: Option<f64>,
}

impl Forms {
    fn of(dims: &Dims) -> Self {
        Self {
            expanded_pair: 2 * cost::expanded_pair(dims),
            absorbed_pair: 2 * cost::absorbed_pair(dims),
            crossover: cost::crossover(dims),
        }
    }
}

/// A phase at given lengths, for one request.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseReport {
    /// Which one.
    pub phase: Phase,
    /// How attention is written; `None` where each request has its own form.
    pub form: Option<Form>,
    /// Why.
    pub reason: String,
    /// New tokens, and those they meet.
    pub lengths: Lengths,
    /// Those of the request in the expanded and of the one in the absorbed form, where each has its own.
    pub parts: Option<[Lengths; 2]>,
    /// What it needs room for to expand latents; `None` where it expands none of a cache.
    pub expansion: Option<Expansion>,
    /// The steps: a formula, and its ops.
    pub steps: Vec<(String, Vec<OpReport>)>,
    /// What each group of ops does; groups without ops are left out.
    pub groups: Vec<(Group, Work)>,
}

impl PhaseReport {
    /// All groups together.
    pub fn total(&self) -> Work {
        let mut total = Work::default();
        self.groups.iter().for_each(|(_, work)| total += *work);
        total
    }

    /// What one group does.
    pub fn of(&self, group: Group) -> Work {
        let mut groups = self.groups.iter();
        groups
            .find(|(one, _)| *one == group)
            .map_or(Work::default(), |(_, work)| *work)
    }
}

/// Room for keys and values that are made of latents, besides what goes in and comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expansion {
    /// Cached tokens that are expanded at a time, whatever the batch.
    pub chunk: u32,
    /// Bytes of a token's keys and values, all heads. New tokens in the expanded form are expanded all at once.
    pub token: u128,
    /// Bytes of what a new token has attended to in one chunk, before it is merged.
    pub merged: u128,
}

impl Expansion {
    fn of(program: &Program, plan: &Plan) -> Option<Self> {
        let dtype = program.build.dtype;
        let bytes = |ty: &Ty| bytes::value(ty, 1, dtype);
        plan.ops().find_map(|op| match op {
            Op::AttendContext {
                heads,
                dim,
                chunk,
                out,
                ..
            } => {
                let (Ty::Heads(_, value) | Ty::Attended(_, value)) = plan.values[out.0].ty else {
                    return None;
                };
                Some(Self {
                    chunk: chunk.size,
                    token: bytes(&Ty::Heads(*heads, *dim)),
                    merged: bytes(&Ty::Attended(*heads, value)),
                })
            }
            _ => None,
        })
    }
}

/// An op.
#[derive(Debug, Clone, PartialEq)]
pub struct OpReport {
    /// What it defines, with shape and layout, and from what.
    pub line: String,
    /// What it does.
    pub work: Work,
}

/// The report of a layer.
pub fn report(checked: &Checked) -> Report {
    let stages = stages(checked);
    let changes = passes::changes(&stages);
    let program = stages
        .into_iter()
        .next_back()
        .map_or_else(|| crate::plan::program(checked), |(_, program)| program);
    let latent = checked.layer.latent();
    Report {
        name: program.name.clone(),
        module: module(checked),
        sizes: sizes(&program),
        facts: facts(&program),
        parameters: parameters(&program),
        cache: cache(checked, &program),
        forms: latent.map(|latent| Forms::of(&latent.dims)),
        phases: program
            .plans
            .iter()
            .map(|plan| phase(&program, plan))
            .collect(),
        training: training::report(checked, &program),
        changes,
    }
}

fn module(checked: &Checked) -> &'static str {
    match checked.layer.projections {
        mla_spec::Projections::Latent(_) => "MLASelfAttention",
        mla_spec::Projections::Grouped(_) => "SelfAttention",
        mla_spec::Projections::Cross(_) => "CrossAttention",
    }
}

fn facts(program: &Program) -> Vec<String> {
    let (arithmetic, sums) = match program.build.dtype {
        DType::F32 => ("f32", "f32"),
        DType::Bf16 => ("bf16", "f32"),
        DType::F64 => ("f64", "f64"),
    };
    let mut facts = vec![format!("arithmetic {arithmetic}, accumulated in {sums}")];
    facts.extend(print::facts(program));
    facts
}

fn sizes(program: &Program) -> Vec<(&'static str, u32, &'static str)> {
    let stated = program.constants.iter();
    stated
        .filter(|constant| constant.formula.is_none())
        .map(|constant| (constant.name, constant.value, constant.doc))
        .collect()
}

fn parameters(program: &Program) -> Vec<Parameters> {
    let dtype = program.build.dtype;
    let of = |module: &crate::plan::Module| {
        let tensors = crate::plan::tensors_of(&module.kind);
        let count = tensors.iter().map(|tensor| {
            let sizes = tensor.shape.iter().map(|dim| u128::from(dim.size));
            sizes.product::<u128>()
        });
        let count = count.sum();
        Parameters {
            slot: module.slot,
            count,
            bytes: bytes::parameters(&module.kind, count, dtype),
            doc: module.doc.clone(),
        }
    };
    program.modules.iter().map(of).collect()
}

fn cache(checked: &Checked, program: &Program) -> Option<CacheReport> {
    let plan = program.cache.as_ref()?;
    let kinds = checked
        .layer
        .latent()
        .filter(|_| program.source.is_none())
        .map(|latent| {
            let dims = &latent.dims;
            let token = dims.kv_lora_rank + dims.qk_rope_head_dim;
            let heads = dims.num_attention_heads * (dims.qk_head_dim() + dims.v_head_dim);
            (2 * u64::from(token), 2 * u64::from(heads))
        });
    Some(CacheReport {
        parts: bytes::stored(plan),
        kinds,
    })
}

fn phase(program: &Program, plan: &Plan) -> PhaseReport {
    let lengths = |part| Lengths::of_part(&program.build.expect, plan.phase, part);
    let forms = [Form::Mha, Form::Mqa].map(Some);
    let mut groups: Vec<(Group, Work)> = Vec::new();
    let mut steps = Vec::new();
    for step in &plan.steps {
        let counter = Counter::new(program, plan, lengths(step.part));
        let mut ops = Vec::new();
        for op in &step.ops {
            let mut work = Work::default();
            for (group, part) in counter.work(op) {
                work += part;
                match groups.iter_mut().find(|(one, _)| *one == group) {
                    Some((_, all)) => *all += part,
                    None => groups.push((group, part)),
                }
            }
            let line = print::line(plan, op);
            ops.push(OpReport { line, work });
        }
        steps.push((step.formula.clone(), ops));
    }
    groups.retain(|(_, work)| *work != Work::default());
    groups.sort_by_key(|(group, _)| *group);
    PhaseReport {
        phase: plan.phase,
        form: plan.form,
        reason: plan.form_reason.clone(),
        lengths: lengths(None),
        parts: plan.form.is_none().then(|| forms.map(lengths)),
        expansion: Expansion::of(program, plan),
        steps,
        groups,
    }
}
