//! Names that columns cannot have.

use std::collections::HashSet;

use arrow_schema::FieldRef;

use crate::dtype::children;
use crate::error::{Error, ErrorKind, Result, shorten};

/// Refuses a name that ends before its end where Arrow's interface passes it on, as a C string.
pub(super) fn check_nul(name: &str, what: &str) -> Result<()> {
    match name.contains('\0') {
        false => Ok(()),
        true => Err(Error::new(
            ErrorKind::Schema,
            format!(
                "{what} is {}, but must not contain NUL, which ends a column's name in Arrow",
                shorten(name.as_bytes())
            ),
        )),
    }
}

/// Refuses fields, and fields inside them, that share a name or have one that Arrow cannot pass on.
pub(super) fn check_names<'a>(
    fields: impl IntoIterator<Item = &'a FieldRef>,
    of: Option<&str>,
) -> Result<()> {
    let mut seen = HashSet::new();
    for field in fields {
        check_nul(field.name(), "a field's name")?;
        if !seen.insert(field.name()) {
            let whole = of.map_or("the schema".to_owned(), |of| format!("the field {of:?}"));
            let message = format!("{whole} names the field {:?} twice", field.name());
            return Err(Error::new(ErrorKind::Schema, message));
        }
        check_names(children(field.data_type()), Some(field.name()))?;
    }
    Ok(())
}
