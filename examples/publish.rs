//! Rows of a record batch into a stream, and what became of them.
//!
//! ```text
//! cargo run --example publish -- redis://localhost events
//! ```

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use redfloe::{Client, ConnectionOptions, Trim, WriteRequest};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(stream)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: publish URL STREAM");
        std::process::exit(2);
    };
    let users: ArrayRef = Arc::new(StringArray::from(vec!["ada", "bob"]));
    let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.5), None]));
    let batch = RecordBatch::try_from_iter([("user", users), ("value", values)])?;

    let client = Client::new(ConnectionOptions::parse(&url)?);
    let request = WriteRequest::new(stream).with_trim(Some(Trim::max_len(1_000_000)));
    match redfloe::write(&client, &[batch], &request).await {
        Ok(written) => println!("{} entries, IDs {:?}", written.rows(), written.ids()),
        Err(failure) => {
            eprintln!("{failure}; {} rows are in", failure.written().rows());
            std::process::exit(1);
        }
    }
    Ok(())
}
