//! The canonical form of schemas, and the fingerprint of it that a single-object header has.

use std::collections::HashSet;

use serde_json::Value;

use super::schema::{Kind, Name, NodeId, Parsed};

/// A schema's Rabin fingerprint.
pub(super) fn fingerprint(schema: &Parsed) -> u64 {
    rabin(canonical(schema).as_bytes())
}

/// What remains of a schema once all is left out that does not matter to its bytes.
pub(super) fn canonical(schema: &Parsed) -> String {
    let mut out = String::new();
    Form { schema, defined: HashSet::new() }.push(schema.root, &mut out);
    out
}

struct Form<'s> {
    schema: &'s Parsed,
    /// What is defined already is only named.
    defined: HashSet<NodeId>,
}

impl Form<'_> {
    fn push(&mut self, id: NodeId, out: &mut String) {
        let schema = self.schema;
        let kind = schema.kind(id);
        if let Some(Name { full, .. }) = kind.name() {
            if !self.defined.insert(id) {
                return out.push_str(&quoted(full));
            }
            out.push_str(&format!("{{\"name\":{},\"type\":\"{}\"", quoted(full), kind.word()));
        }
        match kind {
            Kind::Array(item) => {
                out.push_str("{\"type\":\"array\",\"items\":");
                self.push(*item, out);
                out.push('}');
            }
            Kind::Map(value) => {
                out.push_str("{\"type\":\"map\",\"values\":");
                self.push(*value, out);
                out.push('}');
            }
            Kind::Union(branches) => {
                out.push('[');
                for (place, branch) in branches.iter().enumerate() {
                    out.push_str(if place > 0 { "," } else { "" });
                    self.push(*branch, out);
                }
                out.push(']');
            }
            Kind::Record(record) => {
                out.push_str(",\"fields\":[");
                for (place, field) in record.fields.iter().enumerate() {
                    out.push_str(if place > 0 { "," } else { "" });
                    out.push_str(&format!("{{\"name\":{},\"type\":", quoted(&field.name)));
                    self.push(field.node, out);
                    out.push('}');
                }
                out.push_str("]}");
            }
            Kind::Enum(of) => {
                let symbols: Vec<_> = of.symbols.iter().map(|symbol| quoted(symbol)).collect();
                out.push_str(&format!(",\"symbols\":[{}]}}", symbols.join(",")));
            }
            Kind::Fixed(_, size) => out.push_str(&format!(",\"size\":{size}}}")),
            primitive => out.push_str(&quoted(primitive.word())),
        }
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The fingerprint `CRC-64-AVRO`, as the specification computes it.
fn rabin(bytes: &[u8]) -> u64 {
    const EMPTY: u64 = 0xc15d_213a_a4d7_a795;
    bytes.iter().fold(EMPTY, |print, byte| {
        let mut row = (print ^ u64::from(*byte)) & 0xff;
        for _ in 0..8 {
            row = (row >> 1) ^ (EMPTY & (row & 1).wrapping_neg());
        }
        (print >> 8) ^ row
    })
}
