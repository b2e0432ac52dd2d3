//! What a reader is a member of.

use std::sync::Arc;

use crate::client::Client;
use crate::read::{self, Batches, Watched};

/// The consumers that read through groups, for what is done beside reading.
#[derive(Clone)]
pub(super) struct Members {
    /// Where there is one stream only.
    one: Option<read::Member>,
    watched: Arc<Watched>,
    client: Client,
}

impl Members {
    pub(super) fn of_reader(batches: &Batches, client: Client) -> Option<Self> {
        let is_many = batches.reads_groups()?;
        let one = batches.member().filter(|_| !is_many);
        let one = one.map(|member| member.with_client(client.clone()));
        Some(Members { one, watched: batches.watched(), client })
    }

    /// The consumer of the stream of this number.
    pub(super) fn of(&self, stream: usize) -> Option<read::Member> {
        match &self.one {
            Some(member) => Some(member.clone()),
            None => Some(self.watched.member(stream)?.with_client(self.client.clone())),
        }
    }
}
