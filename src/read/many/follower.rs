//! One of the requests that wait for entries at the same time.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_util::future::BoxFuture;

use super::ends::ends_lost;
use crate::client::{Client, Session};
use crate::decode::StreamNames;
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::read::in_flight::InFlight;
use crate::read::intake::{Intake, Received};
use crate::read::lost::{Asked, StreamLoss};
use crate::read::page_request::PageRequest;

/// A session of its own, and what is done on it, which goes on while others are waited for. A follower
/// that is dropped closes the connection that owes an answer.
pub(super) struct Follower {
    client: Client,
    /// One of the keys that it asks for: it leads to the node that serves them.
    key: Vec<u8>,
    line: Option<Line>,
    /// Connecting, sending and waiting for an answer, or the pause after a failure.
    busy: Option<BoxFuture<'static, (Line, Result<Vec<Lost>>)>>,
    is_recovering: bool,
    /// What that came to.
    done: Option<Result<Vec<Lost>>>,
    /// It was never asked.
    is_new: bool,
    process: u32,
    /// When it was asked last.
    pub(super) asked: Instant,
    /// Whether the server was to answer at once.
    pub(super) is_prompt: bool,
    /// It is not asked again before.
    pub(super) not_before: Option<Instant>,
    /// The latest reply had all that was asked for.
    pub(super) has_more: bool,
    /// The latest reply had nothing.
    pub(super) is_drained: bool,
    /// The streams that the latest reply had entries of, as far as it has come.
    pub(super) active: HashSet<usize>,
    /// Its streams are asked for once the other request is answered, but not for long.
    pub(super) is_late: bool,
    /// Which of its streams is asked for first.
    pub(super) first: usize,
}

/// A stream that was read up to an ID, and has lost its end.
pub(super) type Lost = (usize, EntryId, StreamLoss);

/// Streams that were read up to these IDs.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) names: Arc<StreamNames>,
    pub(super) ends: Vec<(usize, EntryId)>,
}

/// A session and what it was asked for.
struct Line {
    session: Session,
    in_flight: InFlight,
}

impl Line {
    async fn ask(&mut self, request: PageRequest, seen: Seen) -> Result<Vec<Lost>> {
        let Line { session, in_flight } = self;
        let lost = ends_lost(Asked::By(session), &seen.names, &seen.ends).await?;
        if lost.is_empty() {
            in_flight.send(session, request).await?;
            in_flight.listen().await?;
        }
        Ok(lost)
    }
}

impl Follower {
    pub(super) fn new(client: &Client, key: &[u8]) -> Self {
        Follower {
            client: client.clone(),
            key: key.to_owned(),
            line: None,
            busy: None,
            is_recovering: false,
            done: None,
            is_new: true,
            process: std::process::id(),
            asked: Instant::now(),
            is_prompt: false,
            not_before: None,
            has_more: false,
            is_drained: false,
            active: HashSet::new(),
            is_late: false,
            first: 0,
        }
    }

    /// Closes the connection if it owes an answer.
    pub(super) fn reset(&mut self) {
        *self = Follower { is_new: false, ..Follower::new(&self.client, &self.key) };
    }

    fn line(&mut self) -> &mut Line {
        let (client, key) = (&self.client, &self.key);
        self.line.get_or_insert_with(|| Line {
            session: client.session_for(key),
            in_flight: InFlight::default(),
        })
    }

    /// For small questions, while it is idle.
    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.line().session
    }

    /// How many entries to ask for.
    pub(super) fn page(&mut self, intake: &mut Intake) -> u64 {
        intake.page_of(&mut self.line().in_flight)
    }

    /// Whether it may be asked.
    pub(super) fn is_idle(&self) -> bool {
        self.busy.is_none() && self.done.is_none() && !self.is_answered()
    }

    /// Whether something is awaited.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Whether the rest of a reply, or all of it, is to be received.
    fn is_answered(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.in_flight.is_owed())
    }

    /// Whether a reply has come in part.
    pub(super) fn is_halfway(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.in_flight.is_begun())
    }

    /// Whether its next request goes over another connection than the latest, perhaps to a server that
    /// has lost what was read last.
    pub(super) fn is_in_doubt(&mut self) -> bool {
        !self.is_new && !self.line().session.is_connected()
    }

    /// Sends a request, which is to be while it is idle, unless the server has lost the ends of streams
    /// that were `seen`. What it waits for goes on where [`Follower::poll`] is called.
    pub(super) async fn ask(&mut self, request: PageRequest, seen: Seen) {
        self.is_new = false;
        self.line();
        let Some(mut line) = self.line.take() else { return };
        self.asked = Instant::now();
        self.process = std::process::id();
        self.is_prompt = request.wait.is_none();
        self.not_before = None;
        self.active.clear();
        self.busy = Some(Box::pin(async move {
            let asked = line.ask(request, seen).await;
            (line, asked)
        }));
        // The request is on its way before anything else is done.
        poll_fn(|context| {
            let _ = self.poll(context);
            Poll::Ready(())
        })
        .await;
    }

    /// Goes on with what it is busy with; ready where there is something to be taken.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.done.is_some() || self.is_answered() {
            return Poll::Ready(());
        }
        let Some(busy) = &mut self.busy else { return Poll::Pending };
        if self.process != std::process::id() {
            // It belongs to the process that this one was forked from, down to the socket.
            std::mem::forget(self.busy.take());
            self.reset();
            self.done = Some(Ok(Vec::new()));
            return Poll::Ready(());
        }
        let (line, result) = ready!(busy.as_mut().poll(context));
        self.busy = None;
        self.line = Some(line);
        self.done = Some(result);
        Poll::Ready(())
    }

    /// The streams whose end was found to be lost, where that is why nothing was requested.
    pub(super) fn take_lost(&mut self) -> Vec<Lost> {
        match &mut self.done {
            Some(Ok(lost)) => std::mem::take(lost),
            _ => Vec::new(),
        }
    }

    /// Takes what has come; `None` where that is nothing, as after a pause.
    ///
    /// # Errors
    ///
    /// One that is to be given to [`Follower::recover`], unless that has given it.
    pub(super) async fn take(&mut self, intake: &mut Intake) -> Result<Option<Received>> {
        self.done.take().transpose()?;
        let Some(line) = self.line.as_mut().filter(|line| line.in_flight.is_owed()) else {
            self.is_recovering = false;
            return Ok(None);
        };
        intake.receive_from(&mut line.session, &mut line.in_flight).await.map(Some)
    }

    /// Pauses before the next attempt, beside what others do; the error where that is of no use.
    pub(super) fn recover(&mut self, intake: &mut Intake, error: Error) -> Result<()> {
        if std::mem::take(&mut self.is_recovering) {
            return Err(error);
        }
        intake.failed(&mut self.line().in_flight, &error);
        let Some(mut line) = self.line.take() else { return Err(error) };
        self.is_recovering = true;
        self.process = std::process::id();
        self.busy = Some(Box::pin(async move {
            let recovered = line.session.recover(error).await;
            (line, recovered.map(|()| Vec::new()))
        }));
        Ok(())
    }

    /// After a failure the server does not wait long, so that its reply tells soon whether that is
    /// over.
    pub(super) fn is_failing(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.session.is_failing())
    }
}
