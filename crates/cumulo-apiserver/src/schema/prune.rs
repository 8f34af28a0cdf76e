//! Dropping fields that the schema does not know.

use serde_json::Value;

use super::Schema;
use super::node::{Cursor, Kind, Node};

/// Most unknown fields that are named; the rest is dropped in silence.
const MAX_MESSAGES: usize = 64;

pub(super) fn prune(schema: &Schema, value: &mut Value) -> Vec<String> {
    let mut messages = Vec::new();
    walk(schema.cursor(), value, "", &mut messages);
    messages
}

fn walk(cursor: Cursor<'_>, value: &mut Value, path: &str, messages: &mut Vec<String>) {
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
                    walk(cursor, child, &below, messages);
                    return true;
                }
                if !keeps && messages.len() < MAX_MESSAGES {
                    messages.push(message(&below, key, node));
                }
                keeps
            });
        }
        Value::Array(items) => {
            if let Some(element) = cursor.items() {
                for (at, item) in items.iter_mut().enumerate() {
                    walk(element, item, &format!("{path}[{at}]"), messages);
                }
            }
        }
        _ => {}
    }
}

fn message(path: &str, key: &str, node: &Node) -> String {
    match suggestion(key, node.properties.iter().map(|(name, _)| name.as_ref())) {
        Some(near) => format!("unknown field \"{path}\", did you mean \"{near}\"?"),
        None => format!("unknown field \"{path}\""),
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
