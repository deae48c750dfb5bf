//! What a page says of one function: its drawing, its numbers, its roofline; of one layer, or of two side by side.

use mla_spec::{Phase, Target};
use serde::Serialize;

use super::draw::{Drawing, drawing};
use super::figure::{Figure, Half, Source, figure};
use super::layer::Layer;
use super::measured::Measured;
use super::roofline::{Floor, Plot, plot};
use super::table::{Entry, Table, Value, table};
use super::{LETTERS, compare};
use crate::plan::cost::{Lengths, microseconds};
use crate::plan::machine::{H200, Machine, time};
use crate::plan::{Plan, Program, print};
use crate::report::text::{grouped, readable};
use crate::report::work::{Group, Work};

/// A function of the layers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Section {
    pub(super) id: String,
    pub(super) title: String,
    sides: Vec<Side>,
    tables: Vec<Table>,
}

/// One layer's.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Side {
    letter: &'static str,
    name: String,
    /// How attention is written, and why; empty where the layer has no such function.
    form: String,
    lengths: String,
    drawing: Option<Drawing>,
    plot: Option<Plot>,
    ops: Option<Table>,
}

/// Which function a section is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Of(Phase),
    Backward,
}

impl Function {
    /// All of them, in the order of a page.
    pub(super) const ALL: [Self; 6] = [
        Self::Of(Phase::Forward),
        Self::Of(Phase::Prefill),
        Self::Of(Phase::Decode),
        Self::Of(Phase::Mixed),
        Self::Of(Phase::Train),
        Self::Backward,
    ];

    /// The phase that it belongs to.
    pub(super) fn phase(self) -> Phase {
        match self {
            Self::Of(phase) => phase,
            Self::Backward => Phase::Train,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Of(Phase::Forward) => "Forward",
            Self::Of(Phase::Prefill) => "Prefill",
            Self::Of(Phase::Decode) => "Decode",
            Self::Of(Phase::Mixed) => "Mixed",
            Self::Of(Phase::Train) => "Training, forward",
            Self::Backward => "Training, backward",
        }
    }

    fn id(self) -> &'static str {
        match self {
            Self::Of(Phase::Train) => "train",
            Self::Of(phase) => print::phase(phase),
            Self::Backward => "backward",
        }
    }

    fn plan(self, program: &Program) -> Option<&Plan> {
        let training = program.training.as_ref();
        match self {
            Self::Backward => training.map(|training| &training.backward),
            Self::Of(Phase::Train) => training.map(|training| &training.forward),
            Self::Of(phase) => program.plans.iter().find(|plan| plan.phase == phase),
        }
    }

    fn half(self) -> Option<Half> {
        match self {
            Self::Backward => Some(Half::Backward),
            Self::Of(Phase::Train) => Some(Half::Forward),
            Self::Of(_) => None,
        }
    }
}

/// The section of a function; `None` where no layer has it.
pub(super) fn section(layers: &[Layer], function: Function) -> Option<Section> {
    let mut figures: Vec<Option<Figure>> = layers
        .iter()
        .map(|layer| pictured(layer, &layer.program, function))
        .collect();
    if figures.iter().all(Option::is_none) {
        return None;
    }
    if let [Some(one), Some(other)] = &mut figures[..] {
        compare::mark(one, other);
    }
    let sides = layers.iter().zip(&figures).zip(LETTERS);
    let sides = sides.map(|((layer, figure), letter)| {
        side(layer, figure.as_ref(), function, letter, layers.len() > 1)
    });
    let groups = groups(layers, &figures, function);
    Some(Section {
        id: function.id().to_owned(),
        title: function.title().to_owned(),
        sides: sides.collect(),
        tables: vec![groups],
    })
}

fn pictured(layer: &Layer, program: &Program, function: Function) -> Option<Figure> {
    let plan = function.plan(program)?;
    Some(figure(&Source {
        program,
        plan,
        changes: &layer.report.changes,
        training: function.half(),
    }))
}

fn side(
    layer: &Layer,
    figure: Option<&Figure>,
    function: Function,
    letter: &'static str,
    is_narrow: bool,
) -> Side {
    let id = format!("{}-{}", letter.to_lowercase(), function.id());
    let plan = function.plan(&layer.program);
    let form = plan.filter(|_| function != Function::Backward);
    Side {
        letter,
        name: layer.program.name.clone(),
        form: form.map_or_else(String::new, |plan| {
            capitalised(&print::choice(plan.form, &plan.form_reason))
        }),
        lengths: plan.map_or_else(String::new, |plan| at(layer, plan)),
        drawing: figure.map(|figure| drawing(figure, &id, is_narrow)),
        plot: figure.map(|figure| roofline(layer, function, figure.name, &id)),
        ops: figure.map(|figure| ops(figure, &id)),
    }
}

/// `1 new token that meets 4 097`.
fn at(layer: &Layer, plan: &Plan) -> String {
    let expect = &layer.program.build.expect;
    let of = |lengths: Lengths| {
        let tokens = match lengths.new {
            1 => "new token that meets",
            _ => "new tokens that meet",
        };
        format!(
            "{} {tokens} {}",
            grouped(lengths.new.into()),
            grouped(lengths.met.into())
        )
    };
    let part = |form| Lengths::of_part(expect, plan.phase, form);
    match plan.phase {
        Phase::Mixed => format!(
            "two requests: {} in the expanded form, {} in the absorbed one",
            of(part(Some(mla_spec::Form::Mha))),
            of(part(Some(mla_spec::Form::Mqa)))
        ),
        _ => format!("one request: {}", of(part(None))),
    }
}

/// What each group of a function's ops does.
fn groups(layers: &[Layer], figures: &[Option<Figure>], function: Function) -> Table {
    let two = layers.len() == 2;
    let rows = layers.iter().zip(figures).map(|(layer, figure)| {
        let Some(figure) = figure else {
            return Vec::new();
        };
        let floors = floors(layer, function);
        let line = |name: &str, work: Work, seconds: f64, roof: &str| {
            let mut cells = vec![
                Value::Number(readable(work.flops, "FLOP")),
                Value::Share(work.flops, figure.total.flops),
                Value::Number(readable(work.bytes, "B")),
                Value::Share(work.bytes, figure.total.bytes),
                Value::Number(format!("{:.2}", work.intensity())),
                Value::Number(microseconds(seconds)),
                Value::Words(roof.to_owned()),
            ];
            if two {
                cells = [0, 2, 5].map(|at| cells[at].clone()).to_vec();
            }
            Entry::new(name, cells, Some(work.flops.max(work.bytes) as f64))
        };
        let floor = |group: Group| floors.iter().find(|floor| floor.0 == group);
        let mut rows: Vec<Entry> = figure
            .groups
            .iter()
            .map(|(group, work)| {
                let (roof, seconds) =
                    floor(*group).map_or(("", 0.0), |floor| (floor.2.name(), floor.3));
                line(group.name(), *work, seconds, roof)
            })
            .collect();
        let seconds = floors.iter().map(|floor| floor.3).sum();
        rows.push(line("total", figure.total, seconds, "").total());
        rows
    });
    let columns: &[&str] = match two {
        true => &["FLOP", "bytes", "floor"],
        false => &["FLOP", "", "bytes", " ", "FLOP/B", "floor", "bound by"],
    };
    let note = format!(
        "FLOPs are those of products, bytes what can't be avoided. The floor is the least time on an {} in bf16, group after group.",
        machine(&layers[0]).name
    );
    table("Work by group", "group", columns, rows.collect(), note)
}

/// The device that a layer's functions are held against: its target, or the one that was measured.
fn machine(layer: &Layer) -> &'static Machine {
    let targets = layer.checked.build.targets.iter();
    let mut machines = targets.filter_map(|target: &Target| Machine::of(*target));
    machines.next().unwrap_or(&H200)
}

/// Each group's work in bf16, the roof that binds it, and its least time.
fn floors(layer: &Layer, function: Function) -> Vec<Floor> {
    let machine = machine(layer);
    let Some(figure) = pictured(layer, &layer.in_bf16, function) else {
        return Vec::new();
    };
    let phase = function.phase();
    let known = layer.floors.iter().find(|floor| floor.phase == phase);
    let known = known.filter(|_| function.half().is_none());
    let of = |(group, counted): &(Group, Work)| {
        let found = known.and_then(|floor| floor.groups.iter().find(|(one, ..)| one == group));
        let (roof, seconds) = match found {
            Some((_, roof, seconds)) => (*roof, *seconds),
            // What no model refines: memory and products
            None => time(
                machine,
                &crate::plan::machine::Work {
                    read: counted.bytes as f64,
                    flops: counted.flops as f64,
                    ..Default::default()
                },
            )
            .binding(),
        };
        (*group, *counted, roof, seconds)
    };
    figure.groups.iter().map(of).collect()
}

fn roofline(layer: &Layer, function: Function, name: &str, id: &str) -> Plot {
    let own = layer.measured.iter().filter(|call| {
        call.phase == function.phase() && call.with_backward == (function == Function::Backward)
    });
    let measured: Vec<&Measured> = own.collect();
    let floors = floors(layer, function);
    plot(
        &format!("{id}-roofline"),
        name,
        machine(layer),
        &floors,
        &measured,
    )
}

/// Every op, as the plan's own lines with what each does.
fn ops(figure: &Figure, id: &str) -> Table {
    let number = |amount: u128, unit: &str| {
        Value::Number(match amount {
            0 => "–".to_owned(),
            amount => readable(amount, unit),
        })
    };
    let rows = figure.ops().into_iter().filter_map(|one| {
        let op = one.op?;
        let chips: Vec<&str> = one.chips.iter().map(|chip| chip.text.as_str()).collect();
        let cells = vec![
            number(one.work.flops, "FLOP"),
            number(one.work.bytes, "B"),
            Value::Words(chips.join("; ")),
        ];
        // The number tells equal lines apart
        let mut entry = Entry::new(format!("{}. {}", op + 1, one.line), cells, None);
        entry.id = format!("{id}-row{op}");
        entry.href = format!("{id}-op{op}");
        Some(entry)
    });
    let caption = format!("Every op of {}, in order", figure.name);
    table(
        caption,
        "op",
        &["FLOP", "bytes", "notes"],
        vec![rows.collect()],
        "",
    )
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters).collect(),
        None => String::new(),
    }
}
