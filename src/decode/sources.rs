//! Which stream each row is of, where that is asked for: a list of runs, not a number in each row.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arrow_array::builder::make_view;
use arrow_array::{ArrayRef, StringViewArray};
use arrow_buffer::{Buffer, ScalarBuffer};

use crate::error::{Error, ErrorKind, Result, shorten};

/// The streams of a read, by their places in its list.
#[derive(Debug, Default)]
pub(crate) struct StreamNames {
    keys: Vec<Vec<u8>>,
    /// The keys as text.
    texts: Vec<String>,
    longest: usize,
    /// Made where replies name their streams.
    places: OnceLock<HashMap<Vec<u8>, usize>>,
}

impl StreamNames {
    pub(crate) fn new(keys: Vec<Vec<u8>>) -> Self {
        let texts = keys.iter().map(|key| readable(key)).collect();
        let longest = keys.iter().map(Vec::len).max().unwrap_or_default();
        StreamNames { keys, texts, longest, places: OnceLock::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn keys(&self) -> &[Vec<u8>] {
        &self.keys
    }

    pub(crate) fn key(&self, stream: usize) -> &[u8] {
        self.keys.get(stream).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn text(&self, stream: usize) -> &str {
        self.texts.get(stream).map(String::as_str).unwrap_or_default()
    }

    /// The stream that errors call so.
    pub(crate) fn find_text(&self, text: &str) -> Option<usize> {
        self.texts.iter().position(|known| known == text)
    }

    fn find(&self, key: &[u8]) -> Option<usize> {
        let numbered = || self.keys.iter().cloned().zip(0..).collect();
        self.places.get_or_init(numbered).get(key).copied()
    }
}

/// A name as text, with `\xff` for a byte that is not UTF-8.
pub(crate) fn readable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// From this row on, rows are of this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) row: usize,
    pub(crate) stream: usize,
}

/// The streams of a batch's rows.
#[derive(Debug)]
pub(crate) struct Sources {
    names: Arc<StreamNames>,
    /// In the order of rows, the first from row 0 on.
    runs: Vec<Run>,
}

impl Sources {
    /// Of the first stream, until another begins.
    pub(crate) fn new(names: Arc<StreamNames>) -> Self {
        Sources { names, runs: vec![Run { row: 0, stream: 0 }] }
    }

    /// There are other streams after those that there were.
    pub(crate) fn set_names(&mut self, names: &Arc<StreamNames>) {
        self.names = Arc::clone(names);
    }

    /// The rows from this one on are of that stream.
    pub(crate) fn begin(&mut self, row: usize, stream: usize) {
        while self.runs.pop_if(|run| run.row >= row).is_some() {}
        if self.runs.last().is_none_or(|run| run.stream != stream) {
            self.runs.push(Run { row, stream });
        }
    }

    pub(crate) fn longest_name(&self) -> usize {
        self.names.longest
    }

    /// The same for the stream that a reply names.
    pub(crate) fn begin_named(&mut self, row: usize, key: &[u8]) -> Result<()> {
        let Some(stream) = self.names.find(key) else {
            let message = format!("entries of the stream {} came unasked", shorten(key));
            return Err(Error::protocol(message));
        };
        self.begin(row, stream);
        Ok(())
    }

    /// The stream that rows are of now.
    pub(crate) fn current(&self) -> usize {
        self.runs.last().map_or(0, |run| run.stream)
    }

    /// Another batch begins, with the stream that there was.
    pub(crate) fn begin_batch(&mut self) -> Vec<Run> {
        let stream = self.current();
        std::mem::replace(&mut self.runs, vec![Run { row: 0, stream }])
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The error with the stream of its row, where there are several.
    pub(crate) fn about(&self, row: usize, error: Error) -> Error {
        match self.names.len() {
            0 | 1 => error,
            _ => error.with_context("stream", self.names.text(stream_at(&self.runs, row))),
        }
    }

    /// The column of that many rows: a name is there once, however many rows it has.
    pub(crate) fn column(&self, rows: usize) -> Result<ArrayRef> {
        let (mut views, mut long) = (Vec::with_capacity(rows), Vec::new());
        let mut known: HashMap<usize, u128> = HashMap::new();
        for (run, end) in ends(&self.runs, rows) {
            let name = self.names.text(run.stream).as_bytes();
            let view = match known.get(&run.stream) {
                Some(view) => *view,
                None => {
                    /// What fits into the view itself.
                    const SHORT: usize = 12;
                    let place = u32::try_from(long.len() + name.len());
                    let place = place.ok().filter(|end| i32::try_from(*end).is_ok());
                    let Some(end) = place else {
                        let message = "the names of the streams are too long for one column";
                        return Err(Error::new(ErrorKind::Schema, message));
                    };
                    let view = make_view(name, 0, end - name.len() as u32);
                    if name.len() > SHORT {
                        long.extend_from_slice(name);
                    }
                    known.insert(run.stream, view);
                    view
                }
            };
            views.resize(views.len() + (end - run.row), view);
        }
        let views = ScalarBuffer::from(views);
        // SAFETY: each view is of a text, which lies in it, or at its place in the one buffer.
        let array =
            unsafe { StringViewArray::new_unchecked(views, vec![Buffer::from_vec(long)], None) };
        Ok(Arc::new(array))
    }
}

/// The stream of a row.
pub(crate) fn stream_at(runs: &[Run], row: usize) -> usize {
    let after = runs.partition_point(|run| run.row <= row);
    after.checked_sub(1).and_then(|index| runs.get(index)).map_or(0, |run| run.stream)
}

/// The runs that have rows among the first `rows`, each with the row after its last.
pub(crate) fn ends(runs: &[Run], rows: usize) -> impl Iterator<Item = (Run, usize)> {
    let next = runs.iter().skip(1).map(|run| run.row).chain([usize::MAX]);
    let ended = runs.iter().copied().zip(next).map(move |(run, end)| (run, end.min(rows)));
    ended.filter(|(run, end)| run.row < *end)
}

/// The runs of these rows, in this order.
pub(crate) fn select(runs: &[Run], rows: &[usize]) -> Vec<Run> {
    let mut selected: Vec<Run> = Vec::new();
    for (row, from) in rows.iter().enumerate() {
        let stream = stream_at(runs, *from);
        if selected.last().is_none_or(|run| run.stream != stream) {
            selected.push(Run { row, stream });
        }
    }
    selected
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;

    use super::*;

    #[test]
    fn runs_follow_what_begins_and_names_are_shared() -> Result<()> {
        let long = b"a name of more than twelve bytes".to_vec();
        let keys = vec![b"a".to_vec(), long, b"\xff".to_vec(), b"unread".to_vec()];
        let mut sources = Sources::new(StreamNames::new(keys).into());
        sources.begin(0, 1);
        sources.begin(2, 0);
        sources.begin(2, 1); // the one before was empty
        sources.begin(3, 2);
        sources.begin_named(4, b"a name of more than twelve bytes")?;
        sources.begin(6, 3);
        assert!(sources.begin_named(6, b"another").is_err());
        let column = sources.column(6)?;
        let column = column.as_string_view();
        let texts: Vec<_> = column.iter().flatten().collect();
        let long = "a name of more than twelve bytes";
        assert_eq!(texts, [long, long, long, "\\xff", long, long]);
        assert_eq!(column.data_buffers().iter().map(|buffer| buffer.len()).sum::<usize>(), 32);
        assert_eq!((stream_at(sources.runs(), 3), stream_at(sources.runs(), 4)), (2, 1));
        let selected = select(sources.runs(), &[5, 4, 3, 0]);
        let expected = [(0, 1), (2, 2), (3, 1)].map(|(row, stream)| Run { row, stream });
        assert_eq!(selected, expected);
        sources.begin_batch();
        assert_eq!(sources.runs(), [Run { row: 0, stream: 3 }]);
        Ok(())
    }
}
