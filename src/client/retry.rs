//! When to try again, and when to give up.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::options::ConnectionOptions;
use crate::error::{Error, Result};

/// Pauses between attempts grow exponentially, with jitter, and start over with each success.
pub(crate) struct Retry {
    builder: ExponentialBuilder,
    pauses: ExponentialBackoff,
    retries: u32,
    connect_timeout: Duration,
    first_connection: FirstConnection,
}

/// Until the first connection stands, all attempts together may take as long as the connect
/// timeout: a wrong address must not cost more. Afterwards the number of retries decides alone, so
/// that a long enough budget rides out a restart.
#[derive(Clone, Copy)]
enum FirstConnection {
    /// Not attempted: time does not count yet, however late an iterator is asked.
    Ahead,
    Since(Instant),
    Stands,
}

impl Retry {
    pub(crate) fn new(options: &ConnectionOptions) -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(options.retry_base_delay.min(options.retry_max_delay))
            .with_max_delay(options.retry_max_delay)
            .with_max_times(options.max_retries as usize)
            .with_jitter();
        Retry {
            pauses: builder.build(),
            builder,
            retries: 0,
            connect_timeout: options.connect_timeout,
            first_connection: FirstConnection::Ahead,
        }
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
            FirstConnection::Ahead | FirstConnection::Stands => self.connect_timeout,
        }
    }

    /// A connection stands.
    pub(crate) fn connected(&mut self) {
        self.first_connection = FirstConnection::Stands;
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
        let pause = match error.retryable() {
            true => self.pauses.next(),
            false => None,
        };
        let in_time = |pause: &Duration| {
            matches!(self.first_connection, FirstConnection::Stands) || *pause < self.time_left()
        };
        match pause.filter(in_time) {
            Some(pause) => {
                self.retries += 1;
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None if self.retries > 0 => {
                Err(error.with_context("attempts", (self.retries + 1).to_string()))
            }
            None => Err(error),
        }
    }
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
}
