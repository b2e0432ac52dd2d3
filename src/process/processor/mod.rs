//! A processor's loop: the lane is acquired, pages are read ahead, and each batch is committed once.

mod acquiring;
mod ahead;
mod group;
mod handing;
mod idle;
mod next;
mod options;
mod poison;
mod rest;
mod source;
mod stop;
mod told;
mod transaction;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::idle::Quiet;
#[cfg(feature = "python")]
pub(crate) use self::idle::{Alarm, Alarms, Turn};
#[cfg(feature = "python")]
pub(crate) use self::next::Came;
pub use self::options::{ProcessorOptions, ProcessorStats};
use self::poison::Suspects;
use self::source::Source;
pub use self::stop::Stopper;
#[cfg(feature = "python")]
pub(crate) use self::told::Told;
pub use self::transaction::Transaction;
use super::keys::{check_slot, state_key, table_key};
use super::lane::{Committed, Lane};
use crate::client::{Client, Session};
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};
use crate::read::{OnDataLoss, ReadRequest};

/// Processes a stream exactly once, batch by batch.
///
/// With a request of a [group](ReadRequest::with_group) it is one of several that share the stream: batches
/// are what the group gives to its consumer, or that claims from others, and a commit acknowledges them in
/// the same step. It has no state and no tables then.
///
/// ```no_run
/// use redfloe::{
///     Client, ConnectionOptions, Processor, ProcessorOptions, ReadRequest, StreamSchema, state_key,
/// };
///
/// # async fn example() -> redfloe::Result<()> {
/// let client = Client::new(ConnectionOptions::parse("redis://localhost")?);
/// let request = ReadRequest::new("sales", StreamSchema::default()).with_batch_size(10_000);
/// let mut processor = Processor::new(&client, request, b"inventory", ProcessorOptions::default())?;
/// let (key, mut epoch, mut seen) = (state_key(b"sales", b"inventory"), None, 0);
/// while let Some(mut transaction) = processor.next().await? {
///     if epoch.replace(transaction.epoch()) != Some(transaction.epoch()) {
///         // The lane was acquired: what was known of its state does not count any more.
///         let state = processor.load(&key).await?;
///         let saved = state.get(&b"seen"[..]).and_then(|text| str::from_utf8(text).ok()?.parse().ok());
///         seen = saved.unwrap_or(0);
///     }
///     seen += transaction.batch().len();
///     transaction.commit().set(&key, b"seen", seen.to_string().as_bytes())?;
///     processor.commit(transaction).await?;
/// }
/// processor.release().await
/// # }
/// ```
pub struct Processor {
    client: Client,
    request: ReadRequest,
    name: Vec<u8>,
    options: ProcessorOptions,
    lane: Lane,
    source: Source,
    /// Entries that may have ended an earlier process, where they are counted.
    suspects: Option<Suspects>,
    /// For questions beside.
    session: Session,
    /// The lane's epoch, once it is known what was noted in it.
    begun: Option<u64>,
    /// What is done once was done.
    is_prepared: bool,
    /// Where a new lane begins is known: `$` is what comes after the first look.
    is_start_known: bool,
    told: told::Told,
    /// The epoch whose loss the latest call has given as its error.
    giving: Option<u64>,
    stopper: Stopper,
    quiet: Quiet,
    /// Dead letters of its commits.
    letters: u64,
    stats: Arc<Mutex<ProcessorStats>>,
}

impl Processor {
    /// The processor `name` of the request's stream; nothing is sent yet. A batch is of the request's size,
    /// begins at its start where there is no lane yet, and is waited for as it says.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for what cannot be right, a dead-letter stream in
    /// another slot of a cluster among it.
    pub fn new(
        client: &Client,
        request: ReadRequest,
        name: &[u8],
        mut options: ProcessorOptions,
    ) -> Result<Self> {
        let stream = request.stream().to_vec();
        let source = Source::new(client, &request, &mut options)?;
        if let Some(dead_letter) = &options.dead_letter
            && client.is_cluster()
        {
            check_slot(&stream, dead_letter)?;
        }
        let lane = Lane::new(client, &stream, name, options.lane.clone())?;
        let session = client.keep_trying(request.who()).session_for(&stream);
        let suspects = options.max_deliveries.map(Suspects::new);
        if suspects.is_some() && options.dead_letter.is_none() {
            return Err(Error::invalid("max_deliveries needs a dead_letter stream"));
        }
        Ok(Processor {
            client: client.clone(),
            request,
            name: name.to_vec(),
            options,
            lane,
            source,
            suspects,
            session,
            begun: None,
            is_prepared: false,
            is_start_known: false,
            told: told::Told::default(),
            giving: None,
            stopper: Stopper::default(),
            quiet: Quiet::default(),
            letters: 0,
            stats: Arc::default(),
        })
    }

    /// What ends the loop.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// What it has done so far.
    pub fn stats(&self) -> ProcessorStats {
        *lock(&self.stats)
    }

    /// The same for others to look at while it works.
    #[cfg(feature = "python")]
    pub(crate) fn watched(&self) -> Arc<Mutex<ProcessorStats>> {
        Arc::clone(&self.stats)
    }

    /// Writes what a transaction is to write, its dead letters, and the position after it, once: all of it
    /// or, with most errors, nothing. See [`Lane::commit`].
    ///
    /// # Errors
    ///
    /// As [`Lane::commit`]; [`InvalidArgument`](ErrorKind::InvalidArgument) for a transaction of before the
    /// lane was acquired anew, and for dead letters without a stream for them.
    pub async fn commit(&mut self, transaction: Transaction) -> Result<Committed> {
        let epoch = transaction.epoch();
        let committed = self.commit_untold(transaction).await;
        committed.inspect_err(|error| self.told.tell(epoch, error.kind()))
    }

    /// The same for a caller who may be gone when it ends: the error counts as told once somebody
    /// has it.
    pub(crate) async fn commit_untold(
        &mut self,
        mut transaction: Transaction,
    ) -> Result<Committed> {
        if let Some(held) = self.lane.held()
            && held.epoch != transaction.epoch()
        {
            return Err(Error::invalid(format!(
                "this transaction began at the lane's epoch {}, and that is {} by now: it was acquired \
                 anew, and its state has to be loaded again; nothing has been sent",
                transaction.epoch(),
                held.epoch
            )));
        }
        let (stream, begun) = (self.request.stream().to_vec(), Instant::now());
        let dead_letter = self.options.dead_letter.as_deref();
        let by = match &self.options.lane.group {
            Some((group, consumer)) => (&group[..], &consumer[..]),
            None => (&b""[..], &self.name[..]),
        };
        let adding = transaction.add_letters(&mut self.session, &stream, dead_letter, by);
        let letters = adding.await?;
        let (_, last) = transaction.range();
        let (entries, took) = (transaction.entries(), transaction.took());
        transaction.commit().show(entries, took);
        let committed = self.lane.commit(transaction.commit()).await;
        let is_in = match &committed {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::NotDurable,
        };
        if is_in {
            match transaction.turn() {
                Some(turn) => self.quiet.taken(turn, last),
                None => {
                    self.source.committed(last, transaction.batch().ids());
                    if let Some(suspects) = &mut self.suspects {
                        suspects.committed(last);
                    }
                    self.quiet.stirred();
                }
            }
            let mut stats = lock(&self.stats);
            stats.commits += 1;
            stats.entries += entries as u64;
            stats.bytes += transaction.commit().bytes() as u64;
            stats.position = self.source.position(last);
            stats.commit_time += begun.elapsed();
            stats.last_commit = Some(begun.elapsed());
            if let Some((number, first, reason)) = letters {
                self.letters += number;
                stats.dead_lettered += number;
                drop(stats);
                self.tell_of_letters(number, first, reason);
            }
        }
        committed.inspect_err(|error| self.tell_if_claimed(error, entries))
    }

    /// What is to become of a commit's error where nobody waits for that commit alone: it is
    /// given, unless the lane is to be acquired anew, which settles it, or another consumer of the group
    /// has entries of the batch by now: the next one has those that are still this consumer's.
    ///
    /// # Errors
    ///
    /// The error.
    pub fn settled(&mut self, error: Error) -> Result<()> {
        match error.kind() {
            ErrorKind::OutcomeUnknown | ErrorKind::Claimed => Ok(()),
            ErrorKind::DataLoss if self.options.on_data_loss == OnDataLoss::Continue => {
                self.data_lost(&error);
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// The same for an error of that epoch that the loop itself has met. It counts as told where it is
    /// settled, and otherwise once somebody has it.
    fn settled_in(&mut self, epoch: u64, error: Error) -> Result<()> {
        let kind = error.kind();
        self.giving = Some(epoch);
        self.settled(error)?;
        self.giving = None;
        self.told.tell(epoch, kind);
        Ok(())
    }

    /// The epoch whose loss the error of the latest call is about. The caller who passes it on tells of it.
    #[cfg(feature = "python")]
    pub(crate) fn giving(&mut self) -> Option<u64> {
        self.giving.take()
    }

    /// The caller of the latest call has its error.
    fn given(&mut self, error: &Error) {
        if let Some(epoch) = self.giving.take() {
            self.told.tell(epoch, error.kind());
        }
    }

    /// The fields and values of one of the processor's hashes, as [`Lane::load`] gives them.
    ///
    /// # Errors
    ///
    /// As [`Lane::load`]; [`DataLoss`](ErrorKind::DataLoss) where the hash has fields although there was
    /// no commit yet: the lane was lost without them.
    pub async fn load(
        &mut self,
        hash: &[u8],
    ) -> Result<std::collections::HashMap<Vec<u8>, Vec<u8>>> {
        self.refuse_of_group("state and no tables")?;
        let loaded = self.lane.load(hash).await?;
        self.check_age(hash, loaded.is_empty())?;
        Ok(loaded)
    }

    /// Has the batch of a transaction be the same if it comes again, in another process too; see
    /// [`Lane::plan`].
    ///
    /// # Errors
    ///
    /// As [`Lane::plan`]; [`InvalidArgument`](ErrorKind::InvalidArgument) where it is a part of a batch that
    /// was planned as a whole.
    pub async fn plan(&mut self, transaction: &Transaction) -> Result<()> {
        self.refuse_of_group("batches that come again as they were")?;
        if transaction.turn().is_some() {
            let message = "a transaction without entries does not come again as it was";
            return Err(Error::invalid(message));
        }
        let (_, last) = transaction.range();
        let planned = self.lane.plan(last).await?;
        if planned == last {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "a batch up to {planned} was given to something outside of Redis, and this is one up to {last}: \
             it cannot be processed in parts"
        )))
    }

    /// Takes note of what has been told, from anywhere.
    #[cfg(feature = "python")]
    pub(crate) fn told(&self) -> Told {
        self.told.clone()
    }

    /// Leaves the lane to others, at once.
    ///
    /// # Errors
    ///
    /// As [`Lane::release`].
    pub async fn release(&mut self) -> Result<()> {
        if let Source::Group(group) = &mut self.source
            && self.lane.held().is_some()
        {
            group.finish().await;
        }
        self.source.clear();
        self.lane.release().await
    }

    /// The epoch in which the lane is held, as long as it is.
    pub fn epoch(&self) -> Option<u64> {
        self.lane.held().map(|held| held.epoch)
    }

    /// Loads one of its tables.
    #[cfg(feature = "python")]
    pub(crate) async fn load_table(
        &mut self,
        table: &[u8],
        spec: &Arc<super::table::Spec>,
    ) -> Result<super::table::Table> {
        self.refuse_of_group("state and no tables")?;
        let key = self.table_key(table);
        let loaded = super::table::load(&mut self.lane, &key, spec).await?;
        self.check_age(&key, loaded.len() == 0)?;
        Ok(loaded)
    }

    /// The hash of its state.
    pub fn state_key(&self) -> Vec<u8> {
        state_key(self.request.stream(), &self.name)
    }

    /// The hash of one of its tables.
    pub fn table_key(&self, table: &[u8]) -> Vec<u8> {
        table_key(self.request.stream(), &self.name, table)
    }

    /// What a lane holds that has had no commit is of another one, which is lost.
    fn check_age(&self, hash: &[u8], is_empty: bool) -> Result<()> {
        if is_empty || self.lane.held().is_none_or(|held| held.commits > 0) {
            return Ok(());
        }
        let message = format!(
            "the lane of this processor is gone (deleted, or evicted by the maxmemory-policy), and what it \
             kept is there still, in {} among others: with it entries would count twice; say by \
             reset_processor where to begin, and whether to keep it",
            crate::error::shorten(hash)
        );
        let error = self.request.about(Error::new(ErrorKind::DataLoss, message));
        Err(error.with_context("processor", self.shown_name()))
    }

    fn data_lost(&self, error: &Error) {
        let event = self.request.who().event("data_lost");
        event.with("error", error.message().to_owned()).record();
    }

    fn tell_of_letters(&self, number: u64, first: EntryId, reason: String) {
        let dead_letter = self.options.dead_letter.as_deref().unwrap_or_default();
        self.request
            .who()
            .event("put_aside")
            .with("processor", self.shown_name())
            .with("dead_letter", String::from_utf8_lossy(dead_letter).into_owned())
            .with("entries", number)
            .with("entry_id", first.to_string())
            .with("reason", reason)
            .record();
    }

    fn shown_name(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

fn lock(stats: &Mutex<ProcessorStats>) -> MutexGuard<'_, ProcessorStats> {
    // Numbers are whole whatever their holder was doing when it panicked.
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}
