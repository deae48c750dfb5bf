//! How many keys queries meet.

use std::ops::Range;

use mla_spec::{AttnMask, Window};

use crate::plan::cost::Lengths;

/// What `T` queries at the end of `S` tokens meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Met {
    /// (query, key) pairs.
    pub pairs: u128,
    /// Keys that at least one query meets.
    pub keys: u128,
}

/// The pairs that `mask` allows with keys in `keys`, counted from the sequence's first; of at most `selected` per query where there is
/// a selection. Blocks and given masks are counted as if there were none: they depend on the input.
pub fn met(mask: AttnMask, lengths: Lengths, keys: Range<u64>, selected: Option<u64>) -> Met {
    let (mut met, mut seen) = (Met::default(), keys.end..keys.start);
    for query in lengths.met - lengths.new..lengths.met {
        let bounds = bounds(mask, query);
        let (start, end) = (bounds.start.max(keys.start), bounds.end.min(keys.end));
        if start < end {
            let visible = end - start;
            met.pairs += u128::from(selected.map_or(visible, |most| visible.min(most)));
            seen = seen.start.min(start)..seen.end.max(end);
        }
    }
    met.keys = u128::from(seen.end.saturating_sub(seen.start)).min(met.pairs);
    met
}

/// The keys that the query standing at key `at` sees.
fn bounds(mask: AttnMask, at: u64) -> Range<u64> {
    let Window { left, right } = mask.window.unwrap_or(Window {
        left: None,
        right: None,
    });
    let mut start = left.map_or(0, |left| at.saturating_sub(u64::from(left)));
    let mut end = right.map_or(u64::MAX, |right| at + u64::from(right) + 1);
    if mask.is_causal() {
        end = end.min(at + 1);
    }
    if let Some(tokens) = mask.chunk.map(u64::from) {
        let chunk = at / tokens * tokens;
        start = start.max(chunk);
        end = end.min(chunk + tokens);
    }
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mask: AttnMask, new: u64, met_tokens: u64, selected: Option<u64>) -> Met {
        let lengths = Lengths {
            new,
            met: met_tokens,
            picked: None,
        };
        met(mask, lengths, 0..met_tokens, selected)
    }

    #[test]
    fn a_causal_triangle_and_its_context_are_counted() {
        let met = all(AttnMask::CAUSAL, 4, 10, None);
        assert_eq!((met.pairs, met.keys), (7 + 8 + 9 + 10, 10));
        assert_eq!(all(AttnMask::FULL, 4, 10, None).pairs, 40);
    }

    #[test]
    fn windows_chunks_and_selections_leave_keys_out() {
        let window = AttnMask {
            window: Some(Window {
                left: Some(2),
                right: Some(0),
            }),
            ..AttnMask::CAUSAL
        };
        let met = all(window, 2, 10, None);
        assert_eq!((met.pairs, met.keys), (6, 4));
        let chunk = AttnMask {
            chunk: Some(4),
            ..AttnMask::CAUSAL
        };
        assert_eq!(all(chunk, 3, 10, None).pairs, 4 + 1 + 2);
        assert_eq!(all(AttnMask::CAUSAL, 3, 4, Some(3)).pairs, 2 + 3 + 3);
    }
}
