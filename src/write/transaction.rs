//! The replies to a transaction, without IO.

use super::rows::{Chunk, RowState};
use crate::client::Sink;
use crate::entry_id::EntryId;
use crate::error::{Error, Result, shorten};
use crate::resp::{SmallEvent, SmallReplies};

/// The replies to the XADDs of a transaction, which say that they are queued, and the one to EXEC.
pub(super) struct TransactionReplies<'a> {
    chunk: &'a mut Chunk,
    replies: SmallReplies,
    /// How many of the rows' commands have a reply of their own.
    queued: usize,
    /// How many elements of EXEC's array have come.
    executed: usize,
    state: TransactionState,
    refused: Option<(Error, usize)>,
}

/// Whether EXEC says that the transaction was given up, and so is over. It may quote a cause, whose
/// code the error then has.
pub(super) fn is_abort(line: &[u8]) -> bool {
    line.starts_with(b"EXECABORT")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransactionState {
    /// Replies to the commands are still to come, or the one to EXEC.
    Open,
    /// EXEC's array has begun.
    Executing,
    Executed,
    /// The server has given up the transaction, because of a command in it or of a key that was
    /// watched; nothing is in.
    Discarded,
    /// EXEC itself was refused: nothing is in, but the connection may still be in a transaction.
    NotExecuted,
}

impl<'a> TransactionReplies<'a> {
    pub(super) fn new(chunk: &'a mut Chunk) -> Self {
        TransactionReplies {
            chunk,
            replies: SmallReplies::default(),
            queued: 0,
            executed: 0,
            state: TransactionState::Open,
            refused: None,
        }
    }

    pub(super) fn state(&self) -> TransactionState {
        self.state
    }

    /// The first error, and the index of the row that it is about.
    pub(super) fn take_refused(&mut self) -> Option<(Error, usize)> {
        self.refused.take()
    }

    fn refuse(&mut self, line: &[u8], row: usize) {
        let last = self.chunk.rows.len().saturating_sub(1);
        self.refused.get_or_insert_with(|| (Error::from_server(line), row.min(last)));
    }

    fn take(&mut self, event: SmallEvent<'_>) -> Result<()> {
        let rows = self.chunk.rows.len();
        match (self.state, event) {
            (TransactionState::Open, SmallEvent::Scalar(b"QUEUED")) if self.queued < rows => {
                self.queued += 1;
            }
            (TransactionState::Open, SmallEvent::Error(line)) if self.queued < rows => {
                self.refuse(line, self.queued);
                self.queued += 1;
            }
            (TransactionState::Open, SmallEvent::Array(len))
                if self.queued == rows && len == rows =>
            {
                self.state = TransactionState::Executing;
            }
            (TransactionState::Open, SmallEvent::Nil) if self.queued == rows => {
                self.state = TransactionState::Discarded;
            }
            (TransactionState::Open, SmallEvent::Error(line)) => {
                self.refuse(line, 0);
                self.state = match is_abort(line) {
                    true => TransactionState::Discarded,
                    false => TransactionState::NotExecuted,
                };
            }
            (TransactionState::Executing, SmallEvent::Text(id)) => {
                let id = EntryId::from_bytes(id).ok_or_else(|| {
                    Error::protocol(format_args!("{} is no entry ID", shorten(id)))
                })?;
                self.answer(RowState::Added(id));
            }
            (TransactionState::Executing, SmallEvent::Nil) => self.answer(RowState::NotAdded),
            (TransactionState::Executing, SmallEvent::Error(line)) => {
                self.refuse(line, self.executed);
                self.answer(RowState::Refused);
            }
            (_, other) => {
                return Err(Error::protocol(format_args!("{other:?} came for a transaction")));
            }
        }
        Ok(())
    }

    fn answer(&mut self, state: RowState) {
        if let Some(row) = self.chunk.rows.get_mut(self.executed) {
            row.state = state;
        }
        self.executed += 1;
        if self.executed == self.chunk.rows.len() {
            self.state = TransactionState::Executed;
        }
    }
}

impl Sink for TransactionReplies<'_> {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut rest = bytes;
        let mut replies = std::mem::take(&mut self.replies);
        replies.read(&mut rest, |event| {
            self.take(event)?;
            Ok(!self.is_complete())
        })?;
        self.replies = replies;
        Ok(bytes.len() - rest.len())
    }

    fn is_complete(&self) -> bool {
        !matches!(self.state, TransactionState::Open | TransactionState::Executing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::rows::Row;

    fn chunk(rows: usize) -> Chunk {
        let row = |number| Row { number, end: 0, key: 0, own: None, state: RowState::Unanswered };
        Chunk { bytes: Vec::new(), rows: (0..rows).map(row).collect() }
    }

    /// The outcome of replies that come in pieces of every size.
    fn outcome(
        rows: usize,
        bytes: &[u8],
    ) -> Result<(TransactionState, Vec<RowState>, Option<usize>)> {
        let mut outcomes = Vec::new();
        for size in 1..=bytes.len() {
            let mut chunk = chunk(rows);
            let mut replies = TransactionReplies::new(&mut chunk);
            for piece in bytes.chunks(size) {
                assert!(!replies.is_complete());
                assert_eq!(replies.decode(piece)?, piece.len());
            }
            assert!(replies.is_complete());
            let (state, refused) = (replies.state(), replies.take_refused().map(|(_, row)| row));
            outcomes.push((state, chunk.rows.iter().map(|row| row.state).collect(), refused));
        }
        let first: (_, Vec<_>, _) = outcomes.remove(0);
        assert!(outcomes.iter().all(|other| *other == first));
        Ok(first)
    }

    const ADDED: RowState = RowState::Added(EntryId::new(1, 0));

    #[test]
    fn all_rows_are_in_once_exec_has_answered_for_each() -> Result<()> {
        let bytes = b"+QUEUED\r\n+QUEUED\r\n>1\r\n+x\r\n*2\r\n$3\r\n1-0\r\n$-1\r\n";
        let expected = (TransactionState::Executed, vec![ADDED, RowState::NotAdded], None);
        assert_eq!(outcome(2, bytes)?, expected);
        Ok(())
    }

    #[test]
    fn a_row_that_is_not_queued_takes_all_with_it() -> Result<()> {
        let bytes = b"+QUEUED\r\n-OOM no memory\r\n-EXECABORT discarded\r\n";
        let expected = (TransactionState::Discarded, vec![RowState::Unanswered; 2], Some(1));
        assert_eq!(outcome(2, bytes)?, expected);
        Ok(())
    }

    #[test]
    fn a_key_that_was_watched_changes() -> Result<()> {
        for bytes in [&b"+QUEUED\r\n*-1\r\n"[..], b"+QUEUED\r\n_\r\n"] {
            let expected = (TransactionState::Discarded, vec![RowState::Unanswered], None);
            assert_eq!(outcome(1, bytes)?, expected);
        }
        Ok(())
    }

    #[test]
    fn exec_is_refused_and_the_transaction_stays_open() -> Result<()> {
        let bytes = b"+QUEUED\r\n-NOPERM no exec\r\n";
        let expected = (TransactionState::NotExecuted, vec![RowState::Unanswered], Some(0));
        assert_eq!(outcome(1, bytes)?, expected);
        Ok(())
    }

    #[test]
    fn one_row_is_refused_after_all_when_it_is_executed() -> Result<()> {
        let bytes = b"+QUEUED\r\n+QUEUED\r\n*2\r\n-ERR smaller\r\n$3\r\n1-0\r\n";
        let expected = (TransactionState::Executed, vec![RowState::Refused, ADDED], Some(0));
        assert_eq!(outcome(2, bytes)?, expected);
        Ok(())
    }

    #[test]
    fn an_xadd_outside_a_transaction_is_no_answer() {
        let mut chunk = chunk(1);
        assert!(TransactionReplies::new(&mut chunk).decode(b"$3\r\n1-0\r\n").is_err());
    }
}
