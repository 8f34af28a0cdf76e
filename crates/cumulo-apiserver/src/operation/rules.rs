//! The checks that creation and change share: shape, unknown fields, schema.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{FieldValidation, WriteOptions, metadata_text};
use crate::merge;
use crate::resource::ResourceType;
use crate::schema::{self, Schema};
use crate::status::{ApiError, Cause};
use crate::strategy;

/// Checks what everything else relies on: an object of the right kind, with
/// metadata of the right types.
pub(super) fn check_shape(resource: &ResourceType, object: &mut Value) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request(
            "the request body is not an object: a JSON or YAML object with apiVersion, kind and metadata is wanted",
        ));
    }
    let api_version = resource.api_version();
    let defaulted = resource.custom.is_none();
    for (field, wanted) in [("apiVersion", &api_version), ("kind", &resource.kind)] {
        match object.get(field) {
            None | Some(Value::Null) if defaulted => {
                object[field] = json!(wanted);
            }
            Some(Value::String(found)) if found.is_empty() && defaulted => {
                object[field] = json!(wanted);
            }
            Some(Value::String(found)) if found == wanted => {}
            Some(Value::String(found)) => {
                let what = if field == "kind" {
                    format!(
                        "the kind in the data ({found}) does not match the expected kind ({wanted})"
                    )
                } else {
                    format!(
                        "the API version in the data ({found}) does not match the expected API version ({wanted})"
                    )
                };
                return Err(ApiError::bad_request(what));
            }
            _ => {
                return Err(ApiError::bad_request(format!(
                    "Object '{field}' is missing: it has to be \"{wanted}\""
                )));
            }
        }
    }
    strategy::object_at(object, &[]);
    match object.get("metadata") {
        None | Some(Value::Null) => object["metadata"] = json!({}),
        Some(Value::Object(_)) => {}
        Some(_) => return Err(cannot_handle(resource, "metadata has to be an object")),
    }
    check_metadata(resource, &object["metadata"])
}

fn cannot_handle(resource: &ResourceType, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{} in version \"{}\" cannot be handled as a {}: {why}",
        resource.kind, resource.version, resource.kind
    ))
}

fn check_metadata(resource: &ResourceType, metadata: &Value) -> Result<(), ApiError> {
    let wrong = |field: &str, what: &str| {
        Err(cannot_handle(
            resource,
            &format!("metadata.{field} has to be {what}"),
        ))
    };
    for field in [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
    ] {
        if !matches!(metadata[field], Value::Null | Value::String(_)) {
            return wrong(field, "a string");
        }
    }
    for field in ["labels", "annotations"] {
        let good = match &metadata[field] {
            Value::Null => true,
            Value::Object(map) => map.values().all(Value::is_string),
            _ => false,
        };
        if !good {
            return wrong(field, "a map of strings");
        }
    }
    let good = match &metadata["finalizers"] {
        Value::Null => true,
        Value::Array(list) => list.iter().all(Value::is_string),
        _ => false,
    };
    if !good {
        return wrong("finalizers", "a list of strings");
    }
    let owner = |owner: &Value| {
        owner.is_object()
            && ["apiVersion", "kind", "name", "uid"]
                .iter()
                .all(|f| matches!(owner[*f], Value::Null | Value::String(_)))
            && ["controller", "blockOwnerDeletion"]
                .iter()
                .all(|f| matches!(owner[*f], Value::Null | Value::Bool(_)))
    };
    let good = match &metadata["ownerReferences"] {
        Value::Null => true,
        Value::Array(list) => list.iter().all(owner),
        _ => false,
    };
    if !good {
        return wrong("ownerReferences", "a list of owner references");
    }
    let good = match &metadata["managedFields"] {
        Value::Null => true,
        Value::Array(list) => list.iter().all(Value::is_object),
        _ => false,
    };
    if !good {
        return wrong("managedFields", "a list of objects");
    }
    Ok(())
}

/// Makes the object's namespace the one of the path.
pub(super) fn settle_namespace(
    resource: &ResourceType,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    let own = metadata_text(object, "namespace").to_owned();
    if !resource.namespaced {
        if !own.is_empty() {
            strategy::object_at(object, &["metadata"]).remove("namespace");
        }
        return Ok(());
    }
    if own.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
        Ok(())
    } else if own == namespace {
        Ok(())
    } else {
        Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: {own} and {namespace}"
        )))
    }
}

/// Drops what the schema does not know, and says so as was asked.
pub(super) fn unknown_fields(
    resource: &ResourceType,
    object: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    let mut messages: Vec<String> = Vec::new();
    if let Some(schema) = resource.schema() {
        let unknown = schema::prune(&schema, object);
        messages.extend(unknown.iter().map(ToString::to_string));
    }
    messages.extend(options.duplicates.iter().cloned());
    match options.validation {
        _ if messages.is_empty() => Ok(Vec::new()),
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(messages),
        FieldValidation::Strict => {
            let message = schema::strict_decoding_error(&messages);
            Err(ApiError::bad_request(message))
        }
    }
}

/// Refuses an applied object with fields that the schema does not know: nobody
/// can own them. That is so whatever the client wants done about such fields.
pub(super) fn undeclared_fields(
    resource: &ResourceType,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    let Some(schema) = resource.schema() else {
        return Ok(());
    };
    let unknown = schema::prune(&schema, object);
    if unknown.is_empty() {
        return Ok(());
    }
    let each: Vec<String> = unknown
        .iter()
        .map(schema::UnknownField::undeclared)
        .collect();
    Err(ApiError::bad_request(format!(
        "failed to create typed patch object ({namespace}/{}; {}, Kind={}): {}",
        metadata_text(object, "name"),
        resource.api_version(),
        resource.kind,
        each.join(", ")
    )))
}

/// Fills in the schema's defaults.
pub(super) fn default(resource: &ResourceType, object: &mut Value) {
    if let Some(schema) = resource.schema() {
        schema::default(&schema, object);
    }
}

/// What the schema finds wrong.
pub(super) fn schema(resource: &ResourceType, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let Some(schema) = resource.schema() else {
        return Vec::new();
    };
    schema::validate(&schema, object, old)
        .into_iter()
        .map(|e| Cause::new(e.kind.reason(), e.message, e.path))
        .collect()
}

/// The refusal for what was found wrong. Kubernetes reads built-in kinds into
/// types, so a wrong type there is a bad request; elsewhere it is invalid.
pub(super) fn refuse(resource: &ResourceType, name: &str, mut causes: Vec<Cause>) -> ApiError {
    let mut seen: Vec<Cause> = Vec::new();
    causes.retain(|c| {
        let new = !seen.contains(c);
        if new {
            seen.push(c.clone());
        }
        new
    });
    // The schema says that a field is required; a sentence that says why is better.
    let explained: Vec<String> = causes
        .iter()
        .filter(|c| c.message.starts_with("Required value: "))
        .map(|c| c.field.clone())
        .collect();
    causes.retain(|c| c.message != "Required value" || !explained.contains(&c.field));
    if resource.custom.is_none()
        && let Some(cause) = causes.iter().find(|c| c.reason == "FieldValueTypeInvalid")
    {
        return cannot_handle(resource, &format!("{}: {}", cause.field, cause.message))
            .cause(cause.clone());
    }
    ApiError::invalid(resource, name, causes)
}

/// The schema of a resource, or one that accepts everything.
pub(super) fn schema_or_permissive(resource: &ResourceType) -> Arc<Schema> {
    resource
        .schema()
        .unwrap_or_else(|| Arc::new(Schema::permissive()))
}

/// Who writes, for `managedFields`.
pub(super) fn writer<'a>(
    resource: &ResourceType,
    api_version: &'a str,
    options: &'a WriteOptions,
    subresource: Option<&'a str>,
    now: &'a str,
) -> merge::Writer<'a> {
    let ignored: &[&str] = match subresource {
        Some("status") if resource.custom.is_some() => &["spec", "metadata"],
        Some("status") => &["spec"],
        None if resource.has_subresource("status") => &["status"],
        _ => &[],
    };
    merge::Writer {
        manager: &options.field_manager,
        subresource: subresource.unwrap_or_default(),
        api_version,
        now,
        ignored,
    }
}

/// Gives the manager of a write the fields that it changed.
pub(super) fn track(
    resource: &ResourceType,
    old: Option<&Value>,
    new: &mut Value,
    options: &WriteOptions,
    subresource: Option<&str>,
    now: &str,
) {
    let schema = schema_or_permissive(resource);
    let api_version = resource.api_version();
    let writer = writer(resource, &api_version, options, subresource, now);
    merge::track_update(&schema, old, new, &writer);
}
