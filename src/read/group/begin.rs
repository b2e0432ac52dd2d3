//! Where a group begins: it is read first, and created only where it is missing.

use std::collections::HashSet;

use super::lane::Lane;
use redis::Value;

use crate::admin::create_group_in;
use crate::client::{Questions, Session};
use crate::decode::ReplyShape;
use crate::entry_id::{EntryId, GroupStart};
use crate::error::{Error, ErrorKind, Result, ServerCode};
use crate::read::bounds::{
    check_exists, ids_only, if_permitted, last_decoded, no_stream, recorded_end, stream_end,
};
use crate::read::group_options::OwnPending;
use crate::resp::{self, Info, Outline, PageLimit, ReadGroup};

/// Streams that are asked for together: more would keep other clients waiting.
pub(super) const AT_ONCE: usize = 500;

/// How far a group has come: entries with greater IDs are still to be delivered, `lag` in number.
pub(super) struct Position {
    pub(super) last_delivered: EntryId,
    pub(super) lag: Option<u64>,
}

/// What the server says of a group.
pub(super) enum Found {
    Group(Position),
    Nothing,
    /// The user may not ask.
    Unknown,
}

/// What the server says of the groups of several streams, in their order.
pub(super) async fn look_up_all(session: &mut Session, lanes: &[&Lane]) -> Result<Vec<Found>> {
    let mut all = Vec::with_capacity(lanes.len());
    for lanes in lanes.chunks(AT_ONCE) {
        let mut questions = Questions::default();
        lanes.iter().for_each(|lane| questions.add(&resp::groups_info(&lane.member.stream)));
        let answers = questions.ask(session).await?;
        for (lane, answer) in lanes.iter().zip(answers) {
            all.push(lane.found_in(answer).map_err(|error| lane.member.about(error))?);
        }
    }
    Ok(all)
}

/// Remembers of those streams that may go what tells them from others that take their places (XINFO STREAM,
/// Redis 5.0), as far as the user may ask.
pub(super) async fn remember_all(
    session: &mut Session,
    lanes: &mut [Lane],
    starting: &[usize],
) -> Result<()> {
    let starting: HashSet<usize> = starting.iter().copied().collect();
    let may_go = |(stream, lane): &(usize, &mut Lane)| {
        lane.member.is_found && !lane.options.recreates() && starting.contains(stream)
    };
    let may_go = lanes.iter_mut().enumerate().filter(may_go);
    let mut may_go: Vec<&mut Lane> = may_go.map(|(_, lane)| lane).collect();
    for lanes in may_go.chunks_mut(AT_ONCE) {
        let mut questions = Questions::default();
        lanes.iter().for_each(|lane| questions.add(&resp::stream_info(&lane.member.stream)));
        for (lane, answer) in lanes.iter_mut().zip(questions.ask(session).await?) {
            let Ok(info) = answer else { continue };
            let info = Info(&info);
            let last = info.id("last-generated-id");
            last.into_iter().for_each(|last| lane.ledger.stream_had(last));
            lane.added = info.number("entries-added").unwrap_or_default();
        }
    }
    Ok(())
}

impl Lane {
    /// Creates the group where it is missing and that is asked for, now rather than with the first
    /// batch.
    pub(super) async fn start(&mut self, session: &mut Session) -> Result<()> {
        self.prepare(session).await?;
        if self.found || self.create_at.is_none() {
            return Ok(());
        }
        let found = self.look_up(session).await?;
        self.start_with(session, &found).await
    }

    /// The same, knowing what the server says of the group.
    pub(super) async fn start_with(&mut self, session: &mut Session, found: &Found) -> Result<()> {
        match found {
            Found::Group(_) => {
                self.found = true;
                return Ok(());
            }
            Found::Nothing => return self.create(session).await,
            Found::Unknown => {}
        }
        // Nothing is pending after such an ID, so this reads nothing; the last ID of all stands for
        // new entries inside the server. A user who may read may ask it, whether or not groups may
        // be created, and at `maxmemory` too.
        let read = ReadGroup {
            pending_after: EntryId::MAX.predecessor(),
            ..self.read_command(PageLimit::of_count(1))
        };
        let command = read.packed();
        match session.value(&command).await {
            Ok(_) => {
                self.found = true;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NoGroup => self.create(session).await,
            Err(error) => Err(error),
        }
    }

    /// Finds out what has to be known before the first read.
    pub(super) async fn prepare(&mut self, session: &mut Session) -> Result<()> {
        if self.prepared {
            return Ok(());
        }
        if self.must_exist {
            check_exists(session, &self.member.stream).await?;
        }
        if self.needs_position()
            && let Some(position) = self.position(session).await?
        {
            self.prepare_with(session, &position).await?;
        }
        self.prepared = true;
        Ok(())
    }

    /// Whether the first read must not come before it is known how far the group has come.
    pub(super) fn needs_position(&self) -> bool {
        let begins_at_newest = self.create_at == Some(GroupStart::BehindNewest);
        self.skips() || self.options.recreates() && begins_at_newest
    }

    fn skips(&self) -> bool {
        self.options.own_pending == OwnPending::Skip
    }

    /// The group has come that far.
    pub(super) async fn prepare_with(
        &mut self,
        session: &mut Session,
        position: &Position,
    ) -> Result<()> {
        self.found = true;
        self.begins_after = Some(position.last_delivered);
        if self.skips() {
            self.ledger.begins_after(position.last_delivered);
        }
        if self.options.recreates() {
            // The group may begin after it.
            let end = self.stream_end(session).await?.flatten();
            end.into_iter().for_each(|end| self.ledger.stream_had(end));
        }
        Ok(())
    }

    /// How far the group has come; `None` where there is none, or the user may not ask.
    pub(super) async fn position(&self, session: &mut Session) -> Result<Option<Position>> {
        Ok(match self.look_up(session).await? {
            Found::Group(position) => Some(position),
            Found::Nothing | Found::Unknown => None,
        })
    }

    async fn look_up(&self, session: &mut Session) -> Result<Found> {
        let command = resp::groups_info(&self.member.stream);
        let answer = session.value(&command).await;
        self.found_in(answer)
    }

    /// What the answer to XINFO GROUPS says of the group.
    fn found_in(&self, answer: Result<Value>) -> Result<Found> {
        let groups = match answer {
            Err(error) if error.server_code() == Some(ServerCode::NoKey) => {
                return Ok(Found::Nothing);
            }
            groups => match if_permitted(groups)? {
                Some(groups) => groups,
                // The read itself will say what is wrong.
                None => return Ok(Found::Unknown),
            },
        };
        let named = |info: &Info<'_>| info.text("name") == Some(self.member.group.as_slice());
        let position = |info: Info<'_>| {
            let last_delivered = info.id("last-delivered-id")?;
            Some(Position { last_delivered, lag: info.number("lag") })
        };
        let found = Info::each(&groups).find(named);
        Ok(found.and_then(position).map_or(Found::Nothing, Found::Group))
    }

    /// Creates a group that was not there: where this consumer was, or where it is asked for.
    pub(super) async fn create(&mut self, session: &mut Session) -> Result<()> {
        let was_at = match self.options.recreates() {
            true => self.ledger.group_lost(),
            false => None,
        };
        self.create_after(session, was_at).await
    }

    /// Creates the group after this ID; where there is none, after where it was before, or where it
    /// is to begin.
    pub(super) async fn create_after(
        &mut self,
        session: &mut Session,
        was_at: Option<EntryId>,
    ) -> Result<()> {
        let was_at = was_at.or(self.begins_after);
        let after = match (was_at, self.create_at) {
            (Some(after), _) => {
                // The newest entry would not do: the one after it may have been deleted. Where the
                // user may not ask, it is taken for the same stream. Where there is none, one that
                // begins before the group is created is another.
                let end = recorded_end(session, &self.member.stream).await?;
                let is_another = end.is_some_and(|end| self.ledger.is_another_stream(end));
                GroupStart::Behind(if is_another { self.stream_replaced() } else { after })
            }
            // The ID is kept: should the group get lost, it begins there again.
            (None, Some(GroupStart::BehindNewest)) => match self.stream_end(session).await? {
                Some(end) => {
                    end.into_iter().for_each(|end| self.ledger.stream_had(end));
                    GroupStart::Behind(end.unwrap_or_default())
                }
                None => GroupStart::BehindNewest,
            },
            (None, start) => start.unwrap_or(GroupStart::Behind(EntryId::MIN)),
        };
        let created = self.create_from(session, after, was_at.is_some()).await?;
        if let Some(GroupStart::Behind(after)) = created {
            self.begins_after = Some(after);
        }
        self.found = !self.gone;
        Ok(())
    }

    /// Whether the stream is there (TYPE, Redis 1.0).
    pub(super) async fn exists(&self, session: &mut Session) -> Result<bool> {
        let kind = session.value(&resp::type_of(&self.member.stream)).await?;
        Ok(resp::text(&kind) != Some(b"none"))
    }

    /// Whether the stream was deleted, and written again: it has had fewer entries than before, or lacks
    /// the latest that it had, though none has ever been removed from it (XINFO STREAM; since Redis 7.0 it
    /// tells).
    pub(super) async fn was_replaced(&self, session: &mut Session) -> Result<bool> {
        let command = resp::stream_info(&self.member.stream);
        let asking = session.request(&command, || Ok(Outline::new()), Outline::into_value);
        let Some(info) = if_permitted(asking.await)? else { return Ok(false) };
        let info = Info(&info);
        if self.ledger.is_another_stream(info.id("last-generated-id")) {
            return Ok(true);
        }
        let all = info.number("entries-added");
        if all.is_some_and(|all| all < self.added.max(self.delivered)) {
            return Ok(true);
        }
        if all.is_none() || all != info.number("length") {
            return Ok(false);
        }
        let Some(had) = self.ledger.had() else { return Ok(false) };
        let command = resp::range(&self.member.stream, had, had, 1);
        let found = session.request(&command, || ids_only(ReplyShape::Entries), last_decoded);
        Ok(found.await?.is_none())
    }

    /// Whether an error of the server is about this stream, as far as its text says.
    pub(super) fn is_named_by(&self, error: &Error) -> bool {
        let key = String::from_utf8_lossy(&self.member.stream);
        error.message().contains(&format!("'{key}'"))
    }

    /// The greatest ID of the stream; `None` where the user may not ask.
    async fn stream_end(&self, session: &mut Session) -> Result<Option<Option<EntryId>>> {
        if_permitted(stream_end(session, &self.member.stream).await)
    }

    /// The stream was deleted, and perhaps written again: what is known of entries is of others, and
    /// this consumer has been nowhere yet. Returns the ID after which its group begins.
    fn stream_replaced(&mut self) -> EntryId {
        self.begins_after = Some(EntryId::MIN);
        self.ledger.stream_replaced();
        self.watched().stream_replaced();
        EntryId::MIN
    }

    /// Creates the group, and the stream if need be; returns where the group begins if it was
    /// created. Where it `goes_on` and its stream is gone, it begins at the start of the new one.
    async fn create_from(
        &mut self,
        session: &mut Session,
        mut start: GroupStart,
        goes_on: bool,
    ) -> Result<Option<GroupStart>> {
        let group = self.member.group.clone();
        // Without MKSTREAM first: a stream that was not there is worth a warning.
        let creating = create_group_in(session, &self.member.stream, &group, start, false).await;
        let created = match creating {
            Err(error) if error.server_code() == Some(ServerCode::NoKeyForGroup) => {
                // It was there when the reading started, where it had to be.
                if self.must_exist && !self.found {
                    return Err(no_stream());
                }
                if self.member.is_found {
                    self.vanished();
                    return Ok(None);
                }
                if goes_on && self.ledger.is_another_stream(None) {
                    start = GroupStart::Behind(self.stream_replaced());
                }
                let stream = &self.member.stream;
                let created = create_group_in(session, stream, &group, start, true).await?;
                // A shard may be empty for long, and that is nothing to hear of.
                if !self.options.of_shards {
                    self.member.who().event("stream_created").record();
                }
                created
            }
            created => created?,
        };
        if created {
            self.member.who().event("group_created").with("after", start.to_string()).record();
        }
        Ok(created.then_some(start))
    }
}
