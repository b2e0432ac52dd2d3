//! Avro schemas, parsed from their JSON.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::logical::Logical;

/// The place of a type among those of its schema.
pub(super) type NodeId = usize;

/// A schema's types, which refer to each other: they may contain themselves.
#[derive(Debug)]
pub(super) struct Parsed {
    nodes: Vec<Node>,
    pub(super) root: NodeId,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) logical: Option<Logical>,
    /// How many bytes a value takes at least. Where that is none, it takes none at all.
    pub(super) least: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record(Record),
    Enum(Enum),
    Fixed(Name, usize),
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) name: Name,
    pub(super) fields: Vec<RecordField>,
}

#[derive(Debug)]
pub(super) struct RecordField {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) node: NodeId,
    pub(super) default: Option<Value>,
}

#[derive(Debug)]
pub(super) struct Enum {
    pub(super) name: Name,
    pub(super) symbols: Vec<String>,
    pub(super) default: Option<usize>,
}

/// A full name, and others that a reader knows the type by.
#[derive(Debug, Default)]
pub(super) struct Name {
    pub(super) full: String,
    pub(super) aliases: Vec<String>,
}

impl Parsed {
    /// Parses a schema; an error is the end of the sentence "the Avro schema ...".
    pub(super) fn parse(text: &str) -> Result<Parsed, String> {
        let json: Value =
            serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        let mut parser = Parser { nodes: Vec::new(), names: HashMap::new() };
        let root = parser.any(&json, "")?;
        Ok(Parsed { nodes: parser.nodes, root })
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        const NULL: Node = Node { kind: Kind::Null, logical: None, least: 0 };
        self.nodes.get(id).unwrap_or(const { &NULL })
    }

    pub(super) fn kind(&self, id: NodeId) -> &Kind {
        &self.node(id).kind
    }

    /// The record that its documents are.
    pub(super) fn record(&self) -> Option<&Record> {
        match self.kind(self.root) {
            Kind::Record(record) => Some(record),
            _ => None,
        }
    }

    /// What the record is called.
    pub(super) fn name(&self) -> &str {
        self.record().map_or("", |record| &record.name.full)
    }

    /// The type as errors call it: its name, or its kind.
    pub(super) fn describe(&self, id: NodeId) -> String {
        let node = self.node(id);
        match (&node.kind, &node.logical) {
            (_, Some(logical)) => logical.name().to_owned(),
            (Kind::Array(_), _) => "array".to_owned(),
            (Kind::Map(_), _) => "map".to_owned(),
            (Kind::Union(branches), _) => {
                let names: Vec<_> = branches.iter().map(|branch| self.describe(*branch)).collect();
                format!("union of {}", names.join(", "))
            }
            (kind, _) => match kind.name() {
                Some(name) => format!("{} {}", kind.word(), name.full),
                None => kind.word().to_owned(),
            },
        }
    }
}

impl Kind {
    /// What the specification calls it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Boolean => "boolean",
            Kind::Int => "int",
            Kind::Long => "long",
            Kind::Float => "float",
            Kind::Double => "double",
            Kind::Bytes => "bytes",
            Kind::String => "string",
            Kind::Array(_) => "array",
            Kind::Map(_) => "map",
            Kind::Union(_) => "union",
            Kind::Record(_) => "record",
            Kind::Enum(_) => "enum",
            Kind::Fixed(..) => "fixed",
        }
    }

    pub(super) fn name(&self) -> Option<&Name> {
        match self {
            Kind::Record(record) => Some(&record.name),
            Kind::Enum(of) => Some(&of.name),
            Kind::Fixed(name, _) => Some(name),
            _ => None,
        }
    }

    fn primitive(word: &str) -> Option<Kind> {
        Some(match word {
            "null" => Kind::Null,
            "boolean" => Kind::Boolean,
            "int" => Kind::Int,
            "long" => Kind::Long,
            "float" => Kind::Float,
            "double" => Kind::Double,
            "bytes" => Kind::Bytes,
            "string" => Kind::String,
            _ => return None,
        })
    }
}

impl Name {
    /// The name without its namespace.
    pub(super) fn simple(&self) -> &str {
        simple(&self.full)
    }
}

pub(super) fn simple(full: &str) -> &str {
    full.rsplit_once('.').map_or(full, |(_, simple)| simple)
}

struct Parser {
    nodes: Vec<Node>,
    /// Named types by their full names.
    names: HashMap<String, NodeId>,
}

impl Parser {
    /// JSON that is parsed is not nested deeply, so neither is this.
    fn any(&mut self, json: &Value, namespace: &str) -> Result<NodeId, String> {
        match json {
            Value::String(name) => self.called(name, namespace),
            Value::Array(branches) => self.union(branches, namespace),
            Value::Object(object) => match object.get("type") {
                Some(Value::String(kind)) => self.object(kind, object, namespace),
                Some(inner) => self.any(inner, namespace),
                None => Err("has an object without a type".to_owned()),
            },
            other => Err(format!("has {other} in a type's place")),
        }
    }

    fn called(&mut self, name: &str, namespace: &str) -> Result<NodeId, String> {
        if let Some(kind) = Kind::primitive(name) {
            return self.add(kind, None);
        }
        let found = self.names.get(&qualified(name, namespace)).or_else(|| self.names.get(name));
        found.copied().ok_or_else(|| format!("has the unknown type {name:?}"))
    }

    fn union(&mut self, json: &[Value], namespace: &str) -> Result<NodeId, String> {
        let mut branches = Vec::new();
        let mut seen = Vec::new();
        for branch in json {
            let id = self.any(branch, namespace)?;
            let kind = self.nodes.get(id).map(|node| &node.kind);
            let what = match kind {
                Some(Kind::Union(_)) => return Err("has a union within a union".to_owned()),
                Some(kind) => kind.name().map_or(kind.word(), |name| &name.full).to_owned(),
                None => String::new(),
            };
            if seen.contains(&what) {
                return Err(format!("has a union with {what} twice"));
            }
            seen.push(what);
            branches.push(id);
        }
        self.add(Kind::Union(branches), None)
    }

    fn object(
        &mut self,
        kind: &str,
        object: &Map<String, Value>,
        namespace: &str,
    ) -> Result<NodeId, String> {
        let part = |name: &str| {
            object.get(name).ok_or_else(|| format!("has an {kind} without its {name}"))
        };
        let kind = match kind {
            "array" => Kind::Array(self.any(part("items")?, namespace)?),
            "map" => Kind::Map(self.any(part("values")?, namespace)?),
            "record" | "error" => return self.record(object, namespace),
            "enum" => {
                let symbols = texts(part("symbols")?).filter(|symbols| !symbols.is_empty());
                let symbols = symbols.ok_or("has an enum whose symbols are no names")?;
                if let Some(twice) = repeated(symbols.iter()) {
                    return Err(format!("has an enum with {twice} twice"));
                }
                let default = match object.get("default") {
                    None => None,
                    Some(default) => {
                        let place = symbols.iter().position(|one| default == one.as_str());
                        Some(place.ok_or("has an enum whose default is none of its symbols")?)
                    }
                };
                Kind::Enum(Enum { name: named(object, namespace)?, symbols, default })
            }
            "fixed" => {
                let size = part("size")?.as_u64().and_then(|size| u32::try_from(size).ok());
                let size = size.ok_or("has a fixed whose size is no number of bytes")?;
                Kind::Fixed(named(object, namespace)?, size as usize)
            }
            other => match Kind::primitive(other) {
                Some(kind) => kind,
                None => return self.called(other, namespace),
            },
        };
        let logical = Logical::of(&kind, object);
        self.add(kind, logical)
    }

    fn record(&mut self, object: &Map<String, Value>, outer: &str) -> Result<NodeId, String> {
        let name = named(object, outer)?;
        let namespace = name.full.rsplit_once('.').map_or("", |(namespace, _)| namespace);
        let namespace = namespace.to_owned();
        // Its fields may be of it.
        let id = self.add(Kind::Record(Record { name, fields: Vec::new() }), None)?;
        let Some(Value::Array(json)) = object.get("fields") else {
            return Err("has a record without its fields".to_owned());
        };
        let mut members = Vec::new();
        for field in json {
            let (Some(name), Some(of)) =
                (field.get("name").and_then(Value::as_str), field.get("type"))
            else {
                return Err("has a field without its name or type".to_owned());
            };
            members.push(RecordField {
                name: name.to_owned(),
                aliases: field.get("aliases").and_then(texts).unwrap_or_default(),
                node: self.any(of, &namespace)?,
                default: field.get("default").cloned(),
            });
        }
        if let Some(twice) = repeated(members.iter().map(|field| &field.name)) {
            return Err(format!("has a record with the field {twice} twice"));
        }
        let least = members.iter().map(|field| self.least(field.node));
        let least = least.fold(0, usize::saturating_add);
        if let Some(Node { kind: Kind::Record(record), least: of, .. }) = self.nodes.get_mut(id) {
            (record.fields, *of) = (members, least);
        }
        Ok(id)
    }

    fn add(&mut self, kind: Kind, logical: Option<Logical>) -> Result<NodeId, String> {
        let id = self.nodes.len();
        if let Some(name) = kind.name()
            && self.names.insert(name.full.clone(), id).is_some()
        {
            return Err(format!("defines {} twice", name.full));
        }
        let least = match &kind {
            // Of a record, it is known once its fields are.
            Kind::Null | Kind::Record(_) => 0,
            Kind::Float => 4,
            Kind::Double => 8,
            Kind::Fixed(_, size) => *size,
            _ => 1,
        };
        self.nodes.push(Node { kind, logical, least });
        Ok(id)
    }

    fn least(&self, id: NodeId) -> usize {
        self.nodes.get(id).map_or(0, |node| node.least)
    }
}

fn named(object: &Map<String, Value>, outer: &str) -> Result<Name, String> {
    let name = object.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or("has a named type without a name")?;
    let own = object.get("namespace").and_then(Value::as_str);
    let full = qualified(name, own.unwrap_or(outer));
    let namespace = full.rsplit_once('.').map_or("", |(namespace, _)| namespace);
    let aliases = object.get("aliases").and_then(texts).unwrap_or_default();
    let aliases = aliases.iter().map(|alias| qualified(alias, namespace)).collect();
    Ok(Name { full, aliases })
}

fn qualified(name: &str, namespace: &str) -> String {
    match name.contains('.') || namespace.is_empty() {
        true => name.trim_start_matches('.').to_owned(),
        false => format!("{namespace}.{name}"),
    }
}

fn texts(json: &Value) -> Option<Vec<String>> {
    json.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

fn repeated<'n>(names: impl Iterator<Item = &'n String>) -> Option<&'n String> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}
