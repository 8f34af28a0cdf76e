//! Roles: the ones that are always there, and the aggregated ones.

use std::sync::Arc;

use serde_json::{Value, json};

use super::namespaces::options;
use super::{Backoff, MANAGER};
use crate::engine::Engine;
use crate::operation::{DeleteOptions, Target, metadata_text};
use crate::rbac::{GROUP, aggregate, defaults};
use crate::resource::Catalog;
use crate::status::ApiError;

/// Makes the default roles and bindings and `more`, and adds what is missing in
/// those that are there, unless they are annotated to be left alone.
pub(crate) async fn ensure_default_roles(
    engine: &Engine,
    more: Vec<Value>,
) -> Result<(), ApiError> {
    let mut wanted = defaults::objects().map_err(ApiError::internal)?;
    wanted.extend(more.into_iter().map(|mut object| {
        defaults::mark(&mut object);
        object
    }));
    let catalog = engine.registry.catalog();
    // Together, so that the disk is waited for once.
    let all = wanted.iter().map(|object| ensure(engine, &catalog, object));
    futures::future::try_join_all(all).await?;
    aggregate(engine).await
}

async fn ensure(engine: &Engine, catalog: &Catalog, wanted: &Value) -> Result<(), ApiError> {
    let kind = wanted["kind"].as_str().unwrap_or_default();
    let Some(resource) = catalog.by_kind(&format!("{GROUP}/v1"), kind) else {
        return Err(ApiError::internal(format!(
            "a default role of kind {kind:?}: roles and bindings are wanted"
        )));
    };
    let target = Target::new(
        resource,
        metadata_text(wanted, "namespace"),
        metadata_text(wanted, "name"),
    );
    if let Some(found) = engine.store.get(&target.key()) {
        let found = found.value();
        if defaults::is_left_alone(&found) {
            return Ok(());
        }
        if found["roleRef"] == wanted["roleRef"] {
            let completed = engine
                .adjust(&target, MANAGER, |object| {
                    defaults::complete(object, wanted);
                    Ok(())
                })
                .await;
            return completed.map(|_| ());
        }
        // What a binding refers to cannot be changed.
        engine.delete(&target, &DeleteOptions::default()).await?;
    }
    let (namespace, name) = (&target.namespace, &target.name);
    engine
        .create(resource, namespace, name, wanted.clone(), &options())
        .await
        .map(|_| ())
}

/// Keeps the rules of aggregated roles, whenever a ClusterRole changes.
pub(super) async fn run(engine: &Engine) {
    let roles: Arc<str> = format!("{GROUP}/clusterroles").into();
    let mut changed = engine.store.subscribe(&roles);
    let mut backoff = Backoff::new();
    loop {
        changed.mark_unchanged();
        match aggregate(engine).await {
            Ok(()) => {
                backoff.reset();
                if changed.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "roles not aggregated, it is tried again");
                backoff.wait().await;
            }
        }
    }
}

/// Gives every aggregated role its rules. A role may collect from one that
/// collects itself, so it goes on until nothing changes.
async fn aggregate(engine: &Engine) -> Result<(), ApiError> {
    let catalog = engine.registry.catalog();
    let Some(resource) = catalog.find(GROUP, "v1", "clusterroles") else {
        return Ok(());
    };
    let objects = engine.store.all(&resource.storage, None);
    let mut roles: Vec<Value> = objects.iter().map(|object| object.value()).collect();
    let mut wrong = Vec::new();
    // A chain of roles is no longer than there are roles.
    for _ in 0..=roles.len() {
        let mut settled = true;
        for n in 0..roles.len() {
            if !aggregate::is_aggregated(&roles[n]) {
                continue;
            }
            let Ok(rules) = aggregate::rules(&roles[n], &roles) else {
                continue;
            };
            let rules = Value::Array(rules);
            if roles[n]["rules"] != rules {
                roles[n]["rules"] = rules;
                settled = false;
                if !wrong.contains(&n) {
                    wrong.push(n);
                }
            }
        }
        if settled {
            break;
        }
    }
    for n in wrong {
        let target = Target::new(resource, "", metadata_text(&roles[n], "name"));
        let result = engine
            .adjust(&target, MANAGER, |role| {
                // Somebody may have taken the aggregation away meanwhile.
                if aggregate::is_aggregated(role) {
                    role["rules"] = json!(roles[n]["rules"]);
                }
                Ok(())
            })
            .await;
        match result {
            Err(error) if error.code != http::StatusCode::NOT_FOUND => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
