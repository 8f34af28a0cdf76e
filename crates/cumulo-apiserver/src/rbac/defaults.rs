//! The roles and bindings that are made at start, and what is missing in them
//! later. Pure.

use serde_json::{Value, json};

use super::{PolicyRule, aggregate, missing};
use crate::strategy::object_at;

/// The annotation that turns the reconciliation of an object off.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Roles and bindings that every server has; a subset of Kubernetes' own.
const DEFAULTS: &str = include_str!("defaults.yaml");

/// The file of defaults does not parse; a test holds that it does.
#[derive(Debug, thiserror::Error)]
#[error("the default roles cannot be read: {0}")]
pub struct DefaultsError(String);

/// The defaults as objects, with Kubernetes' label and annotation.
///
/// # Errors
/// When the file that is compiled in does not parse.
pub fn objects() -> Result<Vec<Value>, DefaultsError> {
    let mut objects: Vec<Value> =
        serde_saphyr::from_str(DEFAULTS).map_err(|error| DefaultsError(error.to_string()))?;
    objects.iter_mut().for_each(mark);
    Ok(objects)
}

/// Marks an object as a default that is reconciled at start.
pub fn mark(object: &mut Value) {
    object_at(object, &["metadata", "labels"])
        .insert("kubernetes.io/bootstrapping".into(), json!("rbac-defaults"));
    object_at(object, &["metadata", "annotations"]).insert(AUTO_UPDATE.into(), json!("true"));
}

/// Whether somebody has said that an object is theirs now.
pub fn is_left_alone(object: &Value) -> bool {
    object["metadata"]["annotations"][AUTO_UPDATE] == "false"
}

/// Adds to an object what its default has and it lacks: rules, subjects, labels,
/// annotations. Whatever was added to it by hand stays.
pub fn complete(object: &mut Value, default: &Value) {
    for field in ["labels", "annotations"] {
        for (key, value) in default["metadata"][field].as_object().into_iter().flatten() {
            object_at(object, &["metadata", field])
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
    }
    if aggregate::is_aggregated(default) {
        let wanted = &default["aggregationRule"]["clusterRoleSelectors"];
        append(
            object_at(object, &["aggregationRule"])
                .entry("clusterRoleSelectors")
                .or_insert_with(|| json!([])),
            wanted.as_array().into_iter().flatten().cloned(),
        );
        return;
    }
    if default["rules"].is_array() {
        let own = PolicyRule::read_all(&object["rules"]);
        let lacking = missing(&own, &PolicyRule::read_all(&default["rules"]));
        if !lacking.is_empty() {
            append(
                &mut object["rules"],
                lacking.iter().map(PolicyRule::to_value),
            );
        }
    }
    if let Some(subjects) = default["subjects"].as_array() {
        append(&mut object["subjects"], subjects.iter().cloned());
    }
}

/// Appends what is not in the list yet.
fn append(list: &mut Value, items: impl Iterator<Item = Value>) {
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        for item in items {
            if !list.contains(&item) {
                list.push(item);
            }
        }
    }
}
