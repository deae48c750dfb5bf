//! Tables as text.

use std::fmt;

use crate::{BLOCKS, KEYS, Line, Shape, Situation, Table};

/// What stands where a kernel was not measured.
const NOTHING: &str = "-";

/// What a line begins with: the shape, and rows of a block of the model's kernel and of the one that runs.
const SHAPE: [&str; 7] = ["keys", "heads", "new", "latent", "rope", "model", "chosen"];

/// The columns of both situations begin with these.
const SITUATIONS: [&str; 2] = ["many", "one"];

impl Table {
    /// The table of a text.
    ///
    /// # Errors
    /// The text is none; the message says which line is not, and why.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut lines = text
            .lines()
            .enumerate()
            .map(|(i, line)| (i + 1, line))
            .filter(|(_, line)| !line.starts_with('#') && !line.is_empty());
        let mut named = |name: &str| {
            let (number, line) = lines.next().ok_or(format!("no line `{name}`"))?;
            let value = line
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('\t'));
            value.ok_or(format!(
                "line {number}: `{line}` where a line `{name}` is due"
            ))
        };
        let mut table = Self::empty(named("gpu")?, named("kernels")?);
        let (number, header) = lines.next().ok_or("no line that names the columns")?;
        let known = columns();
        if !header.split('\t').eq(known.iter().map(String::as_str)) {
            return Err(format!("line {number}: the columns are not {known:?}"));
        }
        for (number, line) in lines {
            let at = |reason: String| format!("line {number}: {reason}");
            let (shape, line) = read_line(line, &known).map_err(at)?;
            if table.insert(shape, line).is_some() {
                return Err(at("the shape of an earlier line".to_owned()));
            }
        }
        Ok(table)
    }
}

/// What the columns are called; times are microseconds, by the rows of the kernel's blocks.
fn columns() -> Vec<String> {
    let of = |name: &str| {
        let times = BLOCKS.map(|rows| format!("{name}_{rows}"));
        [format!("{name}_requests"), format!("{name}_length")]
            .into_iter()
            .chain(times)
    };
    let shape = SHAPE.into_iter().map(str::to_owned);
    shape.chain(SITUATIONS.into_iter().flat_map(of)).collect()
}

/// The cells of a line, one after the other.
struct Cells<'a> {
    cells: std::iter::Zip<std::slice::Iter<'a, String>, std::str::Split<'a, char>>,
}

impl<'a> Cells<'a> {
    fn next(&mut self) -> Result<(&'a str, &'a str), String> {
        let (name, cell) = self.cells.next().ok_or("too few cells")?;
        Ok((name, cell))
    }

    /// A count, which is never 0.
    fn count(&mut self) -> Result<u32, String> {
        let (name, cell) = self.next()?;
        let count = cell.parse().ok().filter(|count| *count > 0);
        count.ok_or(format!("`{name}` is `{cell}`, wanted a number from 1 on"))
    }

    fn width(&mut self) -> Result<u32, String> {
        let (name, cell) = self.next()?;
        cell.parse()
            .map_err(|_| format!("`{name}` is `{cell}`, wanted a number"))
    }

    fn keys(&mut self) -> Result<&'static str, String> {
        let (name, cell) = self.next()?;
        let known = KEYS.into_iter().find(|known| *known == cell);
        known.ok_or(format!("`{name}` is `{cell}`, wanted one of {KEYS:?}"))
    }

    fn block(&mut self) -> Result<u32, String> {
        let (name, cell) = self.next()?;
        let known = BLOCKS.into_iter().find(|rows| rows.to_string() == cell);
        known.ok_or(format!("`{name}` is `{cell}`, wanted one of {BLOCKS:?}"))
    }

    fn situation(&mut self) -> Result<Situation, String> {
        let mut situation = Situation::new(self.count()?, self.count()?);
        for rows in BLOCKS {
            let (name, cell) = self.next()?;
            if cell == NOTHING {
                continue;
            }
            let micros = cell.parse().ok();
            let micros = micros.filter(|micros: &f64| micros.is_finite() && *micros > 0.0);
            let micros = micros.ok_or(format!(
                "`{name}` is `{cell}`, wanted microseconds, or `{NOTHING}` where nothing was measured"
            ))?;
            situation.note(rows, micros);
        }
        Ok(situation)
    }
}

fn read_line(line: &str, columns: &[String]) -> Result<(Shape, Line), String> {
    let count = line.split('\t').count();
    if count != columns.len() {
        return Err(format!("{count} cells, wanted {}", columns.len()));
    }
    let mut cells = Cells {
        cells: columns.iter().zip(line.split('\t')),
    };
    let shape = Shape {
        keys: cells.keys()?,
        heads: cells.count()?,
        new: cells.count()?,
        latent: cells.count()?,
        rope: cells.width()?,
    };
    let (model, chosen) = (cells.block()?, cells.block()?);
    let line = Line {
        model,
        situations: [cells.situation()?, cells.situation()?],
    };
    for (situation, name) in line.situations.iter().zip(SITUATIONS) {
        if situation.micros(model).is_none() {
            return Err(format!(
                "`{name}_{model}` is missing: the model's kernel is what others are compared with"
            ));
        }
    }
    match line.chosen() {
        fastest if fastest == chosen => Ok((shape, line)),
        fastest => Err(format!(
            "`chosen` is {chosen}, and by its times it would be {fastest}"
        )),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Kernels of absorbed decode, by rows of a block, and microseconds of one attention. Measured by `mla-gen tune`; not to be edited."
        )?;
        writeln!(f, "gpu\t{}", self.gpu())?;
        writeln!(f, "kernels\t{}", self.kernels())?;
        writeln!(f, "{}", columns().join("\t"))?;
        for (shape, line) in self.lines() {
            let Shape {
                keys,
                heads,
                new,
                latent,
                rope,
            } = shape;
            let (model, chosen) = (line.model, line.chosen());
            write!(
                f,
                "{keys}\t{heads}\t{new}\t{latent}\t{rope}\t{model}\t{chosen}"
            )?;
            for situation in &line.situations {
                write!(f, "\t{}\t{}", situation.requests(), situation.length())?;
                for rows in BLOCKS {
                    match situation.micros(rows) {
                        Some(micros) => write!(f, "\t{micros:.2}")?,
                        None => write!(f, "\t{NOTHING}")?,
                    }
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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

    /// Blocks of 16 rows against the model's 32.
    fn line(narrow: f64) -> Line {
        let situations = [(128, 100.0), (1, 10.0)].map(|(requests, model)| {
            let mut situation = Situation::new(requests, 8192);
            situation.note(16, narrow * model);
            situation.note(32, model);
            situation
        });
        Line {
            model: 32,
            situations,
        }
    }

    fn table() -> Table {
        let mut table = Table::empty("NVIDIA H200", "0123456789abcdef");
        for (heads, new, narrow) in [(32, 1, 1.0), (16, 2, 0.9), (16, 1, 1.5)] {
            table.insert(shape(heads, new), line(narrow));
        }
        table
    }

    #[test]
    fn a_table_is_its_text() {
        let text = table().to_string();
        assert_eq!(Table::read(&text), Ok(table()));
        // Lines are sorted by numbers, so that a new one moves no other
        let begins: Vec<&str> = text.lines().skip(4).map(|line| &line[..26]).collect();
        assert_eq!(
            begins,
            [
                "bf16\t16\t1\t512\t64\t32\t32\t128",
                "bf16\t16\t2\t512\t64\t32\t16\t128",
                "bf16\t32\t1\t512\t64\t32\t32\t128",
            ]
        );
        assert!(
            text.contains("\t128\t8192\t90.00\t100.00\t-\t-\t1\t8192\t9.00\t10.00\t-\t-\n"),
            "{text}"
        );
    }

    #[test]
    fn a_shape_has_its_own_line() {
        let table = table();
        let chosen = |shape: &Shape| table.find(shape).map(Line::chosen);
        assert_eq!(chosen(&shape(16, 2)), Some(16));
        assert_eq!(chosen(&shape(16, 1)), Some(32));
        // As many rows, of other heads
        assert_eq!(chosen(&shape(8, 4)), None);
        for other in [
            Shape {
                latent: 256,
                ..shape(16, 2)
            },
            Shape {
                rope: 0,
                ..shape(16, 2)
            },
            Shape {
                keys: "e4m3",
                ..shape(16, 2)
            },
        ] {
            assert_eq!(chosen(&other), None);
        }
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let text = table().to_string();
        let refused = |from: &str, to: &str, reason: &str| {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            let error = Table::read(&changed).expect_err(reason);
            assert!(error.contains(reason), "{error}");
        };
        refused(
            "gpu\t",
            "GPU\t",
            "line 2: `GPU\tNVIDIA H200` where a line `gpu`",
        );
        refused("kernels\t", "", "where a line `kernels` is due");
        refused("\tlatent", "\tlatents", "line 4: the columns are not");
        refused("\nbf16", "\nf17", "line 5: `keys` is `f17`, wanted one of");
        refused("\t16\t1\t", "\t0\t1\t", "line 5: `heads` is `0`");
        refused("\t64\t32", "\tx\t32", "line 5: `rope` is `x`");
        refused(
            "\t32\t32",
            "\t48\t32",
            "line 5: `model` is `48`, wanted one",
        );
        refused(
            "\t150.00",
            "\tfast",
            "line 5: `many_16` is `fast`, wanted micro",
        );
        refused("\t150.00", "\t-1", "line 5: `many_16` is `-1`");
        refused("\t100.00", "\t-", "line 5: `many_32` is missing");
        refused("\t150.00", "", "line 5: 18 cells, wanted 19");
        // The times are there to judge the choice by, and it is held against them
        refused(
            "\t32\t16\t",
            "\t32\t32\t",
            "line 6: `chosen` is 32, and by its times it would be 16",
        );
        let first = text.lines().nth(4).expect("a line");
        let error = Table::read(&format!("{text}{first}\n")).expect_err("twice the same");
        assert!(
            error.contains("line 8: the shape of an earlier line"),
            "{error}"
        );
        for (lines, reason) in [(1, "no line `gpu`"), (3, "no line that names the columns")] {
            let cut: Vec<&str> = text.lines().take(lines).collect();
            assert_eq!(Table::read(&cut.join("\n")).expect_err(reason), reason);
        }
    }
}
