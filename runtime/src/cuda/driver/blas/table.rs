//! Tables of algorithms: what was the fastest of those that cuBLASLt proposes, on one GPU.
//!
//! A table is text, one product a line, so that a change of what runs is seen in a diff.

use std::collections::BTreeMap;
use std::fmt;

use super::super::NumberType;
use super::algorithm::Attributes;
use super::layouts::Product;

/// The tables that there are.
const TABLES: [&str; 1] = [include_str!("tables/nvidia-h200.tsv")];

/// What a product's line begins with: types; then rows and columns of the product and the terms of its sums, all column-major; whether each
/// factor is its transpose; steps from column to column and from matrix to matrix; what addresses are multiples of.
const NUMBERS: [&str; Key::NUMBERS] = [
    "m",
    "n",
    "k",
    "batch",
    "left_transposed",
    "right_transposed",
    "left_leading",
    "right_leading",
    "out_leading",
    "left_stride",
    "right_stride",
    "out_stride",
    "left_aligned",
    "right_aligned",
    "out_aligned",
];

/// All that an algorithm is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    factors: NumberType,
    sum: NumberType,
    numbers: [i64; Self::NUMBERS],
}

impl Key {
    const NUMBERS: usize = 15;

    /// That of a product whose left, right factor and result lie at multiples of `aligned` bytes.
    pub(super) fn of(product: &Product, aligned: [u32; 3]) -> Self {
        let Product {
            left, right, out, ..
        } = product;
        let terms = match product.left_transposed {
            true => left.rows,
            false => left.columns,
        };
        let [left_aligned, right_aligned, out_aligned] = aligned.map(i64::from);
        Self {
            factors: product.factors,
            sum: product.sum,
            numbers: [
                // 32 bits each, as the library counts
                out.rows as i64,
                out.columns as i64,
                terms as i64,
                i64::from(product.batch),
                i64::from(product.left_transposed),
                i64::from(product.right_transposed),
                left.leading,
                right.leading,
                out.leading,
                left.batch_stride,
                right.batch_stride,
                out.batch_stride,
                left_aligned,
                right_aligned,
                out_aligned,
            ],
        }
    }
}

/// Algorithms by products, measured on one GPU with one version of the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    gpu: String,
    library: usize,
    lines: BTreeMap<Key, Attributes>,
}

impl Table {
    pub(super) fn empty(gpu: &str, library: usize) -> Self {
        Self {
            gpu: gpu.to_owned(),
            library,
            lines: BTreeMap::new(),
        }
    }

    /// The table of a GPU, if there is one.
    pub(super) fn of_gpu(gpu: &str) -> Option<Self> {
        // That each of them can be read a test sees to
        let mut tables = TABLES.iter().filter_map(|text| Self::read(text).ok());
        tables.find(|table| table.gpu == gpu)
    }

    /// The library's version, as it counts.
    pub(super) fn library(&self) -> usize {
        self.library
    }

    pub(super) fn find(&self, key: &Key) -> Option<&Attributes> {
        self.lines.get(key)
    }

    pub(super) fn insert(&mut self, key: Key, attributes: Attributes) {
        self.lines.insert(key, attributes);
    }

    /// The table of a text.
    ///
    /// # Errors
    /// The text is none; the message says which line is not, and why.
    fn read(text: &str) -> Result<Self, String> {
        let mut lines = text
            .lines()
            .enumerate()
            .map(|(i, line)| (i + 1, line))
            .filter(|(_, line)| !line.starts_with('#') && !line.is_empty());
        let mut named = |name: &str| {
            let (_, line) = lines.next().ok_or(format!("no line `{name}`"))?;
            let value = line
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('\t'));
            value.ok_or(format!("`{line}` where a line `{name}` is due"))
        };
        let gpu = named("gpu")?;
        let library = named("cublaslt")?;
        let library = library
            .parse()
            .map_err(|_| format!("`{library}` is no version of cuBLASLt"))?;
        let mut table = Self::empty(gpu, library);
        let (_, header) = lines.next().ok_or("no line that names the columns")?;
        let known: Vec<&str> = columns().collect();
        if let Some(other) = header.split('\t').find(|name| !known.contains(name)) {
            return Err(format!("unknown column `{other}`; known are {known:?}"));
        }
        if !header.split('\t').eq(columns()) {
            return Err(format!("the columns are not {known:?}"));
        }
        for (number, line) in lines {
            let at = |reason: String| format!("line {number}: {reason}");
            let (key, attributes) = read_line(line).map_err(at)?;
            if table.lines.insert(key, attributes).is_some() {
                return Err(at("the product of an earlier line".to_owned()));
            }
        }
        Ok(table)
    }
}

/// What the columns are called.
fn columns() -> impl Iterator<Item = &'static str> {
    ["factors", "sum"]
        .into_iter()
        .chain(NUMBERS)
        .chain(Attributes::names())
}

fn read_line(line: &str) -> Result<(Key, Attributes), String> {
    let mut cells = line.split('\t');
    let count = cells.clone().count();
    if count != columns().count() {
        return Err(format!("{count} cells, wanted {}", columns().count()));
    }
    let mut number_type = || {
        let name = cells.next().unwrap_or_default();
        NumberType::of(name).ok_or(format!("`{name}` is no type of numbers"))
    };
    let (factors, sum) = (number_type()?, number_type()?);
    let mut numbers = [0; Key::NUMBERS];
    for (number, name) in numbers.iter_mut().zip(NUMBERS) {
        *number = read_number(name, cells.next())?;
    }
    let mut attributes = [0; Attributes::COUNT];
    for (number, name) in attributes.iter_mut().zip(Attributes::names()) {
        *number = read_number(name, cells.next())?;
    }
    let key = Key {
        factors,
        sum,
        numbers,
    };
    Ok((key, Attributes::new(attributes)?))
}

fn read_number<N: std::str::FromStr>(name: &str, cell: Option<&str>) -> Result<N, String> {
    let cell = cell.unwrap_or_default();
    cell.parse()
        .map_err(|_| format!("`{name}` is `{cell}`, wanted a number"))
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Algorithms of products, the fastest of those that cuBLASLt proposes. Measured; not to be edited."
        )?;
        writeln!(f, "gpu\t{}", self.gpu)?;
        writeln!(f, "cublaslt\t{}", self.library)?;
        writeln!(f, "{}", columns().collect::<Vec<_>>().join("\t"))?;
        for (key, attributes) in &self.lines {
            write!(f, "{}\t{}", key.factors.name(), key.sum.name())?;
            for number in key.numbers {
                write!(f, "\t{number}")?;
            }
            for number in attributes.numbers() {
                write!(f, "\t{number}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Matmul, Operand};
    use super::*;

    /// `y = x Wᵀ`, rows by rows.
    fn product(rows: usize, input: usize, out: usize) -> Product {
        let operand = |row_stride, column_stride| Operand {
            at: 0,
            number: NumberType::Bf16,
            row_stride,
            column_stride,
            batch_stride: 0,
        };
        let matmul = Matmul {
            m: rows,
            n: out,
            k: input,
            batch: 1,
            a: operand(input, 1),
            b: operand(1, input),
            c: operand(out, 1),
            accumulate: false,
        };
        Product::of(&matmul).expect("a product")
    }

    fn attributes(tile: u32) -> Attributes {
        Attributes::new([66, tile, 3, 2, 2, 1, 9, 0, 5]).expect("in order")
    }

    fn table() -> Table {
        let mut table = Table::empty("NVIDIA H200", 130_002);
        for (i, rows) in [64, 1, 4096].into_iter().enumerate() {
            let key = Key::of(&product(rows, 7168, 1536), [16; 3]);
            table.insert(key, attributes(i as u32));
        }
        table
    }

    #[test]
    fn the_tables_that_there_are_can_be_read_and_are_as_written() {
        for text in TABLES {
            let table = Table::read(text).unwrap_or_else(|reason| panic!("{reason}"));
            assert_eq!(table.to_string(), text);
            assert_eq!(Table::of_gpu(&table.gpu), Some(table));
        }
        assert_eq!(Table::of_gpu("some other GPU"), None);
    }

    #[test]
    fn a_table_is_its_text() {
        let text = table().to_string();
        assert_eq!(Table::read(&text), Ok(table()));
        // Lines are sorted by numbers, so that a new one moves no other
        let rows: Vec<&str> = text
            .lines()
            .skip(4)
            .map(|line| line.split('\t').nth(3).expect("a line has columns"))
            .collect();
        assert_eq!(rows, ["1", "64", "4096"]);
    }

    #[test]
    fn a_product_has_its_own_line() {
        let table = table();
        let find = |product: &Product, aligned| table.find(&Key::of(product, aligned)).copied();
        assert_eq!(find(&product(1, 7168, 1536), [16; 3]), Some(attributes(1)));
        assert_eq!(find(&product(64, 7168, 1536), [16; 3]), Some(attributes(0)));
        assert_eq!(find(&product(2, 7168, 1536), [16; 3]), None);
        assert_eq!(find(&product(64, 1536, 7168), [16; 3]), None);
        assert_eq!(find(&product(64, 7168, 1536), [16, 2, 16]), None);
        let mut other = product(64, 7168, 1536);
        other.sum = NumberType::F32;
        assert_eq!(find(&other, [16; 3]), None);
        other = product(64, 7168, 1536);
        other.out.leading += 8;
        assert_eq!(find(&other, [16; 3]), None);
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
        refused("gpu\t", "GPU\t", "where a line `gpu` is due");
        refused("130002", "13.0", "`13.0` is no version");
        refused("\tswizzle", "\tswirl", "unknown column `swirl`");
        refused("\ttile\tstages", "\tstages\ttile", "the columns are not");
        refused("\nbf16", "\nbf17", "line 5: `bf17` is no type");
        refused("\t7168", "\t7168.5", "line 5: `");
        refused("\t7168", "", "line 5: 25 cells, wanted 26");
        refused("\t2\t2\t1\t9", "\t2\t1\t1\t9", "line 5: `reduction` is 1");
        let first = text.lines().nth(4).expect("a line");
        let twice = format!("{text}{first}\n");
        let error = Table::read(&twice).expect_err("twice the same");
        assert!(
            error.contains("line 8: the product of an earlier line"),
            "{error}"
        );
    }
}
