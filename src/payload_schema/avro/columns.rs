//! The columns that hold what a schema has.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, TimeUnit};

use super::logical::Logical;
use super::schema::{Kind, NodeId, Parsed};
use crate::decode::DEEPEST;
use crate::dtype::{ENUM_METADATA, most_categories};

impl Parsed {
    /// Those of its record.
    pub(super) fn columns(&self) -> Fields {
        let fields = self.record().map(|record| record.fields.as_slice()).unwrap_or_default();
        let mut columns = Columns { schema: self, around: vec![self.root], left: MOST };
        fields.iter().map(|field| columns.column(&field.name, field.node)).collect()
    }
}

/// How many columns there are, with those within others. A record that is twice in another, which is
/// twice in another, and so on, would have more than anybody can hold.
const MOST: usize = 10_000;

struct Columns<'s> {
    schema: &'s Parsed,
    /// The types that are around what comes next.
    around: Vec<NodeId>,
    left: usize,
}

impl Columns<'_> {
    /// What contains itself is text, and so is what may be of several types.
    fn column(&mut self, name: &str, id: NodeId) -> Field {
        let text = || Field::new(name, DataType::Utf8View, true);
        if self.around.contains(&id) || self.around.len() > DEEPEST as usize || self.left == 0 {
            return text();
        }
        self.left -= 1;
        let node = self.schema.node(id);
        self.around.push(id);
        let data_type = match (&node.kind, node.logical) {
            (_, Some(logical)) => logical.data_type(),
            (Kind::Null | Kind::String, None) => DataType::Utf8View,
            (Kind::Boolean, None) => DataType::Boolean,
            (Kind::Int, None) => DataType::Int32,
            (Kind::Long, None) => DataType::Int64,
            (Kind::Float, None) => DataType::Float32,
            (Kind::Double, None) => DataType::Float64,
            (Kind::Bytes | Kind::Fixed(..), None) => DataType::BinaryView,
            (Kind::Array(item), None) => DataType::LargeList(Arc::new(self.column("item", *item))),
            (Kind::Map(value), None) => {
                let key = Field::new("key", DataType::Utf8View, true);
                let both = Fields::from(vec![key, self.column("value", *value)]);
                DataType::LargeList(Arc::new(Field::new("item", DataType::Struct(both), true)))
            }
            (Kind::Record(record), None) if record.fields.is_empty() => DataType::Utf8View,
            (Kind::Record(record), None) => {
                let fields = record.fields.iter();
                DataType::Struct(fields.map(|field| self.column(&field.name, field.node)).collect())
            }
            (Kind::Enum(of), None) => {
                self.around.pop();
                return text()
                    .with_data_type(categories(of.symbols.len()))
                    .with_metadata([(ENUM_METADATA[0].to_owned(), members(&of.symbols))].into());
            }
            (Kind::Union(branches), None) => {
                let branches =
                    branches.iter().filter(|id| !matches!(self.schema.kind(**id), Kind::Null));
                let fields: Vec<_> = branches.map(|id| self.column(name, *id)).collect();
                self.around.pop();
                return match fields.split_first() {
                    Some((first, others)) if others.iter().all(|other| other == first) => {
                        first.clone()
                    }
                    _ => text(),
                };
            }
        };
        self.around.pop();
        Field::new(name, data_type, true)
    }
}

impl Logical {
    fn data_type(self) -> DataType {
        match self {
            Logical::Decimal(digits) if digits.precision <= 38 => {
                DataType::Decimal128(digits.precision as u8, digits.scale as i8)
            }
            Logical::Decimal(_) | Logical::Uuid => DataType::Utf8View,
            Logical::Date => DataType::Date32,
            Logical::Time(_) => DataType::Time64(TimeUnit::Nanosecond),
            Logical::Timestamp(unit) => DataType::Timestamp(unit, Some("UTC".into())),
            Logical::LocalTimestamp(unit) => DataType::Timestamp(unit, None),
        }
    }
}

/// The smallest type of keys for this number of members.
fn categories(count: usize) -> DataType {
    let key = [DataType::UInt8, DataType::UInt16]
        .into_iter()
        .find(|key| count <= most_categories(key) as usize)
        .unwrap_or(DataType::UInt32);
    DataType::Dictionary(Box::new(key), Box::new(DataType::Utf8View))
}

/// The members of an Enum, as Polars lists them.
fn members(symbols: &[String]) -> String {
    symbols.iter().map(|symbol| format!("{};{symbol}", symbol.len())).collect()
}
