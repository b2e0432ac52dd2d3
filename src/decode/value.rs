//! Values that lie in a document, and how documents of each format are taken apart.

use super::column::Origin;

/// What kind of value it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    /// Its place is that of its content: in JSON, what stands between the quotes.
    String {
        /// Whether that has escapes.
        escaped: bool,
    },
    /// Its place is that of its content. JSON has none.
    Bytes,
    Boolean,
    Number,
    /// An instant. JSON has none.
    Time,
    Array,
    Object,
}

/// A value's kind, and its place in the document that was split. Small enough for two registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value {
    pub(crate) kind: Kind,
    start: u32,
    end: u32,
}

impl Value {
    /// No document of four gigabytes comes so far: a slot's length has 32 bits as well.
    #[inline(always)]
    pub(crate) fn new(kind: Kind, start: usize, end: usize) -> Self {
        Value { kind, start: start as u32, end: end as u32 }
    }

    /// The value, as it is written there.
    #[inline]
    pub(crate) fn of<'t>(&self, document: &'t [u8]) -> &'t [u8] {
        document.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Where that begins.
    #[inline]
    pub(crate) fn start(&self) -> usize {
        self.start as usize
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    #[inline]
    pub(crate) fn is_escaped(&self) -> bool {
        self.kind == Kind::String { escaped: true }
    }
}

/// The document is not of its format, or not of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A format whose documents say themselves what is in them. What reads documents is compiled once
/// for each, so there is no virtual call for a value.
pub(crate) trait Notation {
    const NO_OBJECT: &'static str;
    const NO_ARRAY: &'static str;

    /// Gives an object's keys and values, in order, one that is repeated each time. Each is checked
    /// to its end, and nothing comes after the object.
    fn split_object(
        document: &[u8],
        member: impl FnMut(Value, Value),
    ) -> std::result::Result<(), Malformed>;

    /// Gives an array's elements, in order, likewise.
    fn split_array(
        document: &[u8],
        element: impl FnMut(Value),
    ) -> std::result::Result<(), Malformed>;

    fn is_null(document: &[u8]) -> bool;

    fn is_array(document: &[u8]) -> bool;

    /// Appends what a string stands for, by its content.
    fn push_string(content: &[u8], out: &mut Vec<u8>);

    /// Appends the text of what is neither a string nor bytes.
    fn push_other(value: &[u8], out: &mut Vec<u8>);

    /// Where the text of such a value comes from.
    fn origin(kind: Kind) -> Origin;

    /// Appends the text that a value stands for.
    fn push_text(value: Value, document: &[u8], out: &mut Vec<u8>) {
        match value.kind {
            Kind::String { .. } | Kind::Bytes => Self::push_string(value.of(document), out),
            _ => Self::push_other(value.of(document), out),
        }
    }
}
