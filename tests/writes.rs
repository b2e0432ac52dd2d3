//! The writes of the Rust API, against a real server that the test starts.

mod live;

use std::sync::Arc;
use std::time::Duration;

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use redfloe::{
    Client, ConnectionOptions, ErrorKind, HashRequest, IfExists, Producer, ProducerOptions,
    ReadRequest, Result, StreamSchema, Trim, WriteRequest, write, write_hashes,
};

use live::{STREAM, Server};

fn rows() -> RecordBatch {
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["5-0", "6-1", "7-0"]));
    let names: ArrayRef = Arc::new(StringArray::from(vec![Some("ada"), None, Some("bob")]));
    let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None]));
    RecordBatch::try_from_iter_with_nullable([
        ("id", ids, true),
        ("name", names, true),
        ("n", values, true),
    ])
    .unwrap()
}

fn with_ids() -> WriteRequest {
    WriteRequest::new(STREAM).with_id_column(Some("id"))
}

/// The values of a field of all entries.
async fn stored(server: &Server, field: &str) -> Result<Vec<Option<String>>> {
    use arrow_array::cast::AsArray;
    let request = ReadRequest::new(STREAM, StreamSchema::default());
    let batch = redfloe::read(&server.client(), request).await?;
    let column = batch.records().column_by_name(field).unwrap();
    Ok(column.as_string_view().iter().map(|value| value.map(str::to_owned)).collect())
}

#[tokio::test]
async fn rows_become_entries() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let request = with_ids().with_trim(Some(Trim::max_len(1_000)));
    let written =
        write(&server.client(), &[rows().slice(0, 1), rows().slice(1, 2)], &request).await?;
    let ids: Vec<_> = written.ids().iter().collect();
    assert_eq!(ids, [Some("5-0"), Some("6-1"), Some("7-0")]);
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(stored(&server, "name").await?, [some("ada"), None, some("bob")]);
    assert_eq!(stored(&server, "n").await?, [some("1"), some("2"), None]);
    Ok(())
}

#[tokio::test]
async fn a_failure_says_what_is_in() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let client = server.client();
    write(&client, &[rows()], &with_ids()).await?;
    let failure = write(&client, &[rows()], &with_ids()).await.unwrap_err();
    assert_eq!(failure.error().kind(), ErrorKind::Write);
    assert_eq!((failure.row(), failure.written().rows(), failure.unknown()), (Some(0), 0, 0..0));
    assert_eq!(failure.written().ids().len(), 3);
    let request = with_ids().with_fields(Some(vec!["other".to_owned()]));
    let failure = write(&client, &[rows()], &request).await.unwrap_err();
    assert_eq!(failure.error().kind(), ErrorKind::Schema);
    server.run(&["DEL", STREAM]);
    server.run(&["SET", STREAM, "x"]);
    let failure = write(&client, &[rows()], &with_ids()).await.unwrap_err();
    assert_eq!(failure.error().kind(), ErrorKind::WrongType);
    Ok(())
}

#[tokio::test]
async fn a_write_is_stopped() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..300_000));
    let batch = RecordBatch::try_from_iter([("n", values)]).unwrap();
    let control = redfloe::WriteControl::default();
    let request = WriteRequest::new(STREAM).with_control(control.clone());
    let client = server.client();
    let writing = tokio::spawn(async move { write(&client, &[batch], &request).await });
    while control.rows_written() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    control.stop();
    let failure = writing.await.unwrap().unwrap_err();
    assert_eq!(failure.error().kind(), ErrorKind::Write);
    let rows = failure.written().rows();
    assert!(0 < rows && rows < 300_000);
    assert_eq!(failure.row(), Some(rows));
    assert_eq!(stored(&server, "n").await?.len(), rows);
    Ok(())
}

#[tokio::test]
async fn a_producer_lingers() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let options = ProducerOptions::default();
    let producer = Producer::new(server.client(), WriteRequest::new(STREAM), options);
    let working = tokio::spawn(producer.worker());
    for n in 0..2_500 {
        assert!(producer.send([(&b"n"[..], n.to_string().as_bytes())])?.is_some());
    }
    producer.close().await;
    assert!(producer.failed().is_none());
    assert!(producer.send([(&b"n"[..], &b"1"[..])]).is_err());
    working.await.unwrap();
    assert_eq!(producer.rows_written(), 2_500);
    let expected: Vec<_> = (0..2_500).map(|n| Some(n.to_string())).collect();
    assert_eq!(stored(&server, "n").await?, expected);
    Ok(())
}

/// Keys may be longer than what is written there.
#[test]
fn a_producer_counts_the_keys_of_streams() -> Result<()> {
    let client = Client::new(ConnectionOptions::parse("redis://localhost")?);
    let options = ProducerOptions { buffer_bytes: 10_000, ..ProducerOptions::default() };
    let producer = Producer::new(client, WriteRequest::new(STREAM), options);
    let key = [b'k'; 1_000];
    let mut taken = 0;
    while producer.send_to(Some(&key), [(&b"n"[..], &b"1"[..])])?.is_some() {
        taken += 1;
    }
    assert_eq!(taken, 9);
    Ok(())
}

#[tokio::test]
async fn rows_become_hashes() -> Result<()> {
    let Some(server) = Server::start() else { return Ok(()) };
    let request = HashRequest::new("id").with_key_prefix("h:");
    assert_eq!(write_hashes(&server.client(), &[rows()], &request).await?, 3);
    let request = request.with_if_exists(IfExists::Fail);
    let failure = write_hashes(&server.client(), &[rows()], &request).await.unwrap_err();
    assert_eq!((failure.error().kind(), failure.row()), (ErrorKind::Write, Some(0)));
    Ok(())
}
