//! Who processes a sharded stream: a hash of names, each with how many lanes it has and until when it counts.

use std::time::Duration;

use redis::Value;

use super::keys::members_key;
pub(crate) use super::shares::Step;
use super::shares::{Members, step};
use crate::client::{Client, Session, Who};
use crate::error::Result;
use crate::resp::{self, text};

const MEMBERS: &str = include_str!("lua/members.lua");

/// What a member says of itself, and hears of the others. It decides who should have which lane, and no more:
/// who has one says the lane.
pub(crate) struct Membership {
    session: Session,
    key: Vec<u8>,
    own: Vec<u8>,
    counts_for: Duration,
}

impl Membership {
    /// Of the processor `name`, whose first lane is on that stream; by a name that no other one has.
    pub(crate) fn new(
        client: &Client,
        stream: &[u8],
        name: &[u8],
        own: Vec<u8>,
        counts_for: Duration,
    ) -> Self {
        let session = client.keep_trying(Who::new(stream)).session_for(stream);
        Membership { session, key: members_key(stream, name), own, counts_for }
    }

    /// Says that this one is there and has `held` of the lanes, and gives what it is to do about them;
    /// a script of TIME, HSET, HGETALL and PEXPIRE.
    pub(crate) async fn beat(&mut self, held: usize, lanes: usize) -> Result<Step> {
        let members = self.say(held.to_string().into_bytes()).await?;
        Ok(step(lanes, &self.own, &members))
    }

    /// Says that this one is there no more.
    pub(crate) async fn leave(&mut self) -> Result<()> {
        self.say(Vec::new()).await.map(drop)
    }

    async fn say(&mut self, lanes: Vec<u8>) -> Result<Members> {
        let counts_for = self.counts_for.as_millis().to_string().into_bytes();
        let arguments = [self.own.clone(), lanes, counts_for];
        let command = resp::script(MEMBERS, &[&self.key], &arguments);
        let answer = self.session.value(&command).await?;
        let pairs = answer.as_sequence().unwrap_or_default().chunks_exact(2);
        let member = |pair: &[Value]| match pair {
            [name, lanes] => {
                let lanes = std::str::from_utf8(text(lanes)?).ok()?.parse().ok()?;
                Some((text(name)?.to_vec(), lanes))
            }
            _ => None,
        };
        Ok(pairs.filter_map(member).collect())
    }
}
