//! When to try again, and when to give up.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::options::ConnectionOptions;
use crate::error::{Error, ErrorKind, Result};

/// Pauses between attempts grow exponentially, with jitter, and start over with each success.
pub(crate) struct Retry {
    builder: ExponentialBuilder,
    pauses: ExponentialBackoff,
    retries: u32,
    connect_timeout: Duration,
    first_connection: FirstConnection,
    /// Time is not the caller's concern: a server that is silent is tried again, too.
    patient: bool,
}

/// Until the first connection is established, all attempts together may take as long as the connect
/// timeout: a wrong address must not cost more. Afterwards the number of retries decides alone, so
/// that a long enough budget rides out a restart.
#[derive(Clone, Copy)]
enum FirstConnection {
    /// Not attempted: time does not count yet, however late an iterator is asked.
    Ahead,
    Since(Instant),
    Established,
}

/// Another attempt is to be made.
pub(super) struct Planned {
    pub(super) error: Error,
    pub(super) pause: Duration,
    /// The number of this retry, from 1.
    pub(super) retry: u32,
}

impl Retry {
    /// Gives up after `max_retries`.
    pub(crate) fn new(options: &ConnectionOptions) -> Self {
        let max_retries = options.max_retries.unwrap_or(ConnectionOptions::MAX_RETRIES);
        let builder = pauses(options).with_max_times(max_retries as usize);
        Retry {
            pauses: builder.build(),
            builder,
            retries: 0,
            connect_timeout: options.connect_timeout,
            first_connection: FirstConnection::Ahead,
            patient: false,
        }
    }

    /// Never gives up once the first connection is established.
    pub(super) fn without_limit(options: &ConnectionOptions) -> Self {
        let builder = pauses(options).without_max_times();
        Retry { pauses: builder.build(), builder, patient: true, ..Retry::new(options) }
    }

    /// How long the attempt to connect that now begins may take.
    pub(crate) fn time_to_connect(&mut self) -> Duration {
        if let FirstConnection::Ahead = self.first_connection {
            self.first_connection = FirstConnection::Since(Instant::now());
        }
        self.time_left()
    }

    fn time_left(&self) -> Duration {
        match self.first_connection {
            FirstConnection::Since(start) => self.connect_timeout.saturating_sub(start.elapsed()),
            FirstConnection::Ahead | FirstConnection::Established => self.connect_timeout,
        }
    }

    /// A connection is established.
    pub(crate) fn connected(&mut self) {
        self.first_connection = FirstConnection::Established;
    }

    /// Whether one was.
    pub(super) fn was_connected(&self) -> bool {
        matches!(self.first_connection, FirstConnection::Established)
    }

    /// Whether attempts have failed since something was achieved.
    pub(super) fn is_failing(&self) -> bool {
        self.retries > 0
    }

    /// Something was achieved: the next failure is a first one.
    pub(crate) fn succeeded(&mut self) {
        if self.retries > 0 {
            self.retries = 0;
            self.pauses = self.builder.build();
        }
    }

    /// Waits before the next attempt, or gives the error back where there is to be none.
    pub(crate) async fn pause(&mut self, error: Error) -> Result<()> {
        let planned = self.plan(error)?;
        tokio::time::sleep(planned.pause).await;
        Ok(())
    }

    /// The pause before the next attempt, or the error where there is to be none.
    pub(crate) fn next_pause(&mut self, error: Error) -> Result<Duration> {
        Ok(self.plan(error)?.pause)
    }

    /// Says after which pause the next attempt is to be made, or gives the error back where there
    /// is to be none.
    pub(super) fn plan(&mut self, error: Error) -> Result<Planned> {
        let is_transient =
            error.retryable() || (self.patient && error.kind() == ErrorKind::Timeout);
        let pause = if is_transient { self.pauses.next() } else { None };
        let in_time = |pause: &Duration| {
            matches!(self.first_connection, FirstConnection::Established)
                || *pause < self.time_left()
        };
        match pause.filter(in_time) {
            Some(pause) => {
                self.retries = self.retries.saturating_add(1);
                Ok(Planned { error, pause, retry: self.retries })
            }
            None if self.retries > 0 => {
                let attempts = self.retries.saturating_add(1);
                Err(error.with_context("attempts", attempts.to_string()))
            }
            None => Err(error),
        }
    }
}

fn pauses(options: &ConnectionOptions) -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(options.retry_base_delay.min(options.retry_max_delay))
        .with_max_delay(options.retry_max_delay)
        .with_jitter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn options(max_retries: u32) -> Result<ConnectionOptions> {
        let ms = Duration::from_millis;
        Ok(ConnectionOptions::parse("redis://h")?.with_retries(max_retries, ms(1), ms(2)))
    }

    fn transient() -> Error {
        Error::new(ErrorKind::Connection, "lost").with_retryable(true)
    }

    #[tokio::test]
    async fn gives_up_after_the_last_retry_and_counts_attempts() -> Result<()> {
        let mut retry = Retry::new(&options(2)?);
        retry.pause(transient()).await?;
        retry.pause(transient()).await?;
        let error = retry.pause(transient()).await.unwrap_err();
        assert!(error.to_string().contains("attempts: 3"), "{error}");
        Ok(())
    }

    #[tokio::test]
    async fn success_starts_over() -> Result<()> {
        let mut retry = Retry::new(&options(1)?);
        for _ in 0..5 {
            retry.pause(transient()).await?;
            retry.succeeded();
        }
        Ok(())
    }

    #[tokio::test]
    async fn what_time_will_not_mend_fails_at_once() -> Result<()> {
        let mut retry = Retry::new(&options(5)?);
        assert!(retry.pause(Error::new(ErrorKind::WrongType, "no stream")).await.is_err());
        Ok(())
    }

    #[tokio::test]
    async fn the_first_connection_has_the_connect_timeout() -> Result<()> {
        let options = options(1000)?.with_connect_timeout(Duration::from_millis(50));
        let mut retry = Retry::new(&options);
        let start = Instant::now();
        retry.time_to_connect();
        while retry.pause(transient()).await.is_ok() {}
        assert!(start.elapsed() < Duration::from_millis(500));
        retry.connected();
        retry.pause(transient()).await
    }

    #[tokio::test]
    async fn the_time_to_connect_begins_with_the_first_attempt() -> Result<()> {
        let limit = Duration::from_millis(30);
        let mut retry = Retry::new(&options(1000)?.with_connect_timeout(limit));
        std::thread::sleep(2 * limit);
        let left = retry.time_to_connect();
        assert!(left > limit / 2, "{left:?}");
        std::thread::sleep(2 * limit);
        assert_eq!(retry.time_to_connect(), Duration::ZERO);
        assert!(retry.pause(transient()).await.is_err());
        Ok(())
    }

    fn silence() -> Error {
        Error::new(ErrorKind::Timeout, "silent")
    }

    #[tokio::test]
    async fn without_limit_a_first_connection_still_has_the_connect_timeout() -> Result<()> {
        let options = options(0)?.with_connect_timeout(Duration::from_millis(50));
        for error in [transient, silence] {
            let mut retry = Retry::without_limit(&options);
            let start = Instant::now();
            retry.time_to_connect();
            while retry.pause(error()).await.is_ok() {}
            assert!(start.elapsed() < Duration::from_millis(500));
            retry.connected();
            for _ in 0..20 {
                retry.pause(error()).await?;
            }
            assert!(retry.pause(Error::new(ErrorKind::Authentication, "no")).await.is_err());
        }
        Ok(())
    }

    #[tokio::test]
    async fn silence_is_not_tried_again_within_a_limit() -> Result<()> {
        let mut retry = Retry::new(&options(5)?);
        retry.connected();
        assert!(retry.pause(silence()).await.is_err());
        Ok(())
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_then_no_more() -> Result<()> {
        let (base, longest) = (Duration::from_millis(10), Duration::from_millis(80));
        let options = ConnectionOptions::parse("redis://h")?.with_retries(None, base, longest);
        let mut retry = Retry::without_limit(&options);
        retry.connected();
        let mut pauses = Vec::new();
        for _ in 0..50 {
            pauses.push(retry.plan(transient())?.pause);
        }
        // Jitter adds up to as much again.
        assert!(pauses.first().is_some_and(|first| *first < 2 * base));
        assert!(pauses.iter().skip(4).all(|pause| (longest..=2 * longest).contains(pause)));
        Ok(())
    }
}
