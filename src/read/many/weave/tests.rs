use arrow_array::builder::{ListBuilder, StringViewBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, GenericListArray, StringViewArray, UInt64Array};
use proptest::prelude::*;

use super::*;

/// Rows `(stream, id)`, which are also the values of one column; in other pages it is another.
fn page(rows: &[(usize, u64)], column: &str) -> Batch {
    let values: UInt64Array = rows.iter().map(|(stream, ms)| *stream as u64 * 100 + ms).collect();
    let records =
        RecordBatch::try_from_iter_with_nullable([(column, Arc::new(values) as ArrayRef, true)])
            .unwrap();
    let ids = rows.iter().map(|(_, ms)| EntryId { ms: *ms, seq: 0 }).collect();
    let mut runs: Vec<Run> = Vec::new();
    for (row, (stream, _)) in rows.iter().enumerate() {
        if runs.last().is_none_or(|run| run.stream != *stream) {
            runs.push(Run { row, stream: *stream });
        }
    }
    Batch::new(records, ids, Vec::new()).with_runs(runs)
}

fn columns() -> Columns {
    let schema = StreamSchema::default().with_id_column(None).with_timestamp_column(None);
    Columns::new(&Arc::new(schema))
}

proptest! {
    /// As a sort of all rows, in whichever portions they come and are taken.
    #[test]
    fn rows_come_sorted(
        streams in prop::collection::vec(prop::collection::btree_set(0u64..60, 0..20), 0..8),
        nodes in prop::collection::vec(0usize..3, 8),
        by_id in any::<bool>(),
        pages in prop::collection::vec(1usize..9, 1..9),
        batches in prop::collection::vec(1usize..9, 1..9),
    ) {
        let order = if by_id { StreamOrder::ById } else { StreamOrder::ByStream };
        let sort = |rows: &mut Vec<(usize, u64)>| match by_id {
            true => rows.sort_by_key(|(stream, ms)| (*ms, *stream)),
            false => rows.sort(),
        };
        let mut sources = vec![Vec::new(); 3];
        for ((stream, ids), node) in streams.iter().enumerate().zip(&nodes) {
            sources[*node].extend(ids.iter().map(|ms| (stream, *ms)));
        }
        let mut expected: Vec<(usize, u64)> = sources.concat();
        sort(&mut expected);
        sources.iter_mut().for_each(sort);
        let mut weave = Weave::new(order, 3, columns());
        let (mut pages, mut batches) = (pages.iter().cycle(), batches.iter().cycle());
        let (mut got, mut values) = (Vec::new(), Vec::new());
        loop {
            let most = *batches.next().unwrap();
            let next = loop {
                let room = most - weave.collected().0;
                if room == 0 {
                    break Next::Rows(0);
                }
                match weave.take_next(room).unwrap() {
                    Next::Rows(rows) => prop_assert!((1..=room).contains(&rows)),
                    Next::Dry(source) => {
                        let rows = &mut sources[source];
                        let number = rows.len().min(*pages.next().unwrap());
                        match rows.drain(..number).collect::<Vec<_>>() {
                            rows if rows.is_empty() => weave.end(source),
                            rows => weave.add(source, page(&rows, &format!("of {source}")), 0),
                        }
                    }
                    other => break other,
                }
            };
            let batch = weave.take().unwrap();
            prop_assert!(batch.len() <= most);
            for (run, end) in crate::decode::ends(batch.runs(), batch.len()) {
                got.extend((run.row..end).map(|row| (run.stream, batch.ids()[row].ms)));
            }
            for row in 0..batch.len() {
                let columns = batch.records().columns().iter().map(|c| c.as_primitive::<UInt64Type>());
                values.extend(columns.filter_map(|c| c.iter().nth(row)).flatten());
            }
            if next == Next::End {
                break;
            }
        }
        let of_rows: Vec<u64> = expected.iter().map(|(stream, ms)| *stream as u64 * 100 + ms).collect();
        prop_assert_eq!(got, expected);
        prop_assert_eq!(values, of_rows);
    }
}

#[test]
fn a_failure_has_its_place_and_columns_come_as_they_are_met() {
    let mut weave = Weave::new(StreamOrder::ByStream, 2, columns());
    weave.add(0, page(&[(0, 1), (3, 1)], "y"), 20);
    weave.add(1, page(&[(1, 5), (1, 6)], "x"), 40);
    for rows in [1, 2] {
        assert_eq!(weave.take_next(9).unwrap(), Next::Rows(rows));
    }
    assert_eq!(weave.take_next(9).unwrap(), Next::Dry(1));
    assert_eq!(weave.collected(), (3, 50));
    weave.fail(1, Some(4));
    assert_eq!(weave.take_next(9).unwrap(), Next::Rows(1));
    assert_eq!(weave.take_next(9).unwrap(), Next::Dry(0));
    weave.end(0);
    assert_eq!(weave.take_next(9).unwrap(), Next::Failure(1));
    let batch = weave.take().unwrap();
    let names: Vec<_> =
        batch.records().schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["y", "x"]);
    assert_eq!(batch.records().column(1).null_count(), 2);
}

fn batch_of(columns: Vec<(String, ArrayRef)>, ids: std::ops::Range<u64>, stream: usize) -> Batch {
    let columns = columns.into_iter().map(|(name, values)| (name, values, true));
    let records = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let ids = ids.map(|ms| EntryId { ms, seq: 0 }).collect();
    Batch::new(records, ids, Vec::new()).with_runs(vec![Run { row: 0, stream }])
}

fn batches(weave: &mut Weave, rows: usize) -> impl Iterator<Item = Batch> {
    std::iter::from_fn(move || {
        while weave.collected().0 < rows
            && matches!(weave.take_next(rows - weave.collected().0).unwrap(), Next::Rows(_))
        {
        }
        Some(weave.take().unwrap()).filter(|batch| !batch.is_empty())
    })
}

/// The bytes that a batch keeps alive.
fn memory(batch: &Batch) -> usize {
    batch.records().columns().iter().map(|column| column.get_array_memory_size()).sum()
}

#[test]
fn small_batches_keep_no_pages_alive() {
    const ROWS: u64 = 10_000;
    for order in [StreamOrder::ByStream, StreamOrder::ById] {
        let mut weave = Weave::new(order, 2, columns());
        for source in 0..2 {
            let texts = || (0..ROWS).map(|row| format!("{row:0>200}"));
            let lists: GenericListArray<i32> = {
                let mut lists = ListBuilder::new(StringViewBuilder::new());
                texts().for_each(|text| lists.append_value([Some(text)]));
                lists.finish()
            };
            let numbers: UInt64Array = (0..ROWS).collect();
            let all: [(&str, ArrayRef); 3] = [
                ("text", Arc::new(texts().map(Some).collect::<StringViewArray>())),
                ("list", Arc::new(lists)),
                ("number", Arc::new(numbers)),
            ];
            let all = all.map(|(name, values)| (name.to_owned(), values)).to_vec();
            weave.add(source, batch_of(all, 0..ROWS, source), 0);
        }
        let mut taken = 0;
        for batch in batches(&mut weave, 10).take(50) {
            assert_eq!(batch.len(), 10);
            assert!(memory(&batch) < 32 * 1024, "{order:?}: {}", memory(&batch));
            let texts = batch.records().column(0).as_string_view();
            let lists = batch.records().column(1).as_list::<i32>();
            for row in 0..10 {
                let number = match order {
                    StreamOrder::ByStream => taken + row,
                    StreamOrder::ById => (taken + row) / 2,
                };
                assert_eq!(texts.value(row), format!("{number:0>200}"));
                assert_eq!(lists.value(row).as_string_view().value(0), texts.value(row));
            }
            taken += 10;
        }
        assert_eq!(taken, 500);
    }
}

#[test]
fn large_batches_are_not_copied() {
    let mut weave = Weave::new(StreamOrder::ByStream, 2, columns());
    let rows = Weave::PIECE as u64;
    let values = |source: u64| -> UInt64Array { (0..rows).map(|row| row + source).collect() };
    let pages = [values(0), values(1)];
    for (source, page) in pages.iter().enumerate() {
        let column = vec![("n".to_owned(), Arc::new(page.clone()) as ArrayRef)];
        weave.add(source, batch_of(column, 0..rows, source), 0);
    }
    loop {
        match weave.take_next(usize::MAX).unwrap() {
            Next::Dry(source) => weave.end(source),
            Next::End => break,
            _ => {}
        }
    }
    let pieces = weave.take_pieces().unwrap();
    assert_eq!(pieces.len(), 2);
    for ((source, page), piece) in pages.iter().enumerate().zip(&pieces) {
        let column = piece.records().column(0).as_primitive::<UInt64Type>();
        assert!(column.values().inner().ptr_eq(page.values().inner()));
        assert_eq!(piece.runs(), [Run { row: 0, stream: source }]);
        assert_eq!(piece.ids().len(), piece.len());
    }
    let joined = Batch::joined(pieces).unwrap();
    assert_eq!(joined.runs().iter().map(|run| run.row).collect::<Vec<_>>(), [0, Weave::PIECE]);
    assert_eq!((joined.len(), joined.ids().len()), (2 * Weave::PIECE, 2 * Weave::PIECE));
}

/// A batch costs what its own rows and columns do, however many rows its pages have.
#[test]
fn small_batches_of_wide_pages_take_little_time() {
    const COLUMNS: usize = 1_000;
    let time = |rows: u64| {
        let mut weave = Weave::new(StreamOrder::ById, 2, columns());
        for source in 0..2 {
            let values: ArrayRef = Arc::new((0..rows).collect::<UInt64Array>());
            let name = |column| (format!("{source}-{column}"), Arc::clone(&values));
            weave.add(source, batch_of((0..COLUMNS).map(name).collect(), 0..rows, source), 0);
        }
        let started = std::time::Instant::now();
        assert_eq!(batches(&mut weave, 10).take(5).count(), 5);
        started.elapsed()
    };
    // The least of some: the machine may have been busy with something else.
    let least = |rows: u64| (0..3).map(|_| time(rows)).min().unwrap();
    let (short, long) = (least(50), least(5_000));
    assert!(long < short * 5, "{short:?}, and of pages of a hundred times the rows {long:?}");
    assert!(long.as_secs() < 2, "{long:?}");
}
