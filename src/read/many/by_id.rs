//! Several streams merged by entry ID, in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{FieldRef, SchemaRef};

use super::by_stream::PartsReader;
use super::columns::{aligned, interleaved, with_columns_of_last, without_rest};
use super::merge::{Merge, Row};
use super::mismatch::FieldSets;
use super::parts::Part;
use crate::client::Client;
use crate::decode::{Batch, Run, internal};
use crate::entry_id::EntryId;
use crate::error::Result;
use crate::read::request::{BatchBounds, ReadRequest};

/// Reads several streams in the order of their IDs.
pub(super) struct ById {
    request: ReadRequest,
    pub(super) reader: PartsReader,
    merge: Merge,
    /// What was asked for and has not come whole.
    asked: Option<Vec<Part>>,
    pages: BTreeMap<usize, Page>,
    /// The rows of the next batch, their IDs and the bytes that they took in replies.
    rows: Vec<Row>,
    ids: Vec<EntryId>,
    bytes: u64,
    /// The streams of these rows, where somebody asks for them.
    runs: Option<Vec<Run>>,
    /// The bytes of the latest batch.
    pub(super) taken: u64,
    given: u64,
    fields: Option<FieldSets>,
    /// The columns of the latest page, which has those of all before it.
    schema: Option<SchemaRef>,
}

/// Rows that came together, and what one of them took in the reply.
struct Page {
    records: RecordBatch,
    row_bytes: u64,
}

impl ById {
    /// The rows of a piece, where a batch has no bounds.
    const PIECE: usize = 256 * 1024;
    /// The pages that are buffered of all streams together, in entries.
    const PAGES: u64 = 4;

    pub(super) fn new(client: &Client, request: ReadRequest, parts: Vec<Part>) -> Result<Self> {
        // What comes is a page to be merged, whatever a batch may have; `count` is of the merged.
        let bounds = BatchBounds { rows: usize::MAX, ..request.bounds };
        let of_pages = ReadRequest { bounds, count: None, ..request.clone() };
        // No stream can give more than all together.
        let most = request.count.unwrap_or(u64::MAX);
        let parts = parts.into_iter().map(|part| Part { most: part.most.min(most), ..part });
        let streams = request.many.as_ref().map_or(0, |many| many.names.len());
        Ok(ById {
            reader: PartsReader::new(client, &of_pages)?,
            merge: Merge::new(streams, parts.collect()),
            asked: None,
            pages: BTreeMap::new(),
            rows: Vec::new(),
            ids: Vec::new(),
            bytes: 0,
            runs: None,
            taken: 0,
            given: 0,
            fields: FieldSets::of(&request),
            schema: None,
            request,
        })
    }

    /// The same with the streams of the rows.
    pub(super) fn with_runs(self) -> Self {
        ById { runs: Some(Vec::new()), ..self }
    }

    /// In pieces: one piece would be a copy of all.
    pub(super) async fn read_all(&mut self) -> Result<Vec<Batch>> {
        let mut pieces = Vec::new();
        loop {
            let is_end = self.collect(Self::PIECE).await?;
            pieces.push(self.take()?);
            if is_end {
                return with_columns_of_last(pieces);
            }
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        let most = self.request.bounds.rows;
        match self.collect(most).await {
            // What can be read comes before the error does, when it is met again.
            Err(_) if !self.rows.is_empty() => self.reader.rewind()?,
            collected => drop(collected?),
        }
        let batch = self.take()?;
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Collects up to `most` rows; says whether nothing comes after them.
    async fn collect(&mut self, most: usize) -> Result<bool> {
        loop {
            while self.rows.len() < most && self.bytes < self.request.bounds.bytes {
                if self.request.count.is_some_and(|count| self.given >= count) {
                    return Ok(true);
                }
                let Some((row, id, stream)) = self.merge.pop() else { break };
                if let Some(runs) = &mut self.runs
                    && runs.last().is_none_or(|run| run.stream != stream)
                {
                    runs.push(Run { row: self.rows.len(), stream });
                }
                self.rows.push(row);
                self.ids.push(id);
                self.given += 1;
                self.bytes += self.pages.get(&row.0).map_or(0, |page| page.row_bytes);
            }
            if self.rows.len() >= most || self.bytes >= self.request.bounds.bytes {
                return Ok(false);
            }
            if !self.merge.is_dry() {
                if let Some(fields) = &self.fields {
                    fields.check()?;
                }
                return Ok(true);
            }
            self.refill().await?;
        }
    }

    /// Has more come of the streams that have run dry.
    async fn refill(&mut self) -> Result<()> {
        if self.asked.is_none() {
            let budget = self.reader.page().saturating_mul(Self::PAGES);
            let parts = self.merge.refill(budget);
            self.reader.begin(parts.clone());
            self.asked = Some(parts);
        }
        loop {
            let is_end = self.reader.collect().await?;
            let received = self.reader.take_received();
            let batch = self.reader.flush()?;
            if !batch.is_empty() {
                if let Some(fields) = &mut self.fields {
                    fields.look(&batch);
                }
                let row_bytes = received.div_ceil(batch.len() as u64);
                let number = self.merge.add(batch.ids(), batch.runs());
                self.schema = Some(batch.records().schema());
                self.pages.insert(number, Page { records: batch.into_records(), row_bytes });
            }
            // An entry that cannot be read ends the batch before it, and only then is met.
            if is_end && !self.reader.is_full() {
                break;
            }
        }
        if let Some(asked) = self.asked.take() {
            self.merge.settle(&asked);
        }
        Ok(())
    }

    fn empty_schema(&self) -> Result<SchemaRef> {
        match &self.schema {
            Some(schema) => Ok(Arc::clone(schema)),
            None => self.request.schema.arrow(),
        }
    }

    /// The rows that were collected, as a batch.
    fn take(&mut self) -> Result<Batch> {
        let (rows, ids) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.ids));
        let runs = self.runs.as_mut().map(std::mem::take).unwrap_or_default();
        self.taken = std::mem::take(&mut self.bytes);
        let schema = self.empty_schema()?;
        let records = self.gather(&rows, &schema)?;
        for page in self.merge.take_empty() {
            self.pages.remove(&page);
        }
        let (held, buffered) = self.merge.held();
        // A page stays for its last row. So it does not stay for long, but for few.
        if held > buffered.saturating_mul(2).saturating_add(Self::PIECE as u64 / 4) {
            let (number, rows) = self.merge.compact();
            let of_rows = rows.iter().filter_map(|(page, _)| Some(self.pages.get(page)?.row_bytes));
            let row_bytes = of_rows.max().unwrap_or_default();
            let records = self.gather(&rows, &schema)?;
            self.pages = BTreeMap::from([(number, Page { records, row_bytes })]);
        }
        Ok(Batch::new(records, ids, Vec::new()).with_runs(runs))
    }

    /// These rows of the pages, in this order.
    fn gather(&self, rows: &[Row], schema: &SchemaRef) -> Result<RecordBatch> {
        let (mut pages, mut places) = (Vec::new(), HashMap::new());
        let mut indices = Vec::with_capacity(rows.len());
        for (number, row) in rows {
            let place = match places.get(number) {
                Some(place) => *place,
                None => {
                    let Some(page) = self.pages.get(number) else { continue };
                    pages.push(aligned(&page.records, schema)?);
                    places.insert(*number, pages.len() - 1);
                    pages.len() - 1
                }
            };
            indices.push((place, *row));
        }
        if pages.is_empty() {
            return Ok(RecordBatch::new_empty(Arc::clone(schema)));
        }
        let column = |(column, field): (usize, &FieldRef)| {
            let of_pages: Vec<ArrayRef> =
                pages.iter().map(|page| Arc::clone(page.column(column))).collect();
            without_rest(&interleaved(field, &of_pages, &indices)?)
        };
        let columns: Result<Vec<ArrayRef>> =
            schema.fields().iter().enumerate().map(column).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns?, &options).map_err(internal)
    }
}
