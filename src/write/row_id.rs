//! The IDs that rows bring along.

use crate::entry_id::EntryId;
use crate::resp::push_bulk;

/// An ID as a row bears it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowId {
    Whole(EntryId),
    /// The server adds the sequence number.
    Milliseconds(u64),
}

impl RowId {
    /// `ms-seq`, `ms` for `ms-0`, or `ms-*`.
    pub(super) fn parse(text: &[u8]) -> Option<RowId> {
        if let Some(id) = EntryId::from_bytes(text) {
            return Some(RowId::Whole(id));
        }
        let (ms, partial) = match text.strip_suffix(b"-*") {
            Some(ms) => (ms, true),
            None => (text, false),
        };
        let ms = EntryId::from_bytes(&[ms, b"-0"].concat())?.ms;
        Some(if partial { RowId::Milliseconds(ms) } else { RowId::Whole(EntryId::new(ms, 0)) })
    }

    /// Whether an entry with the other ID can be added after one with this.
    pub(super) fn may_precede(self, next: RowId) -> bool {
        match (self, next) {
            (RowId::Whole(id), RowId::Whole(next)) => id < next,
            (RowId::Whole(id), RowId::Milliseconds(ms)) => {
                id.ms < ms || (id.ms == ms && id.seq < u64::MAX)
            }
            // What the server makes of it may be greater, which its reply then says.
            (RowId::Milliseconds(ms), RowId::Whole(next)) => EntryId::new(ms, 0) < next,
            (RowId::Milliseconds(ms), RowId::Milliseconds(next)) => ms <= next,
        }
    }
}

impl std::fmt::Display for RowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RowId::Whole(id) => id.fmt(f),
            RowId::Milliseconds(ms) => write!(f, "{ms}-*"),
        }
    }
}

/// Writes the ID; gives it back where it is whole.
pub(super) fn push_id(
    id: RowId,
    key: usize,
    sequences: Option<&mut Vec<Option<EntryId>>>,
    out: &mut Vec<u8>,
) -> Option<EntryId> {
    let mut buffer = [0; EntryId::MAX_LEN];
    let own = match (id, sequences.and_then(|sequences| sequences.get_mut(key))) {
        (RowId::Whole(id), Some(last)) => {
            *last = Some(id);
            id
        }
        (RowId::Whole(id), None) => id,
        (RowId::Milliseconds(ms), Some(last)) => {
            let id = match *last {
                Some(id) if id.ms == ms => EntryId::new(ms, id.seq.saturating_add(1)),
                _ => EntryId::new(ms, u64::from(ms == 0)),
            };
            *last = Some(id);
            id
        }
        (RowId::Milliseconds(ms), None) => {
            push_bulk(format!("{ms}-*").as_bytes(), out);
            return None;
        }
    };
    push_bulk(own.write(&mut buffer), out);
    Some(own)
}
