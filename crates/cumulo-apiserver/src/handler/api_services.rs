//! `apiregistration.k8s.io`: the group-versions that are served, each by this
//! server. Read only: no other server's are served through this one.

use serde_json::{Value, json};

use crate::operation::ListOptions;
use crate::resource::{Catalog, ResourceType};
use crate::selector::LabelSelector;
use crate::status::ApiError;

/// The API group.
pub(super) const GROUP: &str = "apiregistration.k8s.io";

/// All of them that are selected.
pub(super) fn list(
    catalog: &Catalog,
    resource: &ResourceType,
    options: &ListOptions,
) -> Vec<Value> {
    let mut all: Vec<Value> = catalog
        .groups()
        .flat_map(|group| catalog.versions(group).into_iter().map(move |v| (group, v)))
        .enumerate()
        .map(|(n, (group, version))| one(catalog, resource, n, group, version))
        .filter(|service| selected(&options.labels, service))
        .filter(|service| {
            options
                .fields
                .name()
                .is_none_or(|name| service["metadata"]["name"] == name)
        })
        .collect();
    all.sort_by_key(|service| service["metadata"]["name"].to_string());
    all
}

/// The one of a name.
pub(super) fn get(
    catalog: &Catalog,
    resource: &ResourceType,
    name: &str,
) -> Result<Value, ApiError> {
    list(catalog, resource, &ListOptions::default())
        .into_iter()
        .find(|service| service["metadata"]["name"] == name)
        .ok_or_else(|| ApiError::not_found(resource, name))
}

fn selected(labels: &LabelSelector, service: &Value) -> bool {
    let own = service["metadata"]["labels"].as_object().map(|labels| {
        labels
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect()
    });
    labels.matches(own.as_ref())
}

fn one(
    catalog: &Catalog,
    resource: &ResourceType,
    place: usize,
    group: &str,
    version: &str,
) -> Value {
    let custom = catalog
        .types(group, version)
        .is_some_and(|mut types| types.any(|t| t.custom.is_some()));
    let managed = if custom { "true" } else { "onstart" };
    json!({
        "kind": resource.kind,
        "apiVersion": resource.api_version(),
        "metadata": {
            "name": format!("{version}.{group}"),
            "creationTimestamp": null,
            "labels": {"kube-aggregator.kubernetes.io/automanaged": managed},
        },
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": if custom { 1000 } else { 18_000_usize.saturating_sub(place * 50) },
            "versionPriority": 15,
        },
        "status": {"conditions": [{
            "type": "Available", "status": "True", "reason": "Local",
            "message": "Local APIServices are always available",
            "lastTransitionTime": null,
        }]},
    })
}
