//! What the consumer of a group reads: batches, each entry of which a commit acknowledges.

use std::pin::pin;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::client::{Client, spawn};
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::{Error, Result, shorten};
use crate::ledger::IdSet;
use crate::read::{
    Batches, DeadLetter, GroupOptions, Member, OnGroupLost, OwnPending, ReadRequest, tail,
};

/// The most entries of a batch: a commit looks for each of them in the list of what is pending, and keeps
/// the server busy meanwhile.
const MOST: usize = 10_000;

/// How long a reader may take to hand over what it has fetched and nobody has seen.
const HANDING_OVER: Duration = Duration::from_millis(400);

/// Reads through a group what a processor commits.
pub(super) struct GroupSource {
    /// Without those options that a reader alone needs.
    options: GroupOptions,
    reader: Option<Reader>,
    /// What was handed out, and neither committed nor left.
    open: IdSet,
    /// Dead letters of the readers before.
    dead_lettered: u64,
}

/// A reader from one acquisition of the lane on: it begins with what is pending to its consumer.
struct Reader {
    batches: Batches,
    member: Member,
    /// Keeps from others what is in hand.
    keeping: AbortHandle,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

impl GroupSource {
    /// As a consumer of the request's group; `dead_letter` takes what cannot be decoded.
    pub(super) fn new(
        request: &ReadRequest,
        options: GroupOptions,
        dead_letter: Option<&[u8]>,
    ) -> Result<Self> {
        if request.is_of_several() {
            return Err(Error::invalid("a processor has one stream"));
        }
        if request.batch_rows() > MOST {
            return Err(Error::invalid(format!(
                "batch_size is {}, and a processor of a group has batches of {MOST} entries at most: its \
                 commit looks for each of them in the list of what is pending, and keeps the server busy \
                 meanwhile",
                request.batch_rows()
            )));
        }
        if options.dead_letter() == Some(request.stream()) {
            let message =
                "the dead-letter stream is the stream itself, which would never come to an end";
            return Err(Error::invalid(message));
        }
        // Nothing but a commit acknowledges; and a group that is created again would have what others have
        // committed come once more.
        let options = options
            .with_own_pending(OwnPending::First)
            .with_auto_ack(false)
            .with_noack(false)
            .with_delivery_counts(true)
            .with_on_lost(OnGroupLost::Raise);
        let options = match (options.dead_letter(), dead_letter) {
            (None, Some(stream)) => options.with_dead_letter(Some(DeadLetter {
                stream: stream.to_vec(),
                max_deliveries: None,
            })),
            _ => options,
        };
        Ok(GroupSource { options, reader: None, open: IdSet::default(), dead_lettered: 0 })
    }

    /// The stream for dead letters.
    pub(super) fn dead_letter(&self) -> Option<&[u8]> {
        self.options.dead_letter()
    }

    /// The next batch, or `None` at the end. What was handed out before and not committed is read
    /// again. Where `goes_on` says no, which is asked every now and then, it does not wait any longer. May be
    /// dropped at any time.
    ///
    /// A group is created for a lane that has had no commit. To another it was there, and whoever deleted it
    /// deleted what it knew of all that is committed.
    pub(super) async fn next(
        &mut self,
        client: &Client,
        request: &ReadRequest,
        is_new: bool,
        goes_on: impl Fn() -> bool + Send,
    ) -> Result<Next> {
        /// How long to wait between two looks.
        const LOOK: Duration = Duration::from_secs(1);
        if !self.open.is_empty() {
            self.clear();
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(Reader::new(client, request, &self.options, is_new)?),
        };
        let mut reading = pin!(reader.batches.next());
        let read = loop {
            match timeout(LOOK, &mut reading).await {
                Ok(read) => break read,
                Err(_) if goes_on() => {}
                Err(_) => return Ok(Next::Lost),
            }
        };
        Ok(match read? {
            None => Next::End,
            Some(batch) => {
                self.open.extend(batch.ids());
                // Those that were rejected are dead letters by now.
                Next::Batch(batch.with_these_rejected(Vec::new()))
            }
        })
    }

    /// These are committed.
    pub(super) fn committed(&mut self, ids: &[EntryId]) {
        self.open.remove(ids);
        if let Some(Reader { member, .. }) = &self.reader {
            member.acknowledged_with_others(ids);
        }
    }

    /// These stay pending, and come again once they have been for long enough.
    pub(super) fn leave(&mut self, ids: &[EntryId]) {
        self.open.remove(ids);
        if let Some(Reader { member, .. }) = &self.reader {
            member.leave_pending(ids);
        }
    }

    /// Entries that its readers have moved to the dead letters.
    pub(super) fn dead_lettered(&self) -> u64 {
        let of_reader = self.reader.as_ref().map(|reader| reader.batches.stats().dead_lettered);
        self.dead_lettered + of_reader.unwrap_or_default()
    }

    /// Begins anew, with what is pending to the consumer.
    pub(super) fn clear(&mut self) {
        self.dead_lettered = self.dead_lettered();
        self.reader = None;
        self.open.clear();
    }

    /// Ends the reading; others need not wait for what was fetched and nobody has seen.
    pub(super) async fn finish(&mut self) {
        if let Some(reader) = &mut self.reader {
            // Nothing depends on it: others claim what is pending for too long.
            let _ = timeout(HANDING_OVER, reader.batches.finish(true)).await;
        }
        self.clear();
    }
}

/// What there is to do next.
pub(super) enum Next {
    Batch(Batch),
    End,
    /// The lane, probably.
    Lost,
}

impl Reader {
    fn new(
        client: &Client,
        request: &ReadRequest,
        options: &GroupOptions,
        is_new: bool,
    ) -> Result<Self> {
        let options = match is_new {
            true => options.clone(),
            false => options.clone().with_creation(None),
        };
        let batches = tail(client, request.clone().with_group(Some(options)))?;
        let member = batches.member().ok_or_else(|| Error::invalid("there is no group"))?;
        let kept = member.clone();
        let keeping = spawn(async move { kept.keep_in_hand().await })?;
        Ok(Reader { batches, member, keeping })
    }
}

/// What is said of what several workers cannot do.
pub(super) fn refused(what: &str, group: &[u8]) -> Error {
    Error::invalid(format!(
        "a processor of the group {} has no {what}: other workers of the group process other batches at the \
         same time; without a group there is one processor at a time, and it has",
        shorten(group)
    ))
}
