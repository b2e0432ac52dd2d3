//! Default values: JSON, by a type, as that is written.

use serde_json::Value;

use super::schema::{Kind, NodeId, Parsed};
use super::wire::{push_bytes, push_long};
use crate::decode::DEEPEST;

/// What a default may come to.
pub(super) const LARGEST: usize = 64 * 1024;

impl Parsed {
    /// Appends a field's default.
    pub(super) fn encode_default(
        &self,
        id: NodeId,
        json: &Value,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let mut values = 0;
        self.encode_json(id, json, 0, &mut values, out)
    }

    /// Records' defaults bring those of their fields with them: how deeply, and how many values there
    /// are, is bounded.
    fn encode_json(
        &self,
        id: NodeId,
        json: &Value,
        depth: u32,
        values: &mut usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        *values += 1;
        if depth > DEEPEST || *values > LARGEST {
            return Err("has a default that is too large".to_owned());
        }
        let no_default = || format!("has the default {json} for {}", self.describe(id));
        match (self.kind(id), json) {
            (Kind::Null, Value::Null) => {}
            (Kind::Boolean, Value::Bool(value)) => out.push((*value).into()),
            (kind @ (Kind::Int | Kind::Long), Value::Number(number)) => {
                let value = number.as_i64().ok_or_else(no_default)?;
                if matches!(kind, Kind::Int) && i32::try_from(value).is_err() {
                    return Err(no_default());
                }
                push_long(value, out);
            }
            (Kind::Float, json) => {
                let value = float(json).ok_or_else(no_default)?;
                out.extend_from_slice(&(value as f32).to_le_bytes());
            }
            (Kind::Double, json) => {
                let value = float(json).ok_or_else(no_default)?;
                out.extend_from_slice(&value.to_le_bytes());
            }
            (Kind::String, Value::String(text)) => push_bytes(text.as_bytes(), out),
            (Kind::Bytes, Value::String(text)) => {
                push_bytes(&bytes_of(text).ok_or_else(no_default)?, out);
            }
            (Kind::Fixed(_, size), Value::String(text)) => {
                let bytes = bytes_of(text).filter(|bytes| bytes.len() == *size);
                out.extend_from_slice(&bytes.ok_or_else(no_default)?);
            }
            (Kind::Enum(of), Value::String(text)) => {
                let place = of.symbols.iter().position(|symbol| symbol == text);
                push_long(place.ok_or_else(no_default)? as i64, out);
            }
            (Kind::Array(item), Value::Array(items)) => {
                if !items.is_empty() {
                    push_long(items.len() as i64, out);
                }
                for one in items {
                    self.encode_json(*item, one, depth + 1, values, out)?;
                }
                push_long(0, out);
            }
            (Kind::Map(value), Value::Object(entries)) => {
                if !entries.is_empty() {
                    push_long(entries.len() as i64, out);
                }
                for (key, one) in entries {
                    push_bytes(key.as_bytes(), out);
                    self.encode_json(*value, one, depth + 1, values, out)?;
                }
                push_long(0, out);
            }
            (Kind::Record(record), Value::Object(members)) => {
                for field in &record.fields {
                    let value = members.get(&field.name).or(field.default.as_ref());
                    let value = value.ok_or_else(no_default)?;
                    self.encode_json(field.node, value, depth + 1, values, out)?;
                }
            }
            // The first branch, by the older versions of the specification; any one, by the newer.
            (Kind::Union(branches), json) => {
                let start = out.len();
                for (place, branch) in branches.iter().enumerate() {
                    push_long(place as i64, out);
                    match self.encode_json(*branch, json, depth + 1, values, out) {
                        Ok(()) => return Ok(()),
                        Err(_) => out.truncate(start),
                    }
                }
                return Err(no_default());
            }
            _ => return Err(no_default()),
        }
        Ok(())
    }
}

/// JSON has no number for some floats, which libraries write as text.
fn float(json: &Value) -> Option<f64> {
    match json {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" | "INF" => Some(f64::INFINITY),
            "-Infinity" | "-INF" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Bytes are written as the characters of their numbers.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}
