//! How the cell of a column is made: the usual ways, and what they share.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::{Compute, duration};

pub(super) const NONE: &str = "<none>";

/// How a cell is made. Places are JSON pointers.
#[derive(Clone, Copy)]
pub(super) enum Show {
    Name,
    /// Time since the object was made.
    Age,
    /// The time at which it was made.
    Created,
    /// Time since another moment.
    Since(&'static str),
    /// The value, or `<none>`.
    Text(&'static str),
    /// The value, or another word.
    Or(&'static str, &'static str),
    /// The number, or 0.
    Number(&'static str),
    /// How many elements a map or list has.
    Count(&'static str),
    /// Two numbers as `a/b`; the second is 1 when missing.
    Fraction(&'static str, &'static str),
    /// Labels as a selector.
    Selector(&'static str),
    /// One field of every element of a list, joined by commas.
    Each(&'static str, &'static str),
    /// Something of its own.
    With(Compute),
}

impl Show {
    pub(super) fn cell(&self, object: &Value, now: DateTime<Utc>) -> Value {
        let at = |pointer: &str| {
            object
                .pointer(pointer)
                .filter(|v| !v.is_null() && **v != "")
        };
        match *self {
            Show::Name => at("/metadata/name").cloned().unwrap_or_else(|| json!("")),
            Show::Age => json!(duration::age_of(at("/metadata/creationTimestamp"), now)),
            Show::Created => at("/metadata/creationTimestamp")
                .cloned()
                .unwrap_or_else(|| json!("<unknown>")),
            Show::Since(pointer) => match at(pointer) {
                Some(time) => json!(duration::age_of(Some(time), now)),
                None => json!(NONE),
            },
            Show::Text(pointer) => plain(at(pointer), NONE),
            Show::Or(pointer, other) => plain(at(pointer), other),
            Show::Number(pointer) => at(pointer).cloned().unwrap_or_else(|| json!(0)),
            Show::Count(pointer) => json!(match at(pointer) {
                Some(Value::Object(map)) => map.len(),
                Some(Value::Array(list)) => list.len(),
                _ => 0,
            }),
            Show::Fraction(some, all) => {
                let some = at(some).and_then(Value::as_i64).unwrap_or(0);
                let all = at(all).and_then(Value::as_i64).unwrap_or(1);
                json!(format!("{some}/{all}"))
            }
            Show::Selector(pointer) => json!(selector(at(pointer))),
            Show::Each(pointer, key) => joined(list(object, pointer).iter().map(|item| &item[key])),
            Show::With(compute) => compute(object, now),
        }
    }
}

fn plain(value: Option<&Value>, other: &str) -> Value {
    match value {
        None => json!(other),
        Some(Value::String(text)) => json!(text),
        Some(value) => json!(value.to_string()),
    }
}

pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub(super) fn or_none(text: String) -> Value {
    json!(if text.is_empty() {
        NONE.to_owned()
    } else {
        text
    })
}

fn joined<'a>(values: impl Iterator<Item = &'a Value>) -> Value {
    let words: Vec<&str> = values.filter_map(Value::as_str).collect();
    or_none(words.join(","))
}

/// A label selector, or a plain map of labels, in kubectl's notation.
fn selector(value: Option<&Value>) -> String {
    let Some(Value::Object(map)) = value else {
        return NONE.into();
    };
    let is_selector = map.contains_key("matchLabels") || map.contains_key("matchExpressions");
    let labels = if is_selector {
        map.get("matchLabels").and_then(Value::as_object)
    } else {
        Some(map)
    };
    let mut parts: Vec<String> = labels
        .unwrap_or(&Map::new())
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    let expressions = map.get("matchExpressions").and_then(Value::as_array);
    for expression in expressions.into_iter().flatten() {
        let key = text(expression, "/key");
        let values: Vec<&str> = list(expression, "/values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    if parts.is_empty() {
        NONE.into()
    } else {
        parts.join(",")
    }
}
