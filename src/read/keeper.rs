//! Keeps what a consumer has in hand from being claimed by others, beside its reader.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use futures_util::future::select;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::member::Member;
use crate::client::PerProcess;
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, ServerCode};
use crate::ledger::{InHand, Keep, LeaseTerms, Leases};

/// What is in hand of one consumer, for its reader, for whoever does something to entries, and for the
/// task that keeps them.
pub(crate) struct Keeper {
    terms: Option<LeaseTerms>,
    /// In a forked child the parent's locks may be held by threads that are not there, and its task
    /// is not.
    book: PerProcess<Book>,
    /// Held over what sets idle times, so that none is set back that somebody has just set, and by one
    /// of several streams at a time: each takes a connection.
    turns: OnceLock<Turns>,
    /// The task that keeps what is in hand has been begun.
    #[cfg(feature = "python")]
    keeping: PerProcess<()>,
}

/// Whose turn it is to set idle times.
#[derive(Clone)]
pub(super) struct Turns(Arc<PerProcess<tokio::sync::Mutex<()>>>);

impl Default for Turns {
    fn default() -> Self {
        Turns(Arc::new(PerProcess::new()))
    }
}

struct Book {
    leases: Mutex<Leases>,
    ended: Mutex<bool>,
    /// Something is to be done earlier than the task thinks.
    changed: Notify,
    ends: Notify,
}

impl Keeper {
    pub(super) fn new(terms: Option<LeaseTerms>) -> Self {
        Keeper {
            terms,
            book: PerProcess::new(),
            turns: OnceLock::new(),
            #[cfg(feature = "python")]
            keeping: PerProcess::new(),
        }
    }

    /// The same for another stream of the same reader.
    pub(super) fn of_another_stream(&self) -> Self {
        Keeper::new(self.terms)
    }

    /// Takes turns with those streams alone that have the same ones: what one server keeps waiting,
    /// the others do not.
    pub(super) fn takes_turns(&self, turns: &Turns) {
        // Nothing was in hand before.
        let _ = self.turns.set(turns.clone());
    }

    fn book(&self) -> Option<&Book> {
        let make = || -> Result<Book, ()> {
            Ok(Book {
                leases: Mutex::new(Leases::new(self.terms.ok_or(())?)),
                ended: Mutex::new(false),
                changed: Notify::new(),
                ends: Notify::new(),
            })
        };
        self.book.get(make).ok()
    }

    /// Whether there is something to do, in a task of its own.
    #[cfg(feature = "python")]
    fn is_needed(&self) -> bool {
        self.terms.is_some()
    }

    /// Begins the task that keeps what is in hand, once. Where it cannot be, nothing is kept.
    #[cfg(feature = "python")]
    pub(crate) fn keep_by(&self, begin: impl Fn() -> Result<(), Error>) {
        if self.is_needed() {
            let _ = self.keeping.get(begin);
        }
    }

    /// A batch goes to its consumer, whose rows the server delivered at that time or later.
    pub(super) fn handed_out(&self, ids: &[EntryId], delivered: Instant) {
        self.tell(|leases| leases.handed_out(ids, delivered, Instant::now()));
    }

    /// The work on these goes on, and they are this consumer's still.
    pub(super) fn renewed(&self, ids: &[EntryId]) {
        self.tell(|leases| leases.renewed(ids, Instant::now()));
    }

    /// These are not in hand any more.
    pub(super) fn done(&self, ids: &[EntryId]) {
        self.tell(|leases| {
            leases.done(ids);
            false
        });
    }

    /// Nothing is in hand any more.
    pub(super) fn all_done(&self) {
        self.tell(|leases| {
            leases.all_done();
            false
        });
    }

    /// Tells of something; where that says so, the task is to look again.
    fn tell(&self, tell: impl FnOnce(&mut Leases) -> bool) {
        if let Some(book) = self.book()
            && tell(&mut book.leases())
        {
            book.changed.notify_one();
        }
    }

    /// The reading ends, and nothing is kept any more.
    pub(crate) fn end(&self) {
        if let Some(book) = self.book() {
            *lock(&book.ended) = true;
            book.ends.notify_waiters();
        }
    }

    /// Has no idle time set back until what this gives is dropped.
    pub(super) async fn pause(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.terms?;
        let turns = self.turns.get_or_init(Turns::default);
        let Ok(idle_times) = turns.0.get(|| Ok::<_, Infallible>(tokio::sync::Mutex::new(())));
        Some(idle_times.lock().await)
    }
}

impl Default for Keeper {
    /// That keeps nothing.
    fn default() -> Self {
        Keeper::new(None)
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("terms", &self.terms).finish_non_exhaustive()
    }
}

impl Book {
    fn leases(&self) -> MutexGuard<'_, Leases> {
        lock(&self.leases)
    }
}

/// What the locks here guard is whole whatever their holder was doing when it panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    /// Keeps what was handed out and is not done with from being claimed by others, as long as the
    /// [options](crate::GroupOptions::with_max_processing) say: sets its idle time back three times
    /// before they may (a script of XPENDING and XCLAIM IDLE JUSTID, Redis 5.0). Counts of deliveries
    /// stay as they are, and what another has claimed stays its own. Records the events `slow_handler`,
    /// once a batch has been in hand for that long, and `lease_expired`, when it is kept no more; see
    /// [`take_events`](crate::take_events). Returns when the reading ends.
    ///
    /// For a task beside the one that reads, and one for each stream of a reader:
    ///
    /// ```no_run
    /// # async fn example(batches: redfloe::Batches) {
    /// for member in batches.members() {
    ///     tokio::spawn(async move { member.keep_in_hand().await });
    /// }
    /// # }
    /// ```
    pub async fn keep_in_hand(&self) {
        let Some(book) = self.watched.keeper().book() else {
            return;
        };
        let mut ends = pin!(book.ends.notified());
        ends.as_mut().enable();
        if !*lock(&book.ended) {
            // A script that is under way at the end is given up, with its connection.
            select(ends, pin!(self.keep_on(book))).await;
        }
    }

    async fn keep_on(&self, book: &Book) {
        loop {
            let pausing = self.watched.keeper().pause().await;
            let next = book.leases().next(Instant::now());
            match next {
                Keep::At(at) => {
                    drop(pausing);
                    let left = at.saturating_duration_since(Instant::now());
                    let _ = timeout(left, book.changed.notified()).await;
                }
                Keep::Slow(in_hand) => self.tell("slow_handler", in_hand),
                Keep::Expired(in_hand) => self.tell("lease_expired", in_hand),
                Keep::Now { lease, ids } => {
                    let at = Instant::now();
                    match self.set_back(&mut self.client.session_for(&self.stream), &ids).await {
                        Ok(lost) => book.leases().kept(lease, &lost, at),
                        // Nothing is pending in a group that is gone.
                        Err(error) if error.kind() == ErrorKind::NoGroup => {
                            book.leases().all_done()
                        }
                        Err(error) if is_refused(&error) => book.leases().refused(),
                        Err(_) => book.leases().failed(Instant::now()),
                    }
                }
            }
        }
    }

    /// Has the log say since when entries have been in hand.
    fn tell(&self, event: &'static str, in_hand: InHand) {
        let event = self.who().event(event).with("entries", in_hand.entries);
        event.with("seconds", in_hand.since.elapsed()).record();
    }
}

/// The user may not do that, now or later.
fn is_refused(error: &Error) -> bool {
    error.server_code().is_some_and(ServerCode::is_no_permission)
}
