//! The clients that a process's calls share.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Client;
use super::options::ConnectionOptions;
use super::per_process::PerProcess;
use super::runtime::spawn;
use crate::error::Result;

static CLIENTS: PerProcess<Clients> = PerProcess::new();

/// The client that all users of equal options in this process share.
///
/// A client that nobody refers to is kept for a minute, so that calls one after the other use the
/// same connection; of many such clients only the latest are kept. Connections that are idle for a
/// minute are closed.
///
/// # Errors
///
/// [`Internal`](crate::ErrorKind::Internal) where the process cannot start threads.
pub fn shared_client(options: &ConnectionOptions) -> Result<Client> {
    let clients = CLIENTS.get(|| Ok::<_, crate::Error>(Clients::default()))?;
    let (client, begins) = clients.state().get(options, Instant::now());
    if begins {
        spawn(async {
            loop {
                tokio::time::sleep(Clients::SWEEP).await;
                if clients.state().sweep(Instant::now()) {
                    break;
                }
            }
        })?;
    }
    Ok(client)
}

#[derive(Default)]
struct Clients {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clients: HashMap<ConnectionOptions, Kept>,
    /// A task looks after them.
    swept: bool,
}

struct Kept {
    client: Client,
    last_used: Instant,
}

impl Kept {
    fn is_used(&self) -> bool {
        self.client.is_shared()
    }
}

impl Clients {
    /// How often the clients are looked at.
    const SWEEP: Duration = Duration::from_secs(10);

    fn state(&self) -> MutexGuard<'_, State> {
        // The map is whole whatever its holder was doing when it panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long connections are idle, and clients without a user, before they are closed.
    const IDLE: Duration = Duration::from_secs(60);
    /// Clients without a user beyond this number are closed at once.
    const MAX_UNUSED: usize = 32;

    /// The client of these options; and whether a task is now to look after the clients.
    fn get(&mut self, options: &ConnectionOptions, now: Instant) -> (Client, bool) {
        let client = match self.clients.get_mut(options) {
            Some(kept) => {
                kept.last_used = now;
                kept.client.clone()
            }
            None => {
                let client = Client::new(options.clone());
                let kept = Kept { client: client.clone(), last_used: now };
                self.clients.insert(options.clone(), kept);
                self.close_surplus();
                client
            }
        };
        (client, !std::mem::replace(&mut self.swept, true))
    }

    fn close_surplus(&mut self) {
        if self.clients.len() <= Self::MAX_UNUSED {
            return;
        }
        let mut unused: Vec<Instant> = (self.clients.values())
            .filter(|kept| !kept.is_used())
            .map(|kept| kept.last_used)
            .collect();
        let Some(surplus) = unused.len().checked_sub(Self::MAX_UNUSED + 1) else {
            return;
        };
        unused.sort_unstable();
        if let Some(latest) = unused.get(surplus) {
            self.clients.retain(|_, kept| kept.is_used() || kept.last_used > *latest);
        }
    }

    /// Closes what has been idle for long enough; says whether nothing is left to look after.
    fn sweep(&mut self, now: Instant) -> bool {
        let idle_since = now.checked_sub(Self::IDLE);
        for kept in self.clients.values_mut() {
            if kept.is_used() {
                kept.last_used = now;
            }
            if let Some(then) = idle_since {
                kept.client.close_idle(then);
            }
        }
        self.clients.retain(|_, kept| idle_since.is_none_or(|then| kept.last_used > then));
        self.swept = !self.clients.is_empty();
        !self.swept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(number: usize) -> Result<ConnectionOptions> {
        ConnectionOptions::parse(&format!("redis://h:{}", number + 1))
    }

    #[test]
    fn equal_options_share_a_client() -> Result<()> {
        let (one, two) = (shared_client(&options(1)?)?, shared_client(&options(1)?)?);
        assert!(one.is_the_same_as(&two));
        Ok(())
    }

    #[test]
    fn of_many_clients_without_a_user_the_latest_are_kept() -> Result<()> {
        let (mut state, start) = (State::default(), Instant::now());
        let mut used = Vec::new();
        for number in 0..1_000 {
            let now = start + Duration::from_millis(number);
            let (client, begins) = state.get(&options(number as usize)?, now);
            assert_eq!(begins, number == 0);
            if number % 100 == 0 {
                used.push(client);
            }
        }
        // The one that was asked for last counts as used until it is dropped.
        let unused = state.clients.values().filter(|kept| !kept.is_used());
        assert!((31..=33).contains(&unused.count()));
        for number in [0, 100, 900, 999] {
            assert!(state.clients.contains_key(&options(number)?), "{number}");
        }
        assert!(!state.clients.contains_key(&options(950)?));
        Ok(())
    }

    #[test]
    fn a_client_without_a_user_goes_after_a_minute() -> Result<()> {
        let (mut state, start) = (State::default(), Instant::now());
        let (used, _) = state.get(&options(0)?, start);
        state.get(&options(1)?, start);
        assert!(!state.sweep(start + Duration::from_secs(59)));
        assert_eq!(state.clients.len(), 2);
        assert!(!state.sweep(start + Duration::from_secs(61)));
        assert_eq!(state.clients.len(), 1);
        drop(used);
        // The time counts from the last sweep that saw it used.
        assert!(!state.sweep(start + Duration::from_secs(120)));
        assert!(state.sweep(start + Duration::from_secs(122)));
        let (_, begins) = state.get(&options(0)?, start);
        assert!(begins);
        Ok(())
    }
}
