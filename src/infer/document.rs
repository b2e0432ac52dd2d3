//! Sampled documents to the fields that their keys are.

use std::sync::Arc;

use arrow_schema::{DataType, Field};

use super::Inference;
use crate::compression::Inflater;
use crate::decode::json::Json;
use crate::decode::packed::Packed;
use crate::decode::value::{Kind, Notation, Value};
use crate::decode::{Member, Names, split_payload};
use crate::error::Result;
use crate::payload::{Payload, PayloadFormat};
use crate::payload_schema::{NotUnpacked, Packer, Wanted};
use crate::schema::{NoColumn, StreamSchema};

/// The keys of a payload's documents.
pub(super) struct Document<'s> {
    payload: &'s Payload,
    schema: &'s StreamSchema,
    keys: Keys,
    inflater: Option<Inflater>,
}

impl<'s> Document<'s> {
    pub(super) fn new(payload: &'s Payload, schema: &'s StreamSchema) -> Self {
        Document { payload, schema, keys: Keys::default(), inflater: payload.inflater() }
    }

    /// Takes a document into account; what is none says nothing.
    pub(super) fn look_at(&mut self, document: &[u8]) -> Result<()> {
        let mut inflated = Vec::new();
        let document = match &mut self.inflater {
            Some(inflater) => match inflater.inflate(document, &mut inflated) {
                Ok(()) => inflated.as_slice(),
                Err(_) => return Ok(()),
            },
            None => document,
        };
        match &self.payload.format {
            // JSON that is no text says no more than what is no JSON.
            PayloadFormat::Json if std::str::from_utf8(document).is_err() => Ok(()),
            PayloadFormat::Json => self.look_at_members::<Json>(document),
            PayloadFormat::MessagePack => self.look_at_members::<Packed>(document),
            PayloadFormat::Schema(schema) => {
                let mut packer = Packer::new(self.payload.max_bytes);
                match schema.unpacker(Wanted::All).unpack(document, &mut packer) {
                    Ok(()) => self.look_at_members::<Packed>(packer.bytes()),
                    Err(NotUnpacked::Misfit(_)) => Ok(()),
                    Err(NotUnpacked::Failed(error)) => Err(error),
                }
            }
        }
    }

    fn look_at_members<N: Notation>(&mut self, document: &[u8]) -> Result<()> {
        let mut members = Vec::new();
        // What broke off is not read either.
        let Ok(start) = split_payload::<N>(self.payload, document, &mut members) else {
            return Ok(());
        };
        let object = document.get(start..).unwrap_or_default();
        let mut name = Vec::new();
        for (place, Member { key, value }) in members.into_iter().enumerate() {
            name.clear();
            name.extend_from_slice(self.payload.prefix.as_bytes());
            match (key, self.payload.positions.get(place)) {
                (Some(key), _) => N::push_text(key, object, &mut name),
                (None, Some(position)) => name.extend_from_slice(position.as_bytes()),
                // Nobody has named it.
                (None, None) => continue,
            }
            let index = match self.keys.names.find(&name) {
                Some(index) => index,
                None => match self.schema.column_name(&name, self.keys.names.weight()) {
                    Ok(name) => self.keys.add(name),
                    Err(NoColumn::LeftOut | NoColumn::Rescued | NoColumn::Rejected(_)) => continue,
                    Err(NoColumn::Raised(error)) => return Err(error),
                },
            };
            let nulls = self.schema.null_values.of(self.keys.names.get(index));
            if let Some(seen) = self.keys.seen.get_mut(index) {
                seen.look_at::<N>(value, object, &nulls, self.schema.max_columns);
            }
        }
        Ok(())
    }

    pub(super) fn fields(&self) -> Vec<Field> {
        self.keys.fields()
    }
}

/// The keys of objects, in order of first appearance.
#[derive(Default)]
struct Keys {
    names: Names,
    seen: Vec<Seen>,
}

impl Keys {
    fn add(&mut self, name: &str) -> usize {
        self.seen.push(Seen::default());
        self.names.push(name)
    }

    fn fields(&self) -> Vec<Field> {
        let seen = self.seen.iter().enumerate();
        seen.map(|(index, seen)| Field::new(self.names.get(index), seen.data_type(), true))
            .collect()
    }
}

/// What the values of a key have in common.
#[derive(Default)]
struct Seen {
    texts: Option<Inference>,
    /// Some are bytes; and some neither these nor strings.
    has_bytes: bool,
    has_others: bool,
    elements: Option<Box<Seen>>,
    members: Option<Box<Keys>>,
    /// Objects have more keys than a struct may have fields.
    is_too_wide: bool,
}

impl Seen {
    fn look_at<N: Notation>(
        &mut self,
        value: Value,
        document: &[u8],
        nulls: &[Box<[u8]>],
        widest: usize,
    ) {
        let raw = value.of(document);
        let mut text = Vec::new();
        match value.kind {
            Kind::Null => return,
            Kind::Array => {
                let elements = self.elements.get_or_insert_default();
                // It has been split before, as part of its document.
                let _ = N::split_array(raw, |element| {
                    elements.look_at::<N>(element, raw, nulls, widest);
                });
                return;
            }
            Kind::Object => return self.look_at_object::<N>(raw, nulls, widest),
            _ => N::push_text(value, document, &mut text),
        }
        if nulls.iter().any(|null| **null == *text) {
            return;
        }
        let is_string = matches!(value.kind, Kind::String { .. });
        // Old writers of MessagePack have no other place for bytes than a string.
        if value.kind == Kind::Bytes || (is_string && std::str::from_utf8(raw).is_err()) {
            self.has_bytes = true;
            return;
        }
        self.has_others |= !is_string;
        let is_quoted = is_string || value.kind == Kind::Time;
        let texts = self.texts.get_or_insert_default();
        let text = String::from_utf8_lossy(&text);
        texts.look_at(&text, |candidate| candidate.is_string == is_quoted);
        // NaN is a number here, and no word.
        texts.has_digit |= value.kind == Kind::Number;
    }

    fn look_at_object<N: Notation>(&mut self, object: &[u8], nulls: &[Box<[u8]>], widest: usize) {
        let keys = self.members.get_or_insert_default();
        let mut name = Vec::new();
        // As above.
        let _ = N::split_object(object, |key, value| {
            name.clear();
            N::push_text(key, object, &mut name);
            let index = match (keys.names.find(&name), std::str::from_utf8(&name)) {
                (Some(index), _) => index,
                (None, Ok(new)) if !new.contains('\0') => {
                    if keys.names.weight() >= widest {
                        self.is_too_wide = true;
                        return;
                    }
                    keys.add(new)
                }
                // A name that no field can have.
                _ => return,
            };
            if let Some(seen) = keys.seen.get_mut(index) {
                seen.look_at::<N>(value, object, nulls, widest);
            }
        });
    }

    /// A struct, a list, bytes, or what all texts say; text where the values are of several kinds.
    fn data_type(&self) -> DataType {
        match (&self.texts, &self.elements, &self.members) {
            (_, None, None) if self.has_bytes && !self.has_others => DataType::BinaryView,
            (Some(texts), None, None) if !self.has_bytes => texts.data_type(),
            (None, Some(elements), None) if !self.has_bytes => {
                DataType::LargeList(Arc::new(Field::new("item", elements.data_type(), true)))
            }
            (None, None, Some(keys))
                if !self.has_bytes && !self.is_too_wide && keys.names.len() > 0 =>
            {
                DataType::Struct(keys.fields().into())
            }
            _ => DataType::Utf8View,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inferred(documents: &[&str]) -> Vec<(String, DataType)> {
        let payload = Payload::new("data");
        let schema = StreamSchema::default().with_max_columns(10);
        let mut document = Document::new(&payload, &schema);
        documents.iter().try_for_each(|text| document.look_at(text.as_bytes())).unwrap();
        let fields = document.fields().into_iter();
        fields.map(|field| (field.name().clone(), field.data_type().clone())).collect()
    }

    fn only(values: &[&str]) -> DataType {
        let documents: Vec<_> = values.iter().map(|json| format!(r#"{{"k":{json}}}"#)).collect();
        let documents: Vec<_> = documents.iter().map(String::as_str).collect();
        let [(_, data_type)] = <[_; 1]>::try_from(inferred(&documents)).unwrap();
        data_type
    }

    fn list(item: DataType) -> DataType {
        DataType::LargeList(Arc::new(Field::new("item", item, true)))
    }

    fn object<const N: usize>(fields: [(&str, DataType); N]) -> DataType {
        DataType::Struct(fields.map(|(name, dtype)| Field::new(name, dtype, true)).to_vec().into())
    }

    #[test]
    fn values_are_taken_for_what_json_says_they_are() {
        let text = DataType::Utf8View;
        for (values, expected) in [
            (&["1", "-2"][..], DataType::Int64),
            (&["1", "2.5"], DataType::Float64),
            (&["1.0", "NaN", "-Infinity"], DataType::Float64),
            (&["NaN"], DataType::Float64),
            (&["true", "null", "false"], DataType::Boolean),
            // What is quoted is no number.
            (&[r#""1""#], text.clone()),
            (&[r#""true""#], text.clone()),
            (&["1", r#""2""#], text.clone()),
            (&[r#""2024-01-31""#, r#""""#], DataType::Date32),
            (&["18446744073709551616"], text.clone()),
            (&["null"], text.clone()),
            (&["[1,2]", "[]", "[null,3]"], list(DataType::Int64)),
            (&["[]"], list(text.clone())),
            (&["[[1.5]]"], list(list(DataType::Float64))),
            (&[r#"[1,"a",{"b":1}]"#], list(text.clone())),
            (&["[1]", "1"], text.clone()),
            (&["{}", "null"], text.clone()),
            (&[r#"{"a":1}"#, "[]"], text.clone()),
            (
                &[r#"{"a":1}"#, r#"{"b":[{"c":true}],"a":2.5}"#, "{}"],
                object([("a", DataType::Float64), ("b", list(object([("c", DataType::Boolean)])))]),
            ),
        ] {
            assert_eq!(only(values), expected, "{values:?}");
        }
        let wide: String = (0..11).map(|n| format!(r#""k{n}":1,"#)).collect();
        assert_eq!(only(&[&format!("{{{}}}", wide.trim_end_matches(','))]), text);
    }

    #[test]
    fn what_is_no_document_says_nothing() {
        let documents = [r#"{"a":1}"#, "[]", "no", r#"{"a":"text","b"#, "", "null", r#"{"c":[]}"#];
        let expected =
            [("a".to_owned(), DataType::Int64), ("c".to_owned(), list(DataType::Utf8View))];
        assert_eq!(inferred(&documents), expected);
    }
}
