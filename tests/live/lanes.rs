//! A processor of the stream's numbers, for the tests of lanes and commits.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{DataType, Field};
use redfloe::{
    Client, Commit, EntryId, Lane, LaneOptions, OnDataLoss, Page, PageReader, ReadRequest, Result,
    StreamSchema, state_key, table_key,
};

use super::{STREAM, Server};

pub const NAME: &[u8] = b"sums";
pub const OUT: &str = "{numbers}:sums";

pub fn id(number: u64) -> EntryId {
    EntryId::new(number, 0)
}

pub fn lane_of(client: &Client, options: LaneOptions) -> Lane {
    Lane::new(client, STREAM.as_bytes(), NAME, options).unwrap()
}

pub fn pages(client: &Client, rows: usize) -> PageReader {
    let schema = StreamSchema::closed([Field::new("n", DataType::Int64, true)]);
    PageReader::new(client, ReadRequest::new(STREAM, schema), rows, OnDataLoss::Raise)
}

pub fn numbers(page: &Page) -> Vec<i64> {
    let column = page.batch.records().column_by_name("n").unwrap();
    column.as_primitive::<Int64Type>().values().to_vec()
}

pub fn text(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// The sum so far, as the server has it.
pub fn sum(server: &Server) -> i64 {
    let key = String::from_utf8(state_key(STREAM.as_bytes(), NAME)).unwrap();
    let sum: Option<i64> = server.ask(&["HGET", &key, "sum"]);
    sum.unwrap_or_default()
}

/// What one commit makes of a page: the sum up to each number, the sum, and a row for the latest number.
pub fn commit_of(page: &Page, sum: &mut i64) -> Result<Commit> {
    let mut commit = Commit::between(page.after, page.last);
    for number in numbers(page) {
        *sum += number;
        commit.add(OUT.as_bytes(), [(&b"n"[..], &text(number)[..]), (b"sum", &text(*sum))])?;
        commit.set(&table_key(STREAM.as_bytes(), NAME, b"t"), &text(number % 3), &text(number))?;
    }
    commit.set(&state_key(STREAM.as_bytes(), NAME), b"sum", &text(*sum))?;
    Ok(commit)
}

/// Whether all that came of the numbers up to there is what one undisturbed run writes.
pub fn check(server: &Server, last: i64) {
    let rows: Vec<(String, Vec<String>)> = server.ask(&["XRANGE", OUT, "-", "+"]);
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, fields)| fields).collect();
    let expected: Vec<Vec<String>> = (1..=last)
        .map(|number| {
            let sum = number * (number + 1) / 2;
            vec!["n".to_owned(), number.to_string(), "sum".to_owned(), sum.to_string()]
        })
        .collect();
    assert_eq!(rows, expected);
    assert_eq!(sum(server), last * (last + 1) / 2);
}

pub fn lane_name() -> Vec<u8> {
    b"{numbers}:redfloe:numbers:sums".to_vec()
}

pub fn key_text(key: Vec<u8>) -> String {
    String::from_utf8(key).unwrap()
}
