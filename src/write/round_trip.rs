//! Commands that are sent together, and all their replies.

use redis::Value;

use crate::client::{Connection, Session, Sink};
use crate::error::{Error, Result};
use crate::resp::{Outlines, Packed};

/// An error during a round trip, and how many bytes of the commands were sent before it.
pub(super) struct RoundTripError {
    pub(super) error: Error,
    pub(super) sent: usize,
}

/// A connection that transactions run on. As long as it is held nobody else can get it, and unless
/// it is released it is closed: so a WATCH or MULTI that is still open is never left to others.
pub(super) struct Exclusive<'s> {
    session: &'s mut Session,
    connection: Connection,
}

impl<'s> Exclusive<'s> {
    pub(super) async fn take(session: &'s mut Session) -> Result<Self> {
        let connection = session.take_connection().await?;
        Ok(Exclusive { session, connection })
    }

    /// Sends the commands, and meanwhile takes replies until the sink has them all; adds to `sent`
    /// how many bytes went out.
    pub(super) async fn exchange<S: Sink>(
        &mut self,
        packed: &[u8],
        sent: &mut usize,
        sink: &mut S,
    ) -> Result<()> {
        exchange(&mut self.connection, packed, sent, sink).await
    }

    /// Asks, and gives the answers, of which some may be errors.
    pub(super) async fn ask(&mut self, questions: &Questions) -> Result<Vec<Result<Value>>> {
        let mut answers = Outlines::new(questions.count);
        self.exchange(&questions.packed, &mut 0, &mut answers).await?;
        Ok(answers.into_values())
    }

    /// No WATCH and no MULTI is open any more: the connection may serve others.
    pub(super) fn release(self) {
        self.session.put_back(self.connection);
    }
}

async fn exchange<S: Sink>(
    connection: &mut Connection,
    packed: &[u8],
    sent: &mut usize,
    sink: &mut S,
) -> Result<()> {
    while !sink.is_complete() {
        let rest = packed.get(*sent..).unwrap_or_default();
        connection.exchange(rest, sent, sink).await?;
    }
    connection.settle();
    Ok(())
}

/// Commands that change nothing and have small replies.
#[derive(Default)]
pub(super) struct Questions {
    packed: Packed,
    count: usize,
}

impl Questions {
    pub(super) fn add(&mut self, packed: &[u8]) {
        self.packed.extend_from_slice(packed);
        self.count += 1;
    }

    /// Asks all in one round trip, and again as often as it takes, until none of the answers is an
    /// error that time mends.
    pub(super) async fn ask(&self, session: &mut Session) -> Result<Vec<Result<Value>>> {
        loop {
            let error = match self.attempt(session).await {
                Ok(answers) => {
                    let is_transient = |error: &Error| error.retryable();
                    let transient =
                        answers.iter().position(|answer| answer.as_ref().is_err_and(is_transient));
                    let Some(transient) = transient else {
                        session.succeeded();
                        return Ok(answers);
                    };
                    match answers.into_iter().nth(transient) {
                        Some(Err(error)) => error,
                        _ => continue,
                    }
                }
                Err(error) => error,
            };
            session.recover(error).await?;
        }
    }

    async fn attempt(&self, session: &mut Session) -> Result<Vec<Result<Value>>> {
        let mut connection = session.take_connection().await?;
        let mut answers = Outlines::new(self.count);
        exchange(&mut connection, &self.packed, &mut 0, &mut answers).await?;
        session.put_back(connection);
        Ok(answers.into_values())
    }
}
