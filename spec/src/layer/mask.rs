//! Which keys a query may see.

/// Which keys a query may see. Packed sequences are an input of every mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttnMask {
    /// The rule.
    pub kind: MaskKind,
    /// Whether inputs may be padded (`padding`, `padding_causal`).
    pub padding: bool,
    /// Keys too far away are not seen (`window_size`, F-04).
    pub window: Option<Window>,
    /// A query sees keys of its own chunk of so many tokens (`attention_chunk_size`); counted from its sequence's start.
    pub chunk: Option<u32>,
    /// Tokens of the same block see each other, whatever else hides them; which tokens make blocks is an input (F-03).
    pub bidirectional_blocks: bool,
}

/// The rule of a mask (Megatron's `attn_mask_type`, padding apart).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MaskKind {
    /// Itself and what came before.
    Causal,
    /// Causal, the last query aligned with the last key. Differs from [`MaskKind::Causal`] where there are more keys than queries.
    CausalBottomRight,
    /// Everything in its sequence.
    Full,
    /// What an input says, key by key (F-02).
    Arbitrary,
}

/// How far a query sees, in tokens; `None` is without a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Backwards: the key `left` tokens before is the farthest one.
    pub left: Option<u32>,
    /// Forwards. 0 in causal masks.
    pub right: Option<u32>,
}

impl AttnMask {
    /// `attn_mask_type: causal` and nothing else.
    pub const CAUSAL: Self = Self::of(MaskKind::Causal, false);
    /// `attn_mask_type: padding_causal` and nothing else.
    pub const PADDING_CAUSAL: Self = Self::of(MaskKind::Causal, true);
    /// `attn_mask_type: no_mask` and nothing else.
    pub const FULL: Self = Self::of(MaskKind::Full, false);
    /// `attn_mask_type: padding` and nothing else.
    pub const PADDING: Self = Self::of(MaskKind::Full, true);

    /// A rule without bounds.
    pub const fn of(kind: MaskKind, padding: bool) -> Self {
        Self {
            kind,
            padding,
            window: None,
            chunk: None,
            bidirectional_blocks: false,
        }
    }

    /// Whether a query sees only itself and what came before, blocks apart.
    pub fn is_causal(self) -> bool {
        matches!(self.kind, MaskKind::Causal | MaskKind::CausalBottomRight)
    }

    /// Whether inputs may be padded.
    pub fn allows_padding(self) -> bool {
        self.padding
    }
}
