//! Objects together with what in them nobody here knows: a field that a newer
//! server added may limit where something may run, so it must not be overlooked.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// An object and the paths in its `spec` that its type does not have.
#[derive(Debug, Clone)]
pub(crate) struct Known<T> {
    pub(crate) object: T,
    /// Paths such as `spec.devices.requests[0].newField`.
    pub(crate) unknown: Vec<String>,
}

impl<'de, T: DeserializeOwned + Serialize> Deserialize<'de> for Known<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let object: T = serde_json::from_value(value.clone()).map_err(serde::de::Error::custom)?;
        let mut unknown = Vec::new();
        if let Some(spec) = value.get("spec") {
            let kept = serde_json::to_value(&object).unwrap_or_default();
            lost(spec, &kept["spec"], "spec", &mut unknown);
        }
        Ok(Self { object, unknown })
    }
}

impl<T: Serialize> Serialize for Known<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.object.serialize(serializer)
    }
}

impl<T: Resource> Resource for Known<T> {
    type DynamicType = T::DynamicType;
    type Scope = T::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        T::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        T::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        T::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        T::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        self.object.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.object.meta_mut()
    }
}

/// Reads a value as a type, and notes the paths that the type does not have;
/// one that is not of the type at all is noted as a whole.
pub(crate) fn read<T: DeserializeOwned + Serialize>(
    value: Value,
    path: &str,
    unknown: &mut Vec<String>,
) -> Option<T> {
    match serde_json::from_value::<T>(value.clone()) {
        Ok(read) => {
            let kept = serde_json::to_value(&read).unwrap_or_default();
            lost(&value, &kept, path, unknown);
            Some(read)
        }
        Err(_) => {
            unknown.push(path.to_owned());
            None
        }
    }
}

/// Notes what of `given` is not in `kept`; empty values say nothing.
fn lost(given: &Value, kept: &Value, path: &str, unknown: &mut Vec<String>) {
    match given {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match kept.get(name) {
                    Some(kept) => lost(value, kept, &path, unknown),
                    None if empty(value) => {}
                    None => unknown.push(path),
                }
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                let kept = kept.get(at).unwrap_or(&Value::Null);
                lost(item, kept, &format!("{path}[{at}]"), unknown);
            }
        }
        _ => {}
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::v1::ResourceClaim;
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_a_newer_server_are_noticed() {
        let claim: Known<ResourceClaim> = serde_json::from_value(json!({
            "metadata": {"name": "c"},
            "spec": {"devices": {"requests": [
                {"name": "a", "exactly": {"deviceClassName": "gpu", "selectors": [], "onlyOn": "moon"}},
                {"name": "b", "whenever": {}, "exactly": {"deviceClassName": "gpu"}}]}},
        }))
        .unwrap();
        assert_eq!(claim.unknown, ["spec.devices.requests[0].exactly.onlyOn"]);
    }
}
