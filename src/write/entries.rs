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
    if !matches!(request.ids, IdSource::Server) {
        let message = "entries of a commit have IDs from the server: one that was too small would \
                       leave half a commit";
        return Err(Error::invalid(message));
    }
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
