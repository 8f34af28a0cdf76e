//! Dropping fields that the schema does not know.

use std::fmt;

use serde_json::Value;

use super::Schema;
use super::node::{Cursor, Kind, Node};

/// Most unknown fields that are named; the rest is dropped in silence.
const MAX_UNKNOWN: usize = 64;

/// A field that the schema does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Where it was: `spec.qurey`.
    pub path: String,
    /// The name that is probably meant.
    pub near: Option<String>,
}

impl UnknownField {
    /// What server-side apply says of it.
    pub fn undeclared(&self) -> String {
        match &self.near {
            Some(near) => format!(
                ".{}: field not declared in schema, did you mean \"{near}\"?",
                self.path
            ),
            None => format!(".{}: field not declared in schema", self.path),
        }
    }
}

/// What a strict decoder says of it.
impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown field \"{}\"", self.path)?;
        match &self.near {
            Some(near) => write!(f, ", did you mean \"{near}\"?"),
            None => Ok(()),
        }
    }
}

pub(super) fn prune(schema: &Schema, value: &mut Value) -> Vec<UnknownField> {
    let mut unknown = Vec::new();
    walk(schema.cursor(), value, "", &mut unknown);
    unknown
}

fn walk(cursor: Cursor<'_>, value: &mut Value, path: &str, unknown: &mut Vec<UnknownField>) {
    let node = cursor.node();
    match value {
        Value::Object(object) => {
            let keeps = node.preserve_unknown || matches!(node.kind, Kind::Any | Kind::Quantity);
            object.retain(|key, child| {
                let below = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                if let Some(cursor) = cursor.under(key) {
                    walk(cursor, child, &below, unknown);
                    return true;
                }
                if !keeps && unknown.len() < MAX_UNKNOWN {
                    unknown.push(field(below, key, node));
                }
                keeps
            });
        }
        Value::Array(items) => {
            if let Some(element) = cursor.items() {
                for (at, item) in items.iter_mut().enumerate() {
                    walk(element, item, &format!("{path}[{at}]"), unknown);
                }
            }
        }
        _ => {}
    }
}

fn field(path: String, key: &str, node: &Node) -> UnknownField {
    let known = node.properties.iter().map(|(name, _)| name.as_ref());
    UnknownField {
        path,
        near: suggestion(key, known).map(str::to_owned),
    }
}

/// The known name that is most likely meant: at most a third of the letters
/// wrong, or another case.
fn suggestion<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = key.to_lowercase();
    known
        .map(|name| {
            (
                strsim::damerau_levenshtein(&lower, &name.to_lowercase()),
                name,
            )
        })
        .filter(|(distance, name)| *distance * 3 <= name.len().max(key.len()))
        .min()
        .map(|(_, name)| name)
}
