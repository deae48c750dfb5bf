//! The gradients of attention, block by block as attention itself: the logits of a block are computed again, turned to probabilities by
//! the log-sum-exp that the forward pass left, and four more products give what the block adds to the gradients.
//!
//! Tasks that read the same head of keys come one behind the other. A thread holds that head's keys, values and their gradients in
//! memory of its own, and a task's rows beside them; nothing is ever as large as queries times keys. Where several threads work on one
//! head of keys, as in the absorbed form, each adds up a part, and parts are joined in order: the result depends on the number of
//! threads, not on which one is faster.

mod bias;
mod held;
mod landing;
mod pieces;
mod tile;

use rayon::prelude::*;

use super::tasks::{BLOCK_KEYS, Task, groups, sharing};
use crate::backend::{AttentionBackward, Landing, Landings};
use crate::cpu::ground::Ground;
use crate::cpu::{Cpu, CpuElement, PARALLEL_WORK};
use crate::element::Real;
use crate::error::{Error, Result};
use held::Held;
use pieces::Piece;
use tile::{Context, Tile};

pub(in crate::cpu) use bias::bias_backward;
pub(in crate::cpu) use pieces::{apart, shares};

/// Rows of one task: fewer than the forward's, since causal blocks on the diagonal are half wasted five times over.
const TASK_ROWS: usize = 64;

/// What a share of the work leaves to be joined with others.
struct Rest<A> {
    pieces: Vec<Part<A>>,
    /// `[keys][R]`, of the heads that the share had; empty where heads don't share it.
    rope: Vec<A>,
}

/// Gradients of one head of a segment's keys and values, from some of the rows that read them.
struct Part<A> {
    head: usize,
    first_row: usize,
    k: Vec<A>,
    v: Vec<A>,
}

/// What all threads read.
struct Work<'a, T: CpuElement> {
    backward: &'a AttentionBackward<'a, Cpu<T>>,
    landings: &'a Landings,
    grounds: &'a [Ground<'a, T::Accum>],
    tasks: &'a [Task],
    /// Heads of queries that read one head of keys.
    sharing: usize,
    /// Whether no two segments have keys in common.
    keys_apart: bool,
    /// Whether heads of keys share their second part.
    rope_is_shared: bool,
}

/// The gradients of all operands.
pub(in crate::cpu) fn backward<T: CpuElement>(
    backward: &AttentionBackward<'_, Cpu<T>>,
    landings: &Landings,
    into: &mut [Vec<T::Accum>],
) -> Result<()> {
    landing::checked(backward, landings, into)?;
    let attention = &backward.attention;
    let [queries_apart, keys_apart] = apart(attention.segments);
    if !queries_apart {
        return Err(Error::Device("segments share queries".to_owned()));
    }
    let sharing = sharing(attention);
    let unit = |task: &Task| (task.heads.start / sharing, task.segment);
    let mut tasks = groups(attention, TASK_ROWS);
    tasks.retain(|task| !task.keys.is_empty());
    tasks.sort_by_key(unit);
    let threads = rayon::current_num_threads();
    let shares = shares(&tasks, |a, b| unit(a) == unit(b), threads);
    let grounds: Vec<_> = into
        .iter_mut()
        .map(|buffer| Ground::new(buffer.as_mut_slice()))
        .collect();
    let work = Work {
        backward,
        landings,
        grounds: &grounds,
        tasks: &tasks,
        sharing,
        keys_apart,
        rope_is_shared: attention.k_rope.heads < attention.k.heads && attention.k_rope.width > 0,
    };
    let rests: Vec<Rest<T::Accum>> = shares
        .par_iter()
        .with_max_len(1)
        .map(|pieces| work.run(pieces))
        .collect();
    let joined = Joined {
        heads: attention.k.heads,
        widths: [attention.k.width, attention.k_rope.width, attention.v.width],
        rope_is_shared: work.rope_is_shared,
    };
    for rest in &rests {
        joined.add(rest, landings, into);
    }
    Ok(())
}

impl<T: CpuElement> Work<'_, T> {
    /// All tasks of a share.
    fn run(&self, pieces: &[Piece]) -> Rest<T::Accum> {
        let attention = &self.backward.attention;
        let rope_values = if self.rope_is_shared && !pieces.is_empty() {
            attention.k_rope.rows * attention.k_rope.width
        } else {
            0
        };
        let mut rest = Rest {
            pieces: Vec::new(),
            rope: vec![T::Accum::ZERO; rope_values],
        };
        let (mut held, mut tile) = (Held::default(), Tile::default());
        let mut d_q = Vec::new();
        for piece in pieces {
            let tasks = &self.tasks[piece.tasks.clone()];
            let Some(first) = tasks.first() else { continue };
            held.load(attention, first, self.landings.v.is_none());
            for task in tasks {
                self.run_task(task, &mut held, &mut tile);
                tile.finish(&mut d_q);
                self.land_rows(task, &d_q);
            }
            self.land_keys(first, piece.whole && self.keys_apart, &held, &mut rest);
        }
        rest
    }

    fn run_task(&self, task: &Task, held: &mut Held<T::Accum>, tile: &mut Tile<T::Accum>) {
        let of = Context::new(self.backward, task);
        tile.load(self.backward, task);
        for start in task.keys.clone().step_by(BLOCK_KEYS) {
            let keys = start..task.keys.end.min(start + BLOCK_KEYS);
            held.with_block(&of, (start, keys.len()), |block, sums| {
                tile.add(&of, &keys, block, sums);
            });
        }
    }

    /// Writes the gradients of a task's rows.
    fn land_rows(&self, task: &Task, d_q: &[T::Accum]) {
        let attention = &self.backward.attention;
        let first = attention.segments.list()[task.segment].queries.start;
        let width = attention.q.width + attention.q_rope.width;
        for ((query, head), d_q) in task.rows().zip(d_q.chunks_exact(width.max(1))) {
            let line = (first + query) * attention.q.heads + head;
            let (nope, rope) = d_q.split_at(attention.q.width);
            self.land(line, self.landings.q, nope);
            self.land(line, self.landings.q_rope, rope);
        }
    }

    /// Writes the gradients of a piece's keys and values, or keeps them where others have more of them.
    fn land_keys(
        &self,
        task: &Task,
        whole: bool,
        held: &Held<T::Accum>,
        rest: &mut Rest<T::Accum>,
    ) {
        let attention = &self.backward.attention;
        let rows = attention.segments.list()[task.segment].keys.clone();
        let (k_width, rope_width) = (attention.k.width, attention.k_rope.width);
        let head = task.heads.start / self.sharing;
        let (k, v) = held.sums();
        if self.rope_is_shared {
            let sums = rest.rope[rows.start * rope_width..].chunks_exact_mut(rope_width);
            for (sums, k) in sums.zip(k.chunks_exact(k_width + rope_width)) {
                for (sum, &k) in sums.iter_mut().zip(&k[k_width..]) {
                    *sum += k;
                }
            }
        }
        if !whole {
            rest.pieces.push(Part {
                head,
                first_row: rows.start,
                k: k.to_vec(),
                v: v.to_vec(),
            });
            return;
        }
        let v_width = v.len().checked_div(rows.len()).unwrap_or(0);
        for (i, row) in rows.enumerate() {
            let line = row * attention.k.heads + head;
            let k = &k[i * (k_width + rope_width)..][..k_width + rope_width];
            self.land(line, self.landings.k, &k[..k_width]);
            if !self.rope_is_shared {
                self.land(line, self.landings.k_rope, &k[k_width..]);
            }
            if let Some(landing) = self.landings.v {
                self.land(line, landing, &v[i * v_width..(i + 1) * v_width]);
            }
        }
    }

    fn land(&self, line: usize, landing: Landing, values: &[T::Accum]) {
        if values.is_empty() {
            return;
        }
        // SAFETY: landings do not meet in a line, as was checked, and each line has one writer: tasks share no (query, head), since they
        // were cut from segments that share no query; a head of a segment's keys is written by the one share that has all its tasks, and
        // segments share no keys where that is done.
        unsafe {
            self.grounds[landing.buffer].write(line * landing.line + landing.offset, values);
        }
    }
}

/// How what shares left is added to what they wrote.
struct Joined {
    heads: usize,
    /// Of keys, their second part, and values.
    widths: [usize; 3],
    rope_is_shared: bool,
}

impl Joined {
    fn add<A: Real>(&self, rest: &Rest<A>, landings: &Landings, into: &mut [Vec<A>]) {
        let [k, rope, v] = self.widths;
        let shared = Window {
            heads: 1,
            head: 0,
            first_row: 0,
            line: rope,
            columns: (0, rope),
        };
        if !rest.rope.is_empty() {
            shared.add(landings.k_rope, &rest.rope, into);
        }
        for piece in &rest.pieces {
            let own = |line, columns| Window {
                heads: self.heads,
                head: piece.head,
                first_row: piece.first_row,
                line,
                columns,
            };
            own(k + rope, (0, k)).add(landings.k, &piece.k, into);
            if !self.rope_is_shared {
                own(k + rope, (k, rope)).add(landings.k_rope, &piece.k, into);
            }
            if let Some(landing) = landings.v {
                own(v, (0, v)).add(landing, &piece.v, into);
            }
        }
    }
}

/// Some columns of contiguous lines, and the head of a buffer that they belong to.
struct Window {
    heads: usize,
    head: usize,
    first_row: usize,
    line: usize,
    /// The first, and how many.
    columns: (usize, usize),
}

impl Window {
    fn add<A: Real>(&self, landing: Landing, lines: &[A], into: &mut [Vec<A>]) {
        let (first, width) = self.columns;
        if width == 0 {
            return;
        }
        let row = self.heads * landing.line;
        into[landing.buffer][self.first_row * row..]
            .par_chunks_mut(row)
            .zip(lines.par_chunks_exact(self.line))
            .with_min_len(PARALLEL_WORK / width + 1)
            .for_each(|(row, more)| {
                let sums = &mut row[self.head * landing.line + landing.offset..][..width];
                for (sum, &more) in sums.iter_mut().zip(&more[first..]) {
                    *sum += more;
                }
            });
    }
}
