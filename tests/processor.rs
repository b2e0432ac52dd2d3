//! A processor's loop by the Rust API: what it hands out, and that it is committed once.

mod live;

use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{DataType, Field};
use redfloe::{
    Client, ErrorKind, IdBound, LaneOptions, OnDataLoss, OnIdle, Processor, ProcessorOptions,
    ReadRequest, Result, StreamSchema, Transaction, state_key,
};

use live::lanes::{NAME, OUT, check, id, text};
use live::proxy::{Fault, Proxy};
use live::{STREAM, Server};

fn request(rows: usize) -> ReadRequest {
    let schema = StreamSchema::closed([Field::new("n", DataType::Int64, true)]);
    ReadRequest::new(STREAM, schema)
        .with_batch_size(rows)
        .with_block(Some(Duration::from_millis(1)))
        .with_on_idle(OnIdle::Stop)
}

fn processor(client: &Client, rows: usize, options: ProcessorOptions) -> Processor {
    Processor::new(client, request(rows), NAME, options).unwrap()
}

/// What `check` looks for.
fn work(transaction: &mut Transaction, sum: &mut i64) -> Result<()> {
    let column = transaction.batch().records().column_by_name("n").unwrap();
    for number in column.as_primitive::<Int64Type>().values().to_vec() {
        *sum += number;
        let fields = [(&b"n"[..], &text(number)[..]), (b"sum", &text(*sum))];
        transaction.commit().add(OUT.as_bytes(), fields)?;
    }
    let state = state_key(STREAM.as_bytes(), NAME);
    transaction.commit().set(&state, b"sum", &text(*sum))
}

/// Drains the stream, and gives the sizes of batches.
async fn drain(processor: &mut Processor) -> Result<Vec<usize>> {
    let (mut epoch, mut sum, mut sizes) = (None, 0, Vec::new());
    while let Some(mut transaction) = processor.next().await? {
        if epoch.replace(transaction.epoch()) != Some(transaction.epoch()) {
            let state = processor.load(&processor.state_key()).await?;
            let saved = state.get(&b"sum"[..]).map(|text| String::from_utf8_lossy(text).parse());
            sum = saved.transpose().unwrap().unwrap_or(0);
        }
        sizes.push(transaction.batch().len());
        work(&mut transaction, &mut sum)?;
        if let Err(error) = processor.commit(transaction).await {
            processor.settled(error)?;
        }
    }
    Ok(sizes)
}

#[tokio::test]
async fn batches_are_of_the_size_that_was_asked_for() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    for rows in [1, 3, 999, 1_000, 1_001, 5_000] {
        server.run(&["FLUSHALL"]);
        server.add(1, 2_500);
        let mut processor = processor(&server.client(), rows, ProcessorOptions::default());
        let sizes = drain(&mut processor).await?;
        assert!(sizes.iter().rev().skip(1).all(|size| *size == rows.min(2_500)), "{rows}");
        check(&server, 2_500);
        assert_eq!(processor.stats().entries, 2_500);
        processor.release().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_that_was_not_committed_is_handed_out_again() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 10);
    let mut processor = processor(&server.client(), 4, ProcessorOptions::default());
    let first = processor.next().await?.unwrap();
    let mut again = processor.next().await?.unwrap();
    assert_eq!(first.batch().ids(), again.batch().ids());
    // A part of it may be committed alone, and the rest comes then.
    let mut part = first.part(0..1);
    assert_eq!(part.range(), (id(0), id(1)));
    let mut sum = 0;
    work(&mut part, &mut sum)?;
    processor.commit(part).await?;
    work(&mut again, &mut 0)?;
    let error = processor.commit(again).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let rest = processor.next().await?.unwrap();
    assert_eq!(rest.batch().ids(), [id(2), id(3), id(4), id(5)]);
    drain(&mut processor).await?;
    check(&server, 10);
    Ok(())
}

#[tokio::test]
async fn a_transaction_of_before_the_lane_was_acquired_anew_is_refused() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(1, 4);
    let client = server.client();
    let mut processor = processor(&client, 2, ProcessorOptions::default());
    let old = processor.next().await?.unwrap();
    processor.release().await?;
    let new = processor.next().await?.unwrap();
    assert_eq!((old.epoch(), new.epoch()), (1, 2));
    let error = processor.commit(old).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("acquired anew"), "{error}");
    processor.commit(new).await?;
    Ok(())
}

#[tokio::test]
async fn a_wait_is_ended_by_the_stopper() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let client = server.client();
    let request = request(1).with_on_idle(OnIdle::Wait).with_block(None);
    let mut processor = Processor::new(&client, request, NAME, ProcessorOptions::default())?;
    let stopper = processor.stopper();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stopper.stop();
    };
    let (next, ()) = tokio::join!(processor.next(), stop);
    assert!(next?.is_none());
    Ok(())
}

#[tokio::test]
async fn lost_replies_of_each_script_change_nothing() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    for script in [
        "where a new\n-- lane begins",
        "what a successor has written",
        "A script is not rolled back",
        "XRANGE",
    ] {
        server.run(&["FLUSHALL"]);
        server.run(&["SCRIPT", "FLUSH"]);
        server.add(1, 10);
        let proxy = Proxy::start(&server);
        proxy.arm(script, Fault::LoseReply);
        let mut processor = processor(&proxy.client(), 3, ProcessorOptions::default());
        drain(&mut processor).await?;
        check(&server, 10);
    }
    Ok(())
}

#[tokio::test]
async fn a_start_that_nobody_has_read_up_to_loses_nothing() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    server.add(5, 10);
    for start in [3, 7, 20] {
        server.run(&["DEL", "{numbers}:redfloe:numbers:sums"]);
        let request = request(100).with_range(IdBound::Id(id(start)), IdBound::Newest);
        let options = ProcessorOptions { on_data_loss: OnDataLoss::Raise, ..Default::default() };
        let mut processor = Processor::new(&server.client(), request, NAME, options)?;
        let first = processor.next().await?.map(|transaction| transaction.batch().ids()[0]);
        assert_eq!(first, [5, 7].into_iter().map(id).find(|id| id.ms >= start));
        processor.release().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_right_is_refused() {
    let Some(server) = Server::start() else { return };
    let client = server.client();
    let refused = [
        ProcessorOptions { max_deliveries: Some(1), ..Default::default() },
        ProcessorOptions {
            lane: LaneOptions { lease: Duration::ZERO, ..Default::default() },
            ..Default::default()
        },
        ProcessorOptions {
            lane: LaneOptions { group: Some((b"g".to_vec(), b"c".to_vec())), ..Default::default() },
            ..Default::default()
        },
    ];
    for options in refused {
        let made = Processor::new(&client, request(1), NAME, options);
        assert_eq!(made.err().map(|error| error.kind()), Some(ErrorKind::InvalidArgument));
    }
}
