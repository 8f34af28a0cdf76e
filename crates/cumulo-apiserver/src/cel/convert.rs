//! Objects as values of the expression language.
//!
//! With a schema, text that it calls a time, a duration or bytes is one, and a
//! field whose name is no identifier can be reached by its escaped name.

use std::collections::HashMap;
use std::sync::Arc;

use ::cel::Value;
use ::cel::objects::{Key, Map, OptionalValue};
use base64::Engine as _;
use serde_json::Value as Json;

use crate::schema::Cursor;

/// Words that cannot be field names in an expression, as Kubernetes lists them.
const RESERVED: [&str; 20] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
];

/// A JSON value as it is.
pub fn plain(json: &Json) -> Value {
    typed(json, None)
}

/// A JSON value with the types of its schema.
pub(crate) fn typed(json: &Json, schema: Option<Cursor<'_>>) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => {
            let floats = schema.is_some_and(Cursor::is_number);
            match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) if !floats => Value::Int(integer),
                (_, Some(float)) => Value::Float(float),
                _ => Value::Null,
            }
        }
        Json::String(text) => schema
            .and_then(Cursor::format)
            .and_then(|format| of_format(format, text))
            .unwrap_or_else(|| Value::String(Arc::new(text.clone()))),
        Json::Array(items) => {
            let element = schema.and_then(Cursor::items);
            Value::List(Arc::new(
                items.iter().map(|item| typed(item, element)).collect(),
            ))
        }
        Json::Object(fields) => {
            let mut map: HashMap<Key, Value> = HashMap::with_capacity(fields.len());
            for (name, field) in fields {
                let below = schema.and_then(|schema| schema.under(name));
                let value = typed(field, below);
                // Keys of maps are data, and are reached with brackets.
                let named = schema.is_none_or(|schema| schema.field(name).is_some());
                if named && let Some(escaped) = escape(name) {
                    map.insert(Key::from(escaped), value.clone());
                }
                map.insert(Key::from(name.as_str()), value);
            }
            Value::Map(Map { map: Arc::new(map) })
        }
    }
}

/// A value that may be missing, as `optional.of(…)` or `optional.none()`.
pub fn optional(value: Option<Value>) -> Value {
    Value::Opaque(Arc::new(match value {
        Some(value) => OptionalValue::of(value),
        None => OptionalValue::none(),
    }))
}

fn of_format(format: &str, text: &str) -> Option<Value> {
    match format {
        "date-time" => chrono::DateTime::parse_from_rfc3339(text)
            .ok()
            .map(Value::Timestamp),
        "date" => chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .ok()
            .and_then(|date| date.and_hms_opt(0, 0, 0))
            .map(|time| Value::Timestamp(time.and_utc().fixed_offset())),
        "duration" => super::functions::duration(text).map(Value::Duration),
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(text)
            .ok()
            .map(|bytes| Value::Bytes(Arc::new(bytes))),
        _ => None,
    }
}

/// The name by which an expression reaches a field whose own name it cannot
/// write; none where it can.
fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    if !name.contains(['-', '.', '/']) && !name.contains("__") {
        return None;
    }
    Some(
        name.replace("__", "__underscores__")
            .replace('.', "__dot__")
            .replace('-', "__dash__")
            .replace('/', "__slash__"),
    )
}
