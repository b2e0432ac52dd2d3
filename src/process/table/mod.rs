//! A processor's table: a hash whose fields are keys and whose values are JSON rows, kept as columns.
//!
//! What changes costs what it changes. A key's row is found through an [`Index`]; a row that is written
//! takes a slot of its own in [`Rows`], and the one before stays until many have been replaced. So a
//! commit that fails needs no copy: the keys get back the slots that they had.

// So far only the extension has a use for it.
#![cfg_attr(not(feature = "python"), allow(dead_code, unused_imports))]

mod changes;
mod expiry;
mod index;
mod load;
mod rows;
mod spec;

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::take::take_record_batch;

pub(crate) use self::changes::Changes;
use self::expiry::{Expiring, in_unit_of, millis_of, time_at};
use self::index::{Index, NO_SLOT, Texts};
pub(crate) use self::load::{load, read, read_fields, read_keys};
use self::rows::{Rows, without_garbage};
use self::spec::KeyTexts;
pub(crate) use self::spec::{Expiry, Spec};
use crate::decode::internal;
use crate::error::{Error, Result};

/// A table, and what has been changed of it since the last commit. Pure, without IO.
#[derive(Debug)]
pub(crate) struct Table {
    spec: Arc<Spec>,
    index: Index,
    rows: Rows,
    /// Keys whose slots have changed, and the slots that they had; the latest last.
    undo: Vec<(u32, u32)>,
    /// How many keys there were at the last commit.
    settled_keys: usize,
    expiring: Option<Expiring>,
}

impl Table {
    /// A table of these rows: all columns, as they are kept, and the text of each row's key. Of rows
    /// with the same key the last counts.
    fn new(spec: Arc<Spec>, keys: &Texts, rows: RecordBatch) -> Result<Self> {
        let mut table = Table {
            index: Index::with_capacity(keys.len()),
            rows: Rows::new(Arc::clone(&spec.stored)),
            undo: Vec::new(),
            settled_keys: 0,
            expiring: spec.expiry.map(|_| Expiring::default()),
            spec,
        };
        table.rows.push(rows)?;
        for (slot, key) in (0..).zip(keys.iter()) {
            let number = table.index.add(key);
            table.index.set(number, slot);
        }
        table.expire_from(0);
        table.commit()?;
        Ok(table)
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.index.live()
    }

    /// The rows of keys, in their order, without the keys themselves; nulls for a key that has none.
    ///
    /// # Errors
    ///
    /// [`Schema`](crate::ErrorKind::Schema) for keys of another dtype.
    pub(crate) fn lookup(&self, keys: &RecordBatch) -> Result<RecordBatch> {
        let texts = self.spec.key_texts(&self.spec.conform(keys)?)?;
        let slots = (0..keys.num_rows()).map(|row| self.index.find_slot(texts.get(row)?));
        self.rows.gather(self.spec.value_columns(), slots)
    }

    /// Which keys have rows.
    ///
    /// # Errors
    ///
    /// As [`lookup`](Table::lookup).
    pub(crate) fn contains(&self, keys: &RecordBatch) -> Result<Vec<bool>> {
        let texts = self.spec.key_texts(&self.spec.conform(keys)?)?;
        let has_row = |row| texts.get(row).is_some_and(|key| self.index.find_slot(key).is_some());
        Ok((0..keys.num_rows()).map(has_row).collect())
    }

    /// All rows with their keys.
    pub(crate) fn frame(&self) -> Result<RecordBatch> {
        let is_in_order = || self.index.keys().all(|(number, slot)| number == slot);
        match self.rows.single() {
            Some(batch) if batch.num_rows() == self.len() && is_in_order() => Ok(batch.clone()),
            _ => {
                let slots = self.index.keys().map(|(_, slot)| Some(slot));
                self.rows.gather(self.spec.all_columns(), slots)
            }
        }
    }

    /// Writes rows: the columns of the key and then the others. Of rows with the same key the last
    /// counts.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a key that is null and
    /// [`Schema`](crate::ErrorKind::Schema) for values that do not fit; the table is as it was.
    pub(crate) fn upsert(&mut self, rows: &RecordBatch) -> Result<()> {
        let rows = self.spec.conform(rows)?;
        let texts = self.texts_of(&rows)?;
        // The last row of each key.
        let mut last: HashMap<&[u8], u32> = HashMap::with_capacity(rows.num_rows());
        for (row, key) in (0..).zip(texts.texts.iter()) {
            last.insert(key, row);
        }
        let mut kept: Vec<u32> = last.into_values().collect();
        kept.sort_unstable();
        // A copy, since what a frame lends may be an object's of Python.
        let rows = take_record_batch(&rows, &UInt32Array::from(kept.clone())).map_err(internal)?;
        let rows = without_garbage(&rows)?;
        // What cannot be written fails now, and not at the commit.
        self.spec.documents(&rows.project(&self.value_columns()).map_err(internal)?)?;
        let first = self.rows.len();
        if first.saturating_add(rows.num_rows()) >= NO_SLOT as usize {
            return Err(Error::invalid("a table has room for four billion rows"));
        }
        self.rows.push(rows)?;
        let undone = self.undo.len();
        for (slot, row) in (first as u32..).zip(&kept) {
            let number = self.index.add(texts.texts.get(*row as usize));
            self.set(number, slot);
        }
        self.expire_from(undone);
        Ok(())
    }

    /// Deletes the rows of keys, and says how many there were.
    ///
    /// # Errors
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a key that is null,
    /// [`Schema`](crate::ErrorKind::Schema) for keys of another dtype.
    pub(crate) fn delete(&mut self, keys: &RecordBatch) -> Result<usize> {
        let keys = self.spec.conform(keys)?;
        let texts = self.texts_of(&keys)?;
        let before = self.len();
        for key in texts.texts.iter() {
            if let Some(number) = self.index.find(key) {
                self.set(number, NO_SLOT);
            }
        }
        Ok(before - self.len())
    }

    /// Deletes all rows.
    pub(crate) fn clear(&mut self) {
        let numbers: Vec<u32> = self.index.keys().map(|(number, _)| number).collect();
        numbers.into_iter().for_each(|number| self.set(number, NO_SLOT));
    }

    /// Deletes the rows whose time is older than the watermark minus what they may be; says how many.
    /// The watermark, in milliseconds, is never before the newest time that the table has seen.
    pub(crate) fn expire(&mut self, watermark: Option<i64>) -> usize {
        let (Some((column, after)), Some(expiring)) = (self.spec.expiry, &self.expiring) else {
            return 0;
        };
        let Some(field) = self.spec.stored.fields().get(column) else {
            return 0;
        };
        let Some(watermark) = watermark.max(expiring.newest()) else {
            return 0;
        };
        let bound = in_unit_of(field.data_type(), watermark.saturating_sub(after));
        let before = self.len();
        while let Some(number) = self.expiring.as_mut().and_then(|due| due.take(bound)) {
            if self.time_of(column, number).is_some_and(|time| time < bound) {
                self.set(number, NO_SLOT);
            }
        }
        before - self.len()
    }

    /// The newest time that the table has seen, in milliseconds, of rows that are gone too. Where it is
    /// saved with each commit, and [seen](Table::see) by whoever loads the table, it does not depend on
    /// restarts when rows expire.
    pub(crate) fn newest_ms(&self) -> Option<i64> {
        self.expiring.as_ref()?.newest()
    }

    /// The newest time that was saved, after a load.
    pub(crate) fn see(&mut self, newest_ms: Option<i64>) {
        if let Some(expiring) = &mut self.expiring {
            expiring.see(newest_ms);
        }
    }

    /// What a commit has to write: what differs from the last commit, however often it was changed.
    ///
    /// # Errors
    ///
    /// None that is not a defect: what cannot be written was refused before.
    pub(crate) fn changes(&self) -> Result<Changes> {
        let mut before: HashMap<u32, u32> = HashMap::with_capacity(self.undo.len());
        let mut touched = Vec::with_capacity(self.undo.len());
        for (number, slot) in &self.undo {
            before.entry(*number).or_insert_with(|| {
                touched.push((*number, *slot));
                *slot
            });
        }
        let mut changes = Changes::default();
        let mut set = Vec::with_capacity(touched.len());
        for (number, before) in touched {
            match (self.index.slot(number), before) {
                (NO_SLOT, NO_SLOT) => {}
                (NO_SLOT, _) => changes.delete(self.index.text(number)),
                (now, before) => set.push((number, now, before)),
            }
        }
        let columns = || self.spec.value_columns();
        let now = self.rows.gather(columns(), set.iter().map(|(_, now, _)| Some(*now)))?;
        let slot = |slot: u32| (slot != NO_SLOT).then_some(slot);
        let before = self.rows.gather(columns(), set.iter().map(|(.., before)| slot(*before)))?;
        let (now, before) = (self.spec.documents(&now)?, self.spec.documents(&before)?);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for (row, (number, _, slot)) in set.iter().enumerate() {
            let document = now.text(row, &mut one);
            if *slot == NO_SLOT || document != before.text(row, &mut other) {
                changes.set(self.index.text(*number), document);
            }
        }
        Ok(changes)
    }

    /// The changes are in.
    ///
    /// # Errors
    ///
    /// None that is not a defect.
    pub(crate) fn commit(&mut self) -> Result<()> {
        self.undo.clear();
        if let Some(expiring) = &mut self.expiring {
            expiring.settle();
        }
        self.rows.settle()?;
        /// Below that nothing is gained.
        const FEW: usize = 1_000;
        let most = self.len().saturating_mul(2).saturating_add(FEW);
        if self.index.len() > most {
            self.renumber()?;
        } else if self.rows.len() > most {
            self.repack()?;
        }
        if self.expiring.as_ref().is_some_and(|expiring| expiring.len() > most) {
            self.restart_expiring();
        }
        self.settled_keys = self.index.len();
        Ok(())
    }

    /// The changes are not in, and never will be: the table is as it was at the last commit.
    pub(crate) fn rollback(&mut self) {
        for (number, slot) in self.undo.drain(..).rev() {
            self.index.set(number, slot);
        }
        self.index.truncate(self.settled_keys);
        self.rows.forget_unsettled();
        if self.expiring.as_ref().is_some_and(Expiring::is_changed) {
            self.restart_expiring();
        }
    }

    fn value_columns(&self) -> Vec<usize> {
        self.spec.value_columns().collect()
    }

    fn texts_of(&self, rows: &RecordBatch) -> Result<KeyTexts> {
        let texts = self.spec.key_texts(rows)?;
        match texts.first_null() {
            Some(row) => Err(self.spec.null_key(rows, row)),
            None => Ok(texts),
        }
    }

    fn set(&mut self, number: u32, slot: u32) {
        let before = self.index.set(number, slot);
        if before != slot {
            self.undo.push((number, before));
        }
    }

    /// The rows that are there, in order, and nothing else.
    fn repack(&mut self) -> Result<()> {
        let packed = self.packed_rows()?;
        let numbers: Vec<u32> = self.index.keys().map(|(number, _)| number).collect();
        for (slot, number) in (0..).zip(numbers) {
            self.index.set(number, slot);
        }
        self.rows = packed;
        Ok(())
    }

    /// The same, with numbers for the keys that are there only.
    fn renumber(&mut self) -> Result<()> {
        let packed = self.packed_rows()?;
        let mut index = Index::with_capacity(self.len());
        for (slot, (number, _)) in (0..).zip(self.index.keys()) {
            let renumbered = index.add(self.index.text(number));
            index.set(renumbered, slot);
        }
        self.index = index;
        self.rows = packed;
        self.restart_expiring();
        Ok(())
    }

    fn packed_rows(&self) -> Result<Rows> {
        let slots = self.index.keys().map(|(_, slot)| Some(slot));
        let batch = self.rows.gather(self.spec.all_columns(), slots)?;
        let mut rows = Rows::new(Arc::clone(&self.spec.stored));
        rows.push(without_garbage(&batch)?)?;
        rows.settle()?;
        Ok(rows)
    }

    fn time_of(&self, column: usize, number: u32) -> Option<i64> {
        let slot = self.index.slot(number);
        let (batch, row) = (slot != NO_SLOT).then(|| self.rows.place(slot as usize)).flatten()?;
        time_at(batch, column, row)
    }

    /// Has the rows expire that were written since then: one for each change from `undone` on.
    fn expire_from(&mut self, undone: usize) {
        let (Some((column, _)), Some(mut expiring)) = (self.spec.expiry, self.expiring.take())
        else {
            return;
        };
        let data_type = self.spec.stored.fields().get(column).map(|field| field.data_type());
        let changed = self.undo.get(undone..).unwrap_or_default().iter().map(|(number, _)| *number);
        let numbers: Vec<u32> = match self.settled_keys {
            // Loaded: no change is kept of that.
            0 if self.undo.is_empty() => self.index.keys().map(|(number, _)| number).collect(),
            _ => changed.collect(),
        };
        for number in numbers {
            if let (Some(time), Some(data_type)) = (self.time_of(column, number), data_type) {
                expiring.add(time, number, millis_of(data_type, time));
            }
        }
        self.expiring = Some(expiring);
    }

    fn restart_expiring(&mut self) {
        let (Some((column, _)), Some(mut expiring)) = (self.spec.expiry, self.expiring.take())
        else {
            return;
        };
        let timed = self.index.keys().filter_map(|(number, slot)| {
            let (batch, row) = self.rows.place(slot as usize)?;
            Some((time_at(batch, column, row)?, number))
        });
        expiring.restart(timed);
        self.expiring = Some(expiring);
    }
}

#[cfg(test)]
mod tests;
