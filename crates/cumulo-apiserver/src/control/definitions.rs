//! CustomResourceDefinitions: names are accepted or not, types are served, and
//! the objects of a deleted definition go with it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Backoff, MANAGER};
use crate::engine::Engine;
use crate::operation::{DeleteOptions, Target};
use crate::resource::{ResourceType, custom};
use crate::status::ApiError;
use crate::storage::Object;
use crate::strategy::object_at;

/// Holds a deleted definition until its objects are gone.
pub(crate) const DEFINITION_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// A definition and what is to be said about it.
struct Judged {
    value: Value,
    accepted: Result<(), String>,
    types: Vec<Arc<ResourceType>>,
    problems: Vec<String>,
}

/// Serves the types of the definitions that are stored. A definition whose names
/// are taken by an older one serves nothing.
pub(crate) fn install(engine: &Engine) {
    let judged = judge(engine);
    serve(engine, &judged);
}

fn serve(engine: &Engine, judged: &[Judged]) {
    let types = judged
        .iter()
        .flat_map(|j| j.types.iter().cloned())
        .collect();
    engine.registry.set_custom(types);
}

fn judge(engine: &Engine) -> Vec<Judged> {
    let mut definitions: Vec<Value> = engine
        .store
        .all(DEFINITIONS, None)
        .iter()
        .map(|o| o.value())
        .collect();
    // Who has a name keeps it, then the older one gets it: times are whole seconds.
    definitions.sort_by_key(|d| {
        (
            !names_accepted(d),
            d["metadata"]["creationTimestamp"].to_string(),
            d["metadata"]["uid"].to_string(),
        )
    });
    let mut judged: Vec<Judged> = Vec::new();
    for value in definitions {
        let accepted = match taken(engine, &judged, &value) {
            Some(conflict) => Err(conflict),
            None => Ok(()),
        };
        let (types, problems) = if accepted.is_ok() {
            custom::rows(&value)
        } else {
            (Vec::new(), Vec::new())
        };
        judged.push(Judged {
            value,
            accepted,
            types,
            problems,
        });
    }
    judged
}

fn names_accepted(definition: &Value) -> bool {
    definition["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "NamesAccepted" && condition["status"] == "True")
}

/// Says which name another type of the group has already.
fn taken(engine: &Engine, before: &[Judged], definition: &Value) -> Option<String> {
    let group = &definition["spec"]["group"];
    let names = |d: &Value| -> Vec<String> {
        let names = &d["spec"]["names"];
        let mut all: Vec<String> = ["plural", "singular"]
            .iter()
            .filter_map(|f| names[*f].as_str())
            .map(str::to_owned)
            .collect();
        all.extend(
            names["shortNames"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned),
        );
        all
    };
    if engine
        .registry
        .is_builtin_group(group.as_str().unwrap_or_default())
    {
        return Some(format!("the group {group} belongs to built-in types"));
    }
    for other in before
        .iter()
        .filter(|j| j.accepted.is_ok() && j.value["spec"]["group"] == *group)
    {
        let theirs = names(&other.value);
        if let Some(name) = names(definition).iter().find(|n| theirs.contains(n)) {
            return Some(format!("\"{name}\" is already in use"));
        }
        for field in ["kind", "listKind"] {
            let own = &definition["spec"]["names"][field];
            if *own == other.value["spec"]["names"][field] {
                return Some(format!("{own} is already in use"));
            }
        }
    }
    None
}

pub(super) async fn run(engine: &Engine) {
    let storage: Arc<str> = DEFINITIONS.into();
    let mut changed = engine.store.subscribe(&storage);
    let mut backoff = Backoff::new();
    loop {
        changed.mark_unchanged();
        let judged = judge(engine);
        // Served first: a definition that says it is established is.
        serve(engine, &judged);
        let mut again = false;
        for judged in &judged {
            match settle(engine, judged).await {
                Ok(done) => again |= !done,
                Err(error) => {
                    again = true;
                    tracing::warn!(
                        definition = judged.value["metadata"]["name"].as_str().unwrap_or_default(),
                        %error, "custom resource definition not settled, it is tried again"
                    );
                }
            }
        }
        if again {
            tokio::select! {
                () = backoff.wait() => {}
                _ = changed.changed() => backoff.reset(),
            }
        } else {
            backoff.reset();
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Brings status and finalizer of a definition up to date; false while it waits.
async fn settle(engine: &Engine, judged: &Judged) -> Result<bool, ApiError> {
    let catalog = engine.registry.catalog();
    let name = judged.value["metadata"]["name"]
        .as_str()
        .unwrap_or_default();
    let Some(resource) = catalog.find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
    else {
        return Ok(true);
    };
    let target = Target::new(resource, "", name);
    if judged.value["metadata"]["deletionTimestamp"].is_string() {
        return end(engine, &target, judged).await;
    }
    let now = engine.clock.timestamp();
    let result = engine
        .adjust(&target, MANAGER, |object| {
            set_status(object, judged, &now);
            Ok(())
        })
        .await;
    match result {
        Err(error) if error.code == http::StatusCode::NOT_FOUND => Ok(true),
        Err(error) => Err(error),
        Ok(_) => Ok(true),
    }
}

fn set_status(object: &mut Value, judged: &Judged, now: &str) {
    let names = object["spec"]["names"].clone();
    let stored: Vec<Value> = object["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|v| v["storage"] == json!(true))
        .map(|v| v["name"].clone())
        .collect();
    let status = object_at(object, &["status"]);
    let mut versions: Vec<Value> = status
        .get("storedVersions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for version in stored {
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    status.insert("storedVersions".into(), json!(versions));
    match &judged.accepted {
        Ok(()) => {
            status.insert("acceptedNames".into(), names);
            condition(
                status,
                "NamesAccepted",
                true,
                "NoConflicts",
                "no conflicts found",
                now,
            );
            if judged.problems.is_empty() {
                condition(
                    status,
                    "Established",
                    true,
                    "InitialNamesAccepted",
                    "the initial names have been accepted",
                    now,
                );
            } else {
                condition(
                    status,
                    "Established",
                    false,
                    "SchemaNotUsable",
                    &judged.problems.join("; "),
                    now,
                );
            }
        }
        Err(conflict) => {
            condition(
                status,
                "NamesAccepted",
                false,
                "NameConflict",
                conflict,
                now,
            );
            condition(
                status,
                "Established",
                false,
                "NotAccepted",
                "not all names are accepted",
                now,
            );
        }
    }
}

fn condition(
    status: &mut serde_json::Map<String, Value>,
    kind: &str,
    set: bool,
    reason: &str,
    message: &str,
    now: &str,
) {
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else {
        return;
    };
    let wanted = if set { "True" } else { "False" };
    let mut condition = json!({
        "type": kind, "status": wanted, "lastTransitionTime": now, "reason": reason, "message": message,
    });
    match list.iter_mut().find(|c| c["type"] == json!(kind)) {
        Some(found) => {
            if found["status"] == condition["status"] {
                condition["lastTransitionTime"] = found["lastTransitionTime"].clone();
            }
            *found = condition;
        }
        None => list.push(condition),
    }
}

/// Deletes the objects of a deleted definition, then lets it go.
async fn end(engine: &Engine, target: &Target, judged: &Judged) -> Result<bool, ApiError> {
    let object = match engine.get(target) {
        Ok(object) => object,
        Err(_) => return Ok(true),
    };
    if !object
        .meta
        .finalizers()
        .iter()
        .any(|f| f == DEFINITION_FINALIZER)
    {
        return Ok(true);
    }
    if let Some(resource) = judged.types.first() {
        let mut left: Vec<Arc<Object>> = engine.store.all(&resource.storage, None);
        for object in &left {
            let target = Target::new(resource, &object.id.namespace, &object.id.name);
            match engine.delete(&target, &DeleteOptions::default()).await {
                Ok(_) => {}
                Err(error) if error.code == http::StatusCode::NOT_FOUND => {}
                Err(error) => return Err(error),
            }
        }
        left = engine.store.all(&resource.storage, None);
        if !left.is_empty() {
            return Ok(false);
        }
    }
    let result = engine
        .adjust(target, MANAGER, |object| {
            let metadata = object_at(object, &["metadata"]);
            let others: Vec<Value> = metadata
                .get("finalizers")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|f| **f != json!(DEFINITION_FINALIZER))
                .cloned()
                .collect();
            if others.is_empty() {
                metadata.remove("finalizers");
            } else {
                metadata.insert("finalizers".into(), json!(others));
            }
            Ok(())
        })
        .await;
    match result {
        Err(error) if error.code == http::StatusCode::NOT_FOUND => Ok(true),
        Err(error) => Err(error),
        Ok(_) => Ok(true),
    }
}
