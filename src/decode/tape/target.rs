//! Where values go: to a column that is there or is made now, beside them, or nowhere.

use super::Tape;
use crate::error::Result;
use crate::schema::NoColumn;

/// Where the value of a field goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum Target {
    Column(usize),
    Stray,
    Nowhere,
    /// Its keys go where fields of their names would.
    Payload,
}

impl Tape {
    /// Finds or makes the target of a field that is not where it was in the latest entry.
    #[cold]
    pub(super) fn look_up(&mut self, position: usize, name: &[u8]) -> Result<Target> {
        let target = match self.schema.is_payload(name) {
            true => self.payload_target(),
            false => self.target_of(name)?,
        };
        self.layout.remember(position, name, target);
        Ok(target)
    }

    /// Where a value of that name goes: a field's, or a key's.
    #[inline(always)]
    pub(super) fn target_of(&mut self, name: &[u8]) -> Result<Target> {
        match self.names.find(name) {
            Some(column) => Ok(Target::Column(column)),
            // One reason is enough to leave the entry out.
            None if self.entry.refused.is_some() => Ok(Target::Nowhere),
            None if self.schema.open => self.new_target(name),
            None if self.schema.rescue_column.is_some() => Ok(Target::Stray),
            None => Ok(Target::Nowhere),
        }
    }

    /// What becomes of a field that an open schema has no column for yet.
    fn new_target(&mut self, name: &[u8]) -> Result<Target> {
        match self.schema.column_name(name, self.names.weight()) {
            Ok(name) => {
                let column = self.names.push(name);
                self.columns.push(Vec::new());
                self.make_room();
                Ok(Target::Column(column))
            }
            Err(NoColumn::Rescued) => Ok(Target::Stray),
            Err(NoColumn::LeftOut) => Ok(Target::Nowhere),
            Err(NoColumn::Raised(error)) => Err(self.at_entry(error)),
            Err(NoColumn::Rejected(error)) => {
                self.entry.refused = Some(self.at_entry(error));
                Ok(Target::Nowhere)
            }
        }
    }

    /// A key of the payload and a field of the same entry ask for one column.
    pub(super) fn refuse_clash(&mut self, column: usize) -> Result<()> {
        match self.schema.refuse_clash(self.names.get(column)) {
            NoColumn::Rejected(error) => {
                self.entry.refused = Some(self.at_entry(error));
                Ok(())
            }
            NoColumn::Raised(error) => Err(self.at_entry(error)),
            NoColumn::LeftOut | NoColumn::Rescued => Ok(()),
        }
    }
}
