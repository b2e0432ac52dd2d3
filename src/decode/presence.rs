//! Which of the wanted fields have ever come: a field that no entry has, because its name or the
//! payload's is mistyped, is null without a word.
//!
//! It costs nothing per entry: each page is asked which columns had a value, and the tape remembers
//! the names that the latest entry had.

use arrow_schema::FieldRef;

use super::column::Origin;
use super::tape::Tape;
use crate::schema::StreamSchema;

/// What entries lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The fields of the schema that none of the entries had; or the payload, where none had that.
    pub(crate) names: Vec<String>,
    /// The names that the latest entry had: fields, and keys of the payload.
    pub(crate) present: Vec<String>,
    /// The payload, where one is read.
    pub(crate) payload: Option<String>,
    /// How many entries there were.
    pub(crate) entries: u64,
}

/// Watches a reader's first entries.
#[derive(Debug, Clone)]
pub(crate) struct Presence {
    /// Of each of the schema's fields, whether an entry had it.
    seen: Vec<bool>,
    /// How many of them somebody may miss.
    wanted: usize,
    /// Whether a key of the payload was among them.
    any_key: bool,
    /// Whether an entry had the payload.
    any_payload: bool,
    entries: u64,
    /// The names that the latest entry had.
    present: Vec<String>,
    /// Others read along, so what this one lacks says nothing before they are asked.
    is_one_of_several: bool,
}

impl Presence {
    /// The number of entries after which a missing field is worth reporting.
    const ENOUGH: u64 = 100;

    /// Nothing to watch where the entries decide which fields there are.
    pub(crate) fn of(schema: &StreamSchema) -> Option<Self> {
        // What comes beside the others counts as seen.
        let is_beside = |field: &FieldRef| schema.is_beside(field.name().as_bytes());
        let seen: Vec<bool> = schema.fields.iter().map(is_beside).collect();
        let is_watched = schema.expects_fields && !schema.open && seen.contains(&false);
        let wanted = seen.iter().filter(|seen| !**seen).count();
        is_watched.then_some(Presence {
            seen,
            wanted,
            any_key: false,
            any_payload: false,
            entries: 0,
            present: Vec::new(),
            is_one_of_several: false,
        })
    }

    /// Judges nothing on its own.
    pub(super) fn is_one_of_several(&mut self) {
        self.is_one_of_several = true;
    }

    /// Whether there have been so many entries that a missing field is worth reporting.
    pub(crate) fn has_enough(&self) -> bool {
        self.entries >= Self::ENOUGH
    }

    /// What another reader of the same columns has met as well.
    pub(crate) fn merge(&mut self, other: &Presence) {
        self.seen.iter_mut().zip(&other.seen).for_each(|(seen, other)| *seen |= other);
        self.any_key |= other.any_key;
        self.any_payload |= other.any_payload;
        self.entries += other.entries;
        let new = other.present.iter().filter(|name| !self.present.contains(name));
        let new: Vec<String> = new.cloned().collect();
        self.present.extend(new);
    }

    /// Looks at a page.
    pub(crate) fn look(&mut self, tape: &Tape) {
        self.any_payload |= tape.has_had_payload();
        for (column, seen) in self.seen.iter_mut().enumerate() {
            if let Some(slot) = tape.slots(column).first() {
                *seen = true;
                self.any_key |= slot.origin() != Origin::Field;
            }
        }
    }

    /// After a batch of `entries` entries: whether there have been enough, and what they lack.
    pub(crate) fn judge(
        &mut self,
        entries: usize,
        schema: &StreamSchema,
        tape: &Tape,
    ) -> Option<Option<Missing>> {
        if entries == 0 {
            return None;
        }
        self.entries += entries as u64;
        self.present = tape.latest_names();
        if self.is_one_of_several { None } else { self.verdict(schema) }
    }

    /// Whether there have been enough entries so far, and what they lack.
    pub(crate) fn verdict(&self, schema: &StreamSchema) -> Option<Option<Missing>> {
        let present = &self.present;
        let payload = schema.payload.as_ref().map(|payload| payload.field.clone());
        let missing = |names| Missing {
            names,
            present: present.clone(),
            payload: payload.clone(),
            entries: self.entries,
        };
        if let Some(payload) = payload.as_ref().filter(|_| !self.any_payload) {
            return Some(Some(missing(vec![payload.clone()])));
        }
        // A key whose value is null has no slot, but the latest document may show it.
        let is_missing = |name: &String| !present.contains(name);
        let unseen = schema.fields.iter().zip(&self.seen).filter(|(_, seen)| !**seen);
        let unseen: Vec<String> =
            unseen.map(|(field, _)| field.name().clone()).filter(is_missing).collect();
        let is_enough = self.entries >= Self::ENOUGH
            || unseen.len() == self.wanted
            || (payload.is_some() && !self.any_key);
        match unseen.is_empty() {
            false if is_enough => Some(Some(missing(unseen))),
            true if self.entries >= Self::ENOUGH => Some(None),
            _ => None,
        }
    }
}
