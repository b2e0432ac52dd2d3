//! The columns that come from the entry ID.

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, Int64Array};
use arrow_schema::{DataType, Field, TimeUnit};
use redfloe::{EntryId, ErrorKind, OnError, StreamSchema};

use crate::common::{Entry, NO_FIELDS, column_texts, decode_every_way, entry, names};

fn with_id(ms: u64, seq: u64) -> Entry {
    Entry { id: EntryId::new(ms, seq), ..entry(0, NO_FIELDS) }
}

fn metadata() -> StreamSchema {
    StreamSchema::closed(Vec::<Field>::new()).with_sequence_column(Some("_seq"))
}

#[test]
fn ids_are_whole_and_in_order() {
    let entries = [with_id(0, 1), with_id(1_704_067_200_000, 0), with_id(1_704_067_200_000, 7)];
    let batch = decode_every_way(&metadata(), &entries).unwrap();
    assert_eq!(names(&batch), ["_id", "_ts", "_seq"]);
    assert_eq!(batch.ids(), entries.each_ref().map(|entry| entry.id));
    let ids = ["0-1", "1704067200000-0", "1704067200000-7"].map(|id| Some(id.to_owned()));
    assert_eq!(column_texts(&batch, "_id"), ids);
    let times = batch.records().column_by_name("_ts").unwrap();
    assert_eq!(
        &**times,
        &Int64Array::from(vec![0, 1_704_067_200_000, 1_704_067_200_000]) as &dyn Array
    );
}

#[test]
fn each_metadata_column_can_be_renamed_or_left_out() {
    let schema = metadata()
        .with_id_column(Some("entry"))
        .with_timestamp_column(None)
        .with_sequence_column(Some("n"));
    let batch = decode_every_way(&schema, &[with_id(5, 6)]).unwrap();
    assert_eq!(names(&batch), ["entry", "n"]);

    let schema =
        metadata().with_id_column(None).with_timestamp_column(None).with_sequence_column(None);
    let batch = decode_every_way(&schema, &[with_id(5, 6), with_id(5, 7)]).unwrap();
    // A batch without columns keeps its height.
    assert_eq!((batch.records().num_columns(), batch.records().num_rows()), (0, 2));
}

#[test]
fn the_largest_id_is_exact() {
    let schema = metadata().with_timestamp_column(None);
    let batch = decode_every_way(&schema, &[with_id(u64::MAX, u64::MAX)]).unwrap();
    assert_eq!(batch.ids(), [EntryId::MAX]);
    let id = "18446744073709551615-18446744073709551615".to_owned();
    assert_eq!(column_texts(&batch, "_id"), [Some(id)]);
    let sequence = batch.records().column_by_name("_seq").unwrap();
    assert_eq!(sequence.as_primitive::<UInt64Type>().values(), &[u64::MAX]);
}

#[test]
fn milliseconds_beyond_int64_follow_the_policy() {
    let last = i64::MAX as u64;
    let entries = [with_id(last, 0), with_id(last + 1, u64::MAX), with_id(u64::MAX, 1)];

    let error = decode_every_way(&metadata(), &entries).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.message().starts_with("\"9223372036854775808\" is out of range"), "{error}");
    let context = [
        ("entry ID", "9223372036854775808-18446744073709551615"),
        ("field", "_ts"),
        ("dtype", "Int64"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    assert_eq!(error.context(), context);

    let batch = decode_every_way(&metadata().with_on_error(OnError::Null), &entries).unwrap();
    assert_eq!(column_texts(&batch, "_ts"), [Some(last.to_string()), None, None]);
    assert_eq!(column_texts(&batch, "_seq")[1], Some(u64::MAX.to_string()));

    let batch = decode_every_way(&metadata().with_rescue_column(Some("rest")), &entries).unwrap();
    let rescued = column_texts(&batch, "rest");
    assert_eq!(rescued[0], None);
    assert_eq!(rescued[2].as_deref(), Some(r#"{"_ts":"18446744073709551615"}"#));
}

#[test]
fn milliseconds_become_datetimes_of_every_unit() {
    for zone in [None, Some("UTC"), Some("Europe/Berlin")] {
        for (unit, expected) in [
            (TimeUnit::Second, 1_704_067_200),
            (TimeUnit::Millisecond, 1_704_067_200_999),
            (TimeUnit::Microsecond, 1_704_067_200_999_000),
            (TimeUnit::Nanosecond, 1_704_067_200_999_000_000),
        ] {
            let data_type = DataType::Timestamp(unit, zone.map(Into::into));
            let schema = metadata().with_timestamp_type(data_type.clone());
            let batch = decode_every_way(&schema, &[with_id(1_704_067_200_999, 0)]).unwrap();
            let column = batch.records().column_by_name("_ts").unwrap();
            assert_eq!(column.data_type(), &data_type);
            let values = arrow_cast::cast(column, &DataType::Int64).unwrap();
            assert_eq!(&*values, &Int64Array::from(vec![expected]) as &dyn Array);
        }
    }
}

#[test]
fn a_datetime_of_the_id_may_overflow_its_unit() {
    // The year 2262 is the last that nanoseconds reach; seconds reach any.
    let last = (i64::MAX / 1_000_000) as u64;
    let entries = [with_id(last, 0), with_id(last + 1, 0)];
    let nanos = metadata().with_timestamp_type(DataType::Timestamp(TimeUnit::Nanosecond, None));
    let error = decode_every_way(&nanos, &entries).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.to_string().contains("dtype: Datetime(ns)"), "{error}");

    let batch = decode_every_way(&nanos.with_on_error(OnError::Null), &entries).unwrap();
    let column = batch.records().column_by_name("_ts").unwrap();
    assert_eq!((column.is_null(0), column.is_null(1)), (false, true));

    let seconds = metadata().with_timestamp_type(DataType::Timestamp(TimeUnit::Second, None));
    assert!(decode_every_way(&seconds, &[with_id(i64::MAX as u64, 0)]).is_ok());
}
