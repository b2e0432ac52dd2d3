//! The dtypes of several streams' fields, by a sample of each.

use std::sync::Arc;

use arrow_schema::Field;

use super::by_stream::PartsReader;
use super::mismatch::check_sample;
use super::parts::Part;
use super::{Many, OnSchemaMismatch, ask};
use crate::client::Client;
use crate::decode::Batch;
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::infer::infer_fields;
use crate::read::request::{BatchBounds, ReadRequest};
use crate::read::sample::schema_of_sample;
use crate::schema::StreamSchema;

/// The sample of all streams has as many entries as this number of streams would have alone.
const STREAMS: u64 = 100;

/// The fields of the streams' entries, typed by what a sample of them says.
pub(in crate::read) async fn infer(
    client: &Client,
    request: &ReadRequest,
    many: &Many,
) -> Result<Vec<Field>> {
    let parts = ask::parts(client, request, many).await?;
    let schema = with_inferred(client, request, &parts).await?;
    let schema = schema.unwrap_or_else(|| request.schema.with_fields_of(Vec::new()));
    Ok(schema.fields.iter().map(|field| field.as_ref().clone()).collect())
}

/// The schema with the fields of a sample of all that the streams have now; `None` where there is no
/// entry.
pub(in crate::read) async fn infer_now(
    client: &Client,
    request: &ReadRequest,
) -> Result<Option<StreamSchema>> {
    let Some(many) = &request.many else { return Ok(None) };
    let (first, last) = (EntryId::MIN, EntryId::MAX);
    let all = (0..many.names.len()).map(|stream| Part { stream, first, last, most: u64::MAX });
    let parts = ask::counted(client, &many.names, all.collect()).await?;
    with_inferred(client, request, &parts).await
}

/// The schema with the fields of a sample, where the request asks for that; `None` where it does not,
/// or there is no entry.
pub(super) async fn with_inferred(
    client: &Client,
    request: &ReadRequest,
    parts: &[Part],
) -> Result<Option<StreamSchema>> {
    let (Some(sample), Some(many)) = (request.sample, &request.many) else { return Ok(None) };
    let mut schema = schema_of_sample(&request.schema);
    schema.sources = Some(Arc::clone(&many.names));
    let batch = take_sample(client, request, schema.clone(), parts, sample).await?;
    if batch.is_empty() && sample > 0 {
        return Ok(None);
    }
    if many.on_mismatch == OnSchemaMismatch::Raise {
        check_sample(&many.names, &request.schema, &batch, &schema, many.compares_dtypes)?;
    }
    let mut fields = infer_fields(batch.records(), request.schema.payload.as_ref(), &schema)?;
    fields.retain(|field| request.schema.rescue_column.as_ref() != Some(field.name()));
    Ok(Some(request.schema.with_fields_of(fields)))
}

/// The oldest entries of each stream and the newest, as of one stream; fewer of each where there are
/// many.
async fn take_sample(
    client: &Client,
    request: &ReadRequest,
    schema: StreamSchema,
    parts: &[Part],
    sample: u64,
) -> Result<Batch> {
    let each = match STREAMS.saturating_mul(sample).checked_div(parts.len() as u64) {
        Some(each) if sample > 0 => each.clamp(1, sample),
        _ => 0,
    };
    let (oldest, newest) = match request.count {
        // Which is of the oldest: the newest are not read.
        Some(count) => (count.min(each), 0),
        None => (each.div_ceil(2), each / 2),
    };
    let request = ReadRequest {
        schema: Arc::new(schema),
        bounds: BatchBounds::NONE,
        count: None,
        ..request.clone()
    };
    let mut reader = PartsReader::new(client, &request)?;
    let first: Vec<Part> =
        parts.iter().map(|part| Part { most: part.most.min(oldest), ..*part }).collect();
    reader.begin(first);
    reader.collect().await?;
    let rest = reader.rest_of(parts, oldest);
    if newest > 0
        && let Some(many) = &request.many
    {
        let found = ask::newest(client, &many.names, &rest, |part| part.most.min(newest)).await?;
        let from = |(part, ids): (&Part, Vec<EntryId>)| {
            let first = *ids.last()?;
            Some(Part { first, most: ids.len() as u64, ..*part })
        };
        reader.begin(rest.iter().zip(found).filter_map(from).collect());
        reader.collect().await?;
    }
    reader.flush_all()
}
