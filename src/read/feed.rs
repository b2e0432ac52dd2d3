//! One session's replies into a decoder: one request at a time, its reply taken in pieces as batches
//! have room.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use super::in_flight::InFlight;
use super::intake::Intake;
pub(super) use super::intake::Received;
use super::page_request::PageRequest;
use super::poll::Pace;
use super::request::BatchBounds;
use crate::client::{Client, Session, Who};
use crate::decode::ReplyShape;
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::schema::StreamSchema;

/// An [`Intake`] with a session of its own.
///
/// Any of its futures may be dropped at any time: whole entries stay, the connection that owes an
/// answer is closed, and the next request goes on after the last whole entry.
pub(super) struct Feed {
    pub(super) session: Session,
    in_flight: InFlight,
    intake: Intake,
}

impl Deref for Feed {
    type Target = Intake;

    fn deref(&self) -> &Intake {
        &self.intake
    }
}

impl DerefMut for Feed {
    fn deref_mut(&mut self) -> &mut Intake {
        &mut self.intake
    }
}

impl Feed {
    pub(super) fn new(
        client: &Client,
        session: Session,
        schema: impl Into<Arc<StreamSchema>>,
        shape: ReplyShape,
        bounds: BatchBounds,
    ) -> Result<Self> {
        let intake = Intake::new(client, schema, shape, bounds)?;
        Ok(Feed { session, in_flight: InFlight::default(), intake })
    }

    /// Has an event recorded where the schema's fields do not occur.
    pub(super) fn watch_fields(self, who: Who) -> Self {
        Feed { intake: self.intake.watch_fields(who), ..self }
    }

    /// After an error begins anew behind the last batch, with the columns that there were.
    pub(super) fn rewind(&mut self) -> Result<()> {
        self.session.renew();
        self.discard()
    }

    /// Forgets the rows that came since the last batch.
    pub(super) fn discard(&mut self) -> Result<()> {
        self.in_flight.forget();
        self.intake.discard()
    }

    /// Begins anew behind the last batch, with other columns.
    pub(super) fn restart(&mut self, schema: impl Into<Arc<StreamSchema>>) -> Result<()> {
        self.in_flight.forget();
        self.intake.restart(schema)
    }

    /// What comes next may have smaller IDs: those of another stream. The rows that came since the
    /// last batch are forgotten.
    pub(super) fn forget_position(&mut self) -> Result<()> {
        self.in_flight.forget();
        self.intake.forget_position()
    }

    /// How many entries the next request should ask for.
    pub(super) fn page(&mut self) -> u64 {
        self.intake.page_of(&mut self.in_flight)
    }

    /// The numbers that the commands which were sent along with the latest request have been answered
    /// with; once, when all are there.
    pub(super) fn take_said_before(&mut self) -> Option<Vec<u64>> {
        self.in_flight.take_said_before()
    }

    /// What the latest request has told of the newest entry; once, and only where it asked.
    pub(super) fn take_newest(&mut self) -> Option<Result<Option<EntryId>>> {
        self.in_flight.take_newest()
    }

    /// The longest that the next request may wait for entries: after a failure it does not, so that
    /// its reply tells soon whether that is over.
    pub(super) fn longest_wait(&self) -> Duration {
        match self.session.is_failing() {
            true => Duration::from_millis(1),
            false => Pace::SLICE,
        }
    }

    /// Whether a reply is in flight.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_owed()
    }

    /// Nobody waits for the rest of the reply.
    pub(super) fn give_up(&mut self) {
        self.in_flight.give_up();
    }

    pub(super) async fn send(&mut self, request: PageRequest) -> Result<()> {
        self.in_flight.send(&mut self.session, request).await
    }

    /// Sends requests that are answered after those in flight; of the latter no reply may have begun
    /// to come.
    pub(super) async fn send_more(&mut self, requests: Vec<PageRequest>) -> Result<()> {
        self.in_flight.send_more(&mut self.session, requests).await
    }

    /// Waits until the reply with entries begins to come, or the rest of it is to be taken. A
    /// connection whose reply nobody waits for is closed: where this future is dropped.
    pub(super) async fn listen(&mut self) -> Result<()> {
        self.in_flight.listen().await
    }

    /// Takes what comes until the reply ends or the batch is full.
    pub(super) async fn receive(&mut self) -> Result<Received> {
        self.intake.receive_from(&mut self.session, &mut self.in_flight).await
    }

    /// Waits before the next attempt where time may mend the error; otherwise returns it.
    pub(super) async fn recover(&mut self, error: Error) -> Result<()> {
        self.intake.failed(&mut self.in_flight, &error);
        self.session.recover(error).await
    }
}
