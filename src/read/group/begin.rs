//! Where a group begins: it is read first, and created only where it is missing.

use super::GroupReader;
use crate::admin::create_group_in;
use crate::entry_id::{EntryId, GroupStart};
use crate::error::{ErrorKind, Result, ServerCode};
use crate::read::bounds::{check_exists, if_permitted, last_generated, no_stream, stream_end};
use crate::read::group_options::OwnPending;
use crate::resp::{self, Info, PageLimit, ReadGroup};

/// How far a group has come: entries with greater IDs are still to be delivered, `lag` in number.
pub(super) struct Position {
    pub(super) last_delivered: EntryId,
    pub(super) lag: Option<u64>,
}

/// What the server says of a group.
enum Found {
    Group(Position),
    Nothing,
    /// The user may not ask.
    Unknown,
}

impl GroupReader {
    /// Creates the group where it is missing and that is asked for, now rather than with the first
    /// batch.
    pub(in crate::read) async fn start(&mut self) -> Result<()> {
        self.prepare().await?;
        if self.found || self.options.create_at.is_none() {
            return Ok(());
        }
        match self.look_up().await? {
            Found::Group(_) => {
                self.found = true;
                return Ok(());
            }
            Found::Nothing => return self.create().await,
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
        match self.feed.session.value(&command).await {
            Ok(_) => {
                self.found = true;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NoGroup => self.create().await,
            Err(error) => Err(error),
        }
    }

    /// Finds out what has to be known before the first read.
    pub(super) async fn prepare(&mut self) -> Result<()> {
        if self.prepared {
            return Ok(());
        }
        if self.request.must_exist {
            check_exists(&mut self.feed.session, &self.request.stream).await?;
        }
        let skips = self.options.own_pending == OwnPending::Skip;
        let begins_at_newest = self.options.create_at == Some(GroupStart::BehindNewest);
        if (skips || self.options.recreates() && begins_at_newest)
            && let Some(position) = self.position().await?
        {
            self.found = true;
            self.begins_after = Some(position.last_delivered);
            if skips {
                self.ledger.begins_after(position.last_delivered);
            }
            if self.options.recreates() {
                // The group may begin after it.
                let end = self.stream_end().await?.flatten();
                end.into_iter().for_each(|end| self.ledger.stream_had(end));
            }
        }
        self.prepared = true;
        Ok(())
    }

    /// How far the group has come; `None` where there is none, or the user may not ask.
    pub(super) async fn position(&mut self) -> Result<Option<Position>> {
        Ok(match self.look_up().await? {
            Found::Group(position) => Some(position),
            Found::Nothing | Found::Unknown => None,
        })
    }

    async fn look_up(&mut self) -> Result<Found> {
        let command = resp::groups_info(&self.request.stream);
        let groups = match self.feed.session.value(&command).await {
            Err(error) if error.server_code() == Some(ServerCode::NoKey) => {
                return Ok(Found::Nothing);
            }
            groups => match if_permitted(groups)? {
                Some(groups) => groups,
                // The read itself will say what is wrong.
                None => return Ok(Found::Unknown),
            },
        };
        let named = |info: &Info<'_>| info.text("name") == Some(self.options.group.as_slice());
        let position = |info: Info<'_>| {
            let last_delivered = info.id("last-delivered-id")?;
            Some(Position { last_delivered, lag: info.number("lag") })
        };
        let found = Info::each(&groups).find(named);
        Ok(found.and_then(position).map_or(Found::Nothing, Found::Group))
    }

    /// Creates a group that was not there: where this consumer was, or where it is asked for.
    pub(super) async fn create(&mut self) -> Result<()> {
        let was_at = match self.options.recreates() {
            true => self.ledger.group_lost(),
            false => None,
        };
        self.create_after(was_at).await
    }

    /// Creates the group after this ID; where there is none, after where it was before, or where it
    /// is to begin.
    pub(super) async fn create_after(&mut self, was_at: Option<EntryId>) -> Result<()> {
        let was_at = was_at.or(self.begins_after);
        let after = match (was_at, self.options.create_at) {
            (Some(after), _) => {
                let (session, stream) = (&mut self.feed.session, &self.request.stream);
                // The newest entry would not do: the one after it may have been deleted. Where the
                // user may not ask, it is taken for the same stream.
                let end = last_generated(session, stream).await?;
                let is_another = end.is_some_and(|end| self.ledger.is_another_stream(Some(end)));
                GroupStart::Behind(if is_another { self.stream_replaced() } else { after })
            }
            // The ID is kept: should the group get lost, it begins there again.
            (None, Some(GroupStart::BehindNewest)) => match self.stream_end().await? {
                Some(end) => {
                    end.into_iter().for_each(|end| self.ledger.stream_had(end));
                    GroupStart::Behind(end.unwrap_or_default())
                }
                None => GroupStart::BehindNewest,
            },
            (None, start) => start.unwrap_or(GroupStart::Behind(EntryId::MIN)),
        };
        if let Some(GroupStart::Behind(after)) = self.create_at(after, was_at.is_some()).await? {
            self.begins_after = Some(after);
        }
        self.found = true;
        Ok(())
    }

    /// The greatest ID of the stream; `None` where the user may not ask.
    async fn stream_end(&mut self) -> Result<Option<Option<EntryId>>> {
        if_permitted(stream_end(&mut self.feed.session, &self.request.stream).await)
    }

    /// The stream was deleted, and perhaps written again: what is known of entries is of others, and
    /// this consumer has been nowhere yet. Returns the ID after which its group begins.
    fn stream_replaced(&mut self) -> EntryId {
        self.begins_after = Some(EntryId::MIN);
        self.ledger.stream_replaced();
        self.watched.stream_replaced();
        EntryId::MIN
    }

    /// Creates the group, and the stream if need be; returns where the group begins if it was
    /// created. Where it `goes_on` and its stream is gone, it begins at the start of the new one.
    async fn create_at(
        &mut self,
        mut start: GroupStart,
        goes_on: bool,
    ) -> Result<Option<GroupStart>> {
        let (session, stream) = (&mut self.feed.session, &self.request.stream);
        let group = self.options.group.clone();
        // Without MKSTREAM first: a stream that was not there is worth a warning.
        let created = match create_group_in(session, stream, &group, start, false).await {
            Err(error) if error.server_code() == Some(ServerCode::NoKeyForGroup) => {
                // It was there when the reading started, where it had to be.
                if self.request.must_exist && !self.found {
                    return Err(no_stream());
                }
                if goes_on && self.ledger.is_another_stream(None) {
                    start = GroupStart::Behind(self.stream_replaced());
                }
                let (session, stream) = (&mut self.feed.session, &self.request.stream);
                let created = create_group_in(session, stream, &group, start, true).await?;
                self.request.who().event("stream_created").record();
                created
            }
            created => created?,
        };
        if created {
            self.request.who().event("group_created").with("after", start.to_string()).record();
        }
        Ok(created.then_some(start))
    }
}
