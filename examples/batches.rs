//! What a stream holds, batch by batch, in three ways: as an iterator, as a `futures::Stream`, and
//! followed as entries come.
//!
//! ```text
//! cargo run --example batches -- redis://localhost events
//! ```

use std::time::Duration;

use arrow_schema::{DataType, Field};
use futures_util::TryStreamExt;
use redfloe::{Client, ConnectionOptions, IdBound, OnIdle, ReadRequest, StreamSchema};

#[tokio::main]
async fn main() -> redfloe::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(stream)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: batches URL STREAM");
        std::process::exit(2);
    };
    let client = Client::new(ConnectionOptions::parse(&url)?);
    let schema = StreamSchema::closed([Field::new("n", DataType::Int64, true)]);
    let request = ReadRequest::new(stream, schema).with_batch_size(1_000);

    // As an iterator, for code that may block; here that is a thread of its own.
    let batches = redfloe::batches(&client, request.clone())?;
    let iterating = tokio::task::spawn_blocking(move || {
        batches.into_iter().map(|batch| Ok(batch?.len())).sum::<redfloe::Result<usize>>()
    });
    println!("iterator: {} entries", iterating.await.unwrap_or(Ok(0))?);

    // As a stream of record batches.
    let mut records = std::pin::pin!(redfloe::batches(&client, request.clone())?.into_stream());
    let mut bytes = 0;
    while let Some(batch) = records.try_next().await? {
        bytes += batch.records().get_array_memory_size();
    }
    println!("stream: {bytes} bytes of Arrow");

    // Followed: what is there, then what comes, until nothing has come for a while.
    let following = request
        .with_range(IdBound::parse_start("-")?, IdBound::Newest)
        .with_block(Some(Duration::from_millis(100)))
        .with_on_idle(OnIdle::Stop);
    let mut tail = redfloe::tail(&client, following)?;
    let mut last = None;
    while let Some(batch) = tail.next().await? {
        last = batch.ids().last().copied();
    }
    println!("tail: up to {}", last.map_or_else(|| "nothing".to_owned(), |id| id.to_string()));
    Ok(())
}
