//! Values that do not fit their dtype, and where in a field's value they lie.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef};

use crate::dtype::{dtype_name, is_int128};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, shorten};
use crate::payload::write_key;
use crate::schema::{OnError, StreamSchema};

/// Why a text does not fit a dtype, as the end of the sentence `"abc" ...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit(pub(crate) Cow<'static, str>);

impl From<&'static str> for Misfit {
    fn from(reason: &'static str) -> Self {
        Misfit(Cow::Borrowed(reason))
    }
}

impl From<String> for Misfit {
    fn from(reason: String) -> Self {
        Misfit(Cow::Owned(reason))
    }
}

/// A value that does not fit, whose place is null: a field's, or one inside it.
#[derive(Debug)]
pub(crate) struct Refused<'a> {
    /// Its place inside the field's value, such as `[1].price`; empty where it is that value.
    pub(crate) place: String,
    /// What it should be: the name and dtype of the column, or of the place.
    pub(crate) field: &'a Field,
    pub(crate) text: &'a [u8],
    pub(crate) misfit: Misfit,
}

impl<'a> Refused<'a> {
    /// A field's whole value.
    pub(crate) fn whole(field: &'a Field, text: &'a [u8], misfit: Misfit) -> Self {
        Refused { place: String::new(), field, text, misfit }
    }

    /// The error that names the entry and the place in its column.
    pub(crate) fn error(&self, column: &str, id: EntryId) -> Error {
        let Refused { place, field, text, misfit } = self;
        let path = format!("{column}{place}");
        let at = match place.is_empty() {
            true => String::new(),
            false => format!(" at {path}"),
        };
        let message = format!("{}{at} {}", shorten(text), misfit.0);
        let advice = match field.data_type() {
            DataType::Decimal128(_, 0) if !is_int128(field) && *misfit == TOO_MANY_DECIMALS => {
                "pl.Decimal has scale 0; write pl.Decimal(18, 2), say"
            }
            _ => {
                "pass on_error=\"null\" to make such values null, or rescue_column=\"_rescued\" to \
                 keep them"
            }
        };
        Error::new(ErrorKind::Decode, message)
            .with_advice(advice)
            .with_context("entry ID", id.to_string())
            .with_context("field", path)
            .with_context("dtype", dtype_name(field))
    }
}

/// A decimal that its column would have to round.
pub(crate) const TOO_MANY_DECIMALS: Misfit =
    Misfit(Cow::Borrowed("has more decimal places than the decimal's scale"));

/// One step of the way to a value inside another.
#[derive(Debug)]
pub(crate) enum Step {
    Index(usize),
    Key(FieldRef),
}

/// A value inside another that does not fit.
#[derive(Debug)]
struct Leaf {
    /// The way to it, from the inside out.
    steps: Vec<Step>,
    field: FieldRef,
    text: Vec<u8>,
    misfit: Misfit,
}

/// What does not fit inside one value: each is null, and the rest of the value stays.
#[derive(Debug)]
pub(crate) struct Leaves {
    found: Vec<Leaf>,
    /// How many there are; those beyond `most` are not in `found`.
    count: usize,
    /// The most that are collected.
    most: usize,
    /// Where there are more, the whole value is refused in their place.
    or_whole: bool,
}

impl Leaves {
    /// The most that are rescued one by one: each takes many times the memory of a short text.
    const RESCUED: usize = 1_000;

    /// For what the schema does with them: it keeps them, none, or reports the first.
    pub(crate) fn wanted_by(schema: &StreamSchema) -> Self {
        let most = match schema.on_error {
            _ if schema.rescue_column.is_some() => Self::RESCUED,
            OnError::Null => 0,
            OnError::Raise | OnError::Reject => 1,
        };
        Leaves { most, or_whole: schema.rescue_column.is_some(), ..Leaves::first() }
    }

    /// To know whether there is one.
    pub(crate) fn first() -> Self {
        Leaves { found: Vec::new(), count: 0, most: 1, or_whole: false }
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// A value does not fit.
    #[cold]
    pub(super) fn add(&mut self, field: &FieldRef, text: &[u8], misfit: Misfit) {
        self.count += 1;
        if self.found.len() < self.most {
            let (field, text) = (Arc::clone(field), text.to_vec());
            self.found.push(Leaf { steps: Vec::new(), field, text, misfit });
        }
    }

    /// Those from this one on lie in a place of the value.
    #[inline]
    pub(super) fn lie_in(&mut self, from: usize, step: impl Fn() -> Step) {
        for leaf in self.found.iter_mut().skip(from) {
            leaf.steps.push(step());
        }
    }

    /// Those from this one on are in a value that does not fit as a whole.
    pub(super) fn truncate(&mut self, len: usize) {
        self.found.truncate(len);
        self.count = len;
    }

    /// Takes those of a field's value.
    #[cold]
    pub(super) fn drain(
        &mut self,
        field: &Field,
        text: &[u8],
        mut on_misfit: impl FnMut(Refused<'_>),
    ) {
        let is_whole = self.or_whole && self.count > self.most;
        self.count = 0;
        if is_whole {
            self.found.clear();
            return on_misfit(Refused::whole(field, text, "has too many misfits".into()));
        }
        for Leaf { steps, field, text, misfit } in self.found.drain(..) {
            let mut place = String::new();
            for step in steps.iter().rev() {
                match step {
                    Step::Index(index) => drop(write!(place, "[{index}]")),
                    Step::Key(field) => write_key(&mut place, field.name()),
                }
            }
            on_misfit(Refused { place, field: &field, text: &text, misfit });
        }
    }
}
