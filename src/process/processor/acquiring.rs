//! How a processor comes to its lane.

use std::time::Duration;

use super::source::Source;
use super::{Processor, lock};
use crate::client::spawn;
use crate::error::Result;
use crate::process::durability::evicting_policy;
use crate::process::lane::{Held, Notes};
#[cfg(feature = "python")]
use crate::shard::{ShardedStream, find_shards};

/// How long a standby waits before it looks again, at most.
const STANDBY: Duration = Duration::from_millis(500);

impl Processor {
    /// Acquires the lane, if what became of it allows that; says whether, and not that the loop was stopped.
    pub(super) async fn acquire(&mut self) -> Result<bool> {
        if let Some(epoch) = self.begun.filter(|epoch| !self.told.is_told(*epoch))
            && let Some(error) = self.lane.lost()
        {
            self.settled_in(epoch, error)?;
        }
        let stopper = self.stopper.clone();
        let Some(held) = stopper.or(self.wait_for_lane()).await else { return Ok(false) };
        let (held, notes) = held?;
        self.source.begin(notes.begins);
        self.quiet.acquired(notes.committed_ms);
        if let Some(suspects) = &mut self.suspects {
            suspects.acquired(held.position, notes.tried.and_then(|note| note.parse().ok()));
        }
        // One that others have taken over since is waited for.
        self.lane.waits();
        self.begun = Some(held.epoch);
        self.told.forget();
        let mut stats = lock(&self.stats);
        (stats.epoch, stats.position) = (Some(held.epoch), self.source.position(held.position));
        drop(stats);
        let event = self.request.who().event(match self.source {
            Source::Pages(_) => "lane_acquired",
            Source::Group(_) => "consumer_acquired",
        });
        let event = event.with("processor", self.shown_name()).with("epoch", held.epoch);
        event.with("position", held.position.to_string()).record();
        Ok(true)
    }

    /// Acquires the lane, if nobody else has it; says whether it is held now, and not that the loop was
    /// stopped.
    #[cfg(feature = "python")]
    pub(crate) async fn try_hold(&mut self) -> Result<bool> {
        let stopper = self.stopper.clone();
        let trying = async {
            if !self.is_prepared {
                self.prepare().await?;
                self.is_prepared = true;
            }
            match self.lane.held() {
                Some(_) => Ok(true),
                None => Ok(self.lane.try_acquire().await?.is_ok()),
            }
        };
        stopper.or(trying).await.unwrap_or(Ok(false))
    }

    /// The sharded stream, where the stream's name is that of one; `None` also where the loop was
    /// stopped. Another one is made sure of that is like it, and is for its dead letters.
    #[cfg(feature = "python")]
    pub(crate) async fn find_shards(
        &mut self,
        dead_letter: Option<Vec<u8>>,
    ) -> Result<Option<ShardedStream>> {
        let client = self.client.keep_trying(self.request.who());
        let finding = find_shards(&client, self.request.stream(), dead_letter);
        self.stopper.or(finding).await.unwrap_or(Ok(None))
    }

    async fn wait_for_lane(&mut self) -> Result<(Held, Notes)> {
        if !self.is_prepared {
            self.prepare().await?;
            self.is_prepared = true;
        }
        let mut waits = false;
        loop {
            // The wait for the notes may have been given up before.
            let acquired = match self.lane.held() {
                Some(held) => Ok(held),
                None => self.lane.try_acquire().await?,
            };
            match acquired {
                Ok(held) => {
                    let mut notes = self.lane.notes().await?;
                    // Of a lane that is new nobody has read anything.
                    notes.begins = notes.begins.or((held.commits == 0).then_some(held.position));
                    return Ok((held, notes));
                }
                Err(left) => {
                    if !waits {
                        waits = true;
                        let event = self.request.who().event("lane_awaited");
                        event.with("processor", self.shown_name()).record();
                    }
                    let pause = left.clamp(Duration::from_millis(1), STANDBY);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// What is done once, before the lane is acquired the first time.
    async fn prepare(&mut self) -> Result<()> {
        if matches!(self.source, Source::Pages(_)) {
            self.prepare_pages().await?;
        }
        let stream = self.request.stream();
        if let Some(policy) = evicting_policy(&self.client, stream).await? {
            let event = self.request.who().event("may_be_evicted");
            event.with("processor", self.shown_name()).with("policy", policy).record();
        }
        spawn(self.lane.heartbeat())?;
        Ok(())
    }
}
