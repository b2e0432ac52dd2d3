//! The dtypes of several streams' fields, by a sample of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::Field;

use super::mismatch::check_sample;
use super::parts::Part;
use super::weave::concat;
use super::{Many, OnSchemaMismatch, ask, read_parts};
use crate::client::Client;
use crate::decode::{Batch, Run, ends};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::infer::infer_fields;
use crate::read::request::ReadRequest;
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
    let all = (0..many.names.len()).map(|stream| Part::of(stream, (first, last)));
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
    let request = ReadRequest { count: None, ..request.clone().with_schema(schema) };
    let first = parts.iter().map(|part| Part { most: part.most.min(oldest), ..*part });
    let first = read_parts(client, &request, first.collect()).await?;
    let (Some(many), 1..) = (&request.many, newest) else { return Ok(first) };
    let rest = rest_of(parts, &first, oldest);
    let found = ask::newest(client, &many.names, &rest, |part| part.most.min(newest)).await?;
    let from = |(part, ids): (&Part, Vec<EntryId>)| {
        let first = *ids.last()?;
        Some(Part { first, most: ids.len() as u64, ..*part })
    };
    let rest: Vec<Part> = rest.iter().zip(found).filter_map(from).collect();
    if rest.is_empty() {
        return Ok(first);
    }
    concat(&request.schema, vec![first, read_parts(client, &request, rest).await?])
}

/// What is left of these parts after so many of each, which have been read.
fn rest_of(parts: &[Part], read: &Batch, taken: u64) -> Vec<Part> {
    let last_of = |(run, end): (Run, usize)| Some((run.stream, *read.ids().get(end - 1)?));
    let last_ids: BTreeMap<usize, EntryId> =
        ends(read.runs(), read.len()).filter_map(last_of).collect();
    let rest = parts.iter().filter(|part| part.most > taken).filter_map(|part| {
        let first = last_ids.get(&part.stream)?.successor()?;
        Some(Part { first, most: part.most - taken, ..*part })
    });
    rest.filter(|part| part.first <= part.last).collect()
}
