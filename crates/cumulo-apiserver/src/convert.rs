//! Between the version that is stored and the version that was asked for.

mod autoscalers;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::resource::{Conversion, ResourceType};
use crate::schema;
use crate::storage::Object;

/// core/v1 field and events.k8s.io/v1 field.
const EVENT_FIELDS: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
];
const EVENT_SOURCE: (&str, &str) = ("source", "deprecatedSource");

/// A stored object as bytes in a resource's version. Nearly always the stored
/// bytes themselves.
pub fn present(resource: &ResourceType, object: &Object) -> Bytes {
    let as_stored = is_in_version(resource, object);
    match &resource.custom {
        None if as_stored => object.bytes.clone(),
        Some(custom) if as_stored && object.is_checked(custom.epoch) => object.bytes.clone(),
        _ => {
            let before = object.value();
            let after = convert(resource, before.clone());
            if after == before {
                if let Some(custom) = &resource.custom {
                    object.set_checked(custom.epoch);
                }
                object.bytes.clone()
            } else {
                Bytes::from(after.to_string())
            }
        }
    }
}

/// A stored object as a value in a resource's version.
pub fn present_value(resource: &ResourceType, object: &Object) -> Value {
    convert(resource, object.value())
}

fn is_in_version(resource: &ResourceType, object: &Object) -> bool {
    resource.conversion == Conversion::ApiVersion
        && object
            .bytes
            .strip_prefix(b"{\"apiVersion\":\"")
            .and_then(|rest| rest.strip_prefix(resource.api_version().as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&b'"'))
}

fn convert(resource: &ResourceType, mut value: Value) -> Value {
    match resource.conversion {
        Conversion::Events => rename(&mut value, false),
        Conversion::Autoscalers => autoscalers::to_v1(&mut value),
        Conversion::ApiVersion => {}
    }
    value["apiVersion"] = json!(resource.api_version());
    if let Some(custom) = &resource.custom {
        // Defaults that the schema got after the object was stored.
        schema::default(&custom.schema, &mut value);
    }
    value
}

/// Turns an object in a resource's version into the version that is stored.
pub fn to_stored(resource: &ResourceType, value: &mut Value) {
    match resource.conversion {
        Conversion::Events => rename(value, true),
        Conversion::Autoscalers => autoscalers::to_v2(value),
        Conversion::ApiVersion => {}
    }
    value["apiVersion"] = json!(resource.stored_api_version);
}

fn rename(event: &mut Value, to_core: bool) {
    let Some(object) = event.as_object_mut() else {
        return;
    };
    let renamed: Map<String, Value> = std::mem::take(object)
        .into_iter()
        .map(|(key, value)| {
            let found = EVENT_FIELDS
                .iter()
                .chain(std::iter::once(&EVENT_SOURCE))
                .find(|(core, new)| key == if to_core { *new } else { *core });
            match found {
                Some((core, new)) => ((if to_core { *core } else { *new }).to_owned(), value),
                None => (key, value),
            }
        })
        .collect();
    *object = renamed;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_there_and_back() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
            "involvedObject": {"kind": "Pod"}, "message": "m", "source": {"component": "c"}, "count": 2,
        });
        let mut event = core.clone();
        rename(&mut event, false);
        assert_eq!(event["regarding"]["kind"], "Pod");
        assert_eq!(event["note"], "m");
        assert_eq!(event["deprecatedCount"], 2);
        rename(&mut event, true);
        assert_eq!(event, core);
    }
}
