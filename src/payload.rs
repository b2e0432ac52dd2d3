//! Which field holds a document, of which format, and what becomes of its keys.

use arrow_schema::{DataType, Field, FieldRef, TimeUnit};

use crate::compression::{Inflater, PayloadCompression};
use crate::error::{Error, Result, shorten};
use crate::payload_schema::PayloadSchema;

/// How a payload is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PayloadFormat {
    /// A JSON object.
    #[default]
    Json,
    /// A MessagePack map; or an array, where [`Payload::with_positions`] names its values.
    MessagePack,
    /// What a [`PayloadSchema`] says.
    Schema(PayloadSchema),
}

impl PayloadFormat {
    /// Whether no bytes are a payload; else they are none, and null.
    pub(crate) fn takes_empty(&self) -> bool {
        match self {
            PayloadFormat::Schema(schema) => schema.takes_empty(),
            PayloadFormat::Json | PayloadFormat::MessagePack => false,
        }
    }

    /// The unit that writers of the format want durations in, if it is not that of their columns.
    pub(crate) fn duration_unit(&self) -> Option<TimeUnit> {
        match self {
            PayloadFormat::Schema(schema) => schema.duration_unit(),
            PayloadFormat::Json | PayloadFormat::MessagePack => None,
        }
    }
}

impl std::str::FromStr for PayloadFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "json" => Ok(PayloadFormat::Json),
            "msgpack" => Ok(PayloadFormat::MessagePack),
            other => Err(Error::invalid(format!(
                "payload_format must be \"json\" or \"msgpack\", not {other:?}"
            ))),
        }
    }
}

/// A field whose value is an object, such as one of JSON: its keys become columns, as if each was a field. Made by
/// [`Payload::new`] and changed by its `with_` methods.
///
/// ```
/// use redfloe::{Payload, StreamSchema};
///
/// let payload = Payload::new("data").with_path("$.after")?.with_prefix("after_");
/// let schema = StreamSchema::default().with_payload(Some(payload));
/// # Ok::<(), redfloe::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    pub(crate) field: String,
    pub(crate) path: Vec<String>,
    pub(crate) prefix: String,
    pub(crate) format: PayloadFormat,
    pub(crate) positions: Vec<String>,
    pub(crate) compression: Option<PayloadCompression>,
    pub(crate) max_bytes: usize,
}

impl Payload {
    /// What a compressed payload may become, unless [`with_max_bytes`](Self::with_max_bytes) says
    /// otherwise.
    pub const MAX_BYTES: usize = 16 * 1024 * 1024;

    /// The document in this field; its keys are columns of their own names.
    pub fn new(field: impl Into<String>) -> Self {
        Payload {
            field: field.into(),
            path: Vec::new(),
            prefix: String::new(),
            format: PayloadFormat::default(),
            positions: Vec::new(),
            compression: None,
            max_bytes: Self::MAX_BYTES,
        }
    }

    /// Takes the keys of an object inside the document: `$.after`, `$.a.b`, `$["a key"]`; `$` is
    /// the document itself.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for anything but a path of keys.
    pub fn with_path(mut self, path: &str) -> Result<Self> {
        self.path = parse_path(path).ok_or_else(|| {
            Error::invalid(format!(
                "payload_path must be a path of keys, such as $.after or $[\"a key\"], not {}",
                shorten(path.as_bytes())
            ))
        })?;
        Ok(self)
    }

    /// Puts this before the name of each key's column, so that it is not taken for a field's.
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How the document is written; as JSON by default.
    pub fn with_format(mut self, format: PayloadFormat) -> Self {
        self.format = format;
        self
    }

    /// The names of the values of an array that stands in place of the object, as if they were its
    /// keys. Those at its end may be missing.
    pub fn with_positions(mut self, names: Vec<String>) -> Self {
        self.positions = names;
        self
    }

    /// How each payload is compressed, if it is.
    pub fn with_compression(mut self, compression: Option<PayloadCompression>) -> Self {
        self.compression = compression;
        self
    }

    /// How many bytes a payload may have once it is decompressed; one that has more does not fit.
    pub fn with_max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Refuses a path to what no payload can have, where their schema tells.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) names it.
    pub fn check(&self) -> Result<()> {
        let PayloadFormat::Schema(schema) = &self.format else { return Ok(()) };
        let Some((depth, name, fields)) = schema.misnamed(&self.path) else { return Ok(()) };
        let records =
            fields.iter().filter(|field| matches!(field.data_type(), DataType::Struct(_)));
        let records: Vec<&str> = records.map(|field| field.name().as_str()).collect();
        let there = match records.as_slice() {
            [] => "which has no records".to_owned(),
            _ => format!("whose records are {}", records.join(", ")),
        };
        Err(Error::invalid(format!(
            "payload_path names {name:?}, which is no record in {} by the payloads' schema, {there}",
            match depth.checked_sub(1) {
                Some(above) => self.path_to(above),
                None => "$".to_owned(),
            }
        )))
    }

    /// The columns that hold all that the payloads have, where their schema tells.
    pub(crate) fn columns(&self) -> Vec<Field> {
        let PayloadFormat::Schema(schema) = &self.format else {
            return Vec::new();
        };
        let fields = schema.fields_at(&self.path);
        let named = |field: &FieldRef| format!("{}{}", self.prefix, field.name());
        fields.iter().map(|field| field.as_ref().clone().with_name(named(field))).collect()
    }

    /// What decompresses the payloads, where they are compressed.
    pub(crate) fn inflater(&self) -> Option<Inflater> {
        self.compression.map(|compression| Inflater::new(compression, self.max_bytes))
    }

    /// The path up to its key at `depth`.
    pub(crate) fn path_to(&self, depth: usize) -> String {
        let mut path = "$".to_owned();
        for key in self.path.iter().take(depth + 1) {
            write_key(&mut path, key);
        }
        path
    }
}

/// Appends a key to a path: `.key`, or `["a key"]`.
pub(crate) fn write_key(path: &mut String, key: &str) {
    match is_plain(key) {
        true => path.extend([".", key]),
        false => path.push_str(&format!("[{key:?}]")),
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && !key.contains(['.', '[', ']', '"', '\'', '*', ' '])
}

/// The keys of `$.a["b c"]['d']`.
fn parse_path(path: &str) -> Option<Vec<String>> {
    let mut keys = Vec::new();
    let mut rest = path.strip_prefix('$')?;
    while !rest.is_empty() {
        let key;
        if let Some(tail) = rest.strip_prefix('.') {
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            (key, rest) = tail.split_at(end);
            if !is_plain(key) {
                return None;
            }
        } else {
            let tail = rest.strip_prefix('[')?;
            let quote = tail.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
            (key, rest) = tail.get(1..)?.split_once(quote)?;
            rest = rest.strip_prefix(']')?;
        }
        keys.push(key.to_owned());
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_keys() {
        for (path, expected) in [
            ("$", &[][..]),
            ("$.after", &["after"]),
            ("$.a.b", &["a", "b"]),
            (r#"$["a b"]"#, &["a b"]),
            ("$['a.b'].größe", &["a.b", "größe"]),
            (r#"$.a[""]"#, &["a", ""]),
        ] {
            let payload = Payload::new("data").with_path(path).unwrap();
            assert_eq!(payload.path, expected);
        }
        let payload = Payload::new("data").with_path("$.a['b c'].d").unwrap();
        assert_eq!(payload.path_to(1), r#"$.a["b c"]"#);
    }

    #[test]
    fn whatever_is_not_a_path_of_keys_is_refused() {
        for path in
            ["", "after", ".after", "$after", "$.", "$..a", "$.*", "$[0]", "$[*]", "$.a[", "$[\"a]"]
        {
            let error = Payload::new("data").with_path(path).unwrap_err();
            assert!(error.to_string().contains("payload_path"), "{path}");
        }
    }
}
