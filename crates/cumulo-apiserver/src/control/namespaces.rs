//! Namespaces: the ones that are always there, their default service account,
//! and the end of those that are deleted.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Backoff, MANAGER};
use crate::engine::Engine;
use crate::operation::{DeleteOptions, FieldValidation, Target, WriteOptions};
use crate::resource::Catalog;
use crate::status::ApiError;
use crate::storage::{Key, Object};
use crate::strategy::object_at;

const PODS: &str = "/pods";
const ALWAYS: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];
/// Namespaces that cannot be deleted.
pub(crate) const PROTECTED: [&str; 3] = ["default", "kube-public", "kube-system"];

pub(super) fn options() -> WriteOptions {
    WriteOptions {
        field_manager: MANAGER.to_owned(),
        validation: FieldValidation::Ignore,
        ..WriteOptions::default()
    }
}

/// Makes the namespaces that are always there.
pub(crate) async fn ensure_default_namespaces(engine: &Engine) -> Result<(), ApiError> {
    let catalog = engine.registry.catalog();
    let Some(namespaces) = catalog.find("", "v1", "namespaces") else {
        return Ok(());
    };
    for name in ALWAYS {
        if engine
            .store
            .get(&Key::new(&namespaces.storage, "", name))
            .is_some()
        {
            continue;
        }
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        match engine
            .create(namespaces, "", name, object, &options())
            .await
        {
            Ok(_) => {}
            Err(error) if error.reason == "AlreadyExists" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) async fn run(engine: &Engine) {
    let namespaces: Arc<str> = "/namespaces".into();
    let mut changed = engine.store.subscribe(&namespaces);
    // A default account that is deleted is made again.
    let mut accounts = engine.store.subscribe(&"/serviceaccounts".into());
    let mut backoff = Backoff::new();
    loop {
        changed.mark_unchanged();
        accounts.mark_unchanged();
        let mut waiting = false;
        for namespace in engine.store.all(&namespaces, None) {
            let result = if namespace.meta.deletion_timestamp.is_some() {
                waiting = true;
                terminate(engine, &namespace).await
            } else {
                default_account(engine, &namespace).await
            };
            if let Err(error) = result {
                waiting = true;
                tracing::warn!(namespace = %namespace.id.name, %error, "namespace not settled, it is tried again");
            }
        }
        if waiting {
            // Content goes at its own pace: look again, less and less often.
            tokio::select! {
                () = backoff.wait() => {}
                _ = changed.changed() => backoff.reset(),
            }
        } else {
            backoff.reset();
            let end = tokio::select! {
                end = changed.changed() => end,
                end = accounts.changed() => end,
            };
            if end.is_err() {
                return;
            }
        }
    }
}

/// Every namespace has a service account `default`.
async fn default_account(engine: &Engine, namespace: &Object) -> Result<(), ApiError> {
    let catalog = engine.registry.catalog();
    let Some(accounts) = catalog.find("", "v1", "serviceaccounts") else {
        return Ok(());
    };
    let name = &namespace.id.name;
    if engine
        .store
        .get(&Key::new(&accounts.storage, name, "default"))
        .is_some()
    {
        return Ok(());
    }
    let object =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    match engine
        .create(accounts, name, "default", object, &options())
        .await
    {
        Ok(_) => Ok(()),
        // Taken, or the namespace goes: both are fine.
        Err(error) if error.code.is_client_error() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Empties a namespace that was deleted, and lets it go when it is empty.
async fn terminate(engine: &Engine, namespace: &Object) -> Result<(), ApiError> {
    let catalog = engine.registry.catalog();
    let name = namespace.id.name.to_string();
    let mut failure = None;
    let contents = engine.store.contents(&name);
    // Pods go first: what they use stays until they have ended.
    let pods = contents.iter().any(|(resource, _)| &**resource == PODS);
    for (resource, _) in pods_first(contents) {
        if pods && &*resource != PODS && !engine.store.all(PODS, Some(&name)).is_empty() {
            continue;
        }
        if let Err(error) = delete_all(engine, &catalog, &resource, &name).await {
            failure = Some(error);
        }
    }
    let left = engine.store.contents(&name);
    let Some(target) = catalog
        .find("", "v1", "namespaces")
        .map(|r| Target::new(r, "", &name))
    else {
        return Ok(());
    };
    if left.is_empty() && failure.is_none() {
        let result = engine
            .adjust(&target, MANAGER, |object| {
                let spec = object_at(object, &["spec"]);
                let others: Vec<Value> = spec
                    .get("finalizers")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter(|f| **f != json!("kubernetes"))
                    .cloned()
                    .collect();
                if others.is_empty() {
                    spec.remove("finalizers");
                } else {
                    spec.insert("finalizers".into(), json!(others));
                }
                Ok(())
            })
            .await;
        return gone_is_fine(result.map(|_| ()));
    }
    let conditions = conditions(engine, &catalog, &name, &left, failure.as_ref());
    let result = engine
        .adjust(&target, MANAGER, |object| {
            merge_conditions(object, &conditions, &engine.clock.timestamp());
            Ok(())
        })
        .await;
    gone_is_fine(result.map(|_| ()))?;
    failure.map_or(Ok(()), Err)
}

fn pods_first(mut contents: Vec<(Arc<str>, usize)>) -> Vec<(Arc<str>, usize)> {
    contents.sort_by_key(|(resource, _)| &**resource != PODS);
    contents
}

fn gone_is_fine(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if error.code == http::StatusCode::NOT_FOUND => Ok(()),
        other => other,
    }
}

async fn delete_all(
    engine: &Engine,
    catalog: &Catalog,
    storage: &str,
    namespace: &str,
) -> Result<(), ApiError> {
    let Some(resource) = catalog.by_storage(storage) else {
        return Ok(());
    };
    for object in engine.store.all(storage, Some(namespace)) {
        if object.meta.deletion_timestamp.is_some() {
            continue;
        }
        let target = Target::new(resource, namespace, &object.id.name);
        gone_is_fine(
            engine
                .delete(&target, &DeleteOptions::default())
                .await
                .map(|_| ()),
        )?;
    }
    Ok(())
}

/// What a terminating namespace says about what it waits for.
fn conditions(
    engine: &Engine,
    catalog: &Catalog,
    namespace: &str,
    left: &[(Arc<str>, usize)],
    failure: Option<&ApiError>,
) -> Vec<Value> {
    let mut remaining: Vec<String> = Vec::new();
    let mut finalizers: std::collections::BTreeMap<String, usize> =
        std::collections::BTreeMap::new();
    for (storage, count) in left {
        let name = catalog
            .by_storage(storage)
            .map_or_else(|| storage.to_string(), |r| r.qualified());
        remaining.push(format!("{name} has {count} resource instances"));
        for object in engine.store.all(storage, Some(namespace)) {
            for finalizer in object.meta.finalizers() {
                *finalizers.entry(finalizer.clone()).or_default() += 1;
            }
        }
    }
    let condition =
        |kind: &str, set: bool, reason: &str, good: &str, message: String, good_message: &str| {
            json!({
                "type": kind,
                "status": if set { "True" } else { "False" },
                "reason": if set { reason } else { good },
                "message": if set { message } else { good_message.to_owned() },
            })
        };
    let held: Vec<String> = finalizers
        .iter()
        .map(|(f, n)| format!("{f} in {n} resource instances"))
        .collect();
    vec![
        condition(
            "NamespaceDeletionContentFailure",
            failure.is_some(),
            "ContentDeletionFailed",
            "ContentDeleted",
            failure.map(ToString::to_string).unwrap_or_default(),
            "All content successfully deleted, may be waiting on finalization",
        ),
        condition(
            "NamespaceContentRemaining",
            !remaining.is_empty(),
            "SomeResourcesRemain",
            "ContentRemoved",
            format!("Some resources are remaining: {}", remaining.join(", ")),
            "All content successfully removed",
        ),
        condition(
            "NamespaceFinalizersRemaining",
            !held.is_empty(),
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                held.join(", ")
            ),
            "All content-preserving finalizers finished",
        ),
    ]
}

/// Puts conditions into a status; one whose status stays keeps its time.
fn merge_conditions(object: &mut Value, conditions: &[Value], now: &str) {
    let status = object_at(object, &["status"]);
    let mut list: Vec<Value> = status
        .get("conditions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for condition in conditions {
        let mut condition = condition.clone();
        let before = list.iter().find(|c| c["type"] == condition["type"]);
        let time = match before {
            Some(before) if before["status"] == condition["status"] => {
                before["lastTransitionTime"].clone()
            }
            _ => json!(now),
        };
        condition["lastTransitionTime"] = time;
        list.retain(|c| c["type"] != condition["type"]);
        list.push(condition);
    }
    list.sort_by_key(|c| c["type"].to_string());
    status.insert("conditions".into(), Value::Array(list));
}
