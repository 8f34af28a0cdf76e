//! Kubernetes' own kinds: their definitions, read on first use, and the few
//! rules that Kubernetes keeps in code rather than in its OpenAPI documents.

use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};

use super::Schema;
use super::node::{Arena, Constraints, Edge, Kind, Node, NodeId};
use super::tables::{APPS, BATCH, CORE, DEFAULTS, ENUMS, EXTENSIONS};

static DEFINITIONS: &[u8] = include_bytes!("../../schemas/definitions.json.zst");

/// Of every definition only what validation needs is kept, in one arena.
static ARENA: LazyLock<Arc<Arena>> = LazyLock::new(|| {
    Arc::new(load().unwrap_or_else(|message| {
        tracing::error!(%message, "built-in schemas cannot be read");
        Arena::default()
    }))
});

fn load() -> Result<Arena, String> {
    let json = zstd::decode_all(DEFINITIONS).map_err(|e| e.to_string())?;
    let all: Map<String, Value> = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
    let mut arena = super::parse::definitions(&all).map_err(|e| e.to_string())?;
    add_defaults(&mut arena)?;
    add_enums(&mut arena);
    add_hooks(&mut arena);
    Ok(arena)
}

pub(super) fn schema(group: &str, version: &str, kind: &str) -> Option<Arc<Schema>> {
    let arena = &*ARENA;
    let node = *arena
        .kinds
        .get(format!("{group}/{version}/{kind}").as_str())?;
    Some(Arc::new(Schema {
        arena: arena.clone(),
        root: Edge {
            node,
            ..Edge::default()
        },
        builtin: true,
    }))
}

fn edge_mut<'a>(arena: &'a mut Arena, definition: &str, field: &str) -> Option<&'a mut Edge> {
    let id = *arena.names.get(definition)?;
    let node = arena.nodes.get_mut(id as usize)?;
    node.properties
        .iter_mut()
        .find(|(name, _)| name.as_ref() == field)
        .map(|(_, edge)| edge)
}

fn add_defaults(arena: &mut Arena) -> Result<(), String> {
    for (prefix, definition, field, json) in DEFAULTS {
        let default: Value = serde_json::from_str(json).map_err(|e| format!("{field}: {e}"))?;
        edge_mut(arena, &format!("{prefix}{definition}"), field)
            .ok_or_else(|| format!("{definition} has no field {field}"))?
            .default = Some(Box::new(default));
    }
    Ok(())
}

fn add_enums(arena: &mut Arena) {
    for (prefix, definition, field, values) in ENUMS {
        let node = arena.add(Node {
            kind: Kind::String,
            constraints: Some(Box::new(Constraints {
                allowed: values.iter().map(|value| json!(value)).collect(),
                ..Constraints::default()
            })),
            ..Node::default()
        });
        if let Some(edge) = edge_mut(arena, &format!("{prefix}{definition}"), field) {
            edge.node = node;
        }
    }
}

/// Fills in what depends on other fields of the same object.
pub(super) type Hook = fn(&mut Map<String, Value>);

const HOOKS: &[(&str, &str, Hook)] = &[
    (CORE, "Container", container),
    (CORE, "Volume", volume),
    (CORE, "ServiceSpec", service),
    (APPS, "DeploymentStrategy", rolling_update),
    (BATCH, "JobSpec", job),
    ("io.k8s.api.rbac.v1.", "RoleRef", role_ref),
    ("io.k8s.api.rbac.v1.", "Subject", subject),
    (
        "io.k8s.api.resource.v1.",
        "ExactDeviceRequest",
        device_count,
    ),
    ("io.k8s.api.resource.v1.", "DeviceSubRequest", device_count),
    (EXTENSIONS, "CustomResourceDefinitionSpec", names),
];

fn add_hooks(arena: &mut Arena) {
    for (prefix, definition, hook) in HOOKS {
        if let Some(id) = arena.names.get(format!("{prefix}{definition}").as_str()) {
            arena.hooks.insert(*id, *hook);
        }
    }
}

/// What to run on objects of this definition.
pub(super) fn hook(arena: &Arena, node: NodeId) -> Option<Hook> {
    arena.hooks.get(&node).copied()
}

fn fill(object: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    if !object.contains_key(key) {
        object.insert(key.into(), value());
    }
}

fn container(object: &mut Map<String, Value>) {
    let image = object
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    // A tag is what follows a colon in the last part of the name; none, or
    // `latest`, may mean another image tomorrow.
    let name = image.rsplit('/').next().unwrap_or_default();
    let moving =
        !image.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    if !image.is_empty() {
        fill(object, "imagePullPolicy", || {
            json!(if moving { "Always" } else { "IfNotPresent" })
        });
    }
    // What is limited and not requested is requested up to the limit.
    if let Some(resources) = object.get_mut("resources").and_then(Value::as_object_mut)
        && let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned()
        && !limits.is_empty()
    {
        let requests = resources.entry("requests").or_insert_with(|| json!({}));
        if let Some(requests) = requests.as_object_mut() {
            for (name, limit) in limits {
                requests.entry(name).or_insert(limit);
            }
        }
    }
}

fn volume(object: &mut Map<String, Value>) {
    if object.keys().all(|key| key == "name") {
        object.insert("emptyDir".into(), json!({}));
    }
}

fn service(object: &mut Map<String, Value>) {
    let external_name = object.get("type").and_then(Value::as_str) == Some("ExternalName");
    if external_name {
        object.shift_remove("internalTrafficPolicy");
    }
    for port in object
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(port) = port.as_object_mut()
            && let Some(number) = port.get("port").cloned()
        {
            fill(port, "targetPort", || number);
        }
    }
}

fn rolling_update(object: &mut Map<String, Value>) {
    if object.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
        fill(object, "rollingUpdate", || json!({}));
        if let Some(update) = object
            .get_mut("rollingUpdate")
            .and_then(Value::as_object_mut)
        {
            fill(update, "maxUnavailable", || json!("25%"));
            fill(update, "maxSurge", || json!("25%"));
        }
    }
}

fn job(object: &mut Map<String, Value>) {
    if !object.contains_key("completions") && !object.contains_key("parallelism") {
        fill(object, "completions", || json!(1));
    }
    fill(object, "parallelism", || json!(1));
}

fn role_ref(object: &mut Map<String, Value>) {
    fill(object, "apiGroup", || json!("rbac.authorization.k8s.io"));
}

fn subject(object: &mut Map<String, Value>) {
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if matches!(kind, "User" | "Group") {
        fill(object, "apiGroup", || json!("rbac.authorization.k8s.io"));
    }
}

fn device_count(object: &mut Map<String, Value>) {
    if object.get("allocationMode").and_then(Value::as_str) == Some("ExactCount") {
        fill(object, "count", || json!(1));
    }
}

fn names(object: &mut Map<String, Value>) {
    if let Some(names) = object.get_mut("names").and_then(Value::as_object_mut)
        && let Some(kind) = names.get("kind").and_then(Value::as_str).map(str::to_owned)
    {
        fill(names, "singular", || json!(kind.to_lowercase()));
        fill(names, "listKind", || json!(format!("{kind}List")));
    }
}
