//! What keeps trying through an outage, whichever of its sessions meets it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::Error;
use crate::events::Event;

/// Who reads or writes, as the log names it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Who {
    pub(crate) stream: String,
    pub(crate) group: Option<String>,
    pub(crate) consumer: Option<String>,
}

impl Who {
    pub(crate) fn new(stream: &[u8]) -> Self {
        Who { stream: shown(stream), group: None, consumer: None }
    }

    pub(crate) fn with_group(mut self, group: &[u8], consumer: &[u8]) -> Self {
        self.group = Some(shown(group));
        self.consumer = Some(shown(consumer));
        self
    }

    /// An event of this reader or writer.
    pub(crate) fn event(&self, name: &'static str) -> Event {
        Event::new(name)
            .with("stream", self.stream.clone())
            .with("group", self.group.clone())
            .with("consumer", self.consumer.clone())
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// What a reader that never ends, or a producer, keeps of its server: it tries without limit once
/// the server has answered it, and logs when an outage begins and ends.
pub(super) struct Patience {
    who: Who,
    address: String,
    answered: Arc<AtomicBool>,
    /// Whether `outage` holds one, for the many replies that come while none does.
    in_outage: AtomicBool,
    outage: Mutex<Option<Outage>>,
}

struct Outage {
    since: Instant,
    failures: u64,
}

impl Patience {
    pub(super) fn new(who: Who, address: String) -> Self {
        Patience {
            who,
            address,
            answered: Arc::default(),
            in_outage: AtomicBool::new(false),
            outage: Mutex::new(None),
        }
    }

    /// The same for one of several servers, whose outages are its own.
    pub(super) fn of_one(&self) -> Self {
        let answered = Arc::clone(&self.answered);
        Patience { answered, ..Patience::new(self.who.clone(), self.address.clone()) }
    }

    /// Whether the server has ever answered. That something has accepted a connection says little:
    /// so does a port that nobody reads from, or another program.
    pub(super) fn was_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// The server has answered.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// A request has failed, and is tried again. No outage begins before there was an answer.
    pub(super) fn failed(&self, error: &Error) {
        if !self.was_answered() {
            return;
        }
        let mut outage = self.outage();
        let current = outage.get_or_insert_with(|| {
            self.in_outage.store(true, Ordering::Relaxed);
            let event = self.who.event("outage_began").with("address", self.address.clone());
            event.with("error", error.to_string()).record();
            Outage { since: Instant::now(), failures: 0 }
        });
        current.failures += 1;
    }

    /// What failed has succeeded.
    pub(super) fn succeeded(&self) {
        if !self.in_outage.load(Ordering::Relaxed) {
            return;
        }
        let mut outage = self.outage();
        let ended = outage.take();
        self.in_outage.store(false, Ordering::Relaxed);
        drop(outage);
        if let Some(Outage { since, failures }) = ended {
            let event = self.who.event("outage_ended").with("address", self.address.clone());
            event.with("seconds", since.elapsed()).with("failures", failures).record();
        }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        // It is whole whatever its holder was doing when it panicked.
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
