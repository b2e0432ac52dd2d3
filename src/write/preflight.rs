//! Questions to the server before a write, all in one round trip.

use std::time::Duration;

use redis::Value;

use super::frame::at_row;
use super::idmp_window::IdmpWindow;
use super::request::{IdSource, WriteRequest};
use super::row_id::RowId;
use super::rows::Rows;
use crate::client::{About, Client, Questions, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, ServerCode};
use crate::resp::{self, Info, text};

/// What the server said.
pub(super) struct Preflight {
    /// For each stream the last ID that it has had, where rows have IDs and the server does not add
    /// sequence numbers, which needs Redis 7.0.
    pub(super) sequences: Option<Vec<Option<EntryId>>>,
    /// How many rows of a producer the server recognises; none without a producer, and before Redis
    /// 8.6.
    pub(super) idmp_window: Option<IdmpWindow>,
}

/// The length of a value that no server can be told to refuse.
pub(super) const ALWAYS_TAKEN: usize = 1024 * 1024;

/// Asks what there is to know, and refuses what the server would refuse, or hang up on.
///
/// Of rows for one stream without IDs only the key's type is asked for, and that the first row tells as
/// well: where it is refused, so are all. Then the question is whether the connection is of use: better
/// that it gets lost than a row. Of rows for several streams others are in where one key is of another
/// type, so the types are asked for before; by a producer once for each stream.
pub(super) async fn preflight(
    client: &Client,
    session: &mut Session,
    rows: &Rows,
    request: &WriteRequest,
) -> Result<Preflight> {
    let longest = rows.longest();
    let has_ids = request.ids != IdSource::Server;
    let has_partial_ids = has_ids && rows.has_partial_ids();
    let is_idmp = !has_ids && request.idmp_producer.is_some();

    let is_new = |key: &&[u8]| !request.known_streams.contains(key);
    let keys: Vec<&[u8]> = rows.keys.iter().collect();
    let new: Vec<bool> = keys.iter().map(is_new).collect();
    let asks_info = has_ids || is_idmp;
    let mut about: Vec<About<'_>> = keys
        .iter()
        .zip(&new)
        .map(|(key, is_new)| {
            let kind = is_new.then(|| resp::type_of(key));
            let info = asks_info.then(|| resp::stream_info(key));
            About { key, questions: kind.into_iter().chain(info).collect() }
        })
        .collect();
    // What is about no stream goes with the first.
    if let Some(first) = about.first_mut() {
        if has_partial_ids {
            first.questions.push(probe(rows, &[b"1-*", b"f", b"v", b"f"]));
        }
        if is_idmp {
            first.questions.push(config(b"stream-idmp-*"));
        }
        if longest.is_some() {
            first.questions.push(config(b"proto-max-bulk-len"));
        }
    }
    let (was_asked, answers) = ask(client, session, about, &new, request).await?;
    let mut answers: Vec<_> = answers.into_iter().map(Vec::into_iter).collect();
    let mut next =
        |key: usize| answers.get_mut(key).and_then(Iterator::next).unwrap_or(Ok(Value::Nil));
    for (index, key) in keys.iter().enumerate() {
        if was_asked && new.get(index) == Some(&true) {
            check_type(key, next(index))?;
            request.known_streams.add(key);
        }
    }
    let mut streams = Vec::new();
    if asks_info {
        for index in 0..keys.len() {
            streams.push(if_known(next(index))?);
        }
    }
    let mut last_ids = Vec::new();
    if has_ids {
        last_ids = streams
            .iter()
            .map(|info| info.as_ref().and_then(|info| Info(info).id("last-generated-id")))
            .collect();
        check_ids(rows, &last_ids)?;
    }
    let adds_sequences = !has_partial_ids || knows_form(next(0))?;
    let idmp_config = if is_idmp { if_known(next(0))? } else { None };
    if let Some(longest) = longest {
        check_length(longest, if_known(next(0))?)?;
    }
    let idmp_window = match is_idmp {
        true => idmp_window(session, rows, &streams, idmp_config).await?,
        false => None,
    };
    Ok(Preflight { sequences: (!adds_sequences).then_some(last_ids), idmp_window })
}

/// Asks what there is to ask about each stream; and says whether anything was asked: of one stream's
/// key nobody needs to know where the server was there a moment ago.
async fn ask(
    client: &Client,
    session: &mut Session,
    about: Vec<About<'_>>,
    new: &[bool],
    request: &WriteRequest,
) -> Result<(bool, Vec<Vec<Result<Value>>>)> {
    let count: usize = about.iter().map(|about| about.questions.len()).sum();
    let [one] = about.as_slice() else {
        if count > 0 {
            return Ok((true, client.ask_about(&about).await?));
        }
        let first = about.first().map(|about| about.key).unwrap_or_default();
        return Ok((ask_if_silent(session, first).await?, Vec::new()));
    };
    if count == 0 {
        return Ok((ask_if_silent(session, one.key).await?, Vec::new()));
    }
    let mut questions = Questions::default();
    one.questions.iter().for_each(|question| questions.add(question));
    let is_kind_alone = new == [true] && count == 1;
    questions.only_if_silent = is_kind_alone && !request.atomic;
    let answers = questions.ask(session).await?;
    Ok((!answers.is_empty(), vec![answers]))
}

/// Makes sure of a connection that was silent.
async fn ask_if_silent(session: &mut Session, key: &[u8]) -> Result<bool> {
    let mut questions = Questions { only_if_silent: true, ..Questions::default() };
    questions.add(&resp::type_of(key));
    Ok(!questions.ask(session).await?.is_empty())
}

/// CONFIG GET, Redis 2.0.
pub(super) fn config(name: &[u8]) -> Vec<u8> {
    resp::command(&[b"CONFIG", b"GET", name])
}

/// A form of XADD that tells whether the server knows it, with a field that lacks its value: it looks
/// at the options and the ID before it counts, and adds nothing either way.
fn probe(rows: &Rows, arguments: &[&[u8]]) -> Vec<u8> {
    resp::command(&[&[b"XADD", rows.keys.get(0)], arguments].concat())
}

/// What a probe has told.
fn knows_form(answer: Result<Value>) -> Result<bool> {
    match answer {
        Err(error) if error.server_code() == Some(ServerCode::InvalidId) => Ok(false),
        answer => if_known(answer).map(|_| true),
    }
}

/// An answer, or `None` where the server knows no answer or the user may not ask.
pub(super) fn if_known(answer: Result<Value>) -> Result<Option<Value>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(error.kind(), ErrorKind::Response | ErrorKind::Authentication)
                && error.code().is_some()
                && !error.retryable() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Refuses a key that holds something other than a stream.
pub(super) fn check_type(key: &[u8], answer: Result<Value>) -> Result<()> {
    let Some(kind) = if_known(answer)? else {
        return Ok(());
    };
    match text(&kind) {
        None | Some(b"stream" | b"none") => Ok(()),
        Some(kind) => {
            let kind = String::from_utf8_lossy(kind);
            let message = format!("the key holds a {kind}, not a stream; nothing is in");
            Err(Error::new(ErrorKind::WrongType, message)
                .with_code("WRONGTYPE")
                .with_context("stream", String::from_utf8_lossy(key).into_owned()))
        }
    }
}

/// Refuses IDs that the streams are past already.
fn check_ids(rows: &Rows, last_ids: &[Option<EntryId>]) -> Result<()> {
    for ((key, first), last) in rows.keys.iter().zip(rows.first_ids()).zip(last_ids) {
        if let (Some(last), Some((row, id))) = (last, first)
            && !RowId::Whole(*last).may_precede(id)
        {
            let reason = format!(
                "the ID {id} does not come after {last}, the last that the stream has had; nothing \
                 has been sent"
            );
            return Err(at_row(row, &reason)
                .into_kind(ErrorKind::Write)
                .with_context("stream", String::from_utf8_lossy(key).into_owned()));
        }
    }
    Ok(())
}

/// How many rows of a producer the server recognises, and for how long, in the stream that
/// recognises least.
async fn idmp_window(
    session: &mut Session,
    rows: &Rows,
    streams: &[Option<Value>],
    config: Option<Value>,
) -> Result<Option<IdmpWindow>> {
    let is_configurable = config.is_some();
    let config = config.unwrap_or(Value::Nil);
    let new_stream =
        (number(&config, "stream-idmp-maxsize"), number(&config, "stream-idmp-duration"));
    let mut least: Option<(i64, i64)> = None;
    for stream in streams {
        let found = match stream {
            Some(info) => (number(info, "idmp-maxsize"), number(info, "idmp-duration")),
            None => new_stream,
        };
        let tells = stream.is_some() || is_configurable;
        if found.0.is_none() && (tells || !knows_idmp(session, rows).await?) {
            return Ok(None);
        }
        // Where nobody says, it is at least one row.
        let (rows, seconds) = (found.0.unwrap_or(1), found.1.unwrap_or(0));
        least = Some(least.map_or((rows, seconds), |(r, s)| (r.min(rows), s.min(seconds))));
    }
    Ok(least.map(|(rows, seconds)| {
        let seconds = u64::try_from(seconds).unwrap_or_default();
        let rows = usize::try_from(rows).unwrap_or(1);
        IdmpWindow { rows, duration: Duration::from_secs(seconds) }
    }))
}

/// Whether the server knows IDMP, where neither a stream nor the configuration tells: the stream does
/// not exist, and the user may not ask for the configuration.
async fn knows_idmp(session: &mut Session, rows: &Rows) -> Result<bool> {
    let mut questions = Questions::default();
    questions.add(&probe(rows, &[b"IDMP", b"p", b"i", b"*", b"f", b"v", b"f"]));
    let answers = questions.ask(session).await?;
    answers.into_iter().next().map_or(Ok(false), knows_form)
}

/// A number in a reply of names and values.
fn number(reply: &Value, name: &str) -> Option<i64> {
    match Info(reply).get(name)? {
        Value::Int(number) => Some(*number),
        value => std::str::from_utf8(text(value)?).ok()?.parse().ok(),
    }
}

/// Refuses a value that the server would hang up on.
pub(super) fn check_length(
    (length, row, field): (usize, usize, String),
    config: Option<Value>,
) -> Result<()> {
    let limit = config.and_then(|config| number(&config, "proto-max-bulk-len"));
    match limit.and_then(|limit| usize::try_from(limit).ok()) {
        Some(limit) if length > limit => Err(at_row(
            row,
            &format!(
                "the value of {field:?} has {length} bytes, more than the {limit} that the server \
                 takes (proto-max-bulk-len); nothing has been sent"
            ),
        )),
        _ => Ok(()),
    }
}
