//! The `scale` subresource: a `Scale` seen in an object, and put back into it.

use serde_json::{Value, json};

use crate::resource::{ResourceType, ScalePaths};
use crate::selector::{LabelSelector, Operator};
use crate::status::{ApiError, Cause};

/// The `Scale` of an object.
pub fn scale_of(paths: &ScalePaths, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": number(&paths.spec_replicas)},
        "status": {"replicas": number(&paths.status_replicas)},
    });
    let selector = paths.selector.as_deref().and_then(|p| object.pointer(p));
    let text = match selector {
        Some(Value::String(text)) => text.clone(),
        Some(selector @ Value::Object(map)) => {
            // A replication controller's selector is the labels themselves.
            let plain = map.values().all(Value::is_string);
            let wrapped = json!({"matchLabels": selector});
            let parsed = LabelSelector::from_object(if plain { &wrapped } else { selector });
            parsed.map(|s| selector_text(&s)).unwrap_or_default()
        }
        _ => String::new(),
    };
    if !text.is_empty() {
        scale["status"]["selector"] = json!(text);
    }
    scale
}

fn selector_text(selector: &LabelSelector) -> String {
    let parts: Vec<String> = selector
        .requirements
        .iter()
        .map(|r| match r.operator {
            Operator::In if r.values.len() == 1 => format!("{}={}", r.key, r.values.join("")),
            Operator::In => format!("{} in ({})", r.key, r.values.join(",")),
            Operator::NotIn => format!("{} notin ({})", r.key, r.values.join(",")),
            Operator::Exists => r.key.clone(),
            Operator::DoesNotExist => format!("!{}", r.key),
            Operator::GreaterThan => format!("{}>{}", r.key, r.values.join("")),
            Operator::LessThan => format!("{}<{}", r.key, r.values.join("")),
        })
        .collect();
    parts.join(",")
}

/// Replicas that a `Scale` asks for.
pub fn scale_replicas(resource: &ResourceType, name: &str, scale: &Value) -> Result<i64, ApiError> {
    let wanted = match &scale["spec"]["replicas"] {
        Value::Null => Some(0),
        value => value.as_i64(),
    };
    match wanted {
        Some(replicas) if replicas >= 0 => Ok(replicas),
        _ => Err(ApiError::invalid(
            resource,
            name,
            vec![Cause::invalid(
                "spec.replicas",
                &scale["spec"]["replicas"],
                "must be a whole number greater than or equal to 0",
            )],
        )),
    }
}

/// Puts a value at a pointer, making the objects on the way.
pub(crate) fn set_pointer(object: &mut Value, pointer: &str, value: Value) {
    let parts: Vec<String> = pointer
        .split('/')
        .skip(1)
        .map(|p| p.replace("~1", "/").replace("~0", "~"))
        .collect();
    if let Some((last, parents)) = parts.split_last() {
        let parents: Vec<&str> = parents.iter().map(String::as_str).collect();
        crate::strategy::object_at(object, &parents).insert(last.clone(), value);
    }
}

impl crate::engine::Engine {
    /// Sets the wanted replicas of an object.
    pub async fn set_replicas(
        &self,
        target: &super::Target,
        paths: &ScalePaths,
        replicas: i64,
        version: &Value,
        options: &super::WriteOptions,
    ) -> Result<super::Written, ApiError> {
        self.change(
            target,
            Some("scale"),
            options,
            super::update::Tracking::Update,
            |old| {
                let mut new = old.clone();
                if version.as_str().is_some_and(|v| !v.is_empty()) {
                    new["metadata"]["resourceVersion"] = version.clone();
                }
                set_pointer(&mut new, &paths.spec_replicas, json!(replicas));
                Ok(new)
            },
        )
        .await
    }
}
