//! On another connection than before: whether the server has what it has acknowledged to a write.

use redis::Value;

use super::ends::StreamEnd;
use super::outcome::Ids;
use super::rows::Rows;
use crate::client::{About, Client, Questions};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result, counted, shorten};
use crate::read::{StreamLoss, lost_end, newest_up_to};
use crate::resp;

/// A stream whose latest entries are gone, though nobody has deleted them.
#[derive(Debug, Clone, Copy)]
pub(super) struct LostEnd {
    key: usize,
    known: StreamEnd,
    /// The latest of the entries that are left; none where there is no stream any more.
    left: Option<EntryId>,
}

impl LostEnd {
    /// Whether it is that of this stream.
    pub(super) fn is_of(&self, key: usize) -> bool {
        self.key == key
    }

    /// Whether this is the ID of a lost entry, of a row for that key.
    fn has(&self, key: usize, id: EntryId) -> bool {
        key == self.key && self.left.is_none_or(|left| id > left)
    }
}

/// The streams that lack their latest entries: after a failover to a replica that lagged, or a restart
/// with older data. That a stream is gone counts where this write has added to it, and not where only
/// those before have: then somebody will have deleted it.
pub(super) async fn lost_ends(
    client: &Client,
    rows: &Rows,
    doubtful: &[(usize, StreamEnd)],
) -> Result<Vec<LostEnd>> {
    let key_of = |key: &usize| rows.keys.get(*key);
    let about: Vec<About<'_>> = doubtful
        .iter()
        .map(|(key, end)| About {
            key: key_of(key),
            questions: vec![resp::range(key_of(key), end.id, end.id, 1)],
        })
        .collect();
    let answers = client.ask_about(&about).await?;
    let mut lost = Vec::new();
    for ((key, known), answers) in doubtful.iter().zip(answers) {
        if !answers.first().is_some_and(is_empty) {
            continue;
        }
        let (key, known) = (*key, *known);
        let mut session = client.session_for(key_of(&key));
        let left = match lost_end(&mut session, key_of(&key), known.id).await? {
            Some(StreamLoss::Diverged { .. }) => {
                newest_up_to(&mut session, key_of(&key), known.id).await?
            }
            // One that was only created again, for a group say, is like one that is not there.
            Some(StreamLoss::Gone) => {
                if !known.is_of_this_write() {
                    continue;
                }
                None
            }
            Some(StreamLoss::BegunAnew { newest }) => Some(newest),
            Some(StreamLoss::Trimmed { .. }) => continue,
            None if !known.is_of_this_write() => continue,
            None => {
                let mut kind = Questions::default();
                kind.add(&resp::type_of(key_of(&key)));
                match kind.ask(&mut session).await?.pop() {
                    Some(Ok(kind)) if resp::text(&kind) == Some(b"none") => None,
                    _ => continue,
                }
            }
        };
        lost.push(LostEnd { key, known, left });
    }
    Ok(lost)
}

/// Whether the entry is not there; a user may lack the permission to look for it.
fn is_empty(answer: &Result<Value>) -> bool {
    matches!(answer, Ok(Value::Array(entries)) if entries.is_empty())
}

/// Why a write does not go on; there is one stream at least.
pub(super) fn explained(lost: &[LostEnd], rows: &Rows) -> Error {
    let Some(first) = lost.first() else {
        return Error::new(ErrorKind::Response, "the server lost entries");
    };
    let end = match first.left {
        Some(left) => format!("what is left of the stream ends at {left}"),
        None => "there is no such stream any more".to_owned(),
    };
    let others = match lost.len() - 1 {
        0 => String::new(),
        others => format!(", and that of {}", counted(others, "other stream", "other streams")),
    };
    let message = format!(
        "the server lost the end of the stream {}{others}: {} had been acknowledged and is gone, \
         and {end}; a failover to a replica that lagged does this, or a restart with older data",
        shorten(rows.keys.get(first.key)),
        first.known.id,
    );
    let is_before =
        |lost: &LostEnd| lost.known.before.is_some_and(|before| Some(before) > lost.left);
    match lost.iter().any(is_before) {
        true => Error::new(
            ErrorKind::DataLoss,
            message + ", and rows of the writes before this one are among what is lost",
        ),
        false => Error::new(ErrorKind::Response, message),
    }
}

/// Takes the IDs of lost entries away; gives the number of the first row of these.
pub(super) fn forget(ids: &mut Ids, lost: &[LostEnd], rows: &Rows) -> Option<usize> {
    if lost.is_empty() {
        return None;
    }
    ids.forget(|row, id| lost.iter().any(|lost| lost.has(rows.key_of(row), id)))
}
