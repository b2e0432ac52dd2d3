//! How far a write's streams have come, by what the server has acknowledged.

use super::request::WriteRequest;
use super::rows::Rows;
use crate::entry_id::EntryId;

/// The latest entry of a stream that the server has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamEnd {
    pub(super) id: EntryId,
    /// The connection over which it was acknowledged, or looked for since. Another one may lead to a
    /// server that lacks it.
    pub(super) connection: u64,
    /// The same by writes that came before this one.
    pub(super) before: Option<EntryId>,
}

impl StreamEnd {
    /// What a write before this one has come to.
    pub(super) fn of_before(id: EntryId, connection: u64) -> Self {
        StreamEnd { id, connection, before: Some(id) }
    }

    /// Whether this write has added something.
    pub(super) fn is_of_this_write(&self) -> bool {
        self.before != Some(self.id)
    }
}

/// The ends of the streams that a write has rows for, by the indexes of their keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends {
    ends: Vec<Option<StreamEnd>>,
    /// The connection that answers come over.
    connection: u64,
}

impl Ends {
    /// Those that writes before this one have come to, where these are remembered.
    pub(super) fn of_before(rows: &Rows, request: &WriteRequest) -> Self {
        let mut ends = Ends::default();
        for (index, key) in rows.keys.iter().enumerate() {
            if let Some(end) = request.known_streams.end(key) {
                ends.begin(index, StreamEnd::of_before(end.id, end.connection));
            }
        }
        ends
    }

    fn begin(&mut self, key: usize, end: StreamEnd) {
        self.note(key, |_| end);
    }

    fn note(&mut self, key: usize, end: impl Fn(Option<StreamEnd>) -> StreamEnd) {
        if key >= self.ends.len() {
            self.ends.resize(key + 1, None);
        }
        if let Some(known) = self.ends.get_mut(key) {
            *known = Some(end(*known));
        }
    }

    /// The server has added an entry.
    pub(super) fn acknowledged(&mut self, key: usize, id: EntryId) {
        let connection = self.connection;
        self.note(key, |known| StreamEnd {
            id: known.map_or(id, |end| end.id.max(id)),
            connection,
            before: known.and_then(|end| end.before),
        });
    }

    /// The streams whose ends are known by other connections than this one.
    pub(super) fn doubtful(&self, connection: u64) -> Vec<(usize, StreamEnd)> {
        self.known().filter(|(_, end)| end.connection != connection).collect()
    }

    /// Answers come over this connection from now on, and the server that it leads to has all ends.
    pub(super) fn go_on(&mut self, connection: u64) {
        self.connection = connection;
        self.ends.iter_mut().flatten().for_each(|end| end.connection = connection);
    }

    /// Those of these keys alone.
    pub(super) fn of(&self, keys: &[usize]) -> Self {
        let mut part = Ends { ends: Vec::new(), connection: self.connection };
        keys.iter().for_each(|key| {
            if let Some(end) = self.ends.get(*key).copied().flatten() {
                part.begin(*key, end);
            }
        });
        part
    }

    /// Takes over what a part knows.
    pub(super) fn extend(&mut self, part: &Ends) {
        part.known().for_each(|(key, end)| self.begin(key, end));
    }

    /// All that are known.
    pub(super) fn known(&self) -> impl Iterator<Item = (usize, StreamEnd)> {
        self.ends.iter().enumerate().filter_map(|(key, end)| Some((key, (*end)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(ms: u64) -> EntryId {
        EntryId::new(ms, 0)
    }

    #[test]
    fn another_connection_makes_them_doubtful_until_it_is_gone_on_with() {
        let mut ends = Ends::default();
        ends.go_on(1);
        assert!(ends.doubtful(1).is_empty());
        ends.acknowledged(2, id(5));
        assert!(ends.doubtful(1).is_empty());
        let end = StreamEnd { id: id(5), connection: 1, before: None };
        assert_eq!(ends.doubtful(2), [(2, end)]);
        ends.go_on(2);
        assert!(ends.doubtful(2).is_empty());
        assert!(!ends.doubtful(1).is_empty());
    }

    #[test]
    fn what_writes_before_have_added_is_told_apart() {
        let mut ends = Ends::default();
        ends.begin(0, StreamEnd::of_before(id(5), 1));
        assert!(!ends.doubtful(2).is_empty());
        assert!(ends.known().all(|(_, end)| !end.is_of_this_write()));
        ends.go_on(2);
        ends.acknowledged(0, id(7));
        let end = StreamEnd { id: id(7), connection: 2, before: Some(id(5)) };
        assert_eq!(ends.known().collect::<Vec<_>>(), [(0, end)]);
        assert!(end.is_of_this_write());
    }
}
