//! A product of matrices by strides, as the column-major product that cuBLASLt takes.

use super::super::{Matmul, NumberType, Operand};

/// Columns of `rows` numbers side by side, each column `leading` numbers after the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Layout {
    /// Numbers of a column.
    pub(super) rows: u64,
    /// Columns.
    pub(super) columns: u64,
    /// From one column to the next.
    pub(super) leading: i64,
    /// From one matrix of the batch to the next; 0 where there is one only.
    pub(super) batch_stride: i64,
}

/// `out = op(left) op(right)`, all of them column-major: all about a [`Matmul`] that does not depend on where its matrices lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Product {
    /// Whether it is `Cᵀ = Bᵀ Aᵀ`, the left factor made of B.
    swapped: bool,
    /// What both factors hold.
    pub(super) factors: NumberType,
    /// What the product holds.
    pub(super) sum: NumberType,
    /// The left factor as it lies in memory.
    pub(super) left: Layout,
    /// Whether the left factor is its transpose.
    pub(super) left_transposed: bool,
    /// The right factor as it lies in memory.
    pub(super) right: Layout,
    /// Whether the right factor is its transpose.
    pub(super) right_transposed: bool,
    /// The product.
    pub(super) out: Layout,
    /// How many products.
    pub(super) batch: i32,
}

impl Product {
    /// The product of a `Matmul`, or `None` where cuBLASLt can't make it: something is empty, the types don't go together, a matrix has no
    /// stride of 1 or overlaps itself, or a size is out of range.
    pub(super) fn of(matmul: &Matmul) -> Option<Self> {
        let Matmul { m, n, k, batch, .. } = *matmul;
        if [m, n, k, batch].contains(&0) || !go_together(matmul) {
            return None;
        }
        // The products of a batch would be written on top of each other
        if batch > 1 && matmul.c.batch_stride == 0 {
            return None;
        }
        let batched = batch > 1;
        let a = Lying::of(&matmul.a, m, k, batched)?;
        let b = Lying::of(&matmul.b, k, n, batched)?;
        let c = Lying::of(&matmul.c, m, n, batched)?;
        // What lies row by row is the transpose of what lies column by column, and so is the product of transposes in the other order
        let swapped = c.by_rows;
        let (left, right) = if swapped { (b, a) } else { (a, b) };
        Some(Self {
            swapped,
            factors: matmul.a.number,
            sum: matmul.c.number,
            left: left.layout,
            left_transposed: left.by_rows != swapped,
            right: right.layout,
            right_transposed: right.by_rows != swapped,
            out: c.layout,
            batch: i32::try_from(batch).ok()?,
        })
    }

    /// The same product with other many rows of A and C; `None` where these are not each in one piece, and the product is one of transposes.
    pub(super) fn with_rows(self, rows: usize) -> Option<Self> {
        if !self.swapped || self.right_transposed {
            return None;
        }
        let rows = i32::try_from(rows).ok()? as u64;
        let of_rows = |layout| Layout {
            columns: rows,
            ..layout
        };
        Some(Self {
            right: of_rows(self.right),
            out: of_rows(self.out),
            ..self
        })
    }

    /// The left and the right factor among a `Matmul`'s operands.
    pub(super) fn factors_of<'a>(&self, matmul: &'a Matmul) -> [&'a Operand; 2] {
        if self.swapped {
            [&matmul.b, &matmul.a]
        } else {
            [&matmul.a, &matmul.b]
        }
    }
}

/// A matrix in memory.
struct Lying {
    /// Whether its rows are what `layout` calls columns.
    by_rows: bool,
    layout: Layout,
}

impl Lying {
    /// A matrix of `rows` by `columns`, if one of its strides is 1 and the other steps over what that one spans.
    fn of(operand: &Operand, rows: usize, columns: usize, batched: bool) -> Option<Self> {
        // A stride that is never taken says nothing
        let by_rows = operand.column_stride == 1 || columns == 1;
        let by_columns = operand.row_stride == 1 || rows == 1;
        let (within, lines, stride) = if by_rows {
            (columns, rows, operand.row_stride)
        } else if by_columns {
            (rows, columns, operand.column_stride)
        } else {
            return None;
        };
        let leading = if lines == 1 { within } else { stride };
        if leading < within {
            return None;
        }
        let batch_stride = if batched { operand.batch_stride } else { 0 };
        Some(Self {
            by_rows,
            layout: Layout {
                // cuBLASLt's kernels count with 32 bits
                rows: i32::try_from(within).ok()? as u64,
                columns: i32::try_from(lines).ok()? as u64,
                leading: i64::try_from(leading).ok()?,
                batch_stride: i64::try_from(batch_stride).ok()?,
            },
        })
    }
}

/// Whether cuBLASLt multiplies these types, summing in `f32` or `f64` without rounding the factors.
fn go_together(matmul: &Matmul) -> bool {
    use NumberType::{Bf16, E4m3, F16, F32, F64};
    matmul.a.number == matmul.b.number
        && matches!(
            (matmul.a.number, matmul.c.number),
            (E4m3 | Bf16, Bf16 | F32) | (F16, F16 | F32) | (F32, F32) | (F64, F64)
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a matrix may lie.
    #[derive(Debug, Clone, Copy)]
    struct Lies {
        by_rows: bool,
        padding: usize,
    }

    const WAYS: [Lies; 4] = [
        Lies {
            by_rows: true,
            padding: 0,
        },
        Lies {
            by_rows: true,
            padding: 3,
        },
        Lies {
            by_rows: false,
            padding: 0,
        },
        Lies {
            by_rows: false,
            padding: 2,
        },
    ];

    fn operand(lies: Lies, rows: usize, columns: usize) -> Operand {
        let (row_stride, column_stride, lines) = if lies.by_rows {
            (columns + lies.padding, 1, rows)
        } else {
            (1, rows + lies.padding, columns)
        };
        Operand {
            at: 0,
            number: NumberType::F64,
            row_stride,
            column_stride,
            batch_stride: row_stride.max(column_stride) * lines + 1,
        }
    }

    fn values(len: usize, seed: usize) -> Vec<f64> {
        (0..len)
            .map(|i| ((i * 7 + seed * 5) % 11) as f64 - 5.0)
            .collect()
    }

    /// What the strides say.
    fn by_strides(matmul: &Matmul, a: &[f64], b: &[f64], c: &mut [f64]) {
        let at = |x: &Operand, batch: usize, row: usize, column: usize| {
            batch * x.batch_stride + row * x.row_stride + column * x.column_stride
        };
        for batch in 0..matmul.batch {
            for row in 0..matmul.m {
                for column in 0..matmul.n {
                    let sum: f64 = (0..matmul.k)
                        .map(|k| {
                            a[at(&matmul.a, batch, row, k)] * b[at(&matmul.b, batch, k, column)]
                        })
                        .sum();
                    let to = &mut c[at(&matmul.c, batch, row, column)];
                    *to = if matmul.accumulate { *to } else { 0.0 } + sum;
                }
            }
        }
    }

    /// What cuBLASLt makes of the layouts.
    fn by_layouts(product: &Product, beta: f64, left: &[f64], right: &[f64], out: &mut [f64]) {
        let at = |layout: &Layout, batch: usize, row: u64, column: u64| {
            assert!(row < layout.rows && column < layout.columns);
            assert!(layout.leading as u64 >= layout.rows);
            batch * layout.batch_stride as usize
                + row as usize
                + column as usize * layout.leading as usize
        };
        let terms = if product.left_transposed {
            product.left.rows
        } else {
            product.left.columns
        };
        for batch in 0..product.batch as usize {
            for row in 0..product.out.rows {
                for column in 0..product.out.columns {
                    let sum: f64 = (0..terms)
                        .map(|k| {
                            let x = if product.left_transposed {
                                at(&product.left, batch, k, row)
                            } else {
                                at(&product.left, batch, row, k)
                            };
                            let y = if product.right_transposed {
                                at(&product.right, batch, column, k)
                            } else {
                                at(&product.right, batch, k, column)
                            };
                            left[x] * right[y]
                        })
                        .sum();
                    let to = &mut out[at(&product.out, batch, row, column)];
                    *to = beta * *to + sum;
                }
            }
        }
    }

    fn compare(matmul: &Matmul) {
        let len = |x: &Operand, rows, columns| {
            (matmul.batch - 1) * x.batch_stride
                + (rows - 1) * x.row_stride
                + (columns - 1) * x.column_stride
                + 1
        };
        let a = values(len(&matmul.a, matmul.m, matmul.k), 1);
        let b = values(len(&matmul.b, matmul.k, matmul.n), 2);
        let before = values(len(&matmul.c, matmul.m, matmul.n), 3);
        let mut expected = before.clone();
        by_strides(matmul, &a, &b, &mut expected);
        let product = Product::of(matmul).unwrap_or_else(|| panic!("{matmul:?}"));
        let [left, right] = product
            .factors_of(matmul)
            .map(|factor| if *factor == matmul.a { &a } else { &b });
        let mut found = before;
        let beta = f64::from(u8::from(matmul.accumulate));
        by_layouts(&product, beta, left, right, &mut found);
        assert_eq!(found, expected, "{matmul:?}\n{product:?}");
    }

    #[test]
    fn layouts_mean_what_strides_say() {
        for (m, n, k) in [
            (3, 4, 5),
            (1, 4, 5),
            (3, 1, 5),
            (3, 4, 1),
            (1, 1, 5),
            (1, 1, 1),
            (2, 2, 2),
        ] {
            for batch in [1, 3] {
                for a in WAYS {
                    for b in WAYS {
                        for c in WAYS {
                            let mut matmul = Matmul {
                                m,
                                n,
                                k,
                                batch,
                                a: operand(a, m, k),
                                b: operand(b, k, n),
                                c: operand(c, m, n),
                                accumulate: (m + n + batch) % 2 == 0,
                            };
                            matmul.a.at = 1 << 8;
                            compare(&matmul);
                        }
                    }
                }
            }
        }
    }

    fn plain() -> Matmul {
        let lies = WAYS[0];
        Matmul {
            m: 4,
            n: 6,
            k: 8,
            batch: 2,
            a: operand(lies, 4, 8),
            b: operand(lies, 8, 6),
            c: operand(lies, 4, 6),
            accumulate: false,
        }
    }

    #[test]
    fn heads_side_by_side_are_a_batch() {
        let mut heads = plain();
        heads.a.at = 1 << 8;
        heads.a.row_stride = 2 * 8;
        heads.a.batch_stride = 8;
        heads.c.row_stride = 2 * 6;
        heads.c.batch_stride = 6;
        compare(&heads);
        // All of them may have one factor
        heads.b.batch_stride = 0;
        compare(&heads);
    }

    #[test]
    fn other_many_rows_are_the_same_product() {
        let (mut few, mut many) = (plain(), plain());
        (few.m, many.m) = (3, 5);
        let product = |matmul: &Matmul| Product::of(matmul).expect("by rows");
        assert_eq!(product(&few).with_rows(5), Some(product(&many)));
        // A single row keeps the stride to where another would be
        let one = product(&few).with_rows(1).expect("by rows");
        assert_eq!((one.right.leading, one.right.columns), (8, 1));
        assert!(one.left == product(&few).left);
        few.c = operand(WAYS[2], 3, 6);
        assert_eq!(product(&few).with_rows(5), None);
        many.a = operand(WAYS[2], 5, 8);
        assert_eq!(product(&many).with_rows(4), None);
    }

    #[test]
    fn strides_that_are_never_taken_say_nothing() {
        let mut row = plain();
        row.a.at = 1 << 8;
        row.m = 1;
        row.batch = 1;
        row.a.row_stride = 0;
        row.c.row_stride = 0;
        row.b.batch_stride = usize::MAX;
        compare(&row);
        // A single row whose numbers lie apart is a column-major matrix
        row.a.column_stride = 5;
        compare(&row);
    }

    #[test]
    fn what_cublaslt_cannot_do_is_refused() {
        let refused = |change: &dyn Fn(&mut Matmul)| {
            let mut matmul = plain();
            assert!(Product::of(&matmul).is_some());
            change(&mut matmul);
            assert_eq!(Product::of(&matmul), None, "{matmul:?}");
        };
        refused(&|x| x.m = 0);
        refused(&|x| x.k = 0);
        refused(&|x| x.batch = 0);
        refused(&|x| x.a.column_stride = 2);
        refused(&|x| x.a.row_stride = 7);
        refused(&|x| x.b.row_stride = 0);
        refused(&|x| x.c.batch_stride = 0);
        refused(&|x| x.batch = 1 << 31);
        refused(&|x| (x.m, x.c.row_stride) = (1 << 31, 6));
        refused(&|x| x.a.number = NumberType::F32);
        refused(&|x| x.c.number = NumberType::F32);
        refused(&|x| x.c.number = NumberType::Bf16);
    }

    #[test]
    fn halves_sum_into_singles() {
        use NumberType::{Bf16, E4m3, F16, F32, F64};
        let takes = |factors, sum| {
            let mut matmul = plain();
            matmul.a.number = factors;
            matmul.b.number = factors;
            matmul.c.number = sum;
            Product::of(&matmul).is_some()
        };
        for (factors, sum) in [
            (Bf16, Bf16),
            (Bf16, F32),
            (E4m3, Bf16),
            (E4m3, F32),
            (F16, F16),
            (F16, F32),
            (F32, F32),
            (F64, F64),
        ] {
            assert!(takes(factors, sum), "{factors:?} {sum:?}");
        }
        for (factors, sum) in [
            (Bf16, F16),
            (E4m3, F16),
            (E4m3, E4m3),
            (F16, Bf16),
            (F32, Bf16),
            (F32, F64),
            (Bf16, F64),
            (F64, F32),
        ] {
            assert!(!takes(factors, sum), "{factors:?} {sum:?}");
        }
    }
}
