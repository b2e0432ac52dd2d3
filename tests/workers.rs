//! Processors that share a stream by a consumer group.

mod live;

use std::time::Duration;

use arrow_schema::{DataType, Field};
use redfloe::{
    Client, ErrorKind, GroupOptions, GroupStart, OnIdle, Processor, ProcessorOptions, ReadRequest,
    Reclaim, Result, StreamSchema, Transaction,
};

use live::lanes::{NAME, OUT, id};
use live::{STREAM, Server};

/// The consumer of a group that is created, which drains the stream.
fn worker(client: &Client, consumer: &str, rows: usize) -> Result<Processor> {
    let schema = StreamSchema::closed([Field::new("n", DataType::Int64, true)]);
    let (min_idle, interval) = (Duration::from_secs(60), Duration::from_millis(20));
    let group = GroupOptions::new("g", consumer)
        .with_creation(Some(GroupStart::Behind(redfloe::EntryId::MIN)))
        .with_reclaim(Some(Reclaim { min_idle, interval }));
    let request = ReadRequest::new(STREAM, schema)
        .with_group(Some(group))
        .with_batch_size(rows)
        .with_block(Some(Duration::from_millis(1)))
        .with_on_idle(OnIdle::Stop);
    Processor::new(client, request, NAME, ProcessorOptions::default())
}

/// Writes the ID of each row.
fn copy(transaction: &mut Transaction) -> Result<()> {
    for id in transaction.batch().ids().to_vec() {
        transaction.commit().add(OUT.as_bytes(), [(&b"id"[..], id.to_string().as_bytes())])?;
    }
    Ok(())
}

async fn drain(mut processor: Processor) -> Result<u64> {
    while let Some(mut transaction) = processor.next().await? {
        copy(&mut transaction)?;
        if let Err(error) = processor.commit(transaction).await {
            processor.settled(error)?;
        }
    }
    processor.release().await?;
    Ok(processor.stats().entries)
}

fn outputs(server: &Server) -> Vec<u64> {
    let rows: Vec<(String, (String, String))> = server.ask(&["XRANGE", OUT, "-", "+"]);
    let number = |row: &(String, (String, String))| row.1.1.split('-').next().unwrap().parse();
    let mut numbers: Vec<u64> = rows.iter().map(|row| number(row).unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn workers_share_a_stream_on_every_server() -> Result<()> {
    for name in ["redis-6.2", "redis-7.0", "redis-8.10", "valkey"] {
        let Some(server) = Server::start_as(name) else { return Ok(()) };
        server.add(1, 500);
        let client = server.client();
        let mut tasks = Vec::new();
        for consumer in ["c1", "c2", "c3"] {
            tasks.push(tokio::spawn(drain(worker(&client, consumer, 7)?)));
        }
        let mut entries = 0;
        for task in tasks {
            entries += task.await.unwrap()?;
        }
        assert_eq!(entries, 500);
        assert_eq!(outputs(&server), (1..=500).collect::<Vec<u64>>());
        assert_eq!(redfloe::group_info(&client, STREAM.as_bytes()).await?[0].pending, 0);
    }
    Ok(())
}

/// Nothing of a batch is written of which another has something; what is left of it comes again, as does
/// what was dropped or stays pending.
#[tokio::test]
async fn what_is_not_committed_comes_again() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 6);
    let mut processor = worker(&server.client(), "c1", 3)?;
    let mut transaction = processor.next().await?.unwrap();
    assert_eq!(transaction.range(), (id(1).predecessor().unwrap(), id(3)));
    copy(&mut transaction)?;
    server.run(&["XCLAIM", STREAM, "g", "other", "0", "2-0"]);
    let error = processor.commit(transaction).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Claimed);
    assert_eq!(outputs(&server), [0; 0]);
    let transaction = processor.next().await?.unwrap();
    assert_eq!(transaction.batch().ids(), [id(1), id(3)]);
    drop(transaction);
    let transaction = processor.next().await?.unwrap();
    assert_eq!(transaction.batch().ids(), [id(1), id(3)]);
    // In parts, of which one is left.
    let mut first = transaction.part(0..1);
    copy(&mut first)?;
    processor.commit(first).await?;
    processor.leave(&transaction.part(1..2));
    assert_eq!(processor.plan(&transaction).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let state = processor.load(&processor.state_key()).await.unwrap_err();
    assert!(state.to_string().contains("has no state and no tables"), "{state}");
    let mut transaction = processor.next().await?.unwrap();
    assert_eq!(transaction.batch().ids(), [id(4), id(5), id(6)]);
    copy(&mut transaction)?;
    processor.commit(transaction).await?;
    assert_eq!(outputs(&server), [1, 4, 5, 6]);
    Ok(())
}

#[test]
fn what_cannot_be_right_is_refused() -> Result<()> {
    let client = Client::new(redfloe::ConnectionOptions::parse("redis://localhost:1")?);
    let Err(error) = worker(&client, "c1", 10_001) else { panic!("it was made") };
    assert!(error.to_string().contains("10000 entries at most"), "{error}");
    let group = Some((b"g".to_vec(), b"c".to_vec()));
    let mut options = ProcessorOptions::default();
    options.lane.group = group;
    let request = ReadRequest::new(STREAM, StreamSchema::default());
    let Err(error) = Processor::new(&client, request, NAME, options) else { panic!("it was made") };
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    Ok(())
}
