//! What a program's log should say: recorded by whichever thread it happens on, and taken by the
//! program when it likes.
//!
//! Nothing here calls out: a thread of the runtime must not run Python, nor wait for a log.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::client::PerProcess;

/// Something that happened beside what a call returns, such as the begin of an outage.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    name: &'static str,
    fields: Vec<(&'static str, EventValue)>,
}

/// A value of an [`Event`]'s field.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EventValue {
    /// A text.
    Text(String),
    /// Several, such as names.
    Texts(Vec<String>),
    /// A number.
    Number(u64),
    /// A time in seconds.
    Seconds(f64),
    /// What there is not, such as the group of a reader without one.
    Nothing,
}

impl Event {
    pub(crate) fn new(name: &'static str) -> Self {
        Event { name, fields: Vec::new() }
    }

    pub(crate) fn with(mut self, field: &'static str, value: impl Into<EventValue>) -> Self {
        self.fields.push((field, value.into()));
        self
    }

    /// Keeps it for [`take_events`].
    pub(crate) fn record(self) {
        queue().push(self);
    }

    /// What happened: one word, such as `outage_began`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where, and how much.
    pub fn fields(&self) -> &[(&'static str, EventValue)] {
        &self.fields
    }
}

impl From<String> for EventValue {
    fn from(text: String) -> Self {
        EventValue::Text(text)
    }
}

impl From<Vec<String>> for EventValue {
    fn from(texts: Vec<String>) -> Self {
        EventValue::Texts(texts)
    }
}

impl From<Option<String>> for EventValue {
    fn from(text: Option<String>) -> Self {
        text.map_or(EventValue::Nothing, EventValue::Text)
    }
}

impl From<u64> for EventValue {
    fn from(number: u64) -> Self {
        EventValue::Number(number)
    }
}

impl From<Duration> for EventValue {
    fn from(time: Duration) -> Self {
        EventValue::Seconds(time.as_secs_f64())
    }
}

/// Who is told that there is an event to take. It must neither wait nor call Python.
pub(crate) trait Listener: Send + Sync {
    fn wake(&self);
}

/// The events since the last call, in their order. A process keeps the latest thousand; where more
/// came, an event `events_dropped` says how many are missing.
pub fn take_events() -> Vec<Event> {
    queue().take()
}

/// Whether there is an event to take, at hardly any cost.
#[cfg(feature = "python")]
pub(crate) fn is_any() -> bool {
    queue().any.load(Ordering::Acquire)
}

/// From now on the listener is told, as long as it is there.
#[cfg(feature = "python")]
pub(crate) fn listen(listener: Weak<dyn Listener>) {
    let mut listeners = lock(&queue().listeners);
    listeners.retain(|listener| listener.strong_count() > 0);
    if is_any() {
        // It was recorded where nobody listened, perhaps; the next one would tell nobody either.
        listener.upgrade().inspect(|listener| listener.wake());
    }
    listeners.push(listener);
}

static QUEUE: PerProcess<Queue> = PerProcess::new();

/// This process's: a fork copies no event, and no lock that is held.
fn queue() -> &'static Queue {
    let Ok(queue) = QUEUE.get(|| Ok::<_, Infallible>(Queue::default()));
    queue
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    any: AtomicBool,
    listeners: Mutex<Vec<Weak<dyn Listener>>>,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    dropped: u64,
}

impl Queue {
    /// Beyond this number the oldest are dropped.
    const MOST: usize = 1_000;

    fn push(&self, event: Event) {
        let mut waiting = lock(&self.waiting);
        if waiting.events.len() >= Self::MOST {
            waiting.events.pop_front();
            waiting.dropped += 1;
        }
        waiting.events.push_back(event);
        drop(waiting);
        if !self.any.swap(true, Ordering::AcqRel) {
            lock(&self.listeners).iter().filter_map(Weak::upgrade).for_each(|one| one.wake());
        }
    }

    fn take(&self) -> Vec<Event> {
        // Before they are taken: one that comes meanwhile is perhaps taken, or announced again.
        self.any.store(false, Ordering::Release);
        let Waiting { events, dropped } = std::mem::take(&mut *lock(&self.waiting));
        let dropped = (dropped > 0).then(|| Event::new("events_dropped").with("events", dropped));
        dropped.into_iter().chain(events).collect()
    }
}

/// What the locks here guard is whole whatever their holder was doing when it panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn numbers(events: &[Event]) -> Vec<EventValue> {
        events.iter().flat_map(|event| event.fields()).map(|(_, value)| value.clone()).collect()
    }

    #[test]
    fn events_are_taken_once_in_order() {
        let queue = Queue::default();
        for number in [1_u64, 2] {
            queue.push(Event::new("n").with("number", number));
        }
        assert!(queue.any.load(Ordering::Acquire));
        assert_eq!(numbers(&queue.take()), [EventValue::Number(1), EventValue::Number(2)]);
        assert!(!queue.any.load(Ordering::Acquire));
        assert_eq!(queue.take(), []);
    }

    #[test]
    fn the_latest_are_kept_and_the_others_counted() {
        let queue = Queue::default();
        for number in 0..1_002_u64 {
            queue.push(Event::new("n").with("number", number));
        }
        let taken = queue.take();
        assert_eq!(taken.len(), 1_001);
        assert_eq!(taken.first().map(Event::name), Some("events_dropped"));
        let two = EventValue::Number(2);
        let numbers = numbers(&taken);
        // Two are missing, and the first that is there has the number 2.
        assert_eq!(numbers.get(..2), Some(&[two.clone(), two][..]));
        assert_eq!(numbers.last(), Some(&EventValue::Number(1_001)));
    }

    #[test]
    fn listeners_are_told_once_for_what_can_be_taken_at_once() {
        struct Counter(AtomicUsize);
        impl Listener for Counter {
            fn wake(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let counter = Arc::new(Counter(AtomicUsize::new(0)));
        let queue = Queue::default();
        let listener: Arc<dyn Listener> = Arc::clone(&counter) as Arc<dyn Listener>;
        lock(&queue.listeners).push(Arc::downgrade(&listener));
        queue.push(Event::new("one"));
        queue.push(Event::new("two"));
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert_eq!(queue.take().len(), 2);
        queue.push(Event::new("three"));
        assert_eq!(counter.0.load(Ordering::Relaxed), 2);
    }
}
