//! Questions that are sent together.

use redis::Value;

use super::Session;
use super::scatter::is_redirect;
use crate::error::{Error, Result};
use crate::resp::{Outlines, Packed};

/// Commands that change nothing and have small replies.
#[derive(Default)]
pub(crate) struct Questions {
    pub(crate) packed: Packed,
    pub(crate) count: usize,
    /// Nobody needs the answers where the server was there a moment ago.
    pub(crate) only_if_silent: bool,
}

impl Questions {
    pub(crate) fn add(&mut self, packed: &[u8]) {
        self.packed.extend_from_slice(packed);
        self.count += 1;
    }

    /// Asks all in one round trip, and again as often as it takes, until none of the answers is an
    /// error that time mends. Without answers where none are needed.
    pub(crate) async fn ask(&self, session: &mut Session) -> Result<Vec<Result<Value>>> {
        Ok(self.ask_telling(session).await?.0)
    }

    /// The same; says also whether they were asked again, so that the answers are not the first.
    pub(crate) async fn ask_telling(
        &self,
        session: &mut Session,
    ) -> Result<(Vec<Result<Value>>, bool)> {
        self.ask_until_none(session, Error::retryable).await
    }

    /// The same, but that answers may be redirections to other nodes of a cluster.
    pub(super) async fn ask_one_node(&self, session: &mut Session) -> Result<Vec<Result<Value>>> {
        let is_transient = |error: &Error| error.retryable() && !is_redirect(error);
        Ok(self.ask_until_none(session, is_transient).await?.0)
    }

    async fn ask_until_none(
        &self,
        session: &mut Session,
        is_transient: impl Fn(&Error) -> bool,
    ) -> Result<(Vec<Result<Value>>, bool)> {
        let mut is_repeated = false;
        loop {
            let error = match self.attempt(session).await {
                Ok(answers) => {
                    let transient =
                        answers.iter().position(|answer| answer.as_ref().is_err_and(&is_transient));
                    let Some(transient) = transient else {
                        session.succeeded();
                        return Ok((answers, is_repeated));
                    };
                    match answers.into_iter().nth(transient) {
                        Some(Err(error)) => error,
                        _ => continue,
                    }
                }
                Err(error) => error,
            };
            session.recover(error).await?;
            is_repeated = true;
        }
    }

    /// Asks all in one round trip, once: for those that must not be repeated blindly.
    pub(crate) async fn ask_once(&self, session: &mut Session) -> Result<Vec<Result<Value>>> {
        let answers = self.attempt(session).await?;
        session.succeeded();
        Ok(answers)
    }

    async fn attempt(&self, session: &mut Session) -> Result<Vec<Result<Value>>> {
        let mut connection = session.take_connection().await?;
        if self.only_if_silent && connection.is_fresh() {
            session.put_back(connection);
            return Ok(Vec::new());
        }
        let mut answers = Outlines::new(self.count);
        connection.exchange_all(&self.packed, &mut 0, &mut answers).await?;
        session.put_back(connection);
        Ok(answers.into_values())
    }
}
