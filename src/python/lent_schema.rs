//! Schemas for the C data interface, each made once and lent to every batch of it.
//!
//! To make one takes an allocation or two for each column, which is more than a small batch needs for
//! everything else.

use std::convert::Infallible;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, Field, SchemaRef};

use crate::c_data::export_field;
use crate::client::PerProcess;

/// A schema that owns its texts; those that it is lent to refer to them.
struct Owned(FFI_ArrowSchema);

// SAFETY: it is read only, and what it points to is its own.
unsafe impl Sync for Owned {}

/// Schemas of the latest batches, the latest last.
type Latest = Vec<(SchemaRef, Arc<Owned>)>;

static LATEST: PerProcess<Mutex<Latest>> = PerProcess::new();

const MOST: usize = 16;

/// The schema of a batch's rows, as one Struct.
pub(super) fn lend_schema(schema: &SchemaRef) -> Result<FFI_ArrowSchema, ArrowError> {
    let Ok(latest) = LATEST.get(|| Ok::<_, Infallible>(Mutex::default()));
    // A list is whole whatever its holder was doing when it panicked.
    let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, owned)) = latest.iter().rfind(|(known, _)| known == schema) {
        return Ok(lend(&owned.0, owned));
    }
    let row = Field::new_struct("", schema.fields().clone(), false);
    let owned = Arc::new(Owned(export_field(&row)?));
    if latest.len() == MOST {
        latest.remove(0);
    }
    latest.push((Arc::clone(schema), Arc::clone(&owned)));
    Ok(lend(&owned.0, &owned))
}

/// What a lent schema owns itself: a consumer may move any of the children out of it.
struct Lent {
    /// Has the texts, and lives as long as one that refers to them.
    _owned: Arc<Owned>,
    /// In boxes, because a schema stays where it is.
    children: Box<[FFI_ArrowSchema]>,
    pointers: Box<[*mut FFI_ArrowSchema]>,
    dictionary: Option<Box<FFI_ArrowSchema>>,
}

fn lend(schema: &FFI_ArrowSchema, owned: &Arc<Owned>) -> FFI_ArrowSchema {
    let mut lent = Box::new(Lent {
        _owned: Arc::clone(owned),
        children: schema.children().map(|child| lend(child, owned)).collect(),
        pointers: Box::default(),
        dictionary: schema.dictionary().map(|dictionary| Box::new(lend(dictionary, owned))),
    });
    lent.pointers = lent.children.iter_mut().map(std::ptr::from_mut).collect();
    let dictionary =
        lent.dictionary.as_deref_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut);
    FFI_ArrowSchema {
        format: schema.format,
        name: schema.name,
        metadata: schema.metadata,
        flags: schema.flags,
        n_children: schema.n_children,
        children: lent.pointers.as_mut_ptr(),
        dictionary,
        release: Some(release),
        private_data: Box::into_raw(lent).cast::<c_void>(),
    }
}

unsafe extern "C" fn release(schema: *mut FFI_ArrowSchema) {
    // SAFETY: the interface calls it with a schema that `lend` made, which may have been moved.
    if let Some(schema) = unsafe { schema.as_mut() }
        && schema.release.take().is_some()
    {
        // SAFETY: it comes from `Box::into_raw`, and is taken once: `release` is null from now on.
        // Children that were not moved out release themselves when they are dropped.
        drop(unsafe { Box::from_raw(schema.private_data.cast::<Lent>()) });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow_schema::{DataType, Schema};

    use super::*;

    fn schema(name: &str) -> SchemaRef {
        let metadata = HashMap::from([("key".to_owned(), "value".to_owned())]);
        let item = Arc::new(Field::new("item", DataType::Int8, true));
        let word = DataType::Dictionary(Box::new(DataType::UInt8), Box::new(DataType::Utf8View));
        Arc::new(Schema::new(vec![
            Field::new(name, DataType::Utf8View, true).with_metadata(metadata),
            Field::new("numbers", DataType::List(item), true),
            Field::new("word", word, true),
        ]))
    }

    fn imported(lent: &FFI_ArrowSchema) -> Result<Field, ArrowError> {
        Field::try_from(lent)
    }

    #[test]
    fn what_is_lent_says_the_same_as_the_schema() -> Result<(), ArrowError> {
        for name in ["one", "other", "one"] {
            let schema = schema(name);
            let row = Field::new_struct("", schema.fields().clone(), false);
            let (first, second) = (lend_schema(&schema)?, lend_schema(&schema)?);
            assert_eq!(imported(&first)?, row);
            drop(first);
            assert_eq!(imported(&second)?, row);
        }
        Ok(())
    }

    #[test]
    fn a_child_that_was_moved_out_outlives_its_parent() -> Result<(), ArrowError> {
        let mut moved = Vec::new();
        for number in 0..2 * MOST {
            let lent = lend_schema(&schema(&number.to_string()))?;
            // SAFETY: there is a child, and nobody else has it; this is how a consumer moves one.
            moved.push(unsafe { FFI_ArrowSchema::from_raw(*lent.children) });
        }
        for (number, child) in moved.iter().enumerate() {
            assert_eq!(imported(child)?.name(), &number.to_string());
        }
        Ok(())
    }
}
