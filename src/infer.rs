//! Sampled entries to a schema.

mod document;

use std::collections::HashMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_schema::{DataType, Field, TimeUnit};

use crate::decode::parses;
use crate::error::Result;
use crate::payload::Payload;
use crate::schema::StreamSchema;
use document::Document;

/// A dtype that a column may turn out to have, and the texts that speak for it. What a column is
/// taken for is narrower than what its dtype accepts: `1` and `yes` could be booleans, but rarely
/// are.
struct Candidate {
    data_type: DataType,
    fits: fn(&str) -> bool,
    /// Whether JSON, which tells numbers and booleans from text, writes it as a string.
    is_string: bool,
}

/// The candidates, the narrowest first.
fn candidates() -> [Candidate; 6] {
    let datetime =
        |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    [
        Candidate { data_type: DataType::Boolean, fits: is_boolean, is_string: false },
        Candidate { data_type: DataType::Int64, fits: is_plain_integer, is_string: false },
        Candidate { data_type: DataType::Float64, fits: is_float, is_string: false },
        Candidate { data_type: DataType::Date32, fits: is_date, is_string: true },
        Candidate {
            data_type: datetime(None),
            fits: |text| is_datetime(text, false),
            is_string: true,
        },
        Candidate {
            data_type: datetime(Some("UTC")),
            fits: |text| is_datetime(text, true),
            is_string: true,
        },
    ]
}

/// The fields of a batch of columns of bytes with the dtypes that all their values speak for; a column
/// without values is text, and one with a value that is no UTF-8 stays bytes. In place of a payload
/// come its keys, which `schema` names columns of.
///
/// # Errors
///
/// [`Schema`](crate::ErrorKind::Schema) where there are more keys than there may be columns.
pub(crate) fn infer_fields(
    sample: &RecordBatch,
    payload: Option<&Payload>,
    schema: &StreamSchema,
) -> Result<Vec<Field>> {
    let columns = sample.schema();
    let mut fields: Vec<Field> = Vec::with_capacity(columns.fields().len());
    for (field, column) in columns.fields().iter().zip(sample.columns()) {
        let Some(values) = column.as_binary_view_opt() else {
            fields.push(Field::new(field.name(), field.data_type().clone(), true));
            continue;
        };
        match payload.filter(|payload| payload.field == *field.name()) {
            None => {
                let texts = values.iter().flatten().map(std::str::from_utf8);
                let data_type = match texts.clone().all(|text| text.is_ok()) {
                    true => infer(texts.flatten()),
                    false => DataType::BinaryView,
                };
                fields.push(Field::new(field.name(), data_type, true));
            }
            Some(payload) => {
                let mut keys = Document::new(payload, schema);
                values.iter().flatten().try_for_each(|document| keys.look_at(document))?;
                fields.extend(keys.fields());
            }
        }
    }
    if payload.is_some() {
        unite(&mut fields);
    }
    Ok(fields)
}

/// Makes one field of those that share a name: a key in some entries, and a field in others.
fn unite(fields: &mut Vec<Field>) {
    let mut seen: HashMap<String, (usize, DataType)> = HashMap::new();
    let mut united = Vec::with_capacity(fields.len());
    for field in fields.drain(..) {
        match seen.get(field.name()) {
            None => {
                let place = (united.len(), field.data_type().clone());
                seen.insert(field.name().clone(), place);
                united.push(field);
            }
            Some((_, data_type)) if data_type == field.data_type() => {}
            Some((index, _)) => {
                if let Some(first) = united.get_mut(*index) {
                    *first = Field::new(field.name(), DataType::Utf8View, true);
                }
            }
        }
    }
    *fields = united;
}

fn infer<'a>(texts: impl Iterator<Item = &'a str>) -> DataType {
    let mut inference = Inference::default();
    for text in texts {
        inference.look_at(text, |_| true);
        if inference.left.is_empty() {
            break;
        }
    }
    inference.data_type()
}

/// What texts have in common so far.
struct Inference {
    left: Vec<Candidate>,
    has_value: bool,
    has_digit: bool,
}

impl Default for Inference {
    fn default() -> Self {
        Inference { left: Vec::from(candidates()), has_value: false, has_digit: false }
    }
}

impl Inference {
    /// Takes a text into account, for which only some candidates are `allowed`. The empty text says
    /// nothing.
    fn look_at(&mut self, text: &str, allowed: impl Fn(&Candidate) -> bool) {
        if text.is_empty() {
            return;
        }
        self.has_value = true;
        self.left.retain(|candidate| allowed(candidate) && (candidate.fits)(text));
        self.has_digit |= text.bytes().any(|byte| byte.is_ascii_digit());
    }

    /// A column of nothing but "nan" or "inf" is more likely to be words, and one without any value
    /// fits everything and says nothing.
    fn data_type(&self) -> DataType {
        let speaks = |data_type: &&DataType| {
            self.has_value && (self.has_digit || **data_type == DataType::Boolean)
        };
        let mut left = self.left.iter().map(|candidate| &candidate.data_type);
        left.find(speaks).cloned().unwrap_or(DataType::Utf8View)
    }
}

fn is_boolean(text: &str) -> bool {
    text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false")
}

/// An integer that its column would print the same way. One with leading zeros, such as a postal
/// code, or beyond 64 bits, such as a hash, would not survive as a number.
fn is_plain_integer(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}

fn is_float(text: &str) -> bool {
    let is_integer = text.trim_start_matches(['-', '+']).bytes().all(|byte| byte.is_ascii_digit());
    let is_number = parses(&Field::new("", DataType::Float64, true), text);
    is_number && (!is_integer || is_plain_integer(text))
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && parses(&Field::new("", DataType::Date32, true), text)
}

fn is_datetime(text: &str, with_offset: bool) -> bool {
    let Some((date, time)) = text.split_once(['T', ' ']) else {
        return false;
    };
    let has_offset = time.contains(['Z', 'z', '+', '-']);
    let data_type = DataType::Timestamp(TimeUnit::Microsecond, None);
    is_date(date) && has_offset == with_offset && parses(&Field::new("", data_type, true), text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_are_taken_for_what_all_their_values_say() {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let naive = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (texts, expected) in [
            (&["true", "FALSE"][..], DataType::Boolean),
            (&["1", "-2", "0"], DataType::Int64),
            (&["1", "0"], DataType::Int64),
            (&["1", "2.5"], DataType::Float64),
            (&["1e3", "nan"], DataType::Float64),
            (&["nan", "inf"], DataType::Utf8View),
            (&["1.5", "1e400"], DataType::Utf8View),
            (&["007", "1.5"], DataType::Utf8View),
            (&["00501"], DataType::Utf8View),
            (&["9223372036854775808"], DataType::Utf8View),
            (&["2024-01-31"], DataType::Date32),
            (&["2024-02-31"], DataType::Utf8View),
            (&["2024-01-31T12:00:00", "2024-01-31 12:00:00.5", "2024-01-31T12:00"], naive),
            (&["2024-1-31"], DataType::Utf8View),
            (&["2013-01-01T10:00:00Z", "2024-01-31T12:00:00+01:00"], utc),
            (&["2024-01-31", "2024-01-31T12:00:00"], DataType::Utf8View),
            (&["yes", "no"], DataType::Utf8View),
            (&["UA", "AA"], DataType::Utf8View),
            (&[], DataType::Utf8View),
        ] {
            assert_eq!(infer(texts.iter().copied()), expected, "{texts:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_column_is_taken_for_reads_it(text in "[-+]?[0-9]{1,4}[-.eT: 0-9]{0,20}[Z+]?[0-9:]{0,5}|[a-zA-Z]{1,8}") {
            let field = Field::new("", infer([text.as_str()].into_iter()), true);
            prop_assert!(parses(&field, &text), "{:?} as {}", text, field.data_type());
        }
    }
}
