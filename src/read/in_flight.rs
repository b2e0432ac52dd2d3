//! Requests that a session has sent, and whose replies are owed.

use std::collections::VecDeque;
use std::time::Duration;

use redis::Value;

use super::bounds::{ids_only, last_decoded};
use super::page::PageSize;
use super::page_request::PageRequest;
use crate::client::{Connection, Session};
use crate::decode::ReplyShape;
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::resp::{Packed, RawReply};

/// What a session has been asked for, as far as it is not answered. Its futures may be dropped at any
/// time: the connection that owes an answer is closed then.
#[derive(Default)]
pub(super) struct InFlight {
    pub(super) owed: Option<Owed>,
    /// A reply was begun and not taken to its end.
    pub(super) unfinished: bool,
    /// The size of the next page takes account of that.
    learned: bool,
    /// The commands that were sent along with the latest request have been answered.
    passed_before: bool,
    /// What they said, as far as it has come: numbers.
    said_before: Vec<u64>,
    /// What the latest request has told of the newest entry, where it asked.
    newest: Option<Result<Option<EntryId>>>,
}

/// A request, and the connection that its reply comes on.
pub(super) struct Owed {
    pub(super) connection: Connection,
    pub(super) request: PageRequest,
    /// Those that were sent after it.
    pub(super) queue: VecDeque<PageRequest>,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl InFlight {
    pub(super) fn is_owed(&self) -> bool {
        self.owed.is_some()
    }

    /// Whether a reply has come in part.
    pub(super) fn is_begun(&self) -> bool {
        self.owed.as_ref().is_some_and(|owed| owed.bytes > 0)
    }

    /// Nobody waits for the rest of the reply.
    pub(super) fn give_up(&mut self) {
        self.owed = None;
    }

    /// Forgets also that there was one.
    pub(super) fn forget(&mut self) {
        self.owed = None;
        self.unfinished = false;
    }

    /// The numbers that the commands which were sent along with the latest request have been answered
    /// with; once, when all are there.
    pub(super) fn take_said_before(&mut self) -> Option<Vec<u64>> {
        let has_passed = std::mem::take(&mut self.passed_before);
        has_passed.then(|| std::mem::take(&mut self.said_before))
    }

    /// What the latest request has told of the newest entry; once, and only where it asked.
    pub(super) fn take_newest(&mut self) -> Option<Result<Option<EntryId>>> {
        self.newest.take()
    }

    /// Has the page's size take account of a reply that nobody could wait for: it is not asked for
    /// again.
    pub(super) fn shrink(&mut self, page: &mut PageSize) {
        if self.unfinished && !self.is_owed() && !std::mem::replace(&mut self.learned, true) {
            page.shrink();
        }
    }

    /// The same for a reply that was lost with its connection.
    pub(super) fn lost(&mut self, page: &mut PageSize, error: &Error) {
        self.owed = None;
        let is_lost = self.unfinished && error.server_code().is_none();
        if is_lost && !std::mem::replace(&mut self.learned, true) {
            page.lost();
        }
    }

    pub(super) async fn send(&mut self, session: &mut Session, request: PageRequest) -> Result<()> {
        self.owed = None;
        let mut connection = session.take_connection().await?;
        // Whoever gives up while this is sent cannot know whether the server has acted on it.
        self.unfinished = true;
        self.learned = false;
        self.passed_before = false;
        self.said_before.clear();
        self.newest = None;
        connection.send(&request.command).await?;
        let queue = VecDeque::new();
        self.owed = Some(Owed { connection, request, queue, entries: 0, bytes: 0 });
        Ok(())
    }

    /// Sends requests that are answered after those in flight; of the latter no reply may have begun
    /// to come.
    pub(super) async fn send_more(
        &mut self,
        session: &mut Session,
        requests: Vec<PageRequest>,
    ) -> Result<()> {
        let packed = requests.iter().map(|request| request.command.as_slice());
        let packed: Packed = packed.collect::<Vec<_>>().concat();
        let mut requests = VecDeque::from(requests);
        if let Some(mut owed) = self.owed.take() {
            owed.connection.send(&packed).await?;
            owed.queue.append(&mut requests);
            self.owed = Some(owed);
        } else if let Some(first) = requests.pop_front() {
            self.send(session, PageRequest { command: packed, ..first }).await?;
            if let Some(owed) = &mut self.owed {
                owed.queue = requests;
            }
        }
        Ok(())
    }

    /// Waits until the reply with entries begins to come, or the rest of it is to be taken. A
    /// connection whose reply nobody waits for is closed: where this future is dropped.
    pub(super) async fn listen(&mut self) -> Result<()> {
        let Some(mut owed) = self.owed.take() else { return Ok(()) };
        self.unfinished = true;
        if owed.request.asks_newest {
            let mut newest = ids_only(ReplyShape::Entries)?;
            owed.connection.receive(&mut newest, Some(Duration::ZERO)).await?;
            // The reply that follows may tell all that there is to know.
            self.newest = Some(last_decoded(newest));
            owed.request.asks_newest = false;
        }
        while owed.request.before > 0 {
            let mut small = RawReply::new();
            owed.connection.receive(&mut small, Some(Duration::ZERO)).await?;
            self.said_before.push(match small.into_value()? {
                Value::Int(number) => u64::try_from(number).unwrap_or_default(),
                _ => 0,
            });
            owed.request.before -= 1;
            self.passed_before = owed.request.before == 0;
        }
        if owed.bytes == 0 {
            let listened = owed.connection.listen(owed.request.wait.or(Some(Duration::ZERO)));
            listened.await.map_err(|error| self.or_what_was_said(error))?;
        }
        self.owed = Some(owed);
        Ok(())
    }

    /// What a server said before it hung up is worth more than that it did.
    pub(super) fn or_what_was_said(&mut self, error: Error) -> Error {
        match self.newest.take_if(|newest| newest.is_err()) {
            Some(Err(said)) => said,
            _ => error,
        }
    }
}
