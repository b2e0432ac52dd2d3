//! What came for each row, without IO.

use crate::client::Sink;
use crate::error::{Error, ErrorKind, Result};
use crate::resp::{SmallEvent, SmallReplies};
use crate::write::transaction::is_abort;

/// What came for a row: the first error of its replies, and the text of the last where it is simple.
#[derive(Default)]
pub(super) struct RowReply {
    pub(super) error: Option<Error>,
    pub(super) text: Vec<u8>,
}

/// Takes that many replies for each row.
pub(super) struct HashReplies {
    replies: SmallReplies,
    counts: Vec<usize>,
    /// How many replies of the current row have come.
    come: usize,
    /// Elements of the current reply that are missing.
    elements: usize,
    current: RowReply,
    pub(super) rows: Vec<RowReply>,
    /// An EXEC was refused, so that the connection may still be in a transaction.
    pub(super) leaves_transaction_open: bool,
}

impl HashReplies {
    pub(super) fn new(counts: Vec<usize>) -> Self {
        HashReplies {
            replies: SmallReplies::default(),
            rows: Vec::with_capacity(counts.len()),
            counts,
            come: 0,
            elements: 0,
            current: RowReply::default(),
            leaves_transaction_open: false,
        }
    }

    fn take(&mut self, event: SmallEvent<'_>) {
        let count = self.counts.get(self.rows.len()).copied().unwrap_or_default();
        // The one reply of a row's transaction that says whether it was executed.
        let is_exec = self.elements == 0 && count > 1 && self.come + 1 == count;
        match event {
            SmallEvent::Error(line) => {
                if is_exec && !is_abort(line) {
                    self.leaves_transaction_open = true;
                }
                self.current.error.get_or_insert_with(|| Error::from_server(line));
            }
            SmallEvent::Nil if is_exec => {
                self.current.error.get_or_insert_with(|| {
                    Error::new(ErrorKind::Response, "the server did not execute the transaction")
                });
            }
            SmallEvent::Scalar(text) => {
                self.current.text.clear();
                self.current.text.extend_from_slice(text);
            }
            _ => {}
        }
        let children = if let SmallEvent::Array(len) = event { len } else { 0 };
        self.elements = self.elements.saturating_sub(1).saturating_add(children);
        if self.elements == 0 {
            self.come += 1;
            if self.come == count {
                self.rows.push(std::mem::take(&mut self.current));
                self.come = 0;
            }
        }
    }
}

impl Sink for HashReplies {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut rest = bytes;
        let mut replies = std::mem::take(&mut self.replies);
        replies.read(&mut rest, |event| {
            self.take(event);
            Ok(!self.is_complete())
        })?;
        self.replies = replies;
        Ok(bytes.len() - rest.len())
    }

    fn is_complete(&self) -> bool {
        self.rows.len() == self.counts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(counts: &[usize], bytes: &[u8]) -> Result<(Vec<Option<String>>, bool)> {
        let mut replies = HashReplies::new(counts.to_vec());
        for piece in bytes.chunks(3) {
            assert_eq!(replies.decode(piece)?, piece.len());
        }
        assert!(replies.is_complete());
        let error = |row: &RowReply| row.error.as_ref().map(|error| error.message().to_owned());
        Ok((replies.rows.iter().map(error).collect(), replies.leaves_transaction_open))
    }

    #[test]
    fn each_row_has_its_replies() -> Result<()> {
        let bytes = b":1\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n*2\r\n:1\r\n:2\r\n:0\r\n";
        assert_eq!(errors(&[1, 4, 1], bytes)?, (vec![None, None, None], false));
        Ok(())
    }

    #[test]
    fn a_transaction_that_was_not_executed_is_no_success() -> Result<()> {
        let (rows, open) = errors(&[3, 1], b"+OK\r\n+QUEUED\r\n*-1\r\n:1\r\n")?;
        assert!(rows[0].as_deref().is_some_and(|error| error.contains("did not execute")));
        assert_eq!((&rows[1], open), (&None, false));
        let aborted = b"+OK\r\n-ERR wrong\r\n-EXECABORT discarded\r\n";
        let (rows, open) = errors(&[3], aborted)?;
        assert!(rows[0].as_deref().is_some_and(|error| error.contains("wrong")));
        assert!(!open);
        let (_, open) = errors(&[3], b"+OK\r\n+QUEUED\r\n-NOPERM exec\r\n")?;
        assert!(open);
        Ok(())
    }
}
