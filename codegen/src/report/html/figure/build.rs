//! From a plan to its picture.

use std::collections::BTreeMap;

use super::super::super::passes::Change;
use super::super::super::work::{Counter, Group, Work, is_view};
use super::op::boxed;
use super::{Box, Chip, ChipKind, Figure, Kind, Line, Part, Passed, function};
use crate::plan::cost::Lengths;
use crate::plan::{Adjoint, CacheContent, CachePlan, Op, Plan, Program, Step, Ty, print};

/// A plan, and what is known of it besides.
pub(in super::super) struct Source<'a> {
    pub(in super::super) program: &'a Program,
    pub(in super::super) plan: &'a Plan,
    /// What passes changed, in all phases.
    pub(in super::super) changes: &'a [Change],
    /// Which part of training it is; `None` elsewhere.
    pub(in super::super) training: Option<Half>,
}

/// A function of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Half {
    /// `forward_train`.
    Forward,
    /// `backward`.
    Backward,
}

/// The picture of a plan.
pub(in super::super) fn figure(source: &Source) -> Figure {
    let mut builder = Builder::new(source);
    let mut at = 0;
    for step in &source.plan.steps {
        builder.step(step, &mut at);
    }
    builder.returned();
    Figure {
        name: match source.training {
            Some(Half::Backward) => "backward",
            _ => function(source.plan.phase),
        },
        parts: builder.parts,
        values: builder.values,
        total: builder.total,
        groups: builder.groups.into_iter().collect(),
    }
}

/// Caches that a function may have to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    /// Keys and values, or what they are made of.
    Own,
    /// An indexer's keys.
    Index,
    /// Another layer's.
    Source,
}

struct Builder<'a> {
    source: &'a Source<'a>,
    parts: Vec<Part>,
    values: Vec<Passed>,
    total: Work,
    groups: BTreeMap<Group, Work>,
    /// What each cache holds so far, as a value.
    caches: Vec<(Cache, usize)>,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Source<'a>) -> Self {
        let saved: Vec<usize> = source.plan.ops().flat_map(saved).collect();
        let values = source
            .plan
            .values
            .iter()
            .enumerate()
            .map(|(id, value)| Passed {
                name: value.name.to_string(),
                kind: match value.ty {
                    _ if saved.contains(&id) => Line::Saved,
                    Ty::Angles(_) | Ty::Segments | Ty::Forms => Line::Guide,
                    _ => Line::Data,
                },
            });
        Self {
            source,
            parts: Vec::new(),
            values: values.collect(),
            total: Work::default(),
            groups: BTreeMap::new(),
            caches: Vec::new(),
        }
    }

    /// A step without mathematics is what the function is given, each op by itself.
    fn step(&mut self, step: &Step, at: &mut usize) {
        let Source { program, plan, .. } = *self.source;
        let lengths = Lengths::of_part(&program.build.expect, plan.phase, step.part);
        let counter = Counter::new(program, plan, lengths);
        let mut part = self.continued(step).unwrap_or_else(|| headed(step));
        let mut groups: Vec<(Group, u128)> = Vec::new();
        let mut written = Vec::new();
        for op in &step.ops {
            let (mut one, group) = boxed(program, plan, &counter, *at, op);
            for (group, work) in counter
                .work(op)
                .into_iter()
                .filter(|(_, work)| *work != Work::default())
            {
                *self.groups.entry(group).or_default() += work;
            }
            *at += 1;
            self.total += one.work;
            part.work += one.work;
            groups.push((group, one.work.flops.max(one.work.bytes)));
            self.remark(op, &mut one);
            if let Some(cache) = read(op) {
                // Who attends to another layer's latents has none of its own
                let is_other = program.source.is_some() && cache == Cache::Own;
                let held = self.held(if is_other { Cache::Source } else { cache });
                one.reads.push(held);
            }
            if let Some(cache) = write(op) {
                let filled = self.passed("cache");
                one.makes.push(filled);
                written.push((cache, filled));
            }
            match op {
                Op::Adjoint(Adjoint::Drop { .. }) => part.frees.push(one),
                _ => part.boxes.push(one),
            }
            if part.kind == Kind::Given {
                self.parts.push(part);
                part = headed(step);
            }
        }
        if part.kind == Kind::Step {
            let largest = groups.iter().max_by_key(|(_, size)| *size);
            part.group = part.group.or(largest.map(|(group, _)| *group));
            self.parts.push(part);
        }
        for (cache, filled) in written {
            let made = self.store(cache, vec![filled], "with the new tokens");
            self.caches.retain(|(known, _)| *known != cache);
            self.caches.push((cache, made));
        }
    }

    /// The last part, taken back, where a step without mathematics goes on with what that has made.
    fn continued(&mut self, step: &Step) -> Option<Part> {
        let goes_on = step.ops.iter().any(|op| !op.reads().is_empty());
        let last = self.parts.last()?;
        let is_same = last.kind == Kind::Step && last.requests == step.part;
        if step.formula.is_empty() && goes_on && is_same {
            return self.parts.pop();
        }
        None
    }

    /// What passes, training and a batch in two forms have to say about an op.
    fn remark(&self, op: &Op, one: &mut Box) {
        let Source {
            plan,
            changes,
            training,
            ..
        } = *self.source;
        let name = print::name(op);
        // The last pass that put such an op there
        let mut put = changes.iter().rev();
        let pass = put.find(|change| change.phase == plan.phase && change.new.contains(&name));
        if let Some(change) = pass.filter(|_| training.is_none()) {
            one.chips
                .push(Chip::new(ChipKind::Pass, format!("by {}", change.pass)));
        }
        match training {
            Some(Half::Forward) => one.chips.extend(self.kept(op)),
            Some(Half::Backward) if is_again(op, one) => {
                one.chips.push(Chip::new(ChipKind::Again, "computed again"));
            }
            _ => {}
        }
    }

    /// Which of an op's results training keeps.
    fn kept(&self, op: &Op) -> Option<Chip> {
        let Source { program, plan, .. } = *self.source;
        let training = program.training.as_ref()?;
        let made = op.defines();
        let all = plan.outputs.iter().skip(1).zip(&training.kept);
        let own: Vec<&crate::plan::Kept> = all
            .filter(|(id, _)| made.contains(id))
            .map(|(_, kept)| kept)
            .collect();
        let names: Vec<&str> = own.iter().map(|kept| kept.name.as_str()).collect();
        let place = match own.iter().any(|kept| kept.offloaded) {
            true => " on the host",
            false => "",
        };
        (!own.is_empty()).then(|| match made.len() {
            1 => Chip::new(ChipKind::Kept, format!("kept{place}")),
            _ => Chip::new(ChipKind::Kept, format!("kept{place}: {}", names.join(", "))),
        })
    }

    /// What a cache holds at this point.
    fn held(&mut self, cache: Cache) -> usize {
        let known = self.caches.iter().find(|(known, _)| *known == cache);
        if let Some((_, held)) = known {
            return *held;
        }
        let held = self.store(cache, Vec::new(), "past tokens");
        self.caches.push((cache, held));
        held
    }

    /// A cache's box; answers what stands for what it holds.
    fn store(&mut self, cache: Cache, reads: Vec<usize>, state: &str) -> usize {
        let program = self.source.program;
        let plan = match cache {
            Cache::Source => program.source.as_ref(),
            Cache::Own | Cache::Index => program.cache.as_ref(),
        };
        let made = self.passed("cache");
        let title = match cache {
            Cache::Own => "cache",
            Cache::Index => "indexer's cache",
            Cache::Source => "another layer's cache",
        };
        let texts = plan.map_or_else(Vec::new, |plan| formats(cache, plan));
        let one = Box {
            op: None,
            title: title.to_owned(),
            about: Some(state.to_owned()),
            results: Vec::new(),
            chips: texts
                .into_iter()
                .map(|text| Chip::new(ChipKind::Layout, text))
                .collect(),
            makes: vec![made],
            reads,
            is_view: false,
            work: Work::default(),
            line: title.to_owned(),
            key: title.to_owned(),
        };
        self.parts.push(alone(Kind::Store, one));
        made
    }

    fn passed(&mut self, name: &str) -> usize {
        self.values.push(Passed {
            name: name.to_owned(),
            kind: Line::Store,
        });
        self.values.len() - 1
    }

    /// What the function returns; what training keeps is said where it is made.
    fn returned(&mut self) {
        let plan = self.source.plan;
        let count = match self.source.training {
            Some(Half::Backward) => plan.outputs.len(),
            _ => 1,
        };
        let outputs = plan.outputs.iter().take(count);
        let outputs: Vec<usize> = outputs.map(|id| id.0).collect();
        if outputs.is_empty() {
            return;
        }
        let names: Vec<&str> = outputs.iter().map(|id| &*plan.values[*id].name).collect();
        let one = Box {
            op: None,
            title: "return".to_owned(),
            about: Some(names.join(", ")),
            results: Vec::new(),
            chips: Vec::new(),
            makes: Vec::new(),
            reads: outputs,
            is_view: false,
            work: Work::default(),
            line: "return".to_owned(),
            key: "return".to_owned(),
        };
        self.parts.push(alone(Kind::Returned, one));
    }
}

fn alone(kind: Kind, one: Box) -> Part {
    Part {
        kind,
        title: String::new(),
        requests: None,
        formula: Vec::new(),
        group: None,
        work: Work::default(),
        boxes: vec![one],
        frees: Vec::new(),
    }
}

/// A part under a step's mathematics: what stands before the first colon is its title, and where there is none it has only formulas.
fn headed(step: &Step) -> Part {
    let words = step.formula.replace('`', "");
    let (title, formula) = match words.split_once(": ") {
        Some(parts) => parts,
        None if words.contains('=') => ("", words.as_str()),
        None => (words.as_str(), ""),
    };
    let clauses = formula.split(";  ").map(str::trim);
    Part {
        kind: if step.formula.is_empty() {
            Kind::Given
        } else {
            Kind::Step
        },
        title: title.to_owned(),
        requests: step.part,
        formula: clauses
            .filter(|clause| !clause.is_empty())
            .map(str::to_owned)
            .collect(),
        group: None,
        work: Work::default(),
        boxes: Vec::new(),
        frees: Vec::new(),
    }
}

/// The values that a backward pass is given by the forward pass.
fn saved(op: &Op) -> Vec<usize> {
    match op {
        Op::Adjoint(Adjoint::Saved { out } | Adjoint::Deferred { out }) => {
            out.iter().map(|id| id.0).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a backward pass repeats what the forward pass did: it is no gradient's op, moves something, and makes no gradient.
fn is_again(op: &Op, one: &Box) -> bool {
    let makes_gradient = one.results.iter().any(|made| made.name.starts_with("d_"));
    !matches!(op, Op::Adjoint(_)) && !is_view(op) && !makes_gradient && !one.results.is_empty()
}

/// The cache that an op reads.
fn read(op: &Op) -> Option<Cache> {
    match op {
        Op::AttendContext { .. }
        | Op::AttendLatentCache { .. }
        | Op::AttendNaiveCache { .. }
        | Op::AttendGroupCache { .. }
        | Op::FlashDecode { .. } => Some(Cache::Own),
        Op::SelectCached { .. } => Some(Cache::Index),
        Op::TakeKv {
            from: crate::plan::Handed::Cached,
            ..
        } => Some(Cache::Source),
        _ => None,
    }
}

/// The cache that an op writes.
fn write(op: &Op) -> Option<Cache> {
    match op {
        Op::WriteLatent { .. }
        | Op::WriteNaive { .. }
        | Op::WriteGroups { .. }
        | Op::FlashDecode { .. } => Some(Cache::Own),
        Op::WriteIndex { .. } => Some(Cache::Index),
        _ => None,
    }
}

/// How a cache stores what.
fn formats(cache: Cache, plan: &CachePlan) -> Vec<String> {
    let own = CachePlan {
        index: None,
        ..plan.clone()
    };
    let index = CachePlan {
        content: CacheContent::Index,
        ..plan.clone()
    };
    let text = match cache {
        Cache::Own | Cache::Source => print::stored(&own),
        Cache::Index => print::stored(&index),
    };
    text.split(", ").map(str::to_owned).collect()
}
