//! Where a value was written.
//!
//! A [`Span`] is an opaque index into a [`Sources`] table. The language never looks behind it: only the door that
//! read the text (a YAML file, a macro's tokens, another system's config) turns it back into a place.

use std::ops::Range;

/// Index of one place in a [`Sources`] table; [`Span::NONE`] for values that nobody wrote, such as imported ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span(u32);

impl Span {
    /// The span of a value that stands in no source.
    pub const NONE: Span = Span(u32::MAX);

    /// Whether this is [`Span::NONE`].
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// Index of a text in a [`Sources`] table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TextId(u32);

/// A place that a [`Span`] stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A byte range of a text.
    Text {
        /// Which text.
        text: TextId,
        /// Byte offsets into it.
        range: Range<usize>,
    },
    /// The n-th token span kept by the macro door.
    Token(usize),
}

/// A text that was read, with the name it is shown under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// File name as the user gave it, or a description such as `<stdin>`.
    pub name: String,
    /// The whole text.
    pub content: String,
}

/// The texts that were read and the places that spans stand for.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    texts: Vec<Text>,
    places: Vec<Place>,
}

impl Sources {
    /// Adds a text.
    pub fn add_text(&mut self, name: impl Into<String>, content: impl Into<String>) -> TextId {
        let id = TextId(u32::try_from(self.texts.len()).unwrap_or(u32::MAX));
        self.texts.push(Text {
            name: name.into(),
            content: content.into(),
        });
        id
    }

    /// Adds a place. A table that is full (2^32 - 1 places) answers [`Span::NONE`].
    pub fn add_place(&mut self, place: Place) -> Span {
        match u32::try_from(self.places.len()) {
            Ok(index) if index != u32::MAX => {
                self.places.push(place);
                Span(index)
            }
            _ => Span::NONE,
        }
    }

    /// The text with this id.
    pub fn text(&self, id: TextId) -> Option<&Text> {
        self.texts.get(id.0 as usize)
    }

    /// The place that a span stands for; `None` for [`Span::NONE`].
    pub fn place(&self, span: Span) -> Option<&Place> {
        self.places.get(span.0 as usize)
    }
}

/// A value and where it was written. Equality looks at the value only.
#[derive(Debug, Clone, Copy)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// A value written at `span`.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    /// A value that stands in no source.
    pub fn unplaced(value: T) -> Self {
        Self {
            value,
            span: Span::NONE,
        }
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}
