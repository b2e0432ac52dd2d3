//! How a datum of a writer's schema becomes what a reader's schema has: the steps, found once.
//!
//! Which types go together is as the specification's "schema resolution" says. What does not is found
//! out only where such a value comes, as in a branch of a union.

use std::collections::HashMap;
use std::sync::Arc;

use super::logical::Logical;
use super::schema::{Enum, Kind, Name, NodeId, Parsed, Record, simple};
use crate::decode::DEEPEST;
use crate::payload_schema::packer::{PackedName, packed_text};
use crate::payload_schema::{Packer, Wanted};

pub(super) type StepId = usize;

/// How a value of a type is unpacked.
#[derive(Debug)]
pub(super) enum Step {
    Null,
    Boolean,
    /// An int or long; of a long, all 64 bits.
    Integer {
        wide: bool,
        logical: Option<Logical>,
    },
    /// One that becomes a float or double.
    IntegerAsFloat {
        single: bool,
    },
    Float,
    FloatAsDouble,
    Double,
    /// A string, bytes or a fixed: of this number of bytes, or behind its length.
    Text,
    Bytes {
        size: Option<usize>,
        logical: Option<Logical>,
    },
    /// What its symbols are read as, packed.
    Enum(Box<[Box<[u8]>]>),
    /// Of items that take at least this number of bytes each.
    Array {
        item: StepId,
        least: usize,
    },
    Map {
        value: StepId,
        least: usize,
    },
    Union(Box<[StepId]>),
    Record(RecordStep),
    /// What the reader has nothing for.
    Never(String),
}

#[derive(Debug)]
pub(super) struct RecordStep {
    /// In the writer's order.
    pub(super) fields: Box<[FieldStep]>,
    /// How many members there are, with those that the writer lacks.
    pub(super) len: usize,
    /// The names and packed values of those.
    pub(super) defaults: Box<[(PackedName, Box<[u8]>)]>,
}

#[derive(Debug)]
pub(super) enum FieldStep {
    /// By its name.
    Take(PackedName, StepId),
    Skip(NodeId),
}

/// The steps for a whole datum.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) writer: Arc<Parsed>,
    pub(super) steps: Vec<Step>,
    pub(super) root: StepId,
}

impl Plan {
    /// Of what a reader has, the members that are wanted.
    pub(super) fn new(writer: &Arc<Parsed>, reader: &Parsed, wanted: &Wanted) -> Plan {
        let mut resolver = Resolver::new(writer, reader);
        resolver.wanted = Some(wanted);
        // Not one of those that are known: where the record contains itself, all of it is wanted.
        let root = resolver.steps.len();
        resolver.steps.push(Step::Null);
        let document = resolver.resolve(writer.root, reader.root, 0);
        resolver.put(root, document);
        Plan { writer: Arc::clone(writer), steps: resolver.steps, root }
    }

    /// Why no datum of the writer's can be read, if that is so.
    pub(super) fn contradiction(&self) -> Option<String> {
        let mut seen = vec![false; self.steps.len()];
        self.contradiction_in(self.root, &mut seen)
    }

    fn contradiction_in(&self, id: StepId, seen: &mut [bool]) -> Option<String> {
        if std::mem::replace(seen.get_mut(id)?, true) {
            return None;
        }
        match self.steps.get(id)? {
            Step::Never(why) => Some(why.clone()),
            Step::Record(RecordStep { fields, .. }) => {
                fields.iter().find_map(|field| match field {
                    FieldStep::Take(_, step) => self.contradiction_in(*step, seen),
                    FieldStep::Skip(_) => None,
                })
            }
            _ => None,
        }
    }
}

struct Resolver<'s> {
    writer: &'s Parsed,
    reader: &'s Parsed,
    /// Of the document, whose record is the first.
    wanted: Option<&'s Wanted>,
    steps: Vec<Step>,
    /// Types that contain themselves come to themselves again.
    known: HashMap<(NodeId, NodeId), StepId>,
}

impl<'s> Resolver<'s> {
    fn new(writer: &'s Parsed, reader: &'s Parsed) -> Self {
        Resolver { writer, reader, wanted: None, steps: Vec::new(), known: HashMap::new() }
    }

    fn put(&mut self, id: StepId, step: Step) {
        if let Some(place) = self.steps.get_mut(id) {
            *place = step;
        }
    }

    fn step(&mut self, writer: NodeId, reader: NodeId, depth: u32) -> StepId {
        if let Some(known) = self.known.get(&(writer, reader)) {
            return *known;
        }
        let id = self.steps.len();
        self.steps.push(Step::Null);
        self.known.insert((writer, reader), id);
        let step = match depth > 2 * DEEPEST {
            true => Step::Never("is nested more than 128 levels deep".to_owned()),
            false => self.resolve(writer, reader, depth + 1),
        };
        self.put(id, step);
        id
    }

    fn resolve(&mut self, writer: NodeId, reader: NodeId, depth: u32) -> Step {
        let (from, to) = (self.writer.node(writer), self.reader.node(reader));
        if let Kind::Union(branches) = &from.kind {
            return Step::Union(
                branches.iter().map(|branch| self.step(*branch, reader, depth)).collect(),
            );
        }
        if let Kind::Union(branches) = &to.kind {
            return match self.branch(writer, branches) {
                Some(branch) => self.resolve(writer, branch, depth),
                None => self.never(writer, reader),
            };
        }
        if !self.matches(writer, reader) {
            return self.never(writer, reader);
        }
        let logical = Logical::resolved(from.logical, to.logical);
        match (&from.kind, &to.kind) {
            (Kind::Null, _) => Step::Null,
            (Kind::Boolean, _) => Step::Boolean,
            (Kind::Int | Kind::Long, Kind::Float) => Step::IntegerAsFloat { single: true },
            (Kind::Int | Kind::Long, Kind::Double) => Step::IntegerAsFloat { single: false },
            (Kind::Int, _) => Step::Integer { wide: false, logical },
            (Kind::Long, _) => Step::Integer { wide: true, logical },
            (Kind::Float, Kind::Double) => Step::FloatAsDouble,
            (Kind::Float, _) => Step::Float,
            (Kind::Double, _) => Step::Double,
            (Kind::Bytes | Kind::String, Kind::String) => Step::Text,
            (Kind::Bytes | Kind::String, _) => Step::Bytes { size: None, logical },
            (Kind::Fixed(_, size), _) => Step::Bytes { size: Some(*size), logical },
            (Kind::Enum(from), Kind::Enum(to)) => Step::Enum(symbols(from, to)),
            (Kind::Array(from), Kind::Array(to)) => {
                let least = self.writer.node(*from).least;
                Step::Array { item: self.step(*from, *to, depth), least }
            }
            (Kind::Map(from), Kind::Map(to)) => {
                let least = self.writer.node(*from).least.saturating_add(1);
                Step::Map { value: self.step(*from, *to, depth), least }
            }
            (Kind::Record(from), Kind::Record(to)) => match self.record(from, to, depth) {
                Ok(record) => Step::Record(record),
                Err(why) => Step::Never(why),
            },
            _ => self.never(writer, reader),
        }
    }

    fn record(&mut self, from: &Record, to: &Record, depth: u32) -> Result<RecordStep, String> {
        let wanted = self.wanted.take();
        let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted.has(name));
        let mut given = vec![false; to.fields.len()];
        let mut fields = Vec::new();
        for field in &from.fields {
            let named = to.fields.iter().position(|one| one.name == field.name);
            let aliased = || to.fields.iter().position(|one| one.aliases.contains(&field.name));
            let place = named.or_else(aliased).filter(|place| given.get(*place) == Some(&false));
            let target = place.and_then(|place| {
                given.get_mut(place).map(|given| *given = true)?;
                to.fields.get(place)
            });
            fields.push(match target {
                Some(target) if is_wanted(&target.name) => FieldStep::Take(
                    PackedName::new(&target.name),
                    self.step(field.node, target.node, depth),
                ),
                _ => FieldStep::Skip(field.node),
            });
        }
        let mut defaults = Vec::new();
        let lacking = to.fields.iter().zip(given).filter(|(_, given)| !given);
        for (field, _) in lacking.filter(|(field, _)| is_wanted(&field.name)) {
            let Some(default) = &field.default else {
                let (record, name) = (&to.name.full, &field.name);
                return Err(format!(
                    "lacks the field {name} of the reader's {record}, which has no default"
                ));
            };
            let mut packed = Vec::new();
            self.reader.pack_default(field.node, default, &mut packed)?;
            defaults.push((PackedName::new(&field.name), packed.into()));
        }
        let taken = fields.iter().filter(|field| matches!(field, FieldStep::Take(..))).count();
        let len = taken + defaults.len();
        Ok(RecordStep { fields: fields.into(), len, defaults: defaults.into() })
    }

    /// The branch of a reader's union for a type: its own, or else the first one that it may become.
    fn branch(&self, writer: NodeId, branches: &[NodeId]) -> Option<NodeId> {
        let own = branches.iter().find(|branch| {
            let (from, to) = (self.writer.kind(writer), self.reader.kind(**branch));
            let names = (from.name().map(|name| &name.full), to.name().map(|name| &name.full));
            from.word() == to.word() && names.0 == names.1 && self.matches(writer, **branch)
        });
        own.or_else(|| branches.iter().find(|branch| self.matches(writer, **branch))).copied()
    }

    /// Whether the writer's type may be read as the reader's, as far as one sees without looking into
    /// records.
    fn matches(&self, writer: NodeId, reader: NodeId) -> bool {
        let (from, to) = (self.writer.kind(writer), self.reader.kind(reader));
        match (from, to) {
            (Kind::Int, Kind::Int | Kind::Long | Kind::Float | Kind::Double)
            | (Kind::Long, Kind::Long | Kind::Float | Kind::Double)
            | (Kind::Float, Kind::Float | Kind::Double)
            | (Kind::String | Kind::Bytes, Kind::String | Kind::Bytes)
            | (Kind::Union(_), _)
            | (_, Kind::Union(_))
            | (Kind::Null, Kind::Null)
            | (Kind::Boolean, Kind::Boolean)
            | (Kind::Double, Kind::Double)
            | (Kind::Array(_), Kind::Array(_))
            | (Kind::Map(_), Kind::Map(_)) => true,
            (Kind::Record(from), Kind::Record(to)) => are_one(&from.name, &to.name),
            (Kind::Enum(from), Kind::Enum(to)) => are_one(&from.name, &to.name),
            (Kind::Fixed(from, size), Kind::Fixed(to, other)) => size == other && are_one(from, to),
            _ => false,
        }
    }

    fn never(&self, writer: NodeId, reader: NodeId) -> Step {
        let (from, to) = (self.writer.describe(writer), self.reader.describe(reader));
        Step::Never(format!("has the Avro type {from} where the reader's schema has {to}"))
    }
}

/// Whether a reader's name, or one of its aliases, is that of a writer's type.
fn are_one(writer: &Name, reader: &Name) -> bool {
    let is_alias = |alias: &String| *alias == writer.full || alias == writer.simple();
    writer.simple() == reader.simple()
        || reader.aliases.iter().any(is_alias)
        || reader.aliases.iter().any(|alias| simple(alias) == writer.simple())
}

/// What each of the writer's symbols is read as, packed. One that the reader lacks stays what it is,
/// and does not fit the column of the reader's.
fn symbols(from: &Enum, to: &Enum) -> Box<[Box<[u8]>]> {
    let default = to.default.and_then(|place| to.symbols.get(place));
    let known = |symbol: &String| to.symbols.iter().find(|one| *one == symbol).or(default);
    from.symbols.iter().map(|symbol| packed_text(known(symbol).unwrap_or(symbol))).collect()
}

impl Parsed {
    /// Packs a field's default value: as if it had been written.
    fn pack_default(
        &self,
        id: NodeId,
        default: &serde_json::Value,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let mut datum = Vec::new();
        self.encode_default(id, default, &mut datum)?;
        let mut resolver = Resolver::new(self, self);
        let root = resolver.step(id, id, 0);
        let mut packer = Packer::new(super::defaults::LARGEST);
        let mut scratch = Vec::new();
        let unpacked =
            super::unpack::unpack(self, &resolver.steps, root, &datum, &mut scratch, &mut packer);
        unpacked.map_err(|misfit| misfit.0.into_owned())?;
        out.extend_from_slice(packer.bytes());
        Ok(())
    }
}
