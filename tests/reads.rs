//! The reads of the Rust API, against a real server that the test starts.

mod live;

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{DataType, Field};
use futures_util::{StreamExt, TryStreamExt};
use redfloe::{
    Batch, Batches, Client, ConnectionOptions, EntryId, ErrorKind, GroupOptions, GroupStart,
    IdBound, OnIdle, OwnPending, PendingFilter, ReadRequest, Result, StreamSchema, TrimTo,
};

use live::{STREAM, Server};

fn request() -> ReadRequest {
    ReadRequest::new(STREAM, StreamSchema::closed([Field::new("n", DataType::Int64, true)]))
}

fn numbers(batch: &Batch) -> Vec<i64> {
    let column = batch.records().column_by_name("n").unwrap();
    column.as_primitive::<Int64Type>().values().to_vec()
}

async fn drain(mut batches: Batches) -> Result<Vec<i64>> {
    let mut all = Vec::new();
    while let Some(batch) = batches.next().await? {
        assert!(!batch.is_empty());
        all.extend(numbers(&batch));
    }
    Ok(all)
}

#[test]
fn a_schema_that_contradicts_itself_is_refused_at_once() -> Result<()> {
    let client = Client::new(ConnectionOptions::parse("redis://localhost")?);
    let schema = || StreamSchema::closed([Field::new("_id", DataType::Int64, true)]);
    let one = ReadRequest::new(STREAM, schema());
    let several = ReadRequest::of_streams([b"a".to_vec(), b"b".to_vec()], schema());
    for request in [one, several] {
        for group in [None, Some(GroupOptions::new("g", "me"))] {
            let is_group = group.is_some();
            let error = redfloe::tail(&client, request.clone().with_group(group)).err();
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Schema), "{is_group}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn batches_have_the_size_that_was_asked_for() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 5_000);
    for size in [1, 7, 100, 999, 5_000, 6_000] {
        let batches = redfloe::batches(&server.client(), request().with_batch_size(size))?;
        let batches: Vec<Batch> = batches.into_stream().try_collect().await?;
        let (last, full) = batches.split_last().unwrap();
        assert!(full.iter().all(|batch| batch.len() == size));
        assert!((1..=size).contains(&last.len()));
        let all: Vec<i64> = batches.iter().flat_map(numbers).collect();
        assert!(all.iter().copied().eq(1..=5_000), "size {size}");
    }
    Ok(())
}

#[test]
fn batches_are_an_iterator_too() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 250);
    let batches = redfloe::batches(&server.client(), request().with_batch_size(100))?;
    let lengths: Result<Vec<usize>> = batches.into_iter().map(|batch| Ok(batch?.len())).collect();
    assert_eq!(lengths?, [100, 100, 50]);
    Ok(())
}

#[tokio::test]
async fn bytes_bound_a_batch() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let text = "x".repeat(100_000);
    for _ in 0..100 {
        server.run(&["XADD", STREAM, "*", "text", &text]);
    }
    let schema = StreamSchema::closed([Field::new("text", DataType::Utf8View, true)]);
    let request = ReadRequest::new(STREAM, schema).with_batch_bytes(1_000_000);
    let batches = redfloe::batches(&server.client(), request)?.into_stream();
    let lengths: Vec<usize> = batches.map_ok(|batch| batch.len()).try_collect().await?;
    assert_eq!(lengths.iter().sum::<usize>(), 100);
    // 1 MB, what one look at the socket brings beyond it, and an entry that was begun.
    assert!(lengths.iter().all(|len| *len <= 14), "{lengths:?}");
    Ok(())
}

#[tokio::test]
async fn a_tail_gives_what_is_there_and_what_comes() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 1_000);
    let block = Some(Duration::from_millis(200));
    let from_the_start = request()
        .with_range(IdBound::Id(EntryId::MIN), IdBound::Newest)
        .with_batch_size(300)
        .with_block(block)
        .with_on_idle(OnIdle::Stop);
    let all = drain(redfloe::tail(&server.client(), from_the_start.clone())?).await?;
    assert!(all.into_iter().eq(1..=1_000));

    let from_now = request().with_range(IdBound::AfterNewest, IdBound::Newest).with_block(block);
    let mut tail = redfloe::tail(&server.client(), from_now)?;
    tail.start().await?;
    server.add(1_001, 1_003);
    assert_eq!(tail.next().await?.as_ref().map(numbers), Some(vec![1_001, 1_002, 1_003]));

    let up_to = IdBound::Id(EntryId::new(1_010, 0));
    let bounded = from_the_start.with_range(IdBound::Id(EntryId::new(1_000, 0)), up_to);
    let following = tokio::spawn(drain(redfloe::tail(&server.client(), bounded)?));
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.add(1_004, 1_020);
    assert!(following.await.unwrap()?.into_iter().eq(1_000..=1_010));
    Ok(())
}

/// A future of `next` that is dropped half way, over and over, loses and repeats nothing.
#[tokio::test]
async fn a_dropped_future_loses_nothing() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 30_000);
    let request = request()
        .with_range(IdBound::Id(EntryId::MIN), IdBound::Newest)
        .with_batch_size(10_000)
        .with_count(Some(30_000));
    for follow in [false, true] {
        let mut batches = match follow {
            true => redfloe::tail(&server.client(), request.clone())?,
            false => redfloe::batches(&server.client(), request.clone())?,
        };
        let (mut all, mut dropped) = (Vec::new(), 0);
        for turn in 0u64.. {
            assert!(turn < 10_000, "no progress: {} entries", all.len());
            let wait = Duration::from_micros(turn % 40 * 100);
            match tokio::time::timeout(wait, batches.next()).await {
                Ok(Ok(Some(batch))) => all.extend(numbers(&batch)),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(error),
                Err(_) => dropped += 1,
            }
        }
        assert!(all.into_iter().eq(1..=30_000), "follow: {follow}");
        assert!(dropped > 0);
    }
    Ok(())
}

#[tokio::test]
async fn after_an_error_the_same_batch_comes_again() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 10);
    server.run(&["XADD", STREAM, "11-0", "n", "eleven"]);
    let request = request().with_range(IdBound::Id(EntryId::MIN), IdBound::Newest);
    let mut tail = redfloe::tail(&server.client(), request.with_batch_size(5))?;
    assert_eq!(tail.next().await?.map(|batch| batch.len()), Some(5));
    assert_eq!(tail.next().await?.map(|batch| batch.len()), Some(5));
    for _ in 0..2 {
        let error = tail.next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(error.to_string().contains("11-0"), "{error}");
        assert!(error.to_string().contains(STREAM), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_begun_anew_is_noticed() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(100, 110);
    let request = request()
        .with_range(IdBound::Id(EntryId::MIN), IdBound::Newest)
        .with_block(Some(Duration::from_millis(100)));
    let mut tail = redfloe::tail(&server.client(), request)?;
    assert_eq!(tail.next().await?.map(|batch| batch.len()), Some(11));
    server.run(&["DEL", STREAM]);
    server.add(1, 3);
    let error = tail.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.to_string().contains("110-0") && error.to_string().contains("3-0"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_stream_of_batches_ends_after_an_error() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.run(&["SET", STREAM, "text"]);
    let batches = redfloe::batches(&server.client(), request())?.into_stream();
    let kinds: Vec<_> =
        batches.map(|batch| batch.map_err(|error| error.kind()).map(|_| ())).collect().await;
    assert_eq!(kinds, [Err(ErrorKind::WrongType)]);
    Ok(())
}

#[test]
fn the_example_runs() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 2_500);
    // Beside this test, where cargo put it.
    let here = std::env::current_exe().unwrap();
    let example = here.ancestors().nth(2).unwrap().join("examples/batches");
    assert!(example.exists(), "the example is built by `cargo test` without `--test`");
    let output = Command::new(example).args([&server.url(), STREAM]).output().unwrap();
    std::io::stderr().write_all(&output.stderr).unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.starts_with("iterator: 2500 entries\nstream: "), "{printed}");
    assert!(printed.ends_with("tail: up to 2500-0\n"), "{printed}");
    Ok(())
}

#[tokio::test]
async fn a_group_is_read_and_administered() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let (client, stream, group) = (server.client(), STREAM.as_bytes(), b"g");
    assert_eq!(redfloe::stream_info(&client, stream).await?, None);
    server.add(1, 10);
    let start = GroupStart::Behind(EntryId::new(3, 0));
    assert!(redfloe::create_group(&client, stream, group, start, false).await?);
    assert!(!redfloe::create_group(&client, stream, group, start, false).await?);

    let me = GroupOptions::new(*group, "me");
    let reading = request().with_group(Some(me.clone().with_own_pending(OwnPending::Skip)));
    let batch = redfloe::read(&client, reading.with_count(Some(4))).await?;
    assert_eq!(numbers(&batch), [4, 5, 6, 7]);
    let acknowledged = redfloe::ack_entries(&client, stream, group, &batch.ids()[..1]).await?;
    assert_eq!(acknowledged, 1);
    let filter = PendingFilter { count: Some(2), ..PendingFilter::default() };
    let pending = redfloe::pending_entries(&client, stream, group, &filter).await?;
    let ids: Vec<EntryId> = pending.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [EntryId::new(5, 0), EntryId::new(6, 0)]);

    let tail = request()
        .with_group(Some(me.with_auto_ack(true)))
        .with_block(Some(Duration::from_millis(1)))
        .with_on_idle(OnIdle::Stop);
    assert_eq!(drain(redfloe::tail(&client, tail)?).await?, [5, 6, 7, 8, 9, 10]);
    let groups = redfloe::group_info(&client, stream).await?;
    assert_eq!((groups[0].pending, groups[0].consumers), (0, 1));

    let trimmed = redfloe::trim_stream(&client, stream, TrimTo::MaxLen(2), false, None).await?;
    assert_eq!(trimmed, 8);
    let info = redfloe::stream_info(&client, stream).await?.unwrap();
    assert_eq!((info.length, info.first_entry_id), (2, Some(EntryId::new(9, 0))));
    let fail = redfloe::IfPending::Fail;
    assert_eq!(redfloe::delete_consumer(&client, stream, group, b"me", fail).await?, 0);
    assert!(redfloe::consumer_info(&client, stream, group).await?.is_empty());
    assert!(redfloe::delete_group(&client, stream, group).await?);
    let gone = redfloe::consumer_info(&client, stream, group).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NoGroup);
    Ok(())
}
