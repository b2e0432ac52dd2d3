//! Loads a table: its hash, in one step where it is small, otherwise page by page.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::FieldRef;
use redis::Value;

use super::index::Texts;
use super::spec::conform;
use super::{Spec, Table};
use crate::client::{Client, Session, Sink};
use crate::decode::value::Kind;
use crate::decode::{Decoder, ReplyShape, json};
use crate::dtype::dtype_name;
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, shorten};
use crate::payload::Payload;
use crate::process::Lane;
use crate::resp::{self, Event, ReplyEvent, ReplyEvents, command};
use crate::schema::StreamSchema;

/// A hash of no more fields comes in one reply, which blocks the server for some milliseconds.
const SMALL: i64 = 10_000;
/// How many fields a page has, about.
const PAGE: &[u8] = b"10000";
/// How many rows are decoded at once.
const ROWS: usize = 10_000;

/// Loads a processor's table (HSCAN, Redis 2.8) through the lane that it holds: a missing one is empty.
///
/// # Errors
///
/// As [`Lane::load`]; [`Decode`](ErrorKind::Decode) for a key or a row that does not fit, which names both
/// and the column.
pub(crate) async fn load(lane: &mut Lane, key: &[u8], spec: &Arc<Spec>) -> Result<Table> {
    let loading = lane.load_with(key, || Loader::new(spec), Loader::push).await;
    let named = |error: Error| error.with_context("table", String::from_utf8_lossy(key));
    loading.and_then(Loader::finish).map_err(named)
}

/// Reads a table as anybody may (HLEN, HGETALL, Redis 2.0; HSCAN, 2.8): a missing one is empty.
///
/// A page at a time is decoded while the server makes the next. A table that others write to meanwhile
/// is no snapshot, unless it is small. It may come from a replica, where the client's options say so.
///
/// # Errors
///
/// [`Decode`](ErrorKind::Decode) for a key or a row that does not fit, which names both and the column;
/// [`WrongType`](ErrorKind::WrongType) for a key that holds something other than a hash; those of
/// connections.
pub(crate) async fn read(client: &Client, key: &[u8], spec: &Arc<Spec>) -> Result<Table> {
    read_with(client, key, || Loader::new(spec), Loader::push, Loader::finish).await
}

/// Reads the fields of a table as they are: their names, and the JSON of their rows.
///
/// # Errors
///
/// As [`read`], but for those of what does not fit.
pub(crate) async fn read_fields(client: &Client, key: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let push = |fields: &mut Vec<_>, name: &[u8], row: &[u8]| {
        // Where others write meanwhile, one may come twice.
        fields.push((name.to_vec(), row.to_vec()));
        Ok(())
    };
    read_with(client, key, || Ok(Vec::new()), push, Ok).await
}

/// Reads the rows of some keys as anybody may (HMGET, Redis 2.0): a table of those that there are.
///
/// # Errors
///
/// As [`read`]; [`Schema`](ErrorKind::Schema) for keys of another dtype.
pub(crate) async fn read_keys(
    client: &Client,
    key: &[u8],
    spec: &Arc<Spec>,
    keys: &RecordBatch,
) -> Result<Table> {
    /// In one reply, which keeps the server busy for a millisecond.
    const FIELDS: usize = 1_000;
    let texts = spec.key_texts(&spec.conform(keys)?)?;
    let mut seen = HashSet::new();
    let wanted: Vec<&[u8]> = (0..keys.num_rows())
        .filter_map(|row| texts.get(row))
        .filter(|text| seen.insert(*text))
        .collect();
    let mut session = client.reading_session(key);
    let mut loader = Loader::new(spec)?;
    for fields in wanted.chunks(FIELDS) {
        let command: Vec<&[u8]> =
            [b"HMGET", key].into_iter().chain(fields.iter().copied()).collect();
        let reply = session.value(&resp::command(&command)).await;
        let reply = reply.map_err(|error| about(error, key))?;
        for (field, row) in fields.iter().zip(reply.as_sequence().unwrap_or_default()) {
            if let Some(row) = resp::text(row) {
                loader.push(field, row)?;
            }
        }
    }
    loader.finish().map_err(|error| about(error, key))
}

/// Has something made of a hash's fields and values, where a field may come twice.
async fn read_with<B, T>(
    client: &Client,
    key: &[u8],
    begin: impl Fn() -> Result<B>,
    push: impl Fn(&mut B, &[u8], &[u8]) -> Result<()>,
    finish: impl Fn(B) -> Result<T>,
) -> Result<T> {
    let mut session = client.reading_session(key);
    loop {
        let loaded = match begin() {
            Ok(mut begun) => attempt(&mut session, key, &mut begun, &push).await.map(|()| begun),
            Err(error) => Err(error),
        };
        match loaded.and_then(&finish) {
            Ok(table) => {
                session.succeeded();
                return Ok(table);
            }
            // Another server's cursors are others: all is read anew.
            Err(error) => session.recover(about(error, key)).await?,
        }
    }
}

/// Says what the table is called.
fn about(error: Error, key: &[u8]) -> Error {
    let error = match error.kind() {
        ErrorKind::WrongType => error.with_message("the key holds something other than a hash"),
        _ => error,
    };
    error.with_context("table", String::from_utf8_lossy(key))
}

async fn attempt<B>(
    session: &mut Session,
    key: &[u8],
    begun: &mut B,
    push: impl Fn(&mut B, &[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let fields = match session.value(&command(&[b"HLEN", key])).await? {
        Value::Int(fields) => fields,
        other => return Err(Error::protocol(format_args!("{other:?} came for HLEN"))),
    };
    let scan = |cursor: &[u8]| command(&[b"HSCAN", key, cursor, b"COUNT", PAGE]);
    let small = fields <= SMALL;
    let mut connection = session.take_connection().await?;
    connection.send(&if small { command(&[b"HGETALL", key]) } else { scan(b"0") }).await?;
    loop {
        let mut page = Page::default();
        connection.receive(&mut page, Some(Duration::ZERO)).await?;
        let (cursor, pairs) = page.finish(small)?;
        let is_last = cursor == b"0";
        if !is_last {
            connection.send(&scan(&cursor)).await?;
        }
        for (key, row) in pairs.iter() {
            push(begun, key, row)?;
        }
        if is_last {
            session.put_back(connection);
            return Ok(());
        }
    }
}

/// The strings of a reply to HGETALL or HSCAN.
#[derive(Default)]
struct Page {
    events: ReplyEvents,
    texts: Texts,
    /// The beginning of a string that is not whole.
    partial: Vec<u8>,
    error: Option<Error>,
    complete: bool,
}

impl Sink for Page {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut rest = bytes;
        while !self.complete {
            match self.events.next(&mut rest)? {
                None => break,
                Some(ReplyEvent::Aside) => {}
                Some(ReplyEvent::Part { event, ends }) => {
                    match event {
                        Event::Bytes { part, done: false } => self.partial.extend_from_slice(part),
                        Event::Bytes { part, done: true } if self.partial.is_empty() => {
                            self.texts.push(part);
                        }
                        Event::Bytes { part, done: true } => {
                            self.partial.extend_from_slice(part);
                            self.texts.push(&self.partial);
                            self.partial.clear();
                        }
                        Event::Error(line) => self.error = Some(Error::from_server(line)),
                        _ => {}
                    }
                    self.complete = ends;
                }
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn is_complete(&self) -> bool {
        self.complete
    }
}

impl Page {
    /// The next cursor, and fields with their values, from the first or second string on.
    fn finish(self, is_whole: bool) -> Result<(Vec<u8>, Pairs)> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let first = usize::from(!is_whole);
        if self.texts.len() < first || (self.texts.len() - first) % 2 == 1 {
            return Err(Error::protocol("a hash has a field without a value"));
        }
        let cursor = if is_whole { b"0".to_vec() } else { self.texts.get(0).to_vec() };
        Ok((cursor, Pairs { texts: self.texts, first }))
    }
}

struct Pairs {
    texts: Texts,
    first: usize,
}

impl Pairs {
    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let keys = (self.first..self.texts.len()).step_by(2);
        keys.map(|key| (self.texts.get(key), self.texts.get(key + 1)))
    }
}

/// Decodes fields of the hash into columns.
struct Loader {
    spec: Arc<Spec>,
    keys: Decoder,
    values: Decoder,
    /// What a row's JSON is called where it is decoded, as no column is; nobody sees it.
    row: String,
    /// The same of a key of several columns.
    composite: Option<String>,
    texts: Texts,
    object: Vec<u8>,
}

impl Loader {
    fn new(spec: &Arc<Spec>) -> Result<Self> {
        let decoder = |fields: &[FieldRef], payload: Option<&str>| {
            let schema = StreamSchema::closed(fields.to_vec())
                .with_id_column(None)
                .with_timestamp_column(None)
                .with_payload(payload.map(Payload::new));
            Decoder::new(schema, ReplyShape::Entries)
        };
        let row = unlike("row", spec.value_fields());
        let composite = (spec.key_fields().len() > 1).then(|| unlike("key", spec.key_fields()));
        Ok(Loader {
            keys: decoder(spec.key_fields(), composite.as_deref())?,
            values: decoder(spec.value_fields(), Some(&row))?,
            row,
            composite,
            texts: Texts::default(),
            object: Vec::new(),
            spec: Arc::clone(spec),
        })
    }

    fn push(&mut self, key: &[u8], row: &[u8]) -> Result<()> {
        let fields = self.spec.key_fields();
        match (&self.composite, fields) {
            (Some(name), _) => {
                object_of(key, fields, &mut self.object).ok_or_else(|| no_key(&self.spec, key))?;
                add(&mut self.keys, name, &self.object)?;
            }
            (None, [field]) => add(&mut self.keys, field.name(), key)?,
            (None, _) => return Err(Error::new(ErrorKind::Internal, "a table has no key")),
        }
        self.texts.push(key);
        add(&mut self.values, &self.row, row)?;
        if self.texts.len().is_multiple_of(ROWS) {
            self.keys.build();
            self.values.build();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Table> {
        let keys = all_rows(&mut self.keys, &self.texts, self.composite.as_deref())?;
        let values = all_rows(&mut self.values, &self.texts, Some(&self.row))?;
        let columns = keys.columns().iter().chain(values.columns());
        let kept = self.spec.stored.fields().iter();
        let columns: Result<Vec<ArrayRef>> =
            kept.zip(columns).map(|(field, array)| conform(field, array)).collect();
        let rows = RecordBatch::try_new(Arc::clone(&self.spec.stored), columns?)
            .map_err(crate::decode::internal)?;
        check_keys(&self.spec, &rows, &self.texts)?;
        Table::new(self.spec, &self.texts, rows)
    }
}

/// A name that none of the columns has.
fn unlike(name: &str, columns: &[FieldRef]) -> String {
    let mut name = name.to_owned();
    while columns.iter().any(|column| *column.name() == name) {
        name.push('_');
    }
    name
}

/// A key of several columns, an array, as an object of them.
fn object_of(key: &[u8], fields: &[FieldRef], object: &mut Vec<u8>) -> Option<()> {
    object.clear();
    let mut columns = fields.iter();
    let mut too_many = false;
    json::split_array(key, |value| {
        let Some(field) = columns.next() else {
            too_many = true;
            return;
        };
        object.push(if object.is_empty() { b'{' } else { b',' });
        crate::write::push_json_string(field.name(), object);
        object.push(b':');
        let is_text = matches!(value.kind, Kind::String { .. });
        let quote = if is_text { &b"\""[..] } else { b"" };
        [quote, value.of(key), quote].iter().for_each(|part| object.extend_from_slice(part));
    })
    .ok()?;
    object.push(b'}');
    (!too_many && columns.next().is_none()).then_some(())
}

/// All rows, or why one cannot be read: with its key, and its column, unless that is the `payload`.
fn all_rows(decoder: &mut Decoder, keys: &Texts, payload: Option<&str>) -> Result<RecordBatch> {
    decoder.build();
    let (row, error) = match decoder.flush_up_to_error() {
        Ok(batch) if batch.len() == keys.len() => return Ok(batch.records().clone()),
        Ok(batch) => match decoder.flush() {
            Err(error) => (batch.len(), error),
            Ok(_) => return Err(Error::new(ErrorKind::Internal, "a table has lost rows")),
        },
        Err(error) => (0, error),
    };
    let context = |name: &str| {
        let found = error.context().iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone())
    };
    let mut about = Error::new(error.kind(), error.message())
        .with_advice("change the table's schema, or repair the row")
        .with_context("key", shorten(keys.get(row)));
    match context("field") {
        Some(column) if payload != Some(&column) => {
            about = about.with_context("column", column);
        }
        _ => {}
    }
    if let Some(dtype) = context("dtype") {
        about = about.with_context("dtype", dtype);
    }
    Err(about)
}

/// Refuses keys that are written otherwise than this table would: there would be two fields for one key.
fn check_keys(spec: &Spec, rows: &RecordBatch, texts: &Texts) -> Result<()> {
    if spec.has_plain_key() {
        return Ok(());
    }
    let written = spec.key_texts(rows)?;
    match (0..texts.len()).find(|row| written.get(*row) != Some(texts.get(*row))) {
        None => Ok(()),
        Some(row) => {
            let error = no_key(spec, texts.get(row));
            Err(match written.get(row) {
                Some(text) => error.with_advice(format!("it would be written {}", shorten(text))),
                None => error,
            })
        }
    }
}

/// Adds an entry of one field.
fn add(decoder: &mut Decoder, name: &str, value: &[u8]) -> Result<()> {
    decoder.push_entry(EntryId::MIN, Some((name.as_bytes(), value)))
}

fn no_key(spec: &Spec, key: &[u8]) -> Error {
    let fields = spec.key_fields();
    let columns: Vec<String> =
        fields.iter().map(|field| format!("{} {}", field.name(), dtype_name(field))).collect();
    let message = format!("the table has the field {}, which is no key of it", shorten(key));
    Error::new(ErrorKind::Decode, message)
        .with_context("key", shorten(key))
        .with_context("columns", columns.join(", "))
}

#[cfg(test)]
mod tests {
    use arrow_schema::{DataType, Field};

    use super::*;

    fn object(key: &str) -> Option<String> {
        let fields = ["a", "b\""].map(|name| Arc::new(Field::new(name, DataType::Utf8View, true)));
        let mut object = Vec::new();
        object_of(key.as_bytes(), &fields, &mut object)?;
        String::from_utf8(object).ok()
    }

    #[test]
    fn a_key_of_several_columns_is_an_array_of_as_many_values() {
        let two = object(r#"["x\"y",7]"#);
        assert_eq!(two.as_deref(), Some(r#"{"a":"x\"y","b\"":7}"#));
        for other in ["[1]", "[1,2,3]", "1", "[1,2", "{}", ""] {
            assert_eq!(object(other), None, "{other}");
        }
    }

    #[test]
    fn a_page_may_be_cut_anywhere() -> Result<()> {
        let reply = b"*2\r\n$2\r\n17\r\n*4\r\n$1\r\na\r\n$0\r\n\r\n$2\r\nbc\r\n$3\r\ndef\r\n";
        for size in 1..=reply.len() {
            let mut page = Page::default();
            for piece in reply.chunks(size) {
                assert_eq!(page.decode(piece)?, piece.len());
            }
            assert!(page.is_complete());
            let (cursor, pairs) = page.finish(false)?;
            let pairs: Vec<_> = pairs.iter().collect();
            assert_eq!(cursor, b"17");
            assert_eq!(pairs, [(&b"a"[..], &b""[..]), (b"bc", b"def")]);
        }
        Ok(())
    }

    #[test]
    fn a_table_needs_a_key_that_can_be_told_apart() {
        let text = Field::new("a", DataType::Utf8View, true);
        let float = Field::new("b", DataType::Float64, true);
        let error = Spec::new(vec![float.clone()], vec![text.clone()], None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(Spec::new(vec![text], vec![float], None).is_ok());
    }
}
