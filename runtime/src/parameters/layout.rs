//! Where the rows of one parameter stand in a checkpoint.

use crate::error::{Error, Result, product};
use crate::linear::GroupPart;

/// The shape of one parameter, and the checkpoint tensors that its rows belong to.
///
/// A working weight may stack several tensors of a checkpoint (features B-02), or hold their rows group by group (features R-05). What is
/// trained has the working weight's order; what is exported has the checkpoint's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterLayout {
    rows: usize,
    /// Values per row; `None` for a vector, whose rows are its values.
    width: Option<usize>,
    pieces: Vec<Piece>,
    /// The rows in order: each run is some neighbouring rows of one piece.
    runs: Vec<Run>,
    /// Whether one tensor may hold all pieces in the parameter's own order.
    grouped: bool,
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    name: String,
    rows: usize,
}

/// Rows `first .. first + rows` of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    piece: usize,
    first: usize,
    rows: usize,
}

impl ParameterLayout {
    /// Whole tensors, by full name and number of rows, below each other.
    pub(crate) fn stacked(
        pieces: impl IntoIterator<Item = (String, usize)>,
        width: Option<usize>,
    ) -> Result<Self> {
        let pieces: Vec<Piece> = pieces
            .into_iter()
            .map(|(name, rows)| Piece { name, rows })
            .collect();
        let runs = pieces.iter().enumerate().map(|(piece, whole)| Run {
            piece,
            first: 0,
            rows: whole.rows,
        });
        Self::checked(runs.collect(), pieces, width)
    }

    /// Group by group each part's rows of the group, as [`Linear::load_grouped`](crate::Linear::load_grouped) sorts them. The tensor of a
    /// part is called by the part's name and `leaf`.
    pub(crate) fn grouped(
        groups: usize,
        parts: &[GroupPart<'_>],
        leaf: &str,
        width: Option<usize>,
    ) -> Result<Self> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut piece_of = Vec::with_capacity(parts.len());
        for part in parts {
            let name = format!("{}.{leaf}", part.name);
            let rows = product("a grouped parameter", &[groups, part.heads, part.stride])?;
            let known = pieces.iter().position(|piece| piece.name == name);
            piece_of.push(known.unwrap_or(pieces.len()));
            match known.map(|known| &pieces[known]) {
                None => pieces.push(Piece { name, rows }),
                Some(piece) if piece.rows == rows => {}
                Some(piece) => return Err(Error::shape(name, &[rows], &[piece.rows])),
            }
        }
        let mut runs = Vec::new();
        for group in 0..groups {
            for (part, &piece) in parts.iter().zip(&piece_of) {
                for head in group * part.heads..(group + 1) * part.heads {
                    runs.push(Run {
                        piece,
                        first: head * part.stride + part.first,
                        rows: part.width,
                    });
                }
            }
        }
        // A tensor that comes back after another one stands in no checkpoint so
        let grouped = piece_of.is_sorted();
        Ok(Self {
            grouped,
            ..Self::checked(runs, pieces, width)?
        })
    }

    /// Refuses pieces of which the runs leave out a row or take one twice, or two of one name.
    fn checked(runs: Vec<Run>, pieces: Vec<Piece>, width: Option<usize>) -> Result<Self> {
        let overflow = || Error::Overflow {
            what: "a parameter",
        };
        let mut rows = 0_usize;
        for run in &runs {
            rows = rows.checked_add(run.rows).ok_or_else(overflow)?;
        }
        product("a parameter", &[rows, width.unwrap_or(1)])?;
        for (index, piece) in pieces.iter().enumerate() {
            let refused = |reason: &str| Error::Tensor {
                name: piece.name.clone(),
                reason: reason.to_owned(),
            };
            if pieces[..index]
                .iter()
                .any(|before| before.name == piece.name)
            {
                return Err(refused("it is named twice in one parameter"));
            }
            let mut taken: Vec<(usize, usize)> = runs
                .iter()
                .filter(|run| run.piece == index && run.rows > 0)
                .map(|run| (run.first, run.rows))
                .collect();
            taken.sort_unstable();
            let mut end = 0;
            for (first, rows) in taken {
                if first != end {
                    return Err(refused(
                        "the parts that stand in one parameter are not all of its rows, each once",
                    ));
                }
                end = first + rows;
            }
            if end != piece.rows {
                return Err(refused(
                    "the parts that stand in one parameter are not all of its rows, each once",
                ));
            }
        }
        Ok(Self {
            rows,
            width,
            pieces,
            runs,
            grouped: false,
        })
    }

    /// The parameter's own shape: `[rows, width]` for a matrix, `[rows]` for a vector.
    pub fn shape(&self) -> Vec<usize> {
        self.with_rows(self.rows)
    }

    /// Whether it is a matrix. Vectors are biases, a norm's γ and β, sinks, and the factors of a query scale: what weight decay usually
    /// spares.
    pub fn is_matrix(&self) -> bool {
        self.width.is_some()
    }

    /// Number of values.
    #[allow(clippy::len_without_is_empty)] // A layout with nothing in it is nothing to ask about
    pub fn len(&self) -> usize {
        self.rows * self.width.unwrap_or(1)
    }

    /// How many checkpoint tensors its rows belong to.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// The name of a piece below the layer's prefix, and its shape; `None` behind the last one.
    pub fn piece(&self, index: usize) -> Option<(&str, Vec<usize>)> {
        let piece = self.pieces.get(index)?;
        Some((&piece.name, self.with_rows(piece.rows)))
    }

    /// The names of its pieces below the layer's prefix.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().map(|piece| piece.name.as_str())
    }

    /// The names of its pieces where a checkpoint may hold all of them in one tensor, group by group.
    pub(crate) fn grouped_names(&self) -> Option<Vec<&str>> {
        self.grouped.then(|| self.names().collect())
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The values of piece `index` among all the parameter's `values`, in the checkpoint's order.
    pub(crate) fn taken<S: Copy + Default>(&self, index: usize, values: &[S]) -> Vec<S> {
        let rows = self.pieces.get(index).map_or(0, |piece| piece.rows);
        let mut piece = vec![S::default(); rows * self.width.unwrap_or(1)];
        for (here, there) in self.spans(index) {
            piece[there].copy_from_slice(&values[here]);
        }
        piece
    }

    /// Puts the values of piece `index`, in the checkpoint's order, where they stand among all the parameter's `values`.
    pub(crate) fn put<S: Copy>(&self, index: usize, piece: &[S], values: &mut [S]) {
        for (here, there) in self.spans(index) {
            values[here].copy_from_slice(&piece[there]);
        }
    }

    /// Where values stand in the parameter, and where in piece `index`.
    fn spans(
        &self,
        index: usize,
    ) -> impl Iterator<Item = (std::ops::Range<usize>, std::ops::Range<usize>)> {
        let width = self.width.unwrap_or(1);
        let mut row = 0;
        let places = self.runs.iter().map(move |run| {
            let here = row;
            row += run.rows;
            (here, run)
        });
        places
            .filter(move |(_, run)| run.piece == index)
            .map(move |(here, run)| {
                (
                    here * width..(here + run.rows) * width,
                    run.first * width..(run.first + run.rows) * width,
                )
            })
    }

    fn with_rows(&self, rows: usize) -> Vec<usize> {
        [rows].into_iter().chain(self.width).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacked_pieces_are_cut_where_they_meet() {
        let pieces = [("a.weight".to_owned(), 2), ("b.weight".to_owned(), 1)];
        let layout = ParameterLayout::stacked(pieces, Some(2)).unwrap();
        assert_eq!(layout.shape(), [3, 2]);
        let values = [1, 2, 3, 4, 5, 6];
        assert_eq!(layout.taken(0, &values), [1, 2, 3, 4]);
        assert_eq!(layout.taken(1, &values), [5, 6]);
        assert_eq!(layout.piece(1), Some(("b.weight", vec![1, 2])));
    }

    #[test]
    fn groups_are_sorted_back_into_their_tensors() {
        // Two groups of two query heads with gates, one key head
        let parts = [
            GroupPart::first_half("q", 2, 1),
            GroupPart::second_half("q", 2, 1),
            GroupPart::heads("k", 1, 2),
        ];
        let layout = ParameterLayout::grouped(2, &parts, "weight", None).unwrap();
        assert_eq!(layout.shape(), [12]);
        assert_eq!(layout.names().collect::<Vec<_>>(), ["q.weight", "k.weight"]);
        let values: Vec<i32> = (0..12).collect();
        // A head's query row, then its gate row
        assert_eq!(layout.taken(0, &values), [0, 2, 1, 3, 6, 8, 7, 9]);
        assert_eq!(layout.taken(1, &values), [4, 5, 10, 11]);
        let mut back = vec![0; 12];
        layout.put(0, &layout.taken(0, &values), &mut back);
        layout.put(1, &layout.taken(1, &values), &mut back);
        assert_eq!(back, values);
    }

    #[test]
    fn rows_that_no_part_takes_are_refused() {
        let half = [GroupPart::first_half("q", 1, 2)];
        let error = ParameterLayout::grouped(1, &half, "weight", None).unwrap_err();
        assert!(error.to_string().contains("`q.weight`"), "{error}");
        let twice = [("a".to_owned(), 1), ("a".to_owned(), 1)];
        assert!(ParameterLayout::stacked(twice, None).is_err());
    }

    #[test]
    fn a_width_of_nothing_is_no_mistake() {
        let layout = ParameterLayout::stacked([("a".to_owned(), 0)], Some(0)).unwrap();
        assert_eq!((layout.shape(), layout.len()), (vec![0, 0], 0));
        assert!(layout.taken::<f32>(0, &[]).is_empty());
        let none = ParameterLayout::grouped(0, &[GroupPart::heads("q", 0, 0)], "w", None).unwrap();
        assert_eq!(none.len(), 0);
    }
}
