//! What dtypes a read's fields have, by a sample of its entries.

use arrow_schema::{DataType, Field};

use super::feed::Feed;
use super::many;
use super::pages::{From, newest_range, take};
use super::range::{check_stream, pin};
use super::request::{BatchBounds, ReadRequest};
use crate::client::Client;
use crate::decode::{Batch, ReplyShape};
use crate::entry_id::EntryId;
use crate::error::{Error, Result};
use crate::infer::infer_fields;
use crate::schema::{OnError, StreamSchema};

/// The fields of the entries within a request's bounds, typed by what `sample` of them say, half of
/// them the oldest and half the newest; but for those whose dtype the schema overrides.
///
/// # Errors
///
/// As [`read`](crate::read).
pub async fn infer_schema(
    client: &Client,
    request: ReadRequest,
    sample: u64,
) -> Result<Vec<Field>> {
    match infer_as_asked(client, request.clone(), sample).await {
        Err(error) => {
            let request = request.over_shards(client, error).await?;
            infer_as_asked(client, request, sample).await
        }
        fields => fields,
    }
}

/// The same of streams alone.
async fn infer_as_asked(client: &Client, request: ReadRequest, sample: u64) -> Result<Vec<Field>> {
    if let Some(many) = &request.many {
        let request = ReadRequest { sample: Some(sample), ..request.clone() };
        let inferring = many::infer(client, &request, many);
        return inferring.await.map_err(|error| request.about(error));
    }
    let stream = request.stream_name();
    if request.must_exist {
        check_stream(client, &request.stream).await?;
    }
    let bounds = pin(client, &request).await?;
    let inferring = async {
        let schema = match bounds {
            Some((first, last)) => infer_range(client, &request, sample, first, last).await?,
            None => None,
        };
        Ok(schema.unwrap_or_else(|| request.schema.with_fields_of(Vec::new())))
    };
    let schema = inferring.await.map_err(|error: Error| error.with_context("stream", stream))?;
    Ok(schema.fields.iter().map(|field| field.as_ref().clone()).collect())
}

/// Types an open schema's fields by a sample from `first` to `last`; `None` where no entry is there.
pub(super) async fn infer_range(
    client: &Client,
    request: &ReadRequest,
    sample: u64,
    first: EntryId,
    last: EntryId,
) -> Result<Option<StreamSchema>> {
    let schema = schema_of_sample(&request.schema);
    let batch = take_sample(client, request, &schema, sample, (first, last)).await?;
    let mut fields = infer_fields(batch.records(), request.schema.payload.as_ref(), &schema)?;
    fields.retain(|field| request.schema.rescue_column.as_ref() != Some(field.name()));
    let found = !batch.is_empty() || sample == 0;
    Ok(found.then(|| request.schema.with_fields_of(fields)))
}

/// The oldest entries and the newest, as text: what an old entry looks like says little of those
/// that are written today.
async fn take_sample(
    client: &Client,
    request: &ReadRequest,
    schema: &StreamSchema,
    sample: u64,
    (first, last): (EntryId, EntryId),
) -> Result<Batch> {
    let session = client.reading_session(&request.stream);
    let (shape, bounds) = (ReplyShape::Entries, BatchBounds::NONE);
    let mut feed = Feed::new(client, session, schema.clone(), shape, bounds)?;
    let (oldest, newest) = match request.count {
        // Which is of the oldest: the newest are not read.
        Some(count) => (count.min(sample), 0),
        None => (sample.div_ceil(2), sample / 2),
    };
    let stream = &request.stream;
    take(&mut feed, stream, From::Oldest, (first, last), oldest).await?;
    let rest = feed.last_id().and_then(EntryId::successor);
    if let Some(rest) = rest.filter(|rest| *rest <= last)
        && feed.rows() as u64 == oldest
        && let Some(range) = newest_range(client, stream, (rest, last), newest).await?
    {
        take(&mut feed, stream, From::Oldest, range, newest).await?;
    }
    feed.flush_all()
}

/// Every field as bytes, which may be no text, a payload too, and nothing that could raise.
pub(super) fn schema_of_sample(schema: &StreamSchema) -> StreamSchema {
    let mut sample = StreamSchema::default()
        .with_id_column(None)
        .with_timestamp_column(None)
        .with_on_error(OnError::Null)
        .with_null_values(schema.null_values.clone())
        .with_max_columns(schema.max_columns)
        // Which takes the fields beyond.
        .with_rescue_column(schema.rescue_column.as_deref());
    sample.found_type = DataType::BinaryView;
    sample
}
