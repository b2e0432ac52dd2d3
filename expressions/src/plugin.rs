//! Polars' interface for plugins, version 0.1: C functions that take and give columns.
//!
//! Of each expression it calls two, by their names: `_polars_plugin_field_NAME` says what type the
//! result has, and `_polars_plugin_NAME` gives it. A column is a field and arrays of Arrow's C data
//! interface. The crates that others use for this contain Polars itself, of which nothing is needed.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{ptr, slice};

use arrow_array::ffi::FFI_ArrowArray;
use arrow_array::{ArrayRef, new_empty_array};
use arrow_schema::Field;
use arrow_schema::ffi::FFI_ArrowSchema;
use redfloe::{Error, ErrorKind, Result, export_field, import_array, import_field};

use crate::options::of_call;

/// A column, in the arrays that its owner has it in.
pub(crate) struct Column {
    pub(crate) field: Field,
    /// Those that have rows.
    pub(crate) chunks: Vec<ArrayRef>,
}

/// What an expression is: both of it are given the column that it is called on, and its options.
pub(crate) trait Expression: serde::de::DeserializeOwned {
    /// The field of the result.
    fn field(&self, input: &Field) -> Result<Field>;

    /// The values of the result, one for each of the column's, in one array or several.
    fn values(&self, input: &Column) -> Result<Vec<ArrayRef>>;
}

/// A column on its way between Polars and a plugin. Who takes it takes the arrays out of their
/// places, and then releases the rest.
#[repr(C)]
pub(crate) struct SeriesExport {
    field: *mut FFI_ArrowSchema,
    arrays: *mut *mut FFI_ArrowArray,
    len: usize,
    release: Option<unsafe extern "C" fn(*mut SeriesExport)>,
    private_data: *mut c_void,
}

/// What a column of ours consists of.
struct Owned {
    field: Box<FFI_ArrowSchema>,
    arrays: Box<[*mut FFI_ArrowArray]>,
}

impl Drop for SeriesExport {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: it is called once; a function that was called has set itself to none.
            unsafe { release(self) }
        }
    }
}

unsafe extern "C" fn release(series: *mut SeriesExport) {
    // SAFETY: the interface calls it with a column that `export` made, which may have been moved.
    if let Some(series) = unsafe { series.as_mut() }
        && series.release.take().is_some()
    {
        // SAFETY: it comes from `Box::into_raw`, and is taken once: `release` is null from now on.
        let owned = unsafe { Box::from_raw(series.private_data.cast::<Owned>()) };
        for array in &owned.arrays {
            // The array itself is its taker's, who has copied it bit by bit.
            // SAFETY: as above; the place is freed, and its content is not dropped.
            drop(unsafe { Box::from_raw(array.cast::<ManuallyDrop<FFI_ArrowArray>>()) });
        }
    }
}

fn export(field: &Field, mut arrays: Vec<ArrayRef>) -> Result<SeriesExport> {
    if arrays.is_empty() {
        arrays.push(new_empty_array(field.data_type()));
    }
    let field = Box::new(export_field(field).map_err(internal)?);
    let arrays = arrays.iter().map(|array| FFI_ArrowArray::new(&array.to_data()));
    let arrays = arrays.map(|array| Box::into_raw(Box::new(array))).collect();
    let mut owned = Box::new(Owned { field, arrays });
    Ok(SeriesExport {
        field: ptr::from_mut(&mut *owned.field),
        arrays: owned.arrays.as_mut_ptr(),
        len: owned.arrays.len(),
        release: Some(release),
        private_data: Box::into_raw(owned).cast(),
    })
}

/// # Safety
///
/// The column must be one of the interface, which nobody has taken yet.
unsafe fn import(series: SeriesExport) -> Result<Column> {
    let places = match series.len {
        0 => &[],
        // SAFETY: there are that many.
        len => unsafe { slice::from_raw_parts(series.arrays, len) },
    };
    // All are taken, so that none is lost if one cannot be read.
    // SAFETY: each place has an array, which is moved out of it here.
    let arrays: Vec<_> = places.iter().map(|at| unsafe { FFI_ArrowArray::from_raw(*at) }).collect();
    // SAFETY: there is a field, for as long as `series` is there.
    let field = unsafe { series.field.as_ref() }.map(import_input);
    let field =
        field.unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "a column has no field")))?;
    let mut chunks = Vec::with_capacity(arrays.len());
    for array in arrays.into_iter().filter(|array| !array.is_empty()) {
        // SAFETY: the array is of this type; only 128-bit integers are called decimals.
        chunks.push(unsafe { import_array(array, field.data_type()) }.map_err(internal)?);
    }
    Ok(Column { field, chunks })
}

fn import_input(schema: &FFI_ArrowSchema) -> Result<Field> {
    import_field(schema).map_err(|error| {
        let name = schema.name().unwrap_or_default();
        let message = format!("the column {name:?} has a dtype that payloads do not have: {error}");
        Error::new(ErrorKind::Schema, message)
    })
}

fn internal(error: arrow_schema::ArrowError) -> Error {
    let message = format!("a column cannot be exchanged with Polars: {error}; please report this");
    Error::new(ErrorKind::Internal, message)
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs what may fail, and keeps the error's text for Polars.
fn guarded(run: impl FnOnce() -> Result<()>) {
    let message = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => describe(&error),
        Err(panic) => format!("InternalError: {}; please report this", panic_text(&*panic)),
    };
    let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    LAST_ERROR.set(message);
}

/// An error with the name that it has in Python.
fn describe(error: &Error) -> String {
    let name = match error.kind() {
        ErrorKind::Decode => "DecodeError",
        ErrorKind::Schema => "SchemaError",
        ErrorKind::InvalidArgument => "ValueError",
        _ => "RedfloeError",
    };
    format!("{name}: {error}")
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}

/// # Safety
///
/// As the interface says: `inputs` are that many columns, which are taken; the others are borrowed.
pub(crate) unsafe fn call<E: Expression>(
    inputs: *mut SeriesExport,
    len: usize,
    kwargs: *const u8,
    kwargs_len: usize,
    output: *mut SeriesExport,
) {
    guarded(|| {
        // SAFETY: there are that many, and they are moved out of their places, once each.
        let columns: Vec<_> = (0..len).map(|at| unsafe { import(inputs.add(at).read()) }).collect();
        // SAFETY: there are that many bytes.
        let expression: E = of_call(unsafe { bytes(kwargs, kwargs_len) })?;
        let column = columns.into_iter().next().unwrap_or_else(|| Err(no_input()))?;
        let field = expression.field(&column.field)?;
        let series = export(&field, expression.values(&column)?)?;
        // SAFETY: the place has an empty column, which needs no release.
        unsafe { output.write(series) };
        Ok(())
    });
}

/// # Safety
///
/// As the interface says: `inputs` are that many fields; these and the bytes are borrowed.
pub(crate) unsafe fn call_field<E: Expression>(
    inputs: *const FFI_ArrowSchema,
    len: usize,
    output: *mut FFI_ArrowSchema,
    kwargs: *const u8,
    kwargs_len: usize,
) {
    guarded(|| {
        // SAFETY: there are that many bytes.
        let expression: E = of_call(unsafe { bytes(kwargs, kwargs_len) })?;
        // SAFETY: the first is there where there is one.
        let input = unsafe { inputs.as_ref() }.filter(|_| len > 0).ok_or_else(no_input)?;
        let field = expression.field(&import_input(input)?)?;
        let schema = export_field(&field).map_err(internal)?;
        // SAFETY: the place has an empty field, which needs no release.
        unsafe { output.write(schema) };
        Ok(())
    });
}

fn no_input() -> Error {
    Error::new(ErrorKind::Internal, "Polars called an expression without a column")
}

/// # Safety
///
/// There must be that many bytes.
unsafe fn bytes<'a>(start: *const u8, len: usize) -> &'a [u8] {
    match len {
        0 => &[],
        // SAFETY: the caller says so.
        len => unsafe { slice::from_raw_parts(start, len) },
    }
}

/// The version of the interface: the upper half is the major one.
#[unsafe(no_mangle)]
extern "C" fn _polars_plugin_get_version() -> u32 {
    1
}

/// The text of the thread's latest error, which Polars copies at once.
#[unsafe(no_mangle)]
extern "C" fn _polars_plugin_get_last_error_message() -> *const c_char {
    LAST_ERROR.with_borrow(|message| message.as_ptr())
}

/// The two functions of an expression.
macro_rules! export_expression {
    ($expression:ty, $call:ident, $call_field:ident) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $call(
            inputs: *mut $crate::plugin::SeriesExport,
            len: usize,
            kwargs: *const u8,
            kwargs_len: usize,
            output: *mut $crate::plugin::SeriesExport,
            _context: *const std::ffi::c_void,
        ) {
            // SAFETY: Polars keeps to its interface.
            unsafe {
                $crate::plugin::call::<$expression>(inputs, len, kwargs, kwargs_len, output);
            }
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $call_field(
            inputs: *const arrow_schema::ffi::FFI_ArrowSchema,
            len: usize,
            output: *mut arrow_schema::ffi::FFI_ArrowSchema,
            kwargs: *const u8,
            kwargs_len: usize,
        ) {
            // SAFETY: Polars keeps to its interface.
            unsafe {
                $crate::plugin::call_field::<$expression>(inputs, len, output, kwargs, kwargs_len);
            }
        }
    };
}
pub(crate) use export_expression;
