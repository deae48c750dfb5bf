//! What a layer lets its queries see, known when the layer is generated.

/// Which keys of its sequence a query may see. Tokens count from 0 in their sequence, those in a cache included; where there are fewer
/// queries than keys, the last query stands at the last key (bottom-right alignment, features F-01).
///
/// ```
/// use mla_runtime::Visibility;
/// /// The own key and 127 before it.
/// const SLIDING: Visibility = Visibility::CAUSAL.window(Some(127), Some(0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visibility {
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
    chunk: Option<usize>,
    blocks: bool,
    given: bool,
}

impl Visibility {
    /// All keys.
    pub const FULL: Self = Self {
        causal: false,
        left: None,
        right: None,
        chunk: None,
        blocks: false,
        given: false,
    };

    /// Keys up to its own.
    pub const CAUSAL: Self = Self {
        causal: true,
        ..Self::FULL
    };

    /// What a dense mask says that comes with the input (features F-02).
    pub const GIVEN: Self = Self {
        given: true,
        ..Self::FULL
    };

    /// At most `left` keys before and `right` keys behind its own; `None` is no limit (features F-04).
    #[must_use]
    pub const fn window(self, left: Option<usize>, right: Option<usize>) -> Self {
        Self {
            left,
            right,
            ..self
        }
    }

    /// Keys of its own chunk of `tokens` tokens only.
    ///
    /// # Panics
    /// When `tokens` is 0. In a constant the compiler says so.
    #[must_use]
    pub const fn chunk(self, tokens: usize) -> Self {
        assert!(tokens > 0, "a chunk holds at least one token");
        Self {
            chunk: Some(tokens),
            ..self
        }
    }

    /// Beside all that, the tokens of a block see each other; which tokens make a block comes with the input (features F-03).
    #[must_use]
    pub const fn blocks(self) -> Self {
        Self {
            blocks: true,
            ..self
        }
    }

    /// Whether a query sees no key behind its own.
    pub const fn is_causal(self) -> bool {
        self.causal
    }

    /// Whether blocks come with the input.
    pub const fn has_blocks(self) -> bool {
        self.blocks
    }

    /// Whether a dense mask comes with the input.
    pub const fn is_given(self) -> bool {
        self.given
    }

    /// The keys that a query standing at key `at` sees, first and one behind the last; blocks and dense masks are not considered.
    pub(crate) fn bounds(self, at: i64) -> (i64, i64) {
        let mut start = i64::MIN;
        let mut end = if self.causal { at + 1 } else { i64::MAX };
        if let Some(left) = self.left {
            start = at.saturating_sub(signed(left));
        }
        if let Some(right) = self.right {
            end = end.min(at.saturating_add(signed(right)).saturating_add(1));
        }
        if let Some(tokens) = self.chunk.map(signed) {
            let chunk = at.div_euclid(tokens) * tokens;
            start = start.max(chunk);
            end = end.min(chunk.saturating_add(tokens));
        }
        (start, end)
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
