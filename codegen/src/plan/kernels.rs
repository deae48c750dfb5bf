//! Which kernels a layer asks of a GPU: bodies of `kernels/`, and the sizes that they are made for.
//!
//! The runtime asks by the same names and sizes. A layer of every option of the language is run with these kernels and no others
//! in `tests/tests/language.rs`.

mod attention;
mod products;

use std::collections::BTreeSet;

use mla_spec::{CacheDType, DType, IndexStore, Latent, RopeLayout, ScaleFormat, Store, Target};

use super::absorbed::Codes;
use super::logits::{self, Operands};
use super::prologue;
use super::{Adjoint, IndexCachePlan, Module, ModuleKind, Op, Plan, Program, Turned, Ty, ValueId};

/// A body, and the sizes it is made for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelUnit {
    /// The body.
    pub unit: &'static str,
    /// The sizes, in the body's order.
    pub dims: Vec<usize>,
}

/// Bodies that any layer asks for, whatever its sizes.
const ALWAYS: [&str; 4] = ["copy", "entries", "pointwise", "product"];
/// Bodies that any trained layer asks for.
const TRAINED: [&str; 2] = ["gradients", "parameters"];

/// What a layer's functions ask for.
pub fn kernels(program: &Program) -> Vec<KernelUnit> {
    let mut needs = Needs {
        program,
        units: BTreeSet::new(),
    };
    ALWAYS.iter().for_each(|unit| needs.add(unit, &[]));
    needs.norms();
    needs.fp8_weights();
    needs.indexer();
    needs.stores();
    for plan in &program.plans {
        needs.plan(plan);
        needs.units.extend(prologue::unit(program, plan));
    }
    if let Some(training) = &program.training {
        TRAINED.iter().for_each(|unit| needs.add(unit, &[]));
        needs.plan(&training.forward);
        needs.plan(&training.backward);
    }
    needs.units.into_iter().collect()
}

/// What single operations of a library ask for: attention over cached latents and over rows of keys and values, and the gradients of the
/// latter, where the layer has latents, an indexer's logits, where it has one, and the choice of the best scores. They come for all the layer's heads and for the half, fourth and eighth of them that
/// a rank of a parallel model has.
pub fn operation_kernels(program: &Program, latent: Option<&Latent>) -> Vec<KernelUnit> {
    const RANKS: [u32; 4] = [1, 2, 4, 8];
    let mut needs = Needs {
        program,
        units: BTreeSet::new(),
    };
    ALWAYS.iter().for_each(|unit| needs.add(unit, &[]));
    needs.choice();
    if let Some(indexer) = &program.indexer {
        let sizes = [indexer.heads.size, indexer.head_dim.size].map(|size| size as usize);
        needs.logits(sizes, Operands::Codes);
        needs.logits(sizes, Operands::Numbers);
    }
    if let Some(Latent { dims, .. }) = latent {
        let all = dims.num_attention_heads;
        for heads in RANKS
            .iter()
            .filter(|&ranks| all % ranks == 0)
            .map(|ranks| all / ranks)
        {
            let (latent, rope) = (dims.kv_lora_rank, dims.qk_rope_head_dim);
            needs.attention([heads, 1, 1, 1, latent, rope, latent]);
            needs.decoding(heads, latent, rope);
            needs.choosing(heads, latent, rope);
            if program.build.dtype == DType::Bf16 {
                needs.choosing_codes(Codes::DsMla, heads, latent, rope);
                needs.add("fp8_ds_mla", &[latent as usize, rope as usize, 0]);
            }
            let (own, value) = (dims.qk_nope_head_dim, dims.v_head_dim);
            // Rows of one chunk are not told the largest logits, chunks that are merged are
            let asked = [Asked::Output, Asked::All];
            needs.grouped(heads, heads, own + rope, value, Keys::Rows, &asked);
            // The same with keys' rotated part where it lies
            needs.attention([heads, heads, 1, heads, own, rope, value]);
            needs.flash([own, rope, value], Keys::Rows, &asked);
            needs.attention_backward([heads, heads, heads, own + rope, 0, value], None);
            needs.attention_backward([heads, heads, 1, own, rope, value], None);
            needs.flash_backward([own + rope, 0, value]);
            needs.flash_backward([own, rope, value]);
        }
    }
    needs.units.into_iter().collect()
}

/// How keys and values lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// As rows of a tensor.
    Rows,
    /// In the pages of a cache.
    Pages,
}

/// What is asked of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The output, rounded.
    Output,
    /// The log-sum-exp and the largest logits, too.
    All,
}

impl Asked {
    /// What is asked of an op that gives a value of this type.
    fn of(ty: &Ty) -> Self {
        match ty {
            Ty::Attended(..) => Self::All,
            _ => Self::Output,
        }
    }
}

struct Needs<'a> {
    program: &'a Program,
    units: BTreeSet<KernelUnit>,
}

impl Needs<'_> {
    fn add(&mut self, unit: &'static str, dims: &[usize]) {
        self.units.insert(KernelUnit {
            unit,
            dims: dims.to_vec(),
        });
    }

    /// Those of modules, whichever op uses them.
    fn norms(&mut self) {
        for module in &self.program.modules {
            let width = match &module.kind {
                ModuleKind::Norm(norm) | ModuleKind::NormLinear(norm, _) => norm.width,
                _ => continue,
            };
            self.norm(width.size);
        }
    }

    fn norm(&mut self, width: u32) {
        self.add("norm", &[width as usize]);
        if self.program.training.is_some() {
            self.add("norm_backward", &[width as usize]);
        }
    }

    fn plan(&mut self, plan: &Plan) {
        for op in plan.ops() {
            self.op(plan, op);
        }
    }

    fn op(&mut self, plan: &Plan, op: &Op) {
        let width = |id: &ValueId| width(&plan.values[id.0].ty);
        let asked = |id: &ValueId| Asked::of(&plan.values[id.0].ty);
        match op {
            Op::L2Norm { x, .. } => self.norm(width(x)),
            Op::Linear { x, out, slot, .. } if !self.is_fp8(slot) => {
                self.few_rows([width(out), width(x)]);
            }
            Op::AbsorbQueries { q_nope, out, .. } => {
                self.few_heads([width(q_nope), width(out)], true);
            }
            Op::AbsorbValues { z, out, .. } => self.few_heads([width(z), width(out)], false),
            Op::Hadamard { x, .. } => self.add("hadamard", &[width(x) as usize]),
            Op::RotateHeads { x, turn, .. } | Op::RotateRows { x, turn, .. } => {
                self.rotation(width(x), turn.part, turn.indexer, false);
            }
            Op::RotateKey { x, .. } => self.rotation(width(x), Turned::First, false, false),
            Op::AttendExpanded { q, k_rope, out, .. } => {
                self.expanded(plan, [*q, *k_rope, *out], &[asked(out)]);
            }
            // Of one chunk that is asked, of several everything
            Op::AttendContext { q, k_rope, out, .. } => {
                self.expanded(plan, [*q, *k_rope, *out], &[asked(out), Asked::All]);
            }
            Op::AttendAbsorbed {
                q_latent,
                q_rope,
                selection,
                ..
            }
            | Op::AttendLatentCache {
                q_latent,
                q_rope,
                selection,
                ..
            } => self.absorbed(plan, *q_latent, width(q_rope), selection.is_some()),
            Op::AttendNaiveCache { q, out, .. } => {
                let heads = heads(&plan.values[q.0].ty);
                let (key, value) = (width(q), width(out));
                self.grouped(heads, heads, key, value, Keys::Pages, &[asked(out)]);
            }
            Op::AttendGroups { q, out, .. } => {
                self.groups(plan, *q, *out, Keys::Rows);
            }
            Op::AttendGroupCache { q, out } => {
                self.groups(plan, *q, *out, Keys::Pages);
            }
            Op::FlashDecode { q, k, out, .. } => {
                self.groups(plan, *q, *out, Keys::Pages);
                self.rotation(width(q), Turned::First, false, false);
                self.rotation(width(k), Turned::First, false, false);
            }
            Op::Adjoint(adjoint) => self.adjoint(plan, adjoint),
            _ => {}
        }
    }

    /// Whether the layer computes in bf16, and caches what it computes.
    fn in_bf16(&self) -> bool {
        let build = &self.program.build;
        build.dtype == DType::Bf16 && build.cache.store == Store::Plain(CacheDType::Bf16)
    }

    /// The codes that a layer caches, where it computes in bf16 and there are kernels that read them.
    fn codes_in_bf16(&self) -> Option<Codes> {
        let build = &self.program.build;
        Codes::of(build.cache.store).filter(|_| build.dtype == DType::Bf16)
    }

    /// Whether nothing stands between logits and probabilities but a scale.
    fn is_plain_softmax(&self) -> bool {
        self.program.softmax.soft_cap.is_none() && !self.program.softmax.bias
    }

    /// Whether the layer's targets leave room for Hopper: those without any GPU say nothing of which it will be.
    fn may_be_on_hopper(&self) -> bool {
        let targets = &self.program.build.targets;
        targets.contains(&Target::Sm90a) || !targets.iter().any(|target| target.is_gpu())
    }

    /// Formats of caches that are no number types.
    fn stores(&mut self) {
        for cache in [&self.program.cache, &self.program.source]
            .into_iter()
            .flatten()
        {
            let count = |elements: u64| usize::try_from(elements).unwrap_or(usize::MAX);
            let rope = count(cache.rope_elements);
            let both = [count(cache.elements_per_token).saturating_sub(rope), rope];
            match cache.store {
                Store::Plain(_) => {}
                Store::Fp8(_) => self.add("fp8_flat", &both),
                Store::Fp8DsMla(scale) => {
                    self.add("fp8_ds_mla", &[both[0], both[1], power_of_two(scale)]);
                }
                Store::Model1 => self.add("fp8_model1", &both),
                Store::Mxfp8 => self.add("mxfp8", &both),
            }
            let Some(index) = cache.index else { continue };
            let width = index.width.size as usize;
            match index.store {
                IndexStore::Plain(_) => {}
                IndexStore::Fp8(scale) => self.add("index_fp8", &[width, power_of_two(scale)]),
                IndexStore::Mxfp4 => self.add("index_mxfp4", &[width]),
            }
        }
    }

    fn indexer(&mut self) {
        let Some(indexer) = &self.program.indexer else {
            return;
        };
        let sizes = [indexer.heads.size, indexer.head_dim.size].map(|size| size as usize);
        self.add("index_scores", &sizes);
        if self.program.build.dtype == DType::Bf16 && indexer.relu {
            self.logits(sizes, Operands::Numbers);
            if let Some(index) = self.coded_keys() {
                let operands = match index.rounds_queries {
                    true => Operands::Codes,
                    false => Operands::Mixed,
                };
                self.logits(sizes, operands);
            }
        }
        self.choice();
        if indexer.pool.is_some() {
            self.add("pool_keys", &[]);
        }
        if indexer.loss.is_some() {
            self.add("index_target", &[]);
            self.add("index_spread", &sizes);
            self.add("choosers", &[]);
        }
    }

    /// The choice of the best scores, of many rows and of few.
    fn choice(&mut self) {
        self.add("topk", &[]);
        self.add("topk_few", &[]);
    }

    /// An indexer's logits with Hopper's tensor cores.
    fn logits(&mut self, sizes: [usize; 2], operands: Operands) {
        if self.may_be_on_hopper() && logits::takes(sizes) {
            self.units.extend(logits::units(sizes, operands));
        }
    }

    /// The indexer's keys, where they are cached in codes of e4m3.
    fn coded_keys(&self) -> Option<IndexCachePlan> {
        let index = self.program.cache.as_ref()?.index?;
        matches!(index.store, IndexStore::Fp8(_)).then_some(index)
    }

    fn adjoint(&mut self, plan: &Plan, adjoint: &Adjoint) {
        let width = |id: &ValueId| width(&plan.values[id.0].ty);
        match adjoint {
            Adjoint::RotateHeads { dy, turn, .. } | Adjoint::RotateRows { dy, turn, .. } => {
                self.rotation(width(dy), turn.part, turn.indexer, true);
            }
            Adjoint::RotateKey { dy, .. } => self.rotation(width(dy), Turned::First, false, true),
            Adjoint::Expanded {
                q, k_rope, over, ..
            } => {
                let ty = &plan.values[q.0].ty;
                let (heads, rope, value) = (heads(ty), width(k_rope), width(&over.dy));
                let key = self::width(ty).saturating_sub(rope);
                self.attention_backward([heads, heads, 1, key, rope, value], over.selection);
                if over.selection.is_none() {
                    self.flash_backward([key, rope, value]);
                }
            }
            Adjoint::Absorbed {
                q_latent,
                q_rope,
                over,
                ..
            } => {
                let ty = &plan.values[q_latent.0].ty;
                let latent = self::width(ty);
                let sizes = [heads(ty), 1, 1, latent, width(q_rope), latent];
                self.attention_backward(sizes, over.selection);
            }
            Adjoint::Groups { q, over, .. } => {
                let groups = self.program.groups().size;
                let heads = heads(&plan.values[q.0].ty);
                let (key, value) = (width(q), width(&over.dy));
                let sizes = [heads, groups, groups, key, 0, value];
                self.attention_backward(sizes, over.selection);
                if over.selection.is_none() {
                    self.flash_backward([key, 0, value]);
                }
            }
            _ => {}
        }
    }

    /// Rotations of a part of heads that are `width` wide.
    fn rotation(&mut self, width: u32, part: Turned, indexer: bool, backward: bool) {
        let Some(table) = &self.program.rotary else {
            return;
        };
        let own = self.program.indexer.as_ref().and_then(|plan| plan.rope);
        let (input, output) = match own.filter(|_| indexer) {
            Some(rope) => (rope.layout, rope.layout),
            None => (table.input, table.output),
        };
        let (input, output) = if backward {
            (output, input)
        } else {
            (input, output)
        };
        let rotated = table.width.size;
        let start = match part {
            Turned::First => 0,
            Turned::Last => width.saturating_sub(rotated),
        };
        let half = |layout| usize::from(layout == RopeLayout::Half);
        let sizes = [width, start, rotated / 2].map(|size| size as usize);
        self.add(
            "rotate",
            &[&sizes[..], &[half(input), half(output)]].concat(),
        );
    }
}

fn power_of_two(scale: ScaleFormat) -> usize {
    usize::from(scale == ScaleFormat::PowerOfTwo)
}

/// The heads of a value; 1 where it has none.
fn heads(ty: &Ty) -> u32 {
    match ty {
        Ty::Heads(heads, _) | Ty::HeadPart(heads, _) | Ty::Attended(heads, _) => heads.size,
        _ => 1,
    }
}

/// The last axis of a value.
pub(super) fn width(ty: &Ty) -> u32 {
    match ty {
        Ty::Rows(dim)
        | Ty::Columns(dim)
        | Ty::Heads(_, dim)
        | Ty::HeadPart(_, dim)
        | Ty::Attended(_, dim)
        | Ty::RopeKey(dim, _) => dim.size,
        _ => 0,
    }
}
