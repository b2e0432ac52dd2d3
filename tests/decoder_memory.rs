//! How much memory the decoder asks for. One test alone, since it counts for the whole process.

#[path = "common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_schema::{DataType, Field};
use redfloe::{Decoder, EntryId, ReplyShape, StreamSchema};

use common::{Protocol, entry, feed};

/// Counts the bytes that are in use, and the most that ever were.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is; `realloc` is made of the other two.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(used, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1024 * 1024;

/// The most memory that `work` had in use beyond what was in use before it.
fn peak(work: impl FnOnce()) -> usize {
    let before = USED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work();
    PEAK.load(Ordering::Relaxed) - before
}

#[test]
fn memory_follows_what_is_kept_and_not_what_is_claimed() {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    let value = vec![b'x'; 100 * MIB];
    let giant = Protocol::Resp2.entries(&[entry(1, [("small", &b"x"[..]), ("giant", &value)])]);

    let used = peak(|| {
        let mut decoder =
            Decoder::new(StreamSchema::closed([text("giant")]), ReplyShape::Entries).unwrap();
        for piece in giant.chunks(64 * 1024) {
            feed(&mut decoder, piece).unwrap();
        }
        let batch = decoder.flush().unwrap();
        let column = batch.records().column_by_name("giant").unwrap();
        assert!(column.get_array_memory_size() < 101 * MIB);
        // The tape's copy is given back, so what stays is the column.
        let used = USED.load(Ordering::Relaxed);
        drop(batch);
        assert!(used - USED.load(Ordering::Relaxed) > 99 * MIB);
        assert_eq!(feed(&mut decoder, &giant[..64 * 1024]).unwrap().len(), 0);
    });
    // The tape, which doubles as it grows and is copied then, or the tape and the column.
    assert!(used < 300 * MIB, "{} MiB for a value of 100", used / MIB);

    let used = peak(|| {
        let mut decoder =
            Decoder::new(StreamSchema::closed([text("small")]), ReplyShape::Entries).unwrap();
        for piece in giant.chunks(64 * 1024) {
            feed(&mut decoder, piece).unwrap();
        }
        assert_eq!(decoder.flush().unwrap().ids(), [EntryId::new(1, 0)]);
    });
    assert!(used < MIB, "{used} bytes for a value that nobody asked for");

    let names: Vec<String> = (0..10_000).map(|n| format!("field {n}")).collect();
    let wide = entry(1, names.iter().map(|name| (name, "a value of more than twelve bytes")));
    let wide = Protocol::Resp2.entries(&[wide]);
    let used = peak(|| {
        let schema = StreamSchema::default().with_max_columns(10_000);
        let mut decoder = Decoder::new(schema, ReplyShape::Entries).unwrap();
        feed(&mut decoder, &wide).unwrap();
        assert_eq!(decoder.flush().unwrap().records().num_columns(), 10_002);
    });
    assert!(used < 32 * MIB, "{} MiB for 10,000 short values", used / MIB);

    // A name that came once costs its text and little more, in every batch after it.
    const NAMES: usize = 20_000;
    let ever_new: Vec<_> =
        (0..NAMES).map(|n| entry(n as u64 + 1, [(format!("name-{n:05}"), "1")])).collect();
    let ever_new = Protocol::Resp2.entries(&ever_new);
    let schema = StreamSchema::default().with_max_columns(NAMES);
    let mut decoder =
        Decoder::new(schema, ReplyShape::Entries).unwrap().with_cell_bytes(4 * MIB as u64);
    let before = USED.load(Ordering::Relaxed);
    let used = peak(|| {
        let (mut rest, mut rows) = (ever_new.as_slice(), 0);
        while rows < NAMES {
            let taken = decoder.decode(&rest[..rest.len().min(64 * 1024)]).unwrap();
            rest = &rest[taken..];
            if decoder.is_full() || decoder.reply_complete() {
                rows += decoder.flush().unwrap().len();
            }
        }
    });
    // A batch's cells, its fields, and the copies that made the array of all.
    assert!(used < 24 * MIB, "{} MiB for batches of 4", used / MIB);
    let kept = (USED.load(Ordering::Relaxed) - before) / NAMES;
    assert!(kept <= 100, "{kept} bytes for each name");
    drop(decoder);

    // A value of two million elements of which none fits.
    const ELEMENTS: usize = 2_000_000;
    let misfits = format!("[{}2]", "2,".repeat(ELEMENTS - 1));
    let list = Field::new("v", DataType::new_list(DataType::Boolean, true), true);
    let schema = StreamSchema::closed([list]).with_rescue_column(Some("rest"));
    let misfits = Protocol::Resp2.entries(&[entry(1, [("v", misfits)])]);
    let used = peak(|| {
        let mut decoder = Decoder::new(schema, ReplyShape::Entries).unwrap();
        feed(&mut decoder, &misfits).unwrap();
        assert_eq!(decoder.flush().unwrap().len(), 1);
    });
    // The text on the tape and in the rescue column, and what makes that.
    assert!(used < 40 * MIB, "{} MiB for a value of 4", used / MIB);

    let used = peak(|| {
        for (shape, claim) in [
            (ReplyShape::Entries, "*9223372036854775807\r\n*2\r\n"),
            (ReplyShape::Entries, "*1\r\n*2\r\n$9223372036854775807\r\n1"),
            (ReplyShape::Entries, "*1\r\n*2\r\n$3\r\n1-0\r\n*9223372036854775806\r\n"),
            (ReplyShape::Entries, "*1\r\n*2\r\n$3\r\n1-0\r\n%9223372036854775807\r\n"),
            (ReplyShape::Entries, "*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$9223372036854775807\r\nname"),
            (
                ReplyShape::Entries,
                "*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\na\r\n$9223372036854775807\r\nx",
            ),
            (ReplyShape::Streams, "%9223372036854775807\r\n$9223372036854775807\r\nname"),
            (ReplyShape::Streams, ">9223372036854775807\r\n*9223372036854775807\r\n"),
        ] {
            for size in [1, 5, usize::MAX] {
                let mut decoder = Decoder::new(StreamSchema::default(), shape).unwrap();
                for piece in claim.as_bytes().chunks(size) {
                    feed(&mut decoder, piece).unwrap();
                }
            }
        }
    });
    assert!(used < MIB, "{used} bytes for claims");
}
