//! Random histories of a table against a plain map, with commits that succeed and that fail.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, Int64Array, StringViewArray};
use arrow_schema::{DataType, Field, Schema};
use proptest::prelude::*;

use super::*;

const EXPIRE_AFTER: i64 = 50;

#[derive(Debug, Clone)]
enum Step {
    Upsert(Vec<(u8, Option<i64>)>),
    Delete(Vec<u8>),
    Expire(Option<i64>),
    Clear,
    Commit,
    Rollback,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = || proptest::option::weighted(0.9, 0..200_i64);
    let rows = proptest::collection::vec((any::<u8>(), time()), 0..12);
    let step = prop_oneof![
        8 => rows.prop_map(Step::Upsert),
        3 => proptest::collection::vec(any::<u8>(), 0..8).prop_map(Step::Delete),
        2 => time().prop_map(Step::Expire),
        1 => Just(Step::Clear),
        5 => Just(Step::Commit),
        3 => Just(Step::Rollback),
        2 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..120)
}

type Plain = BTreeMap<String, Option<i64>>;

fn name(key: u8) -> String {
    // Some are too long to lie in a view itself.
    if key.is_multiple_of(2) { format!("k{key}") } else { format!("a key that is long: {key}") }
}

fn batch(rows: &[(u8, Option<i64>)]) -> RecordBatch {
    named(rows.iter().map(|(key, time)| (name(*key), *time)))
}

fn named(rows: impl Iterator<Item = (String, Option<i64>)> + Clone) -> RecordBatch {
    let keys: StringViewArray = rows.clone().map(|(key, _)| Some(key)).collect();
    let times: Int64Array = rows.clone().map(|(_, time)| time).collect();
    let texts: StringViewArray =
        rows.map(|(key, time)| Some(format!("{key} at {time:?}"))).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(times), Arc::new(texts)]).unwrap()
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Utf8View, true),
        Field::new("time", DataType::Int64, true),
        Field::new("text", DataType::Utf8View, true),
    ]))
}

fn keys(keys: &[u8]) -> RecordBatch {
    let rows: Vec<_> = keys.iter().map(|key| (*key, None)).collect();
    batch(&rows).project(&[0]).unwrap()
}

fn table() -> Table {
    loaded(&Plain::new(), None)
}

/// As another process loads it.
fn loaded(saved: &Plain, newest: Option<i64>) -> Table {
    let fields: Vec<Field> = schema().fields().iter().map(|field| Field::clone(field)).collect();
    let expiry = Expiry { column: "time".to_owned(), after_millis: EXPIRE_AFTER };
    let (keys, values) = fields.split_at(1);
    let spec = Spec::new(keys.to_vec(), values.to_vec(), Some(expiry)).unwrap();
    let mut keys = Texts::default();
    saved.keys().for_each(|key| keys.push(key.as_bytes()));
    let rows = named(saved.iter().map(|(key, time)| (key.clone(), *time)));
    let mut table = Table::new(Arc::new(spec), &keys, rows).unwrap();
    table.see(newest);
    table
}

fn plain(frame: &RecordBatch) -> Plain {
    let (keys, times) = (frame.column(0).as_string_view(), frame.column(1));
    let times = times.as_primitive::<Int64Type>();
    let time = |row: usize| times.is_valid(row).then(|| times.value(row));
    let rows: Plain =
        (0..frame.num_rows()).map(|row| (keys.value(row).to_owned(), time(row))).collect();
    assert_eq!(rows.len(), frame.num_rows());
    for row in 0..frame.num_rows() {
        let expected = format!("{} at {:?}", keys.value(row), time(row));
        assert_eq!(frame.column(2).as_string_view().value(row), expected);
    }
    rows
}

/// What the hash has after a commit's commands.
fn apply(hash: &mut BTreeMap<String, String>, changes: &Changes) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    for (key, row) in changes.sets() {
        assert_ne!(hash.insert(text(key), text(row)), Some(text(row)), "it was written before");
    }
    for key in changes.deletes() {
        assert!(hash.remove(&text(key)).is_some(), "it was not there");
    }
}

fn document(key: &str, time: Option<i64>) -> String {
    let text = format!("\"text\":\"{key} at {time:?}\"}}");
    time.map_or_else(|| format!("{{{text}"), |time| format!("{{\"time\":{time},{text}"))
}

proptest! {
    #[test]
    fn a_table_is_a_map(steps in steps()) {
        let mut table = table();
        let (mut now, mut saved) = (Plain::new(), Plain::new());
        let (mut newest, mut saved_newest) = (None, None);
        let mut hash = BTreeMap::new();
        for step in steps {
            match step {
                Step::Upsert(rows) => {
                    table.upsert(&batch(&rows)).unwrap();
                    // Of a key's rows only the last is ever in the table.
                    let last: Plain = rows.iter().map(|(key, time)| (name(*key), *time)).collect();
                    newest = newest.max(last.values().copied().max().flatten());
                    now.extend(last);
                }
                Step::Delete(gone) => {
                    let before = now.len();
                    now.retain(|key, _| !gone.iter().any(|other| name(*other) == *key));
                    prop_assert_eq!(table.delete(&keys(&gone)).unwrap(), before - now.len());
                }
                Step::Expire(watermark) => {
                    let before = now.len();
                    if let Some(watermark) = watermark.max(newest) {
                        now.retain(|_, time| time.is_none_or(|t| t >= watermark - EXPIRE_AFTER));
                    }
                    prop_assert_eq!(table.expire(watermark), before - now.len());
                }
                Step::Clear => {
                    table.clear();
                    now.clear();
                }
                Step::Commit => {
                    apply(&mut hash, &table.changes().unwrap());
                    table.commit().unwrap();
                    (saved, saved_newest) = (now.clone(), newest);
                    let expected: BTreeMap<_, _> =
                        now.iter().map(|(key, time)| (key.clone(), document(key, *time))).collect();
                    prop_assert_eq!(&hash, &expected);
                }
                Step::Rollback => {
                    table.rollback();
                    (now, newest) = (saved.clone(), saved_newest);
                }
                Step::Restart => {
                    (now, newest) = (saved.clone(), saved_newest);
                    table = loaded(&saved, saved_newest);
                }
            }
            prop_assert_eq!((table.len(), table.newest_ms()), (now.len(), newest));
            prop_assert_eq!(plain(&table.frame().unwrap()), now.clone());
            let some: Vec<u8> = (0..40).collect();
            let found = table.lookup(&keys(&some)).unwrap();
            let contained = table.contains(&keys(&some)).unwrap();
            for (row, key) in some.iter().enumerate() {
                let expected = now.get(&name(*key));
                prop_assert_eq!(contained[row], expected.is_some());
                let text = found.column(1).as_string_view();
                let text = text.is_valid(row).then(|| text.value(row).to_owned());
                prop_assert_eq!(text, expected.map(|time| format!("{} at {time:?}", name(*key))));
            }
        }
    }
}

/// However often few rows are written, no more is kept than a few times their size.
#[test]
fn what_was_replaced_is_forgotten() {
    let mut table = table();
    let mut most = 0;
    for round in 0..1_500_i64 {
        let rows: Vec<_> = (0..20).map(|key| (key, Some(round * 100))).collect();
        table.upsert(&batch(&rows)).unwrap();
        if round % 7 == 0 {
            table.delete(&keys(&[1, 3])).unwrap();
        }
        table.commit().unwrap();
        most = most.max(table.rows.len());
        assert!(table.expiring.as_ref().is_some_and(|expiring| expiring.len() <= 1_100));
    }
    assert!(most < 1_100, "{most}");
    assert_eq!(table.len(), 20);
}

/// Keys that come once and go leave nothing behind either.
#[test]
fn keys_that_are_gone_are_forgotten() {
    let mut table = table();
    for round in 0..1_500_i64 {
        let key: StringViewArray = [Some(format!("key {round}"))].into_iter().collect();
        let row = batch(&[(0, Some(round * 10))]);
        let columns =
            vec![Arc::new(key) as _, Arc::clone(row.column(1)), Arc::clone(row.column(2))];
        table.upsert(&RecordBatch::try_new(schema(), columns).unwrap()).unwrap();
        table.expire(None);
        table.commit().unwrap();
        assert!(table.len() <= 6 && table.index.len() <= 1_100);
    }
    assert_eq!(table.len(), 6);
}

/// A transaction of many small writes merges its rows, and a rollback still finds the way back.
#[test]
fn small_writes_become_few_batches() {
    let mut table = table();
    let all: Vec<_> = (0..=255).map(|key| (key, Some(1))).collect();
    table.upsert(&batch(&all)).unwrap();
    table.commit().unwrap();
    let before = plain(&table.frame().unwrap());
    for key in 0..=255 {
        table.upsert(&batch(&[(key, Some(2))])).unwrap();
    }
    let changes = table.changes().unwrap();
    assert_eq!((changes.sets().len(), changes.deletes().len()), (256, 0));
    table.rollback();
    assert_eq!(plain(&table.frame().unwrap()), before);
    assert_eq!(table.changes().unwrap().sets().len(), 0);
}
