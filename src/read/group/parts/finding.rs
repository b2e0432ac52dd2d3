//! Which streams there are, and which part each belongs to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Parts;
use super::dividing::Place;
use crate::admin::find_streams;
use crate::client::slot_of;
use crate::decode::StreamNames;
use crate::entry_id::{EntryId, GroupStart};
use crate::error::Result;
use crate::read::bounds::no_match;
use crate::read::dead_letter::check_slots;
use crate::read::group::GroupReader;
use crate::read::group::joint::Inbox;
use crate::read::group::lane::Lane;
use crate::read::group::part::Part;
use crate::read::many::{self, MOST_PLACES, Side, too_many_slots};
use crate::read::request::ReadRequest;
use crate::read::watchers::watch;

impl Parts {
    /// Finds out which streams there are, and gives each its part.
    pub(super) async fn plan(&mut self) -> Result<()> {
        if self.planned {
            return Ok(());
        }
        if let Some(pattern) = self.pattern.clone() {
            let started = Instant::now();
            let keys = find_streams(&self.client, &pattern.text).await?;
            self.look_later(started.elapsed());
            if keys.is_empty() && self.request.must_exist {
                return Err(no_match(&pattern.text));
            }
            self.found(keys)?;
        } else if self.request.must_exist {
            many::check_exist(&self.client, self.names.keys()).await?;
        }
        self.place().await?;
        self.planned = true;
        Ok(())
    }

    /// There are more streams, after those that there were.
    pub(super) fn enlist(&mut self, keys: Vec<Vec<u8>>) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        self.names = Arc::new(StreamNames::new([self.names.keys(), &keys].concat()));
        self.joint.set_names(&self.names);
        let before = self.members.len();
        for (number, key) in (before..).zip(keys) {
            let watched = Arc::new(self.watched.part());
            let mut lane = Lane::new(&self.client, key, &self.options, watched);
            lane.number = number;
            if self.pattern.is_some() {
                lane.member.is_found = true;
                lane.member.outlives_group = true;
            }
            if self.planned && lane.create_at == Some(GroupStart::BehindNewest) {
                // All that it has was added since the reading began.
                lane.create_at = Some(GroupStart::Behind(EntryId::MIN));
            }
            self.members.push(lane.member.clone());
            self.unplaced.push_back(lane);
        }
        self.gone.resize(self.members.len(), false);
        let new = self.members.get(before..).unwrap_or_default();
        watch(self.client.options(), new)?;
        self.watched.add_parts(new.iter().cloned());
        Ok(())
    }

    /// Gives those streams their parts that have none.
    pub(super) async fn place(&mut self) -> Result<()> {
        if self.unplaced.is_empty() {
            return Ok(());
        }
        let apart = many::are_apart(&self.client, &self.names).await?;
        let checked = self.check_dead_letters();
        if checked.is_err() && self.client.looks_like_a_cluster().await? {
            return checked;
        }
        let slots = self.unplaced.iter().map(|lane| slot_of(&lane.member.stream));
        if self.placing.parts_with(slots, apart) > MOST_PLACES && self.request.follows() {
            return Err(too_many_slots(MOST_PLACES));
        }
        while let Some(lane) = self.unplaced.front() {
            let number = self.placing.add(slot_of(&lane.member.stream), apart);
            if number == self.places.len() {
                let key = &lane.member.stream;
                let part = self.part_of(key, (number, Side::Quiet))?;
                self.places.push(Place::new(key, self.parts.len()));
                self.parts.push(part);
            }
            let Some(place) = self.places.get_mut(number) else { break };
            if let (Some(part), Some(lane)) =
                (self.parts.get(place.quiet()), self.unplaced.pop_front())
            {
                place.division.add(lane.number);
                lane.member.watched.keeper().takes_turns(&part.turns);
                part.watched.add_parts([lane.member.clone()]);
                part.inbox.add(lane);
            }
        }
        self.share_out();
        Ok(())
    }

    /// A part for streams that one request could ask for, of which this is one.
    pub(super) fn part_of(&self, key: &[u8], (place, side): (usize, Side)) -> Result<Part> {
        let (inbox, watched) = (Arc::new(Inbox::default()), Arc::new(self.watched.of_some()));
        let reader = GroupReader::of_part(
            &self.client,
            key,
            ReadRequest { count: None, ..self.request.clone() },
            &self.options,
            Arc::clone(&watched),
            (&self.joint, &inbox, side),
        )?;
        Ok(Part::new(reader, (place, side), inbox, watched))
    }

    /// Refuses dead letters that are, in a cluster, in another slot than one of the streams.
    fn check_dead_letters(&self) -> Result<()> {
        let mut members = self.unplaced.iter().map(|lane| &lane.member);
        members.try_for_each(|member| match &member.dead_letter {
            Some(dead) => check_slots(&member.stream, dead),
            None => Ok(()),
        })
    }

    /// These match the pattern now, and the one that takes the dead letters, which is none of the
    /// streams.
    pub(super) fn found(&mut self, mut keys: Vec<Vec<u8>>) -> Result<()> {
        let dead = self.options.dead_letter.as_ref().map(|dead| &dead.stream);
        keys.retain(|key| Some(key) != dead);
        keys.sort_unstable();
        let found: Arc<HashSet<Vec<u8>>> = Arc::new(keys.iter().cloned().collect());
        let known: HashSet<&Vec<u8>> = self.names.keys().iter().collect();
        let new = keys.iter().filter(|key| !known.contains(key)).cloned().collect();
        for (gone, key) in self.gone.iter_mut().zip(self.names.keys()) {
            *gone = !found.contains(key);
        }
        if self.planned {
            self.parts.iter().for_each(|part| part.inbox.found(&found));
        }
        self.enlist(new)
    }

    /// The next search for streams is due after a while; this one took so long.
    pub(super) fn look_later(&mut self, took: Duration) {
        /// Looking takes this part of the time at most: 1 / SHARE.
        const SHARE: u32 = 20;
        let every = self.pattern.as_ref().map(|pattern| pattern.every);
        let pause = every.map(|every| took.saturating_mul(SHARE).max(every));
        self.joint.set_looks_at(pause.and_then(|pause| Instant::now().checked_add(pause)));
    }

    /// Begins to look for streams that have come, or gone, where it is time for that: beside what the
    /// parts do.
    pub(super) fn look(&mut self) {
        let is_due = self.joint.is_time_to_look();
        let (true, None, Some(pattern)) = (is_due, &self.looking, self.pattern.clone()) else {
            return;
        };
        let (client, names) = (self.client.clone(), Arc::clone(&self.names));
        let gone = self.gone.clone();
        self.looking = Some(Box::pin(async move {
            let started = Instant::now();
            let there: Vec<usize> = gone
                .iter()
                .enumerate()
                .filter(|(_, gone)| !*gone)
                .map(|(stream, _)| stream)
                .collect();
            let found = match there.is_empty() {
                true => find_streams(&client, &pattern.text).await,
                false => many::discover(&client, &pattern, &names, &there).await,
            };
            (started.elapsed(), found)
        }));
    }
}
