//! What a group's reader knows of one of its streams: what was delivered and what becomes of it, its
//! claims, and where its group begins.

use std::sync::Arc;

use redis::Value;

use crate::client::{Client, Retry};
use crate::decode::Batch;
use crate::entry_id::{EntryId, GroupStart};
use crate::error::{ErrorKind, Result};
use crate::ledger::{Acknowledge, Ledger, Terms};
use crate::read::claim::Claimer;
use crate::read::group_options::{GroupOptions, OwnPending};
use crate::read::member::Member;
use crate::read::stats::Watched;
use crate::resp::{PageLimit, ReadGroup};

/// A stream, as this consumer reads it through its group. Of a reader's lanes each has its own ledger;
/// they share the connection, the batches and the time.
pub(super) struct Lane {
    /// The stream's number among all that the consumer reads.
    pub(super) number: usize,
    pub(super) member: Member,
    pub(super) options: Arc<GroupOptions>,
    pub(super) ledger: Ledger,
    pub(super) claimer: Option<Claimer>,
    /// Where the group begins if it is missing.
    pub(super) create_at: Option<GroupStart>,
    pub(super) must_exist: bool,
    /// The range of IDs that new entries have is known.
    pub(super) prepared: bool,
    /// The group is known to have been there.
    pub(super) found: bool,
    /// The number of entries that the stream had had when it was found, and of those that have come since.
    pub(super) added: u64,
    pub(super) delivered: u64,
    /// Where the group began when this reader created or found it.
    pub(super) begins_after: Option<EntryId>,
    /// When to create a lost group again, and when to give up.
    pub(super) recreations: Retry,
    /// The stream is not there any more, or is nobody's to read: it is not asked for.
    pub(super) gone: bool,
    /// Entries of the reply that is being taken.
    pub(super) came: u64,
    /// The newest entry that a read of all there is takes, and whether it has come that far.
    pub(super) end: EntryId,
    pub(super) is_at_end: bool,
}

impl Lane {
    pub(super) fn new(
        client: &Client,
        stream: Vec<u8>,
        options: &Arc<GroupOptions>,
        watched: Arc<Watched>,
    ) -> Self {
        let mut recreations = Retry::new(client.options());
        // It takes a connection to learn that the group is lost.
        recreations.connected();
        let claimer = options.reclaim.filter(|_| !options.noack).map(Claimer::new);
        let max_deliveries = options.max_deliveries();
        let counts = options.count_deliveries || max_deliveries.is_some() || claimer.is_some();
        let mut ledger = Ledger::new(Terms {
            acknowledge: match options.auto_ack {
                true => Acknowledge::Automatically,
                false => Acknowledge::Manually,
            },
            noack: options.noack,
            lists: counts && !options.noack,
            max_deliveries,
            recreates: options.recreates(),
            // What is claimed at any time needs nobody to hand it over.
            hands_over: claimer.is_some() && options.longest_wait().is_some(),
        });
        ledger.was_done_up_to(options.done_up_to.get(&stream).copied());
        if options.own_pending != OwnPending::Skip {
            ledger.read_own_pending();
        }
        let dead_letter = options.dead_letter_of(&stream);
        Lane {
            number: 0,
            member: Member {
                client: client.bounded(),
                patient: client.clone(),
                stream,
                group: options.group.clone(),
                consumer: options.consumer.clone(),
                dead_letter,
                reclaim_min_idle: options.reclaim.map(|reclaim| reclaim.min_idle),
                is_found: false,
                outlives_group: options.recreates(),
                watched,
            },
            create_at: options.create_at,
            options: Arc::clone(options),
            ledger,
            claimer,
            must_exist: false,
            prepared: false,
            found: false,
            added: 0,
            delivered: 0,
            begins_after: None,
            recreations,
            gone: false,
            came: 0,
            end: EntryId::MAX,
            is_at_end: false,
        }
    }

    pub(super) fn watched(&self) -> &Watched {
        &self.member.watched
    }

    pub(super) fn read_command(&self, limit: PageLimit) -> ReadGroup<'_> {
        let Member { stream, group, consumer, .. } = &self.member;
        ReadGroup {
            streams: vec![stream],
            group,
            consumer,
            limit,
            block_ms: None,
            noack: self.options.noack,
            pending_after: None,
        }
    }

    /// Whether there is something to do that time alone does not bring.
    pub(super) fn has_work(&self) -> bool {
        self.ledger.has_work() || self.claimer.as_ref().is_some_and(Claimer::in_pass)
    }

    /// Claims have their turn again.
    pub(super) fn others_came(&mut self) {
        if let Some(claimer) = &mut self.claimer {
            claimer.others_came();
        }
    }

    /// Tells the ledger what was done to entries beside reading.
    pub(super) fn take_reports(&mut self) {
        self.member.watched.tell_reports(&mut self.ledger);
    }

    /// The server has acknowledged `number` entries of what was done with.
    pub(super) fn note_acknowledged(&mut self, number: u64) {
        let number = self.ledger.acknowledged(number);
        let done_up_to = self.ledger.done_up_to();
        self.watched().update(|stats| {
            stats.acknowledged += number;
            stats.done_up_to = stats.done_up_to.max(done_up_to);
        });
    }

    /// What the server answers to an acknowledgement. What was found, and is no stream any more, has
    /// nothing pending, as one that is deleted.
    pub(super) fn acknowledgement(&self, answer: Result<Value>) -> Result<Value> {
        match answer {
            Err(error) if self.member.is_found && error.kind() == ErrorKind::WrongType => {
                Ok(Value::Nil)
            }
            answer => answer.map_err(|error| self.member.about(error)),
        }
    }

    /// These are in the dead letters.
    pub(super) fn failed(&mut self, ids: &[EntryId]) {
        self.ledger.failed(ids);
        self.watched().gone(ids);
    }

    /// Its stream is gone; should there be one of its name again, it is another.
    pub(super) fn vanished(&mut self) {
        self.ledger.group_lost();
        self.ledger.stream_replaced();
        self.watched().stream_replaced();
        self.gone = true;
        self.found = false;
        (self.added, self.delivered) = (0, 0);
        self.begins_after = None;
    }
}

/// The IDs of a batch by stream, where there are several.
pub(super) fn ids_by_stream(batch: &Batch) -> Vec<(usize, Vec<EntryId>)> {
    if batch.runs().len() < 2 {
        let stream = batch.runs().first().map_or(0, |run| run.stream);
        return vec![(stream, batch.ids().to_vec())];
    }
    let rows = batch.rows_by_stream().into_iter();
    rows.map(|(stream, rows)| (stream, batch.ids_of(&rows))).collect()
}
