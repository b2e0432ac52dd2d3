//! A read that gives its entries batch by batch.

use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::try_unfold;

use super::group_options::{GroupOptions, Removal};
use super::keeper::Keeper;
use super::many::{ManyReader, ManyTail};
use super::member::Member;
use super::range::RangeReader;
use super::request::{ReadRequest, about};
use super::stats::{Handing, Stats, Watched};
use super::tail::TailReader;
use super::worker::Worker;
use crate::client::{Client, block_on};
use crate::decode::Batch;
#[cfg(feature = "python")]
use crate::decode::StreamNames;
#[cfg(feature = "python")]
use crate::entry_id::EntryId;
use crate::error::{Error, ErrorKind, Result};

/// The entries that a stream holds when the first batch is asked for, batch by batch: as
/// [`read`](crate::read), in bounded memory.
///
/// ```no_run
/// use redfloe::{Client, ConnectionOptions, ReadRequest, StreamSchema};
///
/// let client = Client::new(ConnectionOptions::parse("redis://localhost")?);
/// let request = ReadRequest::new("events", StreamSchema::default()).with_batch_size(10_000);
/// for batch in redfloe::batches(&client, request)? {
///     println!("{} entries", batch?.len());
/// }
/// # Ok::<(), redfloe::Error>(())
/// ```
///
/// # Errors
///
/// [`Schema`](crate::ErrorKind::Schema) where the schema contradicts itself.
pub fn batches(client: &Client, request: ReadRequest) -> Result<Batches> {
    let (stream, is_many) = (request.stream_name(), request.many.is_some());
    let asked = (!is_many).then(|| Box::new((client.clone(), request.clone())));
    let source = match is_many {
        true => Ok(Source::Many(Box::new(ManyReader::new(client, request)))),
        false => RangeReader::new(client, request).map(|reader| Source::Range(Box::new(reader))),
    };
    let source = source.map_err(|error| about(error, is_many, &stream))?;
    let (watched, removal) = (Arc::default(), Removal::default());
    Ok(Batches { stream, source, is_many, watched, removal, asked })
}

/// Follows a stream: the entries from the request's start on, and then what is added, batch by
/// batch, without end unless the request sets one (an end ID, a count, [`OnIdle::Stop`]).
///
/// Polls with XREAD BLOCK (Redis 5.0), each after the last entry that came, so that nothing which
/// is added between two polls is missed. Where the request has no block time a poll waits without
/// limit. A batch is never empty.
///
/// Where the request sets no end, and the client's options no limit, it keeps trying through an
/// outage once the server has answered; [`take_events`](crate::take_events) tells when one begins and
/// ends.
///
/// ```no_run
/// use futures_util::TryStreamExt;
/// use redfloe::{Client, ConnectionOptions, IdBound, ReadRequest, StreamSchema};
///
/// # async fn example() -> redfloe::Result<()> {
/// let client = Client::new(ConnectionOptions::parse("redis://localhost")?);
/// let request = ReadRequest::new("events", StreamSchema::default())
///     .with_range(IdBound::AfterNewest, IdBound::Newest)
///     .with_batch_size(1_000);
/// let mut batches = std::pin::pin!(redfloe::tail(&client, request)?.into_stream());
/// while let Some(batch) = batches.try_next().await? {
///     println!("{} new entries, up to {:?}", batch.len(), batch.ids().last());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Schema`](crate::ErrorKind::Schema) where the schema contradicts itself.
///
/// [`OnIdle::Stop`]: crate::OnIdle::Stop
pub fn tail(client: &Client, request: ReadRequest) -> Result<Batches> {
    let (stream, is_many) = (request.stream_name(), request.many.is_some());
    let lease = request.group.as_ref().and_then(GroupOptions::lease);
    let watched = Arc::new(Watched::new(Keeper::new(lease)));
    let removal = request.group.as_ref().map(|group| group.removal).unwrap_or_default();
    #[cfg(feature = "python")]
    let names = match &request.many {
        Some(_) => Arc::default(),
        None => Arc::new(StreamNames::new(vec![request.stream.clone()])),
    };
    let client = &match request.never_ends() {
        true => client.keep_trying(request.who()),
        false => client.clone(),
    };
    let source = match request.group.clone() {
        Some(group) => Worker::new(client, request, group, Arc::clone(&watched))
            .map(|worker| Source::Group(Box::new(worker))),
        None if is_many => {
            ManyTail::new(client, request).map(|reader| Source::ManyTail(Box::new(reader)))
        }
        None => TailReader::new(client, request).map(|reader| Source::Tail(Box::new(reader))),
    };
    let source = source.map_err(|error| about(error, is_many, &stream))?;
    #[cfg(feature = "python")]
    watched.set_names(&names);
    Ok(Batches { stream, source, is_many, watched, removal, asked: None })
}

/// The batches of [`batches`] or [`tail`]: asked for one by one ([`next`](Batches::next)), as a
/// [`Stream`] ([`into_stream`](Batches::into_stream)), or as an [`Iterator`] for code that may
/// block.
///
/// After an error the next batch may be asked for again: it begins after the last one that was
/// handed out.
pub struct Batches {
    stream: String,
    source: Source,
    /// Of several streams.
    is_many: bool,
    watched: Arc<Watched>,
    removal: Removal,
    /// What was asked for, until it is known to be one stream and not a sharded one.
    asked: Option<Box<(Client, ReadRequest)>>,
}

enum Source {
    ManyTail(Box<ManyTail>),
    Many(Box<ManyReader>),
    Range(Box<RangeReader>),
    Tail(Box<TailReader>),
    Group(Box<Worker>),
}

impl Batches {
    /// Those of the key alone: the name of a sharded stream is one of the wrong type, as for whoever keeps one
    /// position.
    pub(crate) fn of_one_key(mut self) -> Self {
        self.asked = None;
        self
    }

    /// The next batch, or `None` at the end.
    ///
    /// Its future may be dropped at any time, such as by a timeout: no entry is lost or repeated
    /// by the next call.
    ///
    /// # Errors
    ///
    /// As [`read`](crate::read); and for [`tail`] [`DataLoss`](crate::ErrorKind::DataLoss) where
    /// the stream was deleted and created again with smaller IDs.
    pub async fn next(&mut self) -> Result<Option<Batch>> {
        let Some((batch, handing)) = self.ready().await? else { return Ok(None) };
        if let Some(handing) = handing {
            self.watched.hand_out(&batch, &handing);
        }
        Ok(Some(batch))
    }

    /// The next batch, for a caller that reports by [`Watched::hand_out`] when it has it in hand.
    pub(crate) async fn ready(&mut self) -> Result<Option<(Batch, Option<Handing>)>> {
        match self.ready_as_asked().await {
            Err(error) if error.kind() == ErrorKind::WrongType => {
                let Some(asked) = &self.asked else { return Err(error) };
                let (client, request) = &**asked;
                let request = Box::pin(request.over_shards(client, error)).await?;
                *self = batches(client, request)?;
                Box::pin(self.ready_as_asked()).await
            }
            Err(error) => Err(error),
            ready => {
                self.asked = None;
                ready
            }
        }
    }

    async fn ready_as_asked(&mut self) -> Result<Option<(Batch, Option<Handing>)>> {
        let outcome = match &mut self.source {
            Source::Many(reader) => reader.next().await.map(|batch| Some((batch?, None))),
            Source::Range(reader) => reader.next().await.map(|batch| Some((batch?, None))),
            Source::Tail(reader) => reader.next().await.map(|batch| {
                let received = reader.received();
                Some((batch?, Some(Handing { received, delivered: None, old_at: None })))
            }),
            Source::ManyTail(reader) => reader.next().await.map(|batch| {
                let received = reader.received();
                Some((batch?, Some(Handing { received, delivered: None, old_at: None })))
            }),
            Source::Group(worker) => {
                if let Some(idle) = self.removal.idle {
                    if worker.reader().is_many() {
                        // Which streams there are is to be known before.
                        Box::pin(worker.reader().start()).await?;
                    }
                    for member in worker.members() {
                        let removing = member.patiently();
                        let removed = removing.remove_others(idle).await;
                        removed.map_err(|error| member.about(error))?;
                    }
                    self.removal.idle = None;
                }
                let ready = worker.next().await;
                ready.map(|ready| ready.map(|(batch, handing)| (batch, Some(handing))))
            }
        };
        #[cfg(feature = "python")]
        self.tell_streams();
        if outcome.is_err() {
            match &mut self.source {
                Source::Many(reader) => reader.rewind()?,
                Source::ManyTail(reader) => reader.rewind()?,
                Source::Range(reader) => reader.rewind()?,
                Source::Tail(reader) => reader.rewind()?,
                Source::Group(reader) => reader.rewind()?,
            }
        }
        outcome.map_err(|error| self.about(error))
    }

    /// Resolves the start of a [`tail`], such as [`IdBound::AfterNewest`], now rather than with
    /// the first batch.
    ///
    /// # Errors
    ///
    /// As [`next`](Batches::next).
    ///
    /// [`IdBound::AfterNewest`]: crate::IdBound::AfterNewest
    pub async fn start(&mut self) -> Result<()> {
        let started = match &mut self.source {
            Source::Many(_) | Source::Range(_) => Ok(()),
            Source::Tail(reader) => reader.start().await,
            Source::ManyTail(reader) => reader.start().await,
            Source::Group(worker) => worker.reader().start().await,
        };
        #[cfg(feature = "python")]
        if started.is_ok() {
            self.tell_start();
        }
        started.map_err(|error| self.about(error))
    }

    /// Tells who keeps positions where the reading begins.
    #[cfg(feature = "python")]
    fn tell_start(&mut self) {
        self.tell_streams();
        if self.watched.snapshot().batches > 0 {
            return; // they are farther now
        }
        let begins: Vec<(usize, EntryId)> = match &self.source {
            Source::Tail(reader) => {
                reader.begins_after().into_iter().map(|after| (0, after)).collect()
            }
            Source::ManyTail(reader) => reader.begins_after(),
            Source::Many(_) | Source::Range(_) | Source::Group(_) => Vec::new(),
        };
        self.watched.positions(|positions| {
            begins.into_iter().for_each(|(stream, after)| positions.begins_after(stream, after));
        });
    }

    /// Tells who keeps positions which streams there are, and which are not those that they were.
    #[cfg(feature = "python")]
    fn tell_streams(&mut self) {
        let replaced = match &mut self.source {
            Source::Tail(reader) => match reader.take_replaced() {
                true => vec![0],
                false => Vec::new(),
            },
            Source::ManyTail(reader) => {
                self.watched.set_names(reader.names());
                reader.take_replaced()
            }
            Source::Many(_) | Source::Range(_) | Source::Group(_) => Vec::new(),
        };
        for stream in replaced {
            self.watched.positions(|positions| positions.replaced(stream));
        }
    }

    /// Acknowledges what was handed out and is done with: all batches but the last, which `success`
    /// says of the last. For a group whose entries are acknowledged automatically; what is under
    /// way is given up, and stays pending.
    ///
    /// # Errors
    ///
    /// As [`next`](Batches::next).
    pub async fn finish(&mut self, success: bool) -> Result<()> {
        self.watched.keeps_no_more();
        let finished = match &mut self.source {
            Source::Many(_) | Source::ManyTail(_) | Source::Range(_) | Source::Tail(_) => Ok(()),
            Source::Group(worker) => match worker.finish(success).await {
                Ok(()) if success && self.removal.on_close => {
                    for member in worker.members() {
                        member.remove().await.map_err(|error| member.about(error))?;
                    }
                    Ok(())
                }
                finished => finished,
            },
        };
        finished.map_err(|error| self.about(error))
    }

    fn about(&self, error: Error) -> Error {
        about(error, self.is_many, &self.stream)
    }

    /// The latest batch did not come into anybody's hands, because the reading ends or it has waited
    /// for too long: its deliveries are none. What is still this consumer's comes again.
    #[cfg(feature = "python")]
    pub(crate) fn not_handed_out(&mut self, batch: &Batch) {
        if let Source::Group(worker) = &mut self.source {
            worker.reader().not_handed_out(batch);
        }
    }

    /// What has been read so far, by [`tail`].
    pub fn stats(&self) -> Stats {
        self.watched.snapshot()
    }

    /// The same for who cannot have the batches, because somebody waits for the next one.
    #[cfg(feature = "python")]
    pub(crate) fn watched(&self) -> Arc<Watched> {
        Arc::clone(&self.watched)
    }

    /// What this consumer of a group may do to its entries; `None` without a group. Of several streams
    /// it is the consumer of the first.
    pub fn member(&self) -> Option<Member> {
        self.members().into_iter().next()
    }

    /// The same for each of several streams that there are so far, by the numbers that
    /// [`Batch::streams`] has.
    pub fn members(&self) -> Vec<Member> {
        match &self.source {
            Source::Many(_) | Source::ManyTail(_) | Source::Range(_) | Source::Tail(_) => {
                Vec::new()
            }
            Source::Group(worker) => worker.members().into_iter().cloned().collect(),
        }
    }

    /// Whether this reads through groups, and whether those of several streams.
    #[cfg(feature = "python")]
    pub(crate) fn reads_groups(&self) -> Option<bool> {
        matches!(self.source, Source::Group(_)).then_some(self.is_many)
    }

    /// The batches as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Batch>> + Send {
        try_unfold(self, |mut batches| async move {
            Ok(batches.next().await?.map(|batch| (batch, batches)))
        })
    }
}

impl IntoIterator for Batches {
    type Item = Result<Batch>;
    type IntoIter = BlockingBatches;

    /// The batches as an iterator that blocks the thread. Not for async code.
    fn into_iter(self) -> BlockingBatches {
        BlockingBatches { batches: Some(self) }
    }
}

/// Batches for code that may block; ends after an error.
pub struct BlockingBatches {
    batches: Option<Batches>,
}

impl Iterator for BlockingBatches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let mut batches = self.batches.take()?;
        let advancing = async move {
            let batch = batches.next().await?;
            Ok((batch, batches))
        };
        match block_on(advancing, || Ok::<(), Error>(())) {
            Ok((Some(batch), batches)) => {
                self.batches = Some(batches);
                Some(Ok(batch))
            }
            Ok((None, _)) => None,
            Err(error) => Some(Err(error)),
        }
    }
}
