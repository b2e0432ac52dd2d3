//! Why no master was found: one error out of those of sentinels and servers.

use super::Sentinels;
use crate::client::address::Address;
use crate::error::{Error, ErrorKind, Remedy};

/// What went wrong in one attempt.
#[derive(Default)]
pub(super) struct Failures {
    of_sentinels: Vec<(Address, Error)>,
    /// Of the server that a sentinel named last.
    of_master: Option<Error>,
}

impl Failures {
    pub(super) fn of_sentinel(&mut self, sentinel: &Address, error: Error) {
        self.of_sentinels.push((sentinel.clone(), error));
    }

    pub(super) fn of_master(&mut self, error: Error) {
        self.of_master = Some(error);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.of_sentinels.is_empty() && self.of_master.is_none()
    }

    /// The error of the whole attempt. A server that was named tells most. Otherwise it is the
    /// first of those that time does not mend, because it tells what to change; but as long as time
    /// may mend another, another attempt is made.
    pub(super) fn into_error(self, sentinels: &Sentinels) -> Error {
        if let Some(error) = self.of_master {
            return error.with_context("sentinels", sentinels.to_string());
        }
        let is_transient = |error: &Error| error.retryable() || error.kind() == ErrorKind::Timeout;
        let remedy = match self.of_sentinels.iter().any(|(_, error)| is_transient(error)) {
            true => Remedy::Reconnect,
            false => Remedy::No,
        };
        let mut failed = self.of_sentinels;
        let telling = failed.iter().position(|(_, error)| !is_transient(error));
        if let Some(telling) = telling {
            let (sentinel, error) = failed.swap_remove(telling);
            return error.with_context("sentinel", sentinel.to_string()).with_remedy(remedy);
        }
        let each: Vec<String> = failed
            .iter()
            .map(|(sentinel, error)| format!("{sentinel}: {}", error.message()))
            .collect();
        let message = format!("no sentinel answered ({})", each.join("; "));
        let source = failed.into_iter().next().map(|(_, error)| error);
        let error = Error::new(ErrorKind::Connection, message)
            .with_context("sentinels", sentinels.to_string())
            .with_remedy(remedy);
        match source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::unknown_master;
    use super::*;
    use crate::client::ConnectionOptions;
    use crate::error::Result;

    fn sentinels() -> Result<Sentinels> {
        match ConnectionOptions::parse("redis+sentinel://a,b/m")?.address {
            Address::Sentinel(sentinels) => Ok(sentinels),
            _ => Err(Error::protocol("no sentinels")),
        }
    }

    fn refused() -> Error {
        Error::new(ErrorKind::Connection, "refused").with_remedy(Remedy::Reconnect)
    }

    fn error_of(failed: Vec<Error>) -> Result<Error> {
        let (sentinels, mut failures) = (sentinels()?, Failures::default());
        for (node, error) in sentinels.nodes.iter().zip(failed) {
            failures.of_sentinel(node, error);
        }
        Ok(failures.into_error(&sentinels))
    }

    #[test]
    fn what_time_does_not_mend_is_told_and_ends_attempts_where_all_say_so() -> Result<()> {
        let no = || Error::from_server(b"NOAUTH Authentication required.");
        for (failed, kind, remedy) in [
            (vec![refused(), refused()], ErrorKind::Connection, Remedy::Reconnect),
            (vec![refused(), no()], ErrorKind::Authentication, Remedy::Reconnect),
            (vec![no(), no()], ErrorKind::Authentication, Remedy::No),
            (vec![unknown_master("m"), no()], ErrorKind::Connection, Remedy::No),
            (
                vec![Error::new(ErrorKind::Timeout, "hangs"), no()],
                ErrorKind::Authentication,
                Remedy::Reconnect,
            ),
        ] {
            let error = error_of(failed)?;
            assert_eq!((error.kind(), error.remedy()), (kind, remedy), "{error}");
        }
        let error = error_of(vec![refused(), refused()])?.to_string();
        assert!(error.contains("a:26379: refused; b:26379: refused"), "{error}");
        Ok(())
    }

    #[test]
    fn a_server_that_was_named_tells_most() -> Result<()> {
        let mut failures = Failures::default();
        failures.of_master(refused());
        failures.of_sentinel(&Address::Tcp { host: "a".to_owned(), port: 1 }, unknown_master("m"));
        let error = failures.into_error(&sentinels()?);
        assert!(error.to_string().starts_with("refused") && error.retryable(), "{error}");
        Ok(())
    }
}
