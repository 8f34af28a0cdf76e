//! The columns of events, core and `events.k8s.io`, after `printEvent`.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::duration;

fn first<'a>(event: &'a Value, pointers: &[&str]) -> Option<&'a Value> {
    pointers
        .iter()
        .filter_map(|pointer| event.pointer(pointer))
        .find(|value| !value.is_null() && *value != "")
}

fn text<'a>(event: &'a Value, pointers: &[&str]) -> &'a str {
    first(event, pointers)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn first_seen_at(event: &Value) -> Option<&Value> {
    first(
        event,
        &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"],
    )
}

pub(super) fn first_seen(event: &Value, now: DateTime<Utc>) -> Value {
    json!(duration::age_of(first_seen_at(event), now))
}

pub(super) fn last_seen(event: &Value, now: DateTime<Utc>) -> Value {
    let last = first(
        event,
        &[
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/deprecatedLastTimestamp",
        ],
    );
    json!(duration::age_of(last.or_else(|| first_seen_at(event)), now))
}

pub(super) fn count(event: &Value, _: DateTime<Utc>) -> Value {
    first(event, &["/series/count", "/count", "/deprecatedCount"])
        .cloned()
        .filter(|count| *count != json!(0))
        .unwrap_or_else(|| json!(1))
}

pub(super) fn object(event: &Value, _: DateTime<Utc>) -> Value {
    let about = event
        .get("involvedObject")
        .or_else(|| event.get("regarding"));
    let part = |key: &str| {
        about
            .and_then(|o| o.get(key))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    json!(format!("{}/{}", part("kind").to_lowercase(), part("name")))
}

pub(super) fn part(event: &Value, _: DateTime<Utc>) -> Value {
    json!(text(
        event,
        &["/involvedObject/fieldPath", "/regarding/fieldPath"]
    ))
}

pub(super) fn source(event: &Value, _: DateTime<Utc>) -> Value {
    let component = text(
        event,
        &[
            "/source/component",
            "/reportingComponent",
            "/reportingController",
            "/deprecatedSource/component",
        ],
    );
    let host = text(
        event,
        &[
            "/source/host",
            "/reportingInstance",
            "/deprecatedSource/host",
        ],
    );
    json!(
        [component, host]
            .into_iter()
            .filter(|s| !s.is_empty())
            .collect::<Vec<_>>()
            .join(", ")
    )
}

pub(super) fn message(event: &Value, _: DateTime<Utc>) -> Value {
    json!(text(event, &["/message", "/note"]).trim())
}
