//! What whoever has a lane leaves in it for the next: no commit depends on it.

use super::super::machine::Loss;
use super::super::protocol::Answer;
use super::super::script::{Arguments, NOTE};
use super::Lane;
use crate::client::Exclusive;
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::resp;

/// What a lane says beside what is acquired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// A position that nobody has read up to: entries before it may be missing, and none is lost.
    pub(crate) begins: Option<EntryId>,
    /// A batch that was handed out, and may not have been committed.
    pub(crate) tried: Option<String>,
    /// When the latest commit was, by the server's clock.
    pub(crate) committed_ms: Option<i64>,
}

impl Lane {
    /// The notes in the lane, which is held: HSCAN in a script.
    ///
    /// # Errors
    ///
    /// As [`Lane::load`].
    pub(crate) async fn notes(&mut self) -> Result<Notes> {
        let key = self.shared.key.clone();
        let fields = self.load(&key).await?;
        let text = |name: &[u8]| std::str::from_utf8(fields.get(name)?).ok();
        Ok(Notes {
            begins: text(b"begins").and_then(|id| id.parse().ok()),
            tried: text(b"tried").map(str::to_owned),
            committed_ms: text(b"committed").and_then(|time| time.parse().ok()),
        })
    }

    /// Notes that a batch is handed out: a script of HSET.
    ///
    /// # Errors
    ///
    /// As [`Lane::load`].
    pub(crate) async fn note_tried(&mut self, tried: &str) -> Result<()> {
        self.check_process()?;
        let shared = self.shared.clone();
        let grip = shared.machine().held().map(|hold| hold.grip.clone());
        let Some(grip) = grip else { return Err(shared.lost(shared.machine().loss())) };
        let mut arguments = Arguments::default();
        for argument in [&grip.owner.0, &grip.epoch.to_string(), "tried", tried] {
            arguments.push(argument.as_bytes());
        }
        let keys: [&[u8]; 1] = [&shared.key];
        let answer = loop {
            let called = async {
                let mut connection = Exclusive::take(&mut self.session).await?;
                let calling = shared.caller.call(&mut connection, &NOTE, &keys, &arguments);
                let reply = calling.await?;
                connection.release();
                reply
            };
            match called.await {
                Ok(answer) => break answer,
                Err(error) => {
                    let recovered = self.session.recover(error).await;
                    recovered.map_err(|error| shared.about(error))?;
                }
            }
        };
        self.session.succeeded();
        if let Some([word]) = answer.as_sequence()
            && resp::text(word) == Some(b"noted")
        {
            return Ok(());
        }
        let mut machine = shared.machine();
        let loss = match Answer::parse(&answer)? {
            Answer::Fenced { epoch, owner } => machine.fenced(epoch, owner),
            Answer::Gone => Loss::Gone,
            answer => {
                let message = format!("a lane answered {answer:?}");
                return Err(shared.about(Error::new(ErrorKind::Internal, message)));
            }
        };
        // The heartbeat may have noticed it before, and the lane have been acquired anew: not by this one.
        machine.lost(loss.clone());
        Err(shared.lost(Some(loss)))
    }
}
