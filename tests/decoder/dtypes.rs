//! Text that fits: each row of the table "Field text to dtype", but for what is nested.

use std::sync::Arc;

use arrow_array::types::*;
use arrow_array::*;
use arrow_schema::{DataType, Field, TimeUnit};
use redfloe::{ENUM_METADATA, EntryId, ErrorKind, INT128_METADATA, NullValues, StreamSchema};

use crate::common::{NO_FIELDS, decode_every_way, entry, texts};

/// The field `v`.
pub fn field(data_type: DataType) -> Field {
    Field::new("v", data_type, true)
}

pub fn int128() -> Field {
    let metadata = [(INT128_METADATA.to_owned(), String::new())];
    field(DataType::Decimal128(38, 0)).with_metadata(metadata.into())
}

pub fn categorical(key: DataType) -> Field {
    field(DataType::Dictionary(Box::new(key), Box::new(DataType::Utf8View)))
}

/// An Enum with the members as Polars writes them: `3;low4;high`.
pub fn polars_enum(members: &str) -> Field {
    let metadata = [(ENUM_METADATA[0].to_owned(), members.to_owned())];
    categorical(DataType::UInt8).with_metadata(metadata.into())
}

/// One text an entry, in the order of rows.
fn fits<T: AsRef<[u8]>>(field: Field, texts: &[T], expected: impl Array) {
    let entries: Vec<_> =
        texts.iter().zip(1..).map(|(text, ms)| entry(ms, [("v", text)])).collect();
    let data_type = field.data_type().clone();
    let batch = decode_every_way(&StreamSchema::closed([field]), &entries)
        .unwrap_or_else(|error| panic!("{data_type}: {error}"));
    let column = batch.records().column_by_name("v").unwrap();
    assert_eq!(column.data_type(), &data_type);
    assert_eq!(&**column, &expected as &dyn Array, "{data_type}");
}

#[test]
fn strings_are_any_utf8() {
    let long = "x".repeat(5000);
    // Twelve bytes is the most that lies in a view itself.
    let texts = ["", "a", "twelve bytes", "thirteen char", "größer 🦀 \0\r\n", "null", &long];
    fits(field(DataType::Utf8View), &texts, StringViewArray::from_iter_values(texts));
}

#[test]
fn binary_is_any_bytes() {
    let all: Vec<u8> = (0..=255).collect();
    let values: [&[u8]; 4] = [b"", b"\xff\x00", b"$5\r\n*1\r\n", &all];
    fits(field(DataType::BinaryView), &values, BinaryViewArray::from_iter_values(values));
}

#[test]
fn categories_grow_as_they_appear() {
    let texts = ["b", "a", "b", "", "a rather long category"];
    let expected = |key: DataType| {
        let keys: Vec<u32> = vec![0, 1, 0, 2, 3];
        let values: ArrayRef =
            Arc::new(StringViewArray::from(vec!["b", "a", "", "a rather long category"]));
        let dictionary = DictionaryArray::new(UInt32Array::from(keys), values);
        let data_type = categorical(key).data_type().clone();
        arrow_cast::cast(&dictionary, &data_type).unwrap()
    };
    // The empty text is null, as it is for all but String and Binary.
    for key in [DataType::UInt8, DataType::UInt16, DataType::UInt32] {
        let entries: Vec<_> = texts.iter().map(|text| entry(1, [("v", text)])).collect();
        let schema = StreamSchema::closed([categorical(key.clone())]);
        let batch = decode_every_way(&schema, &entries).unwrap();
        let column = batch.records().column_by_name("v").unwrap();
        assert_eq!(column.data_type(), expected(key).data_type());
        let expected = texts.map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()));
        assert_eq!(self::texts(column), expected);
    }
}

#[test]
fn an_enum_keeps_its_members_in_order() {
    let batch = decode_every_way(
        &StreamSchema::closed([polars_enum("3;low4;high3;né")]),
        &[entry(1, [("v", "high")]), entry(2, [("v", "low")]), entry(3, [("v", "né")])],
    )
    .unwrap();
    let column = batch.records().column_by_name("v").unwrap();
    let dictionary = column.as_any().downcast_ref::<DictionaryArray<UInt8Type>>().unwrap();
    assert_eq!(dictionary.keys(), &UInt8Array::from(vec![1, 0, 2]));
    assert_eq!(texts(dictionary.values()), ["low", "high", "né"].map(|m| Some(m.to_owned())));
    // The next batch has the same members.
    assert_eq!(batch.ids(), [1, 2, 3].map(|ms| EntryId::new(ms, 0)));
}

#[test]
fn integers_are_decimal() {
    fits(
        field(DataType::Int8),
        &["-128", "127", "+7", "007"],
        Int8Array::from(vec![-128, 127, 7, 7]),
    );
    fits(field(DataType::Int16), &["-32768", "32767"], Int16Array::from(vec![i16::MIN, i16::MAX]));
    fits(
        field(DataType::Int32),
        &["-2147483648", "2147483647"],
        Int32Array::from(vec![i32::MIN, i32::MAX]),
    );
    fits(
        field(DataType::Int64),
        &["-9223372036854775808", "9223372036854775807", "0", "-0"],
        Int64Array::from(vec![i64::MIN, i64::MAX, 0, 0]),
    );
    fits(field(DataType::UInt8), &["0", "255"], UInt8Array::from(vec![0, 255]));
    fits(field(DataType::UInt16), &["65535"], UInt16Array::from(vec![u16::MAX]));
    fits(field(DataType::UInt32), &["4294967295"], UInt32Array::from(vec![u32::MAX]));
    fits(field(DataType::UInt64), &["18446744073709551615"], UInt64Array::from(vec![u64::MAX]));
    fits(
        int128(),
        &[i128::MIN.to_string(), i128::MAX.to_string(), "-1".to_owned()],
        Decimal128Array::from(vec![i128::MIN, i128::MAX, -1])
            .with_precision_and_scale(38, 0)
            .unwrap(),
    );
}

#[test]
fn floats_are_decimal_scientific_or_special() {
    fits(
        field(DataType::Float64),
        &["1", "-1.5", "1e300", "2.5E-3", ".5", "5.", "inf", "-inf", "Infinity", "NaN", "-0"],
        Float64Array::from(vec![
            1.0,
            -1.5,
            1e300,
            2.5e-3,
            0.5,
            5.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::INFINITY,
            f64::NAN,
            -0.0,
        ]),
    );
    fits(field(DataType::Float32), &["0.1", "-3.5e-2"], Float32Array::from(vec![0.1, -3.5e-2]));
}

#[test]
fn decimals_are_exact() {
    let decimals = |values: &[i128], precision, scale| {
        Decimal128Array::from(values.to_vec()).with_precision_and_scale(precision, scale).unwrap()
    };
    fits(
        field(DataType::Decimal128(5, 2)),
        &["1", "-1.25", "999.99", "0.10", "1.2e1", "-0"],
        decimals(&[100, -125, 99999, 10, 1200, 0], 5, 2),
    );
    let nines = "9".repeat(38);
    fits(field(DataType::Decimal128(38, 0)), &[&nines], decimals(&[nines.parse().unwrap()], 38, 0));
    fits(field(DataType::Decimal128(38, 38)), &["0.00000000000000000000000000000000000001"], {
        decimals(&[1], 38, 38)
    });
}

#[test]
fn booleans_have_many_spellings() {
    let truths = ["true", "TRUE", "True", "t", "T", "yes", "YES", "1"];
    let lies = ["false", "FALSE", "False", "f", "F", "no", "NO", "0"];
    fits(field(DataType::Boolean), &truths, BooleanArray::from(vec![true; truths.len()]));
    fits(field(DataType::Boolean), &lies, BooleanArray::from(vec![false; lies.len()]));
}

#[test]
fn dates_and_times_are_iso_8601() {
    fits(
        field(DataType::Date32),
        &["1970-01-02", "1969-12-31", "2024-02-29", "20240229", "0001-01-01", "+10000-01-01"],
        Date32Array::from(vec![1, -1, 19782, 19782, -719162, 2932897]),
    );
    fits(
        field(DataType::Time64(TimeUnit::Nanosecond)),
        &["00:00", "12:30", "00:00:01", "00:00:01.5", "23:59:59.999999999"],
        Time64NanosecondArray::from(vec![
            0,
            45_000_000_000_000,
            1_000_000_000,
            1_500_000_000,
            86_399_999_999_999,
        ]),
    );
}

#[test]
fn datetimes_are_iso_8601_or_an_epoch_in_their_unit() {
    let timestamp =
        |unit, zone: Option<&str>| field(DataType::Timestamp(unit, zone.map(Into::into)));
    let texts = [
        "1970-01-01T00:00:02",
        "1970-01-01 00:00:02",
        "1970-01-01T00:00:02Z",
        "1970-01-01T02:00:02+02:00",
        "1969-12-31T22:30:02-01:30",
        "1970-01-02",
        "-2",
    ];
    fits(
        timestamp(TimeUnit::Second, None),
        &texts,
        TimestampSecondArray::from(vec![2, 2, 2, 2, 2, 86_400, -2]),
    );
    fits(
        timestamp(TimeUnit::Millisecond, Some("UTC")),
        &texts,
        TimestampMillisecondArray::from(vec![2000, 2000, 2000, 2000, 2000, 86_400_000, -2])
            .with_timezone("UTC"),
    );
    fits(
        timestamp(TimeUnit::Microsecond, None),
        &["2024-07-01T12:00:00.123456", "1969-12-31T23:59:59.999999"],
        TimestampMicrosecondArray::from(vec![1_719_835_200_123_456, -1]),
    );
    fits(
        timestamp(TimeUnit::Nanosecond, None),
        &["2024-07-01T12:00:00.123456789", "9223372036854775807"],
        TimestampNanosecondArray::from(vec![1_719_835_200_123_456_789, i64::MAX]),
    );
}

#[test]
fn datetimes_without_offset_are_local_in_the_columns_zone() {
    // Summer and winter differ by an hour in Berlin.
    for (zone, expected) in [
        ("Europe/Berlin", [1_719_784_800, 1_704_063_600, 1_719_792_000]),
        ("+02:00", [1_719_784_800, 1_704_060_000, 1_719_792_000]),
        ("UTC", [1_719_792_000, 1_704_067_200, 1_719_792_000]),
    ] {
        fits(
            field(DataType::Timestamp(TimeUnit::Second, Some(zone.into()))),
            &["2024-07-01T00:00:00", "2024-01-01T00:00:00", "2024-07-01T00:00:00Z"],
            TimestampSecondArray::from(expected.to_vec()).with_timezone(zone),
        );
    }
}

#[test]
fn durations_are_integers_in_their_unit_or_iso_8601() {
    let texts = ["1500", "-1", "PT3S", "P1DT1H", "-PT1M", "P1W"];
    let seconds = [3, 90_000, -60, 604_800];
    let expected = |per_second: i64| {
        [1500, -1].into_iter().chain(seconds.map(|count| count * per_second)).collect::<Vec<_>>()
    };
    let duration = |unit| field(DataType::Duration(unit));
    fits(duration(TimeUnit::Second), &texts, DurationSecondArray::from(expected(1)));
    fits(duration(TimeUnit::Millisecond), &texts, DurationMillisecondArray::from(expected(1000)));
    fits(
        duration(TimeUnit::Microsecond),
        &texts,
        DurationMicrosecondArray::from(expected(1_000_000)),
    );
    fits(
        duration(TimeUnit::Nanosecond),
        &texts,
        DurationNanosecondArray::from(expected(1_000_000_000)),
    );
    fits(
        duration(TimeUnit::Nanosecond),
        &["PT0.000000001S"],
        DurationNanosecondArray::from(vec![1]),
    );
}

/// Each dtype with a text that fits it.
pub fn samples() -> Vec<(Field, &'static str)> {
    let item = |data_type| Arc::new(Field::new("item", data_type, true));
    vec![
        (field(DataType::Utf8View), "text"),
        (field(DataType::BinaryView), "bytes"),
        (categorical(DataType::UInt32), "category"),
        (polars_enum("3;low4;high"), "low"),
        (field(DataType::Int8), "1"),
        (field(DataType::Int16), "1"),
        (field(DataType::Int32), "1"),
        (field(DataType::Int64), "1"),
        (int128(), "1"),
        (field(DataType::UInt8), "1"),
        (field(DataType::UInt16), "1"),
        (field(DataType::UInt32), "1"),
        (field(DataType::UInt64), "1"),
        (field(DataType::Float32), "1.5"),
        (field(DataType::Float64), "1.5"),
        (field(DataType::Decimal128(5, 2)), "1.5"),
        (field(DataType::Boolean), "true"),
        (field(DataType::Date32), "2024-01-31"),
        (field(DataType::Time64(TimeUnit::Nanosecond)), "12:30"),
        (field(DataType::Timestamp(TimeUnit::Second, None)), "2024-01-31T12:30:00"),
        (field(DataType::Timestamp(TimeUnit::Millisecond, None)), "2024-01-31T12:30:00"),
        (field(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))), "1706704200000000"),
        (field(DataType::Timestamp(TimeUnit::Nanosecond, None)), "2024-01-31T12:30:00"),
        (field(DataType::Duration(TimeUnit::Second)), "PT1S"),
        (field(DataType::Duration(TimeUnit::Millisecond)), "1000"),
        (field(DataType::Duration(TimeUnit::Microsecond)), "PT1S"),
        (field(DataType::Duration(TimeUnit::Nanosecond)), "PT1S"),
        (field(DataType::List(item(DataType::Int64))), "[1]"),
        (field(DataType::LargeList(item(DataType::Int64))), "[1]"),
        (field(DataType::FixedSizeList(item(DataType::Int64), 1)), "[1]"),
        (field(DataType::Struct(vec![item(DataType::Int64)].into())), r#"{"item":1}"#),
    ]
}

#[test]
fn what_is_missing_empty_or_named_is_null() {
    for (field, sample) in samples() {
        let data_type = field.data_type().clone();
        let keeps_empty = matches!(data_type, DataType::Utf8View | DataType::BinaryView);
        let null_values = NullValues {
            all: vec!["n/a".to_owned(), "-".to_owned()],
            by_field: [
                ("v".to_owned(), vec!["NULL".to_owned()]),
                ("w".to_owned(), vec![sample.to_owned()]),
            ]
            .into(),
        };
        let schema = StreamSchema::closed([field]).with_null_values(null_values);
        let entries = [
            entry(1, [("v", sample)]),
            entry(2, NO_FIELDS),
            entry(3, [("v", "")]),
            entry(4, [("v", "n/a")]),
            entry(5, [("v", "-")]),
            entry(6, [("v", "NULL")]),
            entry(7, [("w", "unknown")]),
            entry(8, [("v", sample)]),
        ];
        let batch = decode_every_way(&schema, &entries).unwrap();
        let column = batch.records().column_by_name("v").unwrap();
        let null: Vec<bool> = texts(column).iter().map(Option::is_none).collect();
        assert_eq!(null, [false, true, !keeps_empty, true, true, true, true, false], "{data_type}");
    }
}

#[test]
fn an_empty_read_has_every_column() {
    for (field, _) in samples() {
        let schema = StreamSchema::closed([field]);
        let batch = decode_every_way(&schema, &[]).unwrap();
        assert!(batch.is_empty());
        assert_eq!(batch.records().schema(), schema.arrow().unwrap());
    }
}

#[test]
fn a_batch_starts_afresh_after_a_flush() {
    for (field, sample) in samples() {
        let schema = StreamSchema::closed([field]);
        let mut decoder = redfloe::Decoder::new(schema, redfloe::ReplyShape::Entries).unwrap();
        let reply = crate::common::Protocol::Resp2.entries(&[entry(1, [("v", sample)])]);
        crate::common::feed(&mut decoder, &reply).unwrap();
        let first = decoder.flush().unwrap();
        crate::common::feed(&mut decoder, &reply).unwrap();
        let second = decoder.flush().unwrap();
        assert_eq!(first.records(), second.records());
        assert!(decoder.flush().unwrap().is_empty());
    }
}

#[test]
fn a_dtype_that_no_text_stands_for_is_refused() {
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    for (field, expected) in [
        (field(DataType::Utf8), "has no text form"),
        (field(DataType::Null), "has no text form"),
        (field(DataType::Date64), "has no text form"),
        (field(DataType::Time64(TimeUnit::Microsecond)), "has no text form"),
        (field(DataType::Decimal256(5, 2)), "has no text form"),
        (field(DataType::List(item)), "has no text form"),
        (categorical(DataType::Int8), "has no text form"),
        (polars_enum("3;lo"), "members of the Enum"),
        (polars_enum("x"), "members of the Enum"),
        (polars_enum("1;é"), "members of the Enum"),
        (polars_enum(&"1;a".repeat(256)), "more members"),
        (field(DataType::Timestamp(TimeUnit::Second, Some("Mars/Base".into()))), "time zone"),
        (Field::new("v", DataType::Int64, false), "nullable"),
    ] {
        let schema = StreamSchema::closed([field.clone()]);
        let error = redfloe::Decoder::new(schema, redfloe::ReplyShape::Entries).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema, "{field}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}
