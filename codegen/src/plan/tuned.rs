//! Kernels of absorbed attention that were measured: which are worth it, what a table says of them, and what a layer brings along for it.
//!
//! The model of `absorbed` knows what kernels move and multiply, not how well they do it. Where it sees them close to each other, a GPU decides.

use std::collections::BTreeSet;

use mla_tuned::{Line, Shape, Situation, Table, tables};

use super::absorbed::{Absorbed, absorbed_kernel};
use super::machine::{Machine, time};

/// How much longer than with the best kernel a tile may take by the model for a kernel to be measured: it is wrong by less.
const WORTH: f64 = 1.5;

/// Kernels of a shape that are measured, at most: each in two situations makes six measurements.
const MOST: usize = 3;

/// What is worth measuring of a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// The model's choice.
    pub model: Absorbed,
    /// Kernels to measure, the model's among them, from few rows to many. Some have blocks of fewer rows than a request: several of them then
    /// share its keys.
    pub kernels: Vec<Absorbed>,
}

/// The kernels that are worth measuring for a shape; `None` where there are none for its widths.
pub fn candidates(machine: &Machine, shape: &Shape) -> Option<Candidates> {
    let (latent, rope) = (shape.latent, shape.rope);
    let model = absorbed_kernel(machine, shape.rows(), latent, rope)?.kernel;
    let with_time = |kernel: &Absorbed| {
        let tile = kernel.tile(shape.rows(), latent.into(), rope.into());
        let (_, seconds) = time(machine, &tile).binding();
        (*kernel, seconds)
    };
    let mut timed: Vec<_> = Absorbed::of_latent(latent).iter().map(with_time).collect();
    // The model's comes first: it is what others are compared with
    timed.sort_by(|(one, seconds), (other, others)| {
        let is_other = |kernel: &Absorbed| *kernel != model;
        let model_first = is_other(one).cmp(&is_other(other));
        model_first.then(seconds.total_cmp(others))
    });
    let best = timed
        .iter()
        .fold(f64::INFINITY, |best, (_, seconds)| best.min(*seconds));
    let mut kernels: Vec<Absorbed> = timed
        .into_iter()
        .filter(|(kernel, seconds)| {
            *kernel == model || *seconds <= best * WORTH && has_registers(kernel, shape.heads)
        })
        .map(|(kernel, _)| kernel)
        .take(MOST)
        .collect();
    kernels.sort_by_key(|kernel| kernel.rows);
    Some(Candidates { model, kernels })
}

/// Whether a kernel keeps all that it needs in registers. The narrow one with 32 rows and more heads than that does not, by two of them.
fn has_registers(kernel: &Absorbed, heads: u32) -> bool {
    kernel.unit != "decode_narrow" || kernel.rows != 32 || heads <= 32
}

/// The kernels that a layer of these sizes may be run with: those with room for a query's heads, and any that a table chooses.
pub fn brought_along(heads: u32, latent: u32, rope: u32) -> Vec<Absorbed> {
    brought_along_for(tables(), heads, latent, rope)
}

fn brought_along_for(
    tables: impl Iterator<Item = Table>,
    heads: u32,
    latent: u32,
    rope: u32,
) -> Vec<Absorbed> {
    let with_room = Absorbed::with_room_for(heads, latent);
    let mut rows: BTreeSet<u32> = with_room.map(|one| one.rows).collect();
    for table in tables {
        let own = table
            .lines()
            .filter(|(shape, _)| (shape.heads, shape.latent, shape.rope) == (heads, latent, rope));
        rows.extend(own.map(|(_, line)| line.chosen()));
    }
    let of_table = |kernel: &Absorbed| rows.contains(&kernel.rows);
    let all = Absorbed::of_latent(latent).iter().copied();
    all.filter(of_table).collect()
}

/// A kernel that runs in place of the model's, since it was measured to be faster.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The kernel.
    pub kernel: Absorbed,
    /// The GPU on which.
    pub gpu: String,
    /// The digest of the kernels with which: those of another one may be faster or slower now.
    pub kernels: String,
    /// What was measured.
    pub line: Line,
}

/// What a GPU's table has instead of the model's choice for a shape; `None` where it agrees, or does not know.
pub fn measured(gpu: &str, shape: &Shape) -> Option<Measured> {
    measured_in(&Table::of_gpu(gpu)?, shape)
}

fn measured_in(table: &Table, shape: &Shape) -> Option<Measured> {
    let line = *table.find(shape).filter(|line| line.overrides())?;
    let chosen = |kernel: &Absorbed| kernel.rows == line.chosen();
    Some(Measured {
        kernel: Absorbed::of_latent(shape.latent)
            .iter()
            .copied()
            .find(chosen)?,
        gpu: table.gpu().to_owned(),
        kernels: table.kernels().to_owned(),
        line,
    })
}

impl Measured {
    /// Why, as a sentence without its end.
    pub fn reason(&self) -> String {
        let Self {
            kernel: Absorbed { unit, rows },
            gpu,
            line,
            ..
        } = self;
        let taken = |situation: &Situation| {
            let [own, model] = [*rows, line.model].map(|rows| match situation.micros(rows) {
                Some(micros) => format!("{micros:.2} us"),
                None => "an unknown time".to_owned(),
            });
            let (requests, length) = (situation.requests(), situation.length());
            format!("{own} for {model} ({requests} x {length} tokens)")
        };
        format!(
            "measured on {gpu}, {unit} of {rows} rows runs in place of the model's of {} rows: it took {}",
            line.model,
            line.situations.each_ref().map(taken).join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::absorbed::ABSORBED;
    use super::super::machine::H200;
    use super::*;

    fn shape(heads: u32, new: u32) -> Shape {
        Shape {
            keys: "bf16",
            heads,
            new,
            latent: 512,
            rope: 64,
        }
    }

    /// The model's rows, and those that are measured.
    fn rows(shape: &Shape) -> (u32, Vec<u32>) {
        let candidates = candidates(&H200, shape).expect("widths that there are kernels for");
        let kernels = candidates.kernels.iter().map(|kernel| kernel.rows);
        (candidates.model.rows, kernels.collect())
    }

    /// 16 heads with two new tokens, where two blocks of 16 rows are faster than the model's one of 32.
    fn table() -> Table {
        let situations = [(128, 300.0), (1, 12.0)].map(|(requests, model)| {
            let mut situation = Situation::new(requests, 8192);
            situation.note(16, model * 0.9);
            situation.note(32, model);
            situation
        });
        let mut table = Table::empty("a GPU", "0123456789abcdef");
        let line = Line {
            model: 32,
            situations,
        };
        table.insert(shape(16, 2), line);
        table
    }

    #[test]
    fn what_the_model_sees_far_behind_is_not_measured() {
        // Memory binds all of them
        assert_eq!(rows(&shape(16, 1)), (16, vec![16, 32, 64]));
        assert_eq!(rows(&shape(16, 2)), (32, vec![16, 32, 64]));
        // Two blocks of 32 rows of one query would spill, of two queries each they don't
        assert_eq!(rows(&shape(64, 1)), (64, vec![64]));
        assert_eq!(rows(&shape(16, 4)), (64, vec![32, 64]));
        // Eight blocks of 16 rows bring each tile to shared memory eight times
        assert_eq!(rows(&shape(128, 1)), (64, vec![64]));
        assert_eq!(rows(&shape(128, 4)), (64, vec![64]));
        // Two warpgroups with half of the latents each have registers for 32 rows of any number of heads
        let deep = |heads| Shape {
            latent: 1024,
            ..shape(heads, 1)
        };
        assert_eq!(rows(&deep(16)), (16, vec![16, 32]));
        assert_eq!(rows(&deep(128)), (32, vec![32]));
        let wrong = Shape {
            latent: 192,
            ..shape(16, 1)
        };
        assert_eq!(candidates(&H200, &wrong), None);
    }

    #[test]
    fn few_are_measured_and_the_models_kernel_is_one_of_them() {
        for heads in [1, 8, 16, 20, 32, 40, 64, 100, 128] {
            for new in [1, 2, 4] {
                let (model, measured) = rows(&shape(heads, new));
                assert!(measured.contains(&model), "{heads} x {new}: {measured:?}");
                assert!((1..=MOST).contains(&measured.len()));
                assert!(measured.is_sorted());
            }
        }
    }

    #[test]
    fn kernels_are_those_that_tables_know() {
        let rows: Vec<u32> = ABSORBED.iter().map(|kernel| kernel.rows).collect();
        assert_eq!(rows, mla_tuned::BLOCKS);
    }

    #[test]
    fn a_layer_brings_along_what_a_table_chooses() {
        let mut table = table();
        let brought = |table: &Table, heads, latent| {
            let kernels = brought_along_for([table.clone()].into_iter(), heads, latent, 64);
            kernels.iter().map(|kernel| kernel.rows).collect::<Vec<_>>()
        };
        assert_eq!(brought(&table, 16, 512), [16, 32, 64]);
        assert_eq!(brought(&table, 32, 512), [32, 64]);
        // Two blocks of 16 rows for the heads of one query
        let line = *table.find(&shape(16, 2)).expect("a line");
        table.insert(shape(32, 1), line);
        assert_eq!(brought(&table, 32, 512), [16, 32, 64]);
        // Several new tokens of one query's heads are many rows
        assert_eq!(brought(&table, 32, 256), [32, 64, 128]);
        assert_eq!(brought(&table, 128, 256), [128]);
        assert_eq!(brought(&table, 128, 512), [64]);
        for table in tables() {
            for (shape, line) in table.lines() {
                let kernels = brought_along(shape.heads, shape.latent, shape.rope);
                let chosen = |kernel: &Absorbed| kernel.rows == line.chosen();
                assert!(kernels.iter().any(chosen), "{shape:?}");
            }
        }
    }

    #[test]
    fn what_overrides_the_model_says_by_how_much() {
        let table = table();
        let measured = measured_in(&table, &shape(16, 2)).expect("an override");
        assert_eq!(measured.kernel, ABSORBED[0]);
        assert_eq!(
            measured.reason(),
            "measured on a GPU, decode_narrow of 16 rows runs in place of the model's of 32 rows: it took \
             270.00 us for 300.00 us (128 x 8192 tokens), 10.80 us for 12.00 us (1 x 8192 tokens)"
        );
        assert_eq!(measured_in(&table, &shape(16, 1)), None);
        // One that agrees with the model is none
        let mut agrees = table.clone();
        let mut line = *table.find(&shape(16, 2)).expect("a line");
        line.model = 16;
        agrees.insert(shape(16, 2), line);
        assert_eq!(measured_in(&agrees, &shape(16, 2)), None);
    }
}
