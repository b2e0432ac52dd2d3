//! Commands that are sent together, and all their replies.

use std::time::Instant;

use super::request::WriteControl;
use crate::client::{Session, Sink};
use crate::error::{Error, ErrorKind, Result};

/// An error during a round trip, and how many bytes of the commands were sent before it.
pub(super) struct RoundTripError {
    pub(super) error: Error,
    pub(super) sent: usize,
}

/// Sends the commands, and meanwhile takes replies until the sink has them all. A write that is
/// stopped waits for them a little longer only.
pub(super) async fn round_trip<S: Sink>(
    session: &mut Session,
    control: &WriteControl,
    packed: &[u8],
    sink: &mut S,
) -> Result<(), RoundTripError> {
    let mut sent = 0;
    let talking = async {
        let mut connection = session.take_connection().await?;
        while !sink.is_complete() {
            let rest = packed.get(sent..).unwrap_or_default();
            connection.exchange(rest, &mut sent, sink).await?;
        }
        connection.settle();
        session.put_back(connection);
        Ok(())
    };
    let patience = async {
        control.stopped().await;
        let deadline = Instant::now() + WriteControl::GRACE;
        tokio::time::sleep_until(deadline.into()).await;
    };
    let talked = tokio::select! {
        biased;
        talked = talking => talked,
        () = patience => Err(too_late()),
    };
    talked.map_err(|error| RoundTripError { error, sent })
}

pub(super) fn too_late() -> Error {
    Error::new(
        ErrorKind::Timeout,
        "the server did not answer within a second after the write was stopped",
    )
}
