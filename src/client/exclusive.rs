//! Connections that transactions run on.

use std::time::Duration;

use redis::Value;

use super::{Connection, Session, Sink};
use crate::error::Result;
use crate::resp::Outlines;

/// A connection that transactions run on. As long as it is held nobody else can get it, and unless
/// it is released it is closed: so a WATCH or MULTI that is still open is never left to others.
pub(crate) struct Exclusive<'s> {
    session: &'s mut Session,
    connection: Connection,
}

impl<'s> Exclusive<'s> {
    pub(crate) async fn take(session: &'s mut Session) -> Result<Self> {
        let connection = session.take_connection().await?;
        Ok(Exclusive { session, connection })
    }

    /// Sends the commands, and meanwhile takes replies until the sink has them all; adds to `sent`
    /// how many bytes went out.
    pub(crate) async fn exchange<S: Sink>(
        &mut self,
        packed: &[u8],
        sent: &mut usize,
        sink: &mut S,
    ) -> Result<()> {
        self.connection.exchange_all(packed, sent, sink).await
    }

    /// How long a reply may take to come.
    pub(crate) fn patience(&self) -> Duration {
        self.connection.patience()
    }

    /// Sends that many commands, and gives their small replies, of which some may be errors.
    pub(crate) async fn ask(&mut self, packed: &[u8], count: usize) -> Result<Vec<Result<Value>>> {
        let mut answers = Outlines::new(count);
        self.exchange(packed, &mut 0, &mut answers).await?;
        Ok(answers.into_values())
    }

    /// No WATCH and no MULTI is open any more: the connection may serve others.
    pub(crate) fn release(self) {
        self.session.put_back(self.connection);
    }
}
