//! Index keys of whole pools of neighbouring tokens (features S-17, GLM-5-Next): a query scores pools, and selects all tokens of the best
//! ones.
//!
//! Pool `p` of a sequence is its tokens `p · POOL .. (p + 1) · POOL`, counted from its first token, padding left out. Its key is, channel
//! by channel, the average of its tokens' keys weighed by the softmax of `gate(token) + position(place in the pool)`. A query may select a
//! pool when it sees the pool's last token. Tokens behind the last complete pool that it sees are its tail.

use crate::attended::PerHead;
use crate::backend::{Backend, Pages, Pooling, Sight, Strided};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count};
use crate::heads::Heads;
use crate::indexer::{Asking, Selecting, sight};
use crate::linear::Linear;
use crate::rows::{Rows, RowsView};
use crate::segments::Segments;
use crate::selection::Selection;
use crate::weights::Selected;

/// How pools are scored, and whether tails are selected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelectingPools {
    /// As [`Selecting::scale`].
    pub scale: f64,
    /// As [`Selecting::relu`].
    pub relu: bool,
    /// Whether the tail is always selected, in `POOL - 1` places of the `K`. Where it is not, nobody selects it: a query that sees less
    /// than a pool selects nothing.
    pub always_select_tail: bool,
}

/// The learned average over a pool: a gate `[DI, IN]` on the hidden state, and a summand `[POOL, DI]` for each place in the pool.
#[derive(Debug)]
pub struct KeyPools<B: Backend, const IN: usize, const DI: usize, const POOL: usize> {
    device: B::Device,
    pub(crate) gate: Linear<B, IN, DI>,
    pub(crate) positions: B::Buffer<B::Elem>,
}

impl<B: Backend, const IN: usize, const DI: usize, const POOL: usize> KeyPools<B, IN, DI, POOL> {
    /// Loads the gate from `NAME_gate` and the summands from `NAME_ape`, the names that GLM-5-Next gives them.
    ///
    /// # Errors
    /// When a tensor is unreadable or misshapen.
    pub fn load(weights: &Selected<'_>, name: &str, device: &B::Device) -> Result<Self> {
        let read = |part: &str, shape: [usize; 2]| {
            let name = format!("{name}_{part}");
            let (found, values) = weights.read::<B::Elem>(&name)?;
            if found != shape {
                return Err(Error::shape(name, &found, &shape));
            }
            Ok(values)
        };
        Self::new(device, read("gate", [DI, IN])?, read("ape", [POOL, DI])?)
    }

    /// The average of this gate and these summands, row by row.
    ///
    /// # Errors
    /// When a length is not the shape's.
    pub fn new(device: &B::Device, gate: Vec<B::Elem>, positions: Vec<B::Elem>) -> Result<Self> {
        const { assert!(POOL > 0, "a pool holds at least one token") };
        expect_count("summands of a pool", positions.len(), POOL * DI)?;
        Ok(Self {
            device: device.clone(),
            gate: Linear::new(device, gate, None)?,
            positions: B::upload(device, positions)?,
        })
    }

    /// The gates `[rows, DI]` of tokens.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn gates<'a>(&self, hidden: impl Into<RowsView<'a, B, IN>>) -> Result<Rows<B, DI>>
    where
        B: 'a,
    {
        self.gate.forward(hidden)
    }

    /// The keys of pools whose tokens are `POOL` rows from each of `first_rows` on.
    pub(crate) fn keys(
        &self,
        k: Strided<'_, B, B::Elem>,
        gates: Strided<'_, B, B::Elem>,
        first_rows: &[usize],
    ) -> Result<Rows<B, DI>> {
        let pooling = Pooling {
            k,
            gates,
            positions: &self.positions,
            size: POOL,
            first_rows,
        };
        Ok(Rows {
            device: self.device.clone(),
            buffer: B::pool_keys(&self.device, &pooling)?,
            rows: first_rows.len(),
        })
    }
}

/// All tokens of the best pools of each query: `(K - POOL + 1) / POOL` pools where tails are selected, `K / POOL` where not.
///
/// `q` `[queries, HI, DI]`, weights `[queries, HI]`; `k` and `gates` `[keys, DI]`.
///
/// # Errors
/// As [`select`](super::select), and when the segments leave out the start of a sequence or come from a dense mask.
#[allow(clippy::too_many_arguments)] // The operands of one formula
pub fn select_pools<
    'a,
    B,
    const IN: usize,
    const HI: usize,
    const DI: usize,
    const POOL: usize,
    const K: usize,
>(
    q: &Heads<B, HI, DI>,
    k: impl Into<RowsView<'a, B, DI>>,
    gates: impl Into<RowsView<'a, B, DI>>,
    weights: &PerHead<B, HI>,
    pools: &KeyPools<B, IN, DI, POOL>,
    segments: &Segments,
    selecting: &SelectingPools,
) -> Result<Selection<B, K>>
where
    B: Backend + 'a,
{
    let (k, gates) = (k.into(), gates.into());
    expect_count("rows of an indexer's queries", q.rows(), segments.queries())?;
    expect_count("rows of an indexer's keys", k.rows(), segments.keys())?;
    expect_count("rows of an indexer's gates", gates.rows(), segments.keys())?;
    let mut first_rows = Vec::new();
    for segment in segments.list() {
        let pools = 0..segment.keys.len() / POOL;
        first_rows.extend(pools.map(|pool| segment.keys.start + pool * POOL));
    }
    let keys = pools.keys(k.strided(), gates.strided(), &first_rows)?;
    let lines = Lines::new(segments, POOL)?;
    lines.select(
        &Asking::new(q, weights)?,
        keys.view().strided(),
        None,
        selecting,
    )
}

/// Queries that select among the pools of their sequences.
pub(crate) struct Lines<'a> {
    size: usize,
    /// Which tokens each query sees.
    tokens: Vec<Sight<'a>>,
    /// Which pools each query may select; pools stand in one tensor, one segment's behind the other's, or in pages.
    pools: Vec<Sight<'a>>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(segments: &'a Segments, size: usize) -> Result<Self> {
        let tokens = sight::of_rows(segments);
        if let Some(sight) = tokens.iter().find(|sight| sight.first_position > 0) {
            return Err(Error::BadMask(format!(
                "pools of keys start with their sequence, but the keys with its token {}",
                sight.first_position
            )));
        }
        let mut next = 0;
        let mut pools = Vec::with_capacity(tokens.len());
        for (segment, sight) in segments.list().iter().zip(&tokens) {
            let queries = 0..sight.queries.len();
            if queries.clone().any(|query| sight.given(query).is_some()) {
                return Err(Error::BadMask(
                    "pools of keys are selected for masks that let a query see all keys in between, not for dense ones".to_owned(),
                ));
            }
            let visible = queries.map(|query| {
                let tokens = sight.visible(query);
                let end = tokens.end / size;
                // The first pool whose last token is seen
                ((tokens.start + 1).div_ceil(size) - 1).min(end)..end
            });
            pools.push(Sight::new(
                sight.queries.clone(),
                (next, 0),
                visible.collect(),
                Vec::new(),
            ));
            next += segment.keys.len() / size;
        }
        Ok(Self {
            size,
            tokens,
            pools,
        })
    }

    /// The tokens of the best pools among `k`, one key per pool.
    pub(crate) fn select<B: Backend, E: Scalar, const K: usize>(
        &self,
        asking: &Asking<'_, B>,
        k: Strided<'_, B, E>,
        pages: Option<&Pages>,
        selecting: &SelectingPools,
    ) -> Result<Selection<B, K>> {
        let tail = if selecting.always_select_tail {
            self.size - 1
        } else {
            0
        };
        let Some(most) = K.checked_sub(tail).map(|most| most / self.size) else {
            return Err(Error::BadSelection(format!(
                "{K} keys are selected, fewer than the {tail} that a tail may have"
            )));
        };
        sight::within_positions(&self.tokens)?;
        let scoring = Selecting {
            scale: selecting.scale,
            relu: selecting.relu,
            initial: 0,
            local: 0,
        };
        let best = asking.best(k, &self.pools, pages, &scoring, most)?;
        let mut positions = vec![-1; asking.rows() * K];
        for sight in &self.tokens {
            for (query, row) in sight.queries.clone().enumerate() {
                let visible = sight.visible(query);
                let pools = best[row * most..(row + 1) * most].iter();
                let pools = pools.filter_map(|&pool| usize::try_from(pool).ok());
                let tokens = pools.flat_map(|pool| pool * self.size..(pool + 1) * self.size);
                let tail_start = if selecting.always_select_tail {
                    visible.end / self.size * self.size
                } else {
                    visible.end
                };
                let tokens = tokens
                    .chain(tail_start..visible.end)
                    .filter(|token| visible.contains(token));
                let places = positions[row * K..(row + 1) * K].iter_mut();
                for (place, token) in places.zip(tokens) {
                    *place = token as i32;
                }
            }
        }
        Selection::trusted(asking.device(), asking.rows(), positions)
    }
}
