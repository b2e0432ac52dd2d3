//! What is asked of the server beside reading: lists of pending entries, claims, corrections, and dead
//! letters.

use super::GroupReader;
use super::begin::{AT_ONCE, Found, look_up_all};
use super::lane::Lane;
use crate::admin::{PendingEntry, pending_entries_of, pending_page};
use crate::client::Questions;
use crate::entry_id::EntryId;
use crate::error::{Error, Result, ServerCode, counted};
use crate::ledger::Ask;
use crate::read::claim::{Claimed, Claimer};
use crate::read::counts::write_back;
use crate::read::dead_letter::Letter;
use crate::resp::{self, Membership};

/// Entries in one XPENDING: more would keep other clients waiting.
pub(super) const LISTED: u64 = 10_000;

impl GroupReader {
    /// Lists own pending entries of some streams, with how often they were delivered.
    pub(super) async fn list(&mut self, lists: &[(usize, EntryId, EntryId)]) -> Result<()> {
        let session = &mut self.feed.session;
        if let [(stream, from, to)] = lists {
            let Some(lane) = self.lanes.get_mut(*stream) else { return Ok(()) };
            let page = pending_page(session, lane.member.membership(), *from, *to, LISTED).await;
            return lane.listed(page, LISTED);
        }
        for lists in lists.chunks(AT_ONCE) {
            // A reply is read as a whole: together they have no more entries than one alone.
            let count = (LISTED / lists.len() as u64).max(1);
            let mut questions = Questions::default();
            for (stream, from, to) in lists {
                if let Some(lane) = self.lanes.get(*stream) {
                    let Membership { stream, group, consumer } = lane.member.membership();
                    let (start, end, consumer) = (*from, *to, Some(consumer));
                    let question = resp::Pending {
                        stream,
                        group,
                        min_idle: None,
                        start,
                        end,
                        count,
                        consumer,
                    };
                    questions.add(&question.packed());
                }
            }
            let answers = questions.ask(session).await?;
            for ((stream, ..), answer) in lists.iter().zip(answers) {
                if let Some(lane) = self.lanes.get_mut(*stream) {
                    let page = answer.and_then(|answer| {
                        pending_entries_of(&answer).ok_or_else(|| {
                            Error::protocol("what came for XPENDING is no list of it")
                        })
                    });
                    let page = page.map_err(|error| lane.member.about(error));
                    lane.listed(page, count)?;
                }
            }
        }
        Ok(())
    }

    /// Tells the server how often entries were really handed out.
    pub(super) async fn correct(&mut self, stream: usize) -> Result<()> {
        let Some(lane) = self.lanes.get_mut(stream) else { return Ok(()) };
        let corrections = lane.ledger.corrections();
        match write_back(&mut self.feed.session, lane.member.membership(), corrections).await {
            // Where nothing depends on counts, those in a batch are right all the same.
            Err(error)
                if error.server_code().is_some_and(ServerCode::is_no_permission)
                    && lane.options.max_deliveries().is_none() => {}
            written => written?,
        }
        lane.ledger.corrected();
        Ok(())
    }

    /// At the end has the server count no delivery that nobody saw.
    pub(super) async fn settle_counts(&mut self) -> Result<()> {
        loop {
            let (mut lists, mut corrects) = (Vec::new(), Vec::new());
            for (stream, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| !lane.gone) {
                match lane.ledger.at_the_end() {
                    Some(Ask::List { from, to }) => lists.push((stream, from, to)),
                    Some(_) => corrects.push(stream),
                    None => {}
                }
            }
            if lists.is_empty() && corrects.is_empty() {
                return Ok(());
            }
            for stream in corrects {
                self.correct(stream).await?;
            }
            if !lists.is_empty() {
                self.list(&lists).await?;
            }
        }
    }

    /// Moves entries to the dead letters that have been handed out as often as they may be.
    pub(super) async fn move_exhausted(&mut self, stream: usize) -> Result<()> {
        let Some(lane) = self.lanes.get_mut(stream) else { return Ok(()) };
        let most = self.options.max_deliveries().unwrap_or_default();
        let exhausted = lane.ledger.exhausted().iter();
        let letters: Vec<Letter> = exhausted
            .map(|(id, times)| Letter {
                id: *id,
                reason: format!(
                    "delivered {}, of at most {most}",
                    counted(*times, "time", "times")
                ),
                deliveries: Some(*times),
            })
            .collect();
        let session = &mut self.feed.session;
        let (settled, moved) = lane.member.move_to_dead_letter(session, &letters, true).await;
        lane.failed(&settled);
        moved.map(drop).map_err(|error| lane.member.about(error))
    }

    /// Takes one step of a pass of claims of each of these streams.
    pub(super) async fn claim(&mut self, claims: Vec<usize>, room: u64) -> Result<()> {
        let claims = claims.get(..AT_ONCE.min(claims.len())).unwrap_or_default();
        let count = (room / claims.len().max(1) as u64).max(1);
        // Whether this knows the command that tells all streams in one round trip.
        let mut alone = Vec::new();
        let (mut questions, mut asked) = (Questions::default(), Vec::new());
        for stream in claims {
            let Some(lane) = self.lanes.get_mut(*stream) else { continue };
            lane.ledger.asked(Ask::Claim);
            let Lane { member, claimer: Some(claimer), .. } = lane else { continue };
            match claimer.command(member.membership(), count).filter(|_| claims.len() > 1) {
                Some(command) => {
                    questions.add(&command);
                    asked.push(*stream);
                }
                None => alone.push(*stream),
            }
        }
        let (mut over, mut failure) = (Vec::new(), None);
        if !asked.is_empty() {
            let answers = questions.ask_once(&mut self.feed.session).await?;
            for (stream, answer) in asked.into_iter().zip(answers) {
                let Some(lane) = self.lanes.get_mut(stream) else { continue };
                let Some(claimer) = &mut lane.claimer else { continue };
                match answer.and_then(|reply| claimer.took(&reply)) {
                    Ok(step) => over.extend(lane.claimed(&step).then_some(stream)),
                    Err(error) if error.server_code() == Some(ServerCode::UnknownCommand) => {
                        claimer.cannot_claim_along();
                        alone.push(stream);
                    }
                    Err(error) => failure = failure.or(Some(lane.member.about(error))),
                }
            }
        }
        for stream in alone {
            let Some(lane) = self.lanes.get_mut(stream) else { continue };
            let Lane { member, claimer: Some(claimer), .. } = lane else { continue };
            let step = claimer.step(&mut self.feed.session, member.membership(), count).await?;
            over.extend(lane.claimed(&step).then_some(stream));
        }
        self.look_at_lag(&over).await?;
        failure.map_or(Ok(()), Err::<(), Error>)
    }

    /// How many entries the groups of these streams have still to deliver.
    async fn look_at_lag(&mut self, streams: &[usize]) -> Result<()> {
        let lanes: Vec<&Lane> = streams.iter().filter_map(|one| self.lanes.get(*one)).collect();
        let session = &mut self.feed.session;
        match lanes.as_slice() {
            [] => {}
            [lane] => {
                let lag = lane.position(session).await?.and_then(|position| position.lag);
                lane.watched().update(|stats| stats.lag = lag);
            }
            lanes => {
                for (lane, found) in lanes.iter().zip(look_up_all(session, lanes).await?) {
                    let lag = match found {
                        Found::Group(position) => position.lag,
                        Found::Nothing | Found::Unknown => None,
                    };
                    lane.watched().update(|stats| stats.lag = lag);
                }
            }
        }
        Ok(())
    }
}

impl Lane {
    /// A page of the pending list has come, of `count` entries at most.
    fn listed(&mut self, page: Result<Vec<PendingEntry>>, count: u64) -> Result<()> {
        match page {
            Ok(page) => {
                let page: Vec<_> = page.iter().map(|one| (one.id, one.delivery_count)).collect();
                self.ledger.listed(&page, (page.len() as u64) < count);
                Ok(())
            }
            // Without the list they are read as they come, which is well where nothing depends on
            // how often they were delivered.
            Err(error)
                if error.server_code().is_some_and(ServerCode::is_no_permission)
                    && self.options.max_deliveries().is_none()
                    && self.claimer.is_none() =>
            {
                self.ledger.cannot_list();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A step of a pass has come to that; says whether the pass is over.
    fn claimed(&mut self, step: &Claimed) -> bool {
        if !step.claimed.is_empty() {
            let entries = step.claimed.len() as u64;
            self.member.who().event("reclaimed").with("entries", entries).record();
        }
        self.ledger.claimed(&step.claimed);
        // This consumer may have come upon some of them before.
        self.watched().gone(&step.deleted);
        let deleted = self.ledger.found_deleted(&step.deleted);
        self.watched().update(|stats| stats.deleted += deleted);
        !self.claimer.as_ref().is_some_and(Claimer::in_pass)
    }
}
