//! A batch's rows as the fields of entries, for a script that adds them.

use arrow_array::RecordBatch;

use super::frame::{Frame, Keys, at_row};
use super::request::{IdSource, Target, WriteRequest};
use crate::error::{Error, Result};

/// Gives each row's stream, how many arguments its fields are, and these, packed as bulk strings. IDs are
/// the server's.
///
/// # Errors
///
/// As [`write`](crate::write) has them for what cannot be sent; and whatever `take` gives.
pub(crate) fn for_each_entry(
    batch: &RecordBatch,
    request: &WriteRequest,
    mut take: impl FnMut(&[u8], usize, &[u8]) -> Result<()>,
) -> Result<()> {
    refuse(request)?;
    let mut keys = Keys::default();
    if let Target::One(key) = &request.stream {
        keys.add(key);
    }
    let frame = Frame::new(batch, request, &mut keys, 0)?;
    let (mut scratch, mut packed) = (Vec::new(), Vec::new());
    for row in 0..frame.rows {
        let arguments = frame.arguments(row);
        if arguments == 0 {
            match request.skip_empty {
                true => continue,
                false => {
                    return Err(at_row(row, "no field has a value, and an entry needs one"));
                }
            }
        }
        packed.clear();
        frame.push_fields(row, &mut scratch, &mut packed);
        take(keys.get(frame.key(row)), arguments, &packed)?;
    }
    Ok(())
}

/// What a request may ask for that such a script does not do.
fn refuse(request: &WriteRequest) -> Result<()> {
    let message = if !matches!(request.ids, IdSource::Server) {
        "entries of a commit have IDs from the server: one that was too small would leave half a commit"
    } else if request.trim.is_some() {
        "a commit trims a stream after all was added to it (Commit::trim), not with each entry"
    } else if request.no_make_stream {
        "a commit creates the streams that it adds to, and cannot leave out the entries of one that does \
         not exist"
    } else if request.idmp_producer.is_some() {
        "entries of a commit are added once without IDMP, by the commit itself"
    } else {
        return Ok(());
    };
    Err(Error::invalid(message))
}
