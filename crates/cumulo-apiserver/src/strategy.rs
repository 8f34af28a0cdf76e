//! What is particular to single kinds: what creation and update fill in or keep,
//! what they refuse, and which deletions are graceful. Pure.

mod certificates;
mod policies;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::auth::UserInfo;
use crate::rbac;
use crate::resource::{ResourceType, custom};
use crate::status::Cause;

/// Label that every namespace carries.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Fills in what the server decides when an object is created.
pub fn prepare_create(resource: &ResourceType, object: &mut Value) {
    let keeps_status = matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        ("", "nodes")
    );
    if resource.has_subresource("status")
        && !keeps_status
        && let Some(object) = object.as_object_mut()
    {
        object.remove("status");
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => {
            let class = quality_of_service(&object["spec"]);
            object["status"] = json!({"phase": "Pending", "qosClass": class});
            fill(object, "/spec", "serviceAccountName", || json!("default"));
        }
        ("", "namespaces") => {
            object["status"] = json!({"phase": "Active"});
            let mut finalizers = object["spec"]["finalizers"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if !finalizers.contains(&json!("kubernetes")) {
                finalizers.push(json!("kubernetes"));
            }
            object_at(object, &["spec"]).insert("finalizers".into(), Value::Array(finalizers));
            label_namespace(object);
        }
        ("", "secrets") => merge_string_data(object),
        ("", "persistentvolumeclaims" | "persistentvolumes") => {
            object["status"] = json!({"phase": "Pending"});
        }
        ("batch", "jobs") => label_job(object),
        ("apiextensions.k8s.io", "customresourcedefinitions") => custom::default(object),
        _ => {}
    }
}

/// Notes who asks, for kinds that say so.
pub fn sign(resource: &ResourceType, object: &mut Value, user: Option<&UserInfo>) {
    if resource.is(certificates::GROUP, "certificatesigningrequests") {
        certificates::sign(object, user);
    }
}

/// Keeps what an update through this path may not change.
pub fn prepare_update(
    resource: &ResourceType,
    object: &mut Value,
    old: &Value,
    subresource: Option<&str>,
) {
    match subresource {
        None => {
            if resource.has_subresource("status") {
                put(object, "status", old.get("status").cloned());
            }
            match (resource.group.as_str(), resource.plural.as_str()) {
                ("", "namespaces") => {
                    put(object, "spec", old.get("spec").cloned());
                    label_namespace(object);
                }
                ("", "secrets") => merge_string_data(object),
                ("apiextensions.k8s.io", "customresourcedefinitions") => custom::default(object),
                (certificates::GROUP, "certificatesigningrequests") => {
                    put(object, "spec", old.get("spec").cloned());
                }
                _ => {}
            }
        }
        Some(part @ ("status" | "approval"))
            if resource.is(certificates::GROUP, "certificatesigningrequests") =>
        {
            let mut kept = old.clone();
            for field in ["managedFields", "resourceVersion", "labels", "annotations"] {
                put_at(
                    &mut kept,
                    "metadata",
                    field,
                    object["metadata"].get(field).cloned(),
                );
            }
            let status = certificates::status(&object["status"], &old["status"], part);
            put(&mut kept, "status", Some(status));
            *object = kept;
        }
        Some("status") => {
            let status = object.get("status").cloned();
            let mut kept = old.clone();
            put(&mut kept, "status", status);
            let metadata = &object["metadata"];
            let fields: &[&str] = if resource.custom.is_some() {
                &["managedFields", "resourceVersion"]
            } else {
                &["managedFields", "resourceVersion", "labels", "annotations"]
            };
            for field in fields {
                put_at(&mut kept, "metadata", field, metadata.get(*field).cloned());
            }
            *object = kept;
        }
        Some("finalize") => {
            let finalizers = object["spec"].get("finalizers").cloned();
            let version = object["metadata"].get("resourceVersion").cloned();
            let mut kept = old.clone();
            put_at(&mut kept, "spec", "finalizers", finalizers);
            put_at(&mut kept, "metadata", "resourceVersion", version);
            *object = kept;
        }
        Some(_) => {}
    }
}

/// What is wrong with an object, beyond its schema.
pub fn validate(
    resource: &ResourceType,
    object: &Value,
    old: Option<&Value>,
    subresource: Option<&str>,
) -> Vec<Cause> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        // Binding, resizing and the like are there to change the spec.
        ("", "pods") => validate_pod(object, old.filter(|_| subresource.is_none())),
        ("", "configmaps" | "secrets") => validate_data(object, old),
        ("apiextensions.k8s.io", "customresourcedefinitions") => custom::validate(object, old),
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") => {
            validate_selector(object, old)
        }
        (rbac::GROUP, "roles" | "clusterroles") => {
            rbac::validate::role(object, resource.namespaced)
        }
        (rbac::GROUP, "rolebindings" | "clusterrolebindings") => {
            rbac::validate::binding(object, old, resource.namespaced)
        }
        ("scheduling.k8s.io", "priorityclasses") => validate_priority(object, old),
        (policies::GROUP, plural) => policies::validate(plural, object, old),
        (certificates::GROUP, "certificatesigningrequests") => certificates::validate(object),
        _ => Vec::new(),
    }
}

/// Seconds of grace that deleting an object takes, where its kind has grace.
pub fn grace_period(resource: &ResourceType, object: &Value, asked: Option<i64>) -> i64 {
    if !resource.is("", "pods") {
        return 0;
    }
    let unscheduled = object["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty();
    let finished = matches!(
        object["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    if unscheduled || finished {
        return 0;
    }
    let grace = asked
        .or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(30);
    // A negative period means one second, as in Kubernetes.
    if grace < 0 { 1 } else { grace }
}

/// The quality-of-service class of a pod spec.
pub(crate) fn quality_of_service(spec: &Value) -> &'static str {
    let containers: Vec<&Value> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| spec[*list].as_array().into_iter().flatten())
        .collect();
    let is_set = |value: &Value| value.as_object().is_some_and(|m| !m.is_empty());
    let any = containers
        .iter()
        .any(|c| is_set(&c["resources"]["requests"]) || is_set(&c["resources"]["limits"]));
    if !any {
        return "BestEffort";
    }
    let guaranteed = containers.iter().all(|c| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = &c["resources"]["limits"][*name];
            let request = &c["resources"]["requests"][*name];
            !limit.is_null() && (request.is_null() || request == limit)
        })
    });
    if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn label_namespace(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    object_at(object, &["metadata", "labels"]).insert(NAMESPACE_NAME_LABEL.into(), name);
}

/// A job without a selector of its own gets one on its uid.
fn label_job(object: &mut Value) {
    if object["spec"]["manualSelector"] == json!(true) || !object["spec"]["selector"].is_null() {
        return;
    }
    let uid = object["metadata"]["uid"].clone();
    let name = object["metadata"]["name"].clone();
    object_at(object, &["spec"]).insert(
        "selector".into(),
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
    );
    let labels = object_at(object, &["spec", "template", "metadata", "labels"]);
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels.insert(key.to_owned(), value.clone());
    }
}

/// `stringData` is a way to write `data`; it is never kept.
fn merge_string_data(object: &mut Value) {
    let removed = object.as_object_mut().and_then(|o| o.remove("stringData"));
    let Some(Value::Object(plain)) = removed else {
        return;
    };
    let data = object_at(object, &["data"]);
    for (key, value) in plain {
        if let Some(text) = value.as_str() {
            data.insert(key, json!(STANDARD.encode(text)));
        }
    }
}

fn fill(object: &mut Value, parent: &str, key: &str, value: impl FnOnce() -> Value) {
    if let Some(map) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
        map.entry(key).or_insert_with(value);
    }
}

/// The object at a path, made where it is missing.
pub fn object_at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else {
        unreachable!("made an object above")
    };
    match path.split_first() {
        None => map,
        Some((first, rest)) => object_at(map.entry(*first).or_insert(Value::Null), rest),
    }
}

fn put_at(object: &mut Value, parent: &str, key: &str, value: Option<Value>) {
    let map = object_at(object, &[parent]);
    match value {
        Some(value) => {
            map.insert(key.to_owned(), value);
        }
        None => {
            map.remove(key);
        }
    }
}

fn put(object: &mut Value, key: &str, value: Option<Value>) {
    if let Some(map) = object.as_object_mut() {
        match value {
            Some(value) => {
                map.insert(key.to_owned(), value);
            }
            None => {
                map.remove(key);
            }
        }
    }
}

fn validate_pod(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &object["spec"];
    let mut names: Vec<&str> = Vec::new();
    for list in ["initContainers", "containers"] {
        let containers = spec[list].as_array().map(Vec::as_slice).unwrap_or_default();
        if list == "containers" && containers.is_empty() {
            causes.push(Cause::required("spec.containers", ""));
        }
        for (n, container) in containers.iter().enumerate() {
            let path = format!("spec.{list}[{n}]");
            let name = container["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                causes.push(Cause::required(format!("{path}.name"), ""));
            } else if !crate::validation::is_dns_label(name) {
                causes.push(Cause::invalid(
                    format!("{path}.name"),
                    &container["name"],
                    "a lowercase RFC 1123 label is wanted",
                ));
            } else if names.contains(&name) {
                causes.push(Cause::new(
                    "FieldValueDuplicate",
                    format!("Duplicate value: \"{name}\""),
                    format!("{path}.name"),
                ));
            }
            names.push(name);
            if container["image"].as_str().unwrap_or_default().is_empty() {
                causes.push(Cause::required(format!("{path}.image"), ""));
            }
        }
    }
    if let Some(policy) = spec["restartPolicy"].as_str()
        && !matches!(policy, "Always" | "OnFailure" | "Never")
    {
        causes.push(Cause::unsupported(
            "spec.restartPolicy",
            &spec["restartPolicy"],
            &["Always", "OnFailure", "Never"],
        ));
    }
    if let Some(old) = old
        && comparable_pod_spec(spec) != comparable_pod_spec(&old["spec"])
    {
        causes.push(Cause::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
    causes
}

/// The part of a pod spec that no update may change.
fn comparable_pod_spec(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(map) = spec.as_object_mut() {
        for field in [
            "activeDeadlineSeconds",
            "tolerations",
            "terminationGracePeriodSeconds",
            "ephemeralContainers",
            "schedulingGates",
        ] {
            map.remove(field);
        }
    }
    for list in ["initContainers", "containers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            container.remove("image");
        }
    }
    spec
}

fn validate_data(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    const MOST: usize = 1 << 20;
    let mut bytes = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            bytes += value.as_str().map_or(0, str::len);
            let good = !key.is_empty()
                && key.len() <= 253
                && key != "."
                && !key.starts_with("..")
                && key
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
            if !good {
                causes.push(Cause::invalid(
                    format!("{field}[{key}]"),
                    &json!(key),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ));
            }
        }
    }
    if bytes > MOST {
        causes.push(Cause::new(
            "FieldValueTooLong",
            format!("Too long: may not be more than {MOST} bytes"),
            "data",
        ));
    }
    if let Some(old) = old {
        if old["immutable"] == json!(true) {
            if object["immutable"] != json!(true) {
                causes.push(Cause::forbidden(
                    "immutable",
                    "field is immutable when `immutable` is set",
                ));
            }
            for field in ["data", "binaryData"] {
                if object.get(field) != old.get(field) {
                    causes.push(Cause::forbidden(
                        field,
                        "field is immutable when `immutable` is set",
                    ));
                }
            }
        }
        if object.get("type") != old.get("type") {
            causes.push(Cause::invalid(
                "type",
                &object["type"],
                "field is immutable",
            ));
        }
    }
    causes
}

/// Pods have taken the number over: it stays what it was.
fn validate_priority(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let Some(old) = old else {
        return Vec::new();
    };
    ["value", "preemptionPolicy"]
        .into_iter()
        .filter(|field| object.get(field) != old.get(field))
        .map(|field| Cause::forbidden(field, "may not be changed in an update."))
        .collect()
}

fn validate_selector(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let selector = &object["spec"]["selector"];
    let labels = object["spec"]["template"]["metadata"]["labels"].as_object();
    match crate::selector::LabelSelector::from_object(selector) {
        Ok(parsed) if parsed.is_empty() => causes.push(Cause::invalid(
            "spec.selector",
            selector,
            "empty selector is invalid for deployment",
        )),
        Ok(parsed) => {
            let labels = labels
                .map(|map| {
                    map.iter()
                        .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
                        .collect()
                })
                .unwrap_or_default();
            if !parsed.matches(Some(&labels)) {
                causes.push(Cause::invalid(
                    "spec.template.metadata.labels",
                    &object["spec"]["template"]["metadata"]["labels"],
                    "`selector` does not match template `labels`",
                ));
            }
        }
        Err(error) => causes.push(Cause::invalid("spec.selector", selector, error.0)),
    }
    if let Some(old) = old
        && old["spec"]["selector"] != *selector
    {
        causes.push(Cause::invalid(
            "spec.selector",
            selector,
            "field is immutable",
        ));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_classes() {
        let spec = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(quality_of_service(&spec(json!({}))), "BestEffort");
        assert_eq!(
            quality_of_service(&spec(json!({"requests": {"cpu": "1"}}))),
            "Burstable"
        );
        assert_eq!(
            quality_of_service(&spec(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))),
            "Guaranteed"
        );
    }

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"data": {"a": "YQ=="}, "stringData": {"b": "b"}});
        merge_string_data(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "YQ==", "b": "Yg=="}}));
    }
}
