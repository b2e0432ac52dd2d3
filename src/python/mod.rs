//! The extension module `redfloe._core`: arguments in, Arrow out. The only files that know Python.

mod admin;
mod arrow;
mod batches;
mod checkpoints;
mod completion;
// Docstrings for Python are no Markdown.
#[allow(clippy::doc_lazy_continuation)]
mod connection;
mod credentials;
mod ending;
mod error;
mod events;
mod foreign;
mod lent_schema;
mod member;
mod members;
mod operation;
mod partition;
mod pin;
mod processor;
mod processors;
mod producer;
mod progress;
mod read;
mod reading;
mod stream_reader;
mod table;
mod values;
mod wait;
mod write;

use pyo3::prelude::*;

/// Registers, and does nothing else.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    error::make_panics_exceptions(module.py())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<connection::RedisConnection>()?;
    module.add_class::<credentials::CredentialsDesk>()?;
    module.add_class::<arrow::RecordBatch>()?;
    module.add_class::<batches::AsyncBatchReader>()?;
    module.add_class::<batches::BatchReader>()?;
    module.add_class::<checkpoints::Checkpoints>()?;
    module.add_class::<completion::Completions>()?;
    module.add_class::<completion::Task>()?;
    module.add_class::<progress::Progress>()?;
    module.add_class::<reading::Offer>()?;
    module.add_class::<member::Member>()?;
    module.add_class::<operation::Operation>()?;
    module.add_class::<read::PreparedRead>()?;
    module.add_class::<member::Stats>()?;
    module.add_class::<stream_reader::StreamReader>()?;
    module.add_class::<producer::Producer>()?;
    module.add_class::<producer::Sent>()?;
    module.add_class::<write::KnownStreams>()?;
    module.add_class::<write::Outcome>()?;
    module.add_class::<table::Table>()?;
    module.add_class::<processor::Processor>()?;
    module.add_class::<processor::ProcessorStats>()?;
    module.add_class::<processor::Transaction>()?;
    module.add_function(wrap_pyfunction!(connection::connect, module)?)?;
    module.add_function(wrap_pyfunction!(connection::check_connection, module)?)?;
    module.add_function(wrap_pyfunction!(connection::server_address, module)?)?;
    module.add_function(wrap_pyfunction!(connection::check_dead_letter, module)?)?;
    module.add_function(wrap_pyfunction!(connection::key_slot, module)?)?;
    module.add_function(wrap_pyfunction!(read::read_stream, module)?)?;
    module.add_function(wrap_pyfunction!(read::start_read_stream, module)?)?;
    module.add_function(wrap_pyfunction!(read::infer_schema, module)?)?;
    module.add_function(wrap_pyfunction!(read::ack_entries, module)?)?;
    module.add_function(wrap_pyfunction!(read::replay_dead_letters, module)?)?;
    module.add_function(wrap_pyfunction!(read::check_streams, module)?)?;
    module.add_function(wrap_pyfunction!(read::empty_batch, module)?)?;
    module.add_function(wrap_pyfunction!(partition::split_stream, module)?)?;
    module.add_function(wrap_pyfunction!(partition::stream_offsets, module)?)?;
    module.add_function(wrap_pyfunction!(partition::advance_offsets, module)?)?;
    module.add_function(wrap_pyfunction!(partition::check_offsets, module)?)?;
    module.add_function(wrap_pyfunction!(pin::pin, module)?)?;
    module.add_function(wrap_pyfunction!(pin::start_pin, module)?)?;
    module.add_function(wrap_pyfunction!(pin::pin_streams, module)?)?;
    module.add_function(wrap_pyfunction!(admin::stream_info, module)?)?;
    module.add_function(wrap_pyfunction!(admin::group_info, module)?)?;
    module.add_function(wrap_pyfunction!(admin::find_streams, module)?)?;
    module.add_function(wrap_pyfunction!(admin::list_streams, module)?)?;
    module.add_function(wrap_pyfunction!(admin::list_groups, module)?)?;
    module.add_function(wrap_pyfunction!(admin::consumer_info, module)?)?;
    module.add_function(wrap_pyfunction!(admin::pending_entries, module)?)?;
    module.add_function(wrap_pyfunction!(admin::create_group, module)?)?;
    module.add_function(wrap_pyfunction!(admin::delete_group, module)?)?;
    module.add_function(wrap_pyfunction!(admin::delete_consumer, module)?)?;
    module.add_function(wrap_pyfunction!(admin::trim_stream, module)?)?;
    module.add_function(wrap_pyfunction!(admin::create_stream, module)?)?;
    module.add_function(wrap_pyfunction!(admin::delete_stream, module)?)?;
    module.add_function(wrap_pyfunction!(admin::delete_entries, module)?)?;
    module.add_function(wrap_pyfunction!(admin::claim_entries, module)?)?;
    module.add_function(wrap_pyfunction!(checkpoints::get_values, module)?)?;
    module.add_function(wrap_pyfunction!(checkpoints::set_values, module)?)?;
    module.add_function(wrap_pyfunction!(processor::check_processor, module)?)?;
    module.add_function(wrap_pyfunction!(table::check_table, module)?)?;
    module.add_function(wrap_pyfunction!(processors::processor_info, module)?)?;
    module.add_function(wrap_pyfunction!(processors::reset_processor, module)?)?;
    module.add_function(wrap_pyfunction!(processors::delete_processor, module)?)?;
    module.add_function(wrap_pyfunction!(processors::read_fields, module)?)?;
    module.add_function(wrap_pyfunction!(processors::table_key, module)?)?;
    module.add_function(wrap_pyfunction!(table::read_table, module)?)?;
    module.add_function(wrap_pyfunction!(table::load_table_for_test, module)?)?;
    module.add_function(wrap_pyfunction!(table::load_state_for_test, module)?)?;
    module.add_function(wrap_pyfunction!(foreign::check_arrow_stream, module)?)?;
    module.add_function(wrap_pyfunction!(values::checked_arrow_stream, module)?)?;
    module.add_function(wrap_pyfunction!(write::write_stream, module)?)?;
    module.add_function(wrap_pyfunction!(write::write_hashes, module)?)?;
    module.add_function(wrap_pyfunction!(write::start_write_hashes, module)?)?;
    module.add_function(wrap_pyfunction!(write::start_write_stream, module)?)?;
    module.add_function(wrap_pyfunction!(error::raise_kind, module)?)?;
    module.add_function(wrap_pyfunction!(events::take_events, module)?)?;
    Ok(())
}
